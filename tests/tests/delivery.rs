//! How Warren gets into clusters: the chart, the same objects without Helm, and what both promise. No cluster is needed; that
//! the objects do what they should is told in the stories of real clusters.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::delivery::{
    Delivery, Objects, VALIDATED, by_name, delivery, file, leaves, set, value_files, without, yaml,
};
use serde_json::{Value, json};

const VALUES: &str = "deploy/helm/warren/values.yaml";
const DOCUMENTATION: &str = "docs/KUBERNETES.md";
const CHARTS: [&str; 2] = ["deploy/helm/warren", "deploy/helm/warren-crds"];

/// The versions of Kubernetes between which the objects change, and the ends.
const MINORS: [u32; 7] = [20, 21, 22, 29, 30, 33, 37];

#[test]
fn the_charts_have_no_fault() -> Result<()> {
    delivery(|delivery| {
        for chart in CHARTS {
            let chart = file(chart).display().to_string();
            delivery.helm(&["lint", "--strict", &chart])?;
        }
        let chart = file(CHARTS[0]).display().to_string();
        for values in value_files()? {
            let values = file(&values.path).display().to_string();
            delivery.helm(&["lint", "--strict", &chart, "--values", &values])?;
        }
        Ok(())
    })
}

#[test]
fn every_value_is_described_and_does_something() -> Result<()> {
    delivery(|delivery| {
        let defaults = yaml(VALUES)?;
        let text = fs::read_to_string(file(VALUES)).context("read the values")?;
        let files = value_files()?;
        for name in leaves(&defaults) {
            ensure!(
                is_described(&text, &name),
                "{VALUES}: {name} has no comment, and neither has the group that it is in"
            );
            let tried = files.iter().filter_map(|file| {
                let without = without(&file.values, &name)?;
                Some((&file.values, without))
            });
            let mut makes_a_difference = false;
            for (with, without) in tried {
                let chart = |values| delivery.template(37, values, &["--include-crds"]);
                makes_a_difference |= chart(with)? != chart(&without)?;
            }
            ensure!(
                makes_a_difference,
                "no file in deploy/helm/warren/ci sets {name} to something that changes the objects"
            );
        }
        Ok(())
    })
}

/// Whether a comment stands above a key, or above the group that it is the first of.
fn is_described(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let (mut from, mut described) = (0, false);
    for (depth, key) in name.split('.').enumerate() {
        let key = format!("{}{key}:", "  ".repeat(depth));
        let Some(found) = lines[from..].iter().position(|line| line.starts_with(&key)) else {
            return false;
        };
        from += found;
        described |= lines[from.saturating_sub(1)].trim().starts_with('#');
        from += 1;
    }
    described
}

#[test]
fn objects_are_valid_in_every_version_of_kubernetes() -> Result<()> {
    delivery(|delivery| {
        // A validator that accepts everything would be of no use.
        let wrong = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"},
            "spec": {"ports": [{"port": 1, "targetPorts": 2}]}});
        ensure!(
            delivery.validate(37, [&wrong]).is_err(),
            "{wrong} was accepted"
        );

        let definitions = by_name(&delivery.warren(&["install", "--crds"])?)?;
        for minor in VALIDATED {
            let mut objects: Vec<Value> = definitions.values().cloned().collect();
            for file in value_files()? {
                let rendered = delivery.render(minor, &file.values, &[])?;
                objects.extend(rendered.into_values());
            }
            objects.extend(delivery.install(minor, &[])?.into_values());
            let looked_at = delivery.validate(minor, &objects)?;
            ensure!(
                looked_at > 30,
                "only {looked_at} objects of 1.{minor} were looked at"
            );
        }
        Ok(())
    })
}

#[test]
fn a_misspelt_value_is_refused() -> Result<()> {
    delivery(|delivery| {
        for name in leaves(&yaml(VALUES)?) {
            let mut values = json!({});
            set(&mut values, &format!("{name}s"), json!("x"));
            let Err(error) = delivery.template(37, &values, &[]) else {
                bail!("{name}s was accepted");
            };
            ensure!(
                error.to_string().contains("not allowed"),
                "{name}s: {error}"
            );
        }
        Ok(())
    })
}

/// Values that one would like to give, and that must be told from the others before a pod does not start.
const REFUSED: &[(&str, &str)] = &[
    ("image.repository", "Warren"),
    ("image.repository", "warren:1"),
    ("image.tag", "1.0@sha256:abc"),
    ("image.pullPolicy", "Sometimes"),
    ("trustDomain", "Example.org"),
    ("mtls", "off"),
    ("drain", "30 seconds"),
    ("certificateLifetime", "24"),
    ("log.format", "yaml"),
    ("log.level", "info; rm"),
    ("node.paths.cniBin", "opt/cni/bin"),
    ("node.paths.bpf", "/sys/../etc"),
    ("controller.replicas", "0"),
    ("networkPolicy.enabled", "yes"),
];

#[test]
fn what_the_schema_refuses_install_refuses() -> Result<()> {
    delivery(|delivery| {
        for (name, value) in REFUSED {
            let mut values = json!({});
            let typed = value
                .parse::<u64>()
                .map_or_else(|_text| json!(value), Value::from);
            set(&mut values, name, typed);
            ensure!(
                delivery.template(37, &values, &[]).is_err(),
                "the chart accepts {name}={value}"
            );
            let assignment = format!("{name}={value}");
            let printed = delivery.install(37, &["--set", &assignment]);
            ensure!(printed.is_err(), "warren install accepts {assignment}");
        }
        Ok(())
    })
}

#[test]
fn install_prints_what_the_chart_makes() -> Result<()> {
    delivery(|delivery| {
        for minor in MINORS {
            same(delivery, minor, &json!({}), &[])?;
        }
        let everything = value_files()?
            .into_iter()
            .find(|file| file.path.ends_with("everything-values.yaml"))
            .context("there is no file with every value")?;
        let known = known_to_install()?;
        ensure!(known.len() > 20, "only {known:?} are marked with (install)");
        // Each alone, and all together, also for an old Kubernetes.
        let mut all = json!({});
        for name in &known {
            let value = value(&everything.values, name)
                .with_context(|| format!("{} does not set {name}", everything.path))?;
            let mut values = json!({});
            set(&mut values, name, value.clone());
            set(&mut all, name, value.clone());
            same(delivery, 37, &values, &[assignment(name, value)])?;
        }
        for minor in [20, 37] {
            let assignments: Vec<String> = known
                .iter()
                .filter_map(|name| Some(assignment(name, value(&all, name)?)))
                .collect();
            same(delivery, minor, &all, &assignments)?;
        }
        // A file of values is one for both.
        let path = std::env::temp_dir().join(format!("warren-known-{}.yaml", std::process::id()));
        fs::write(&path, all.to_string()).context("write values")?;
        let printed = delivery.install(37, &["--values", &path.display().to_string()]);
        fs::remove_file(&path).context("remove values")?;
        equal(
            &printed?,
            &chart(delivery, 37, &all, "warren-system")?,
            "a file",
        )?;
        // Another namespace.
        let printed = delivery.install(37, &["--namespace", "mesh"])?;
        equal(
            &printed,
            &chart(delivery, 37, &json!({}), "mesh")?,
            "another namespace",
        )
    })
}

fn same(delivery: &Delivery, minor: u32, values: &Value, assignments: &[String]) -> Result<()> {
    let mut arguments = Vec::new();
    for assignment in assignments {
        arguments.extend(["--set", assignment.as_str()]);
    }
    let printed = delivery.install(minor, &arguments)?;
    let rendered = chart(delivery, minor, values, "warren-system")?;
    equal(
        &printed,
        &rendered,
        &format!("1.{minor} with {assignments:?}"),
    )
}

/// The chart as `warren install` prints it: with the namespace, and without Helm's own way to uninstall.
fn chart(delivery: &Delivery, minor: u32, values: &Value, namespace: &str) -> Result<Objects> {
    let mut values = values.clone();
    set(&mut values, "namespace.create", json!(true));
    delivery.render(minor, &values, &["--no-hooks", "--namespace", namespace])
}

fn equal(printed: &Objects, rendered: &Objects, what: &str) -> Result<()> {
    let names = |objects: &Objects| objects.keys().cloned().collect::<BTreeSet<_>>();
    ensure!(
        names(printed) == names(rendered),
        "{what}: warren install prints {:?}, the chart makes {:?}",
        names(printed),
        names(rendered)
    );
    for (name, object) in rendered {
        ensure!(
            printed[name] == *object,
            "{what}: {name} is not the chart's:\n{}\nbut\n{object}",
            printed[name]
        );
    }
    Ok(())
}

/// Names of values whose comments end in (install), groups looked into.
fn known_to_install() -> Result<Vec<String>> {
    let text = fs::read_to_string(file(VALUES)).context("read the values")?;
    let lines: Vec<&str> = text.lines().collect();
    let mut known = Vec::new();
    for name in leaves(&yaml(VALUES)?) {
        let mut from = 0;
        let mut is_marked = false;
        for (depth, key) in name.split('.').enumerate() {
            let key = format!("{}{key}:", "  ".repeat(depth));
            let found = lines[from..].iter().position(|line| line.starts_with(&key));
            from += found.with_context(|| format!("{name} is not in {VALUES}"))?;
            is_marked |= lines[from.saturating_sub(1)].ends_with("(install)");
            from += 1;
        }
        let is_plain = !value(&yaml(VALUES)?, &name).is_some_and(Value::is_object);
        if is_marked && is_plain {
            known.push(name);
        }
    }
    Ok(known)
}

fn value<'v>(values: &'v Value, name: &str) -> Option<&'v Value> {
    values.pointer(&format!("/{}", name.replace('.', "/")))
}

fn assignment(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    }
}

#[test]
fn definitions_are_the_same_everywhere() -> Result<()> {
    delivery(|delivery| {
        let printed = by_name(&delivery.warren(&["install", "--crds"])?)?;
        ensure!(printed.len() == 2, "{:?}", printed.keys());
        let chart = file(CHARTS[1]).display().to_string();
        let rendered = by_name(&delivery.helm(&["template", "warren-crds", &chart])?)?;
        equal(&printed, &rendered, "definitions")
    })
}

#[test]
fn rights_are_as_small_as_documented() -> Result<()> {
    delivery(|delivery| {
        let objects = delivery.render(37, &json!({}), &[])?;
        let documentation =
            fs::read_to_string(file(DOCUMENTATION)).context("read the documentation")?;
        for (name, object) in &objects {
            let subjects = object["subjects"].to_string();
            ensure!(
                !subjects.contains("warren-node"),
                "{name} gives rights to agents, which need none"
            );
            for rule in object["rules"].as_array().into_iter().flatten() {
                ensure!(
                    !rule.to_string().contains('*'),
                    "{name}: {rule} names everything"
                );
                let resources: Vec<&str> = strings(&rule["resources"]);
                let named = rule["resourceNames"].is_array();
                if resources.contains(&"secrets") {
                    ensure!(
                        name.starts_with("Role/")
                            && (named || strings(&rule["verbs"]) == ["create"]),
                        "{name} gives rights to secrets that are not ours: {rule}"
                    );
                }
                if name.ends_with("/warren-controller") {
                    for resource in resources {
                        ensure!(
                            documentation.contains(&format!("`{resource}`")),
                            "{DOCUMENTATION} does not say why the controller needs {resource}"
                        );
                    }
                }
            }
        }
        let agent = &objects["DaemonSet/warren-node"]["spec"]["template"]["spec"]["containers"][0];
        for capability in strings(&agent["securityContext"]["capabilities"]["add"]) {
            ensure!(
                documentation.contains(&format!("`{capability}`")),
                "{DOCUMENTATION} does not say why the agent needs {capability}"
            );
        }
        Ok(())
    })
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[test]
fn containers_are_confined() -> Result<()> {
    delivery(|delivery| {
        for file in value_files()? {
            let objects = delivery.render(37, &file.values, &[])?;
            for (name, object) in &objects {
                let containers = &object["spec"]["template"]["spec"]["containers"];
                for container in containers.as_array().into_iter().flatten() {
                    let context = &container["securityContext"];
                    let what = format!("{}: {name}", file.path);
                    ensure!(
                        context["readOnlyRootFilesystem"] == true,
                        "{what} may write"
                    );
                    ensure!(context["privileged"] != true, "{what} is privileged");
                    ensure!(
                        strings(&context["capabilities"]["drop"]) == ["ALL"],
                        "{what} keeps capabilities that are not named"
                    );
                    if name.starts_with("Deployment/") {
                        ensure!(context["capabilities"]["add"].is_null(), "{what} adds some");
                        ensure!(context["allowPrivilegeEscalation"] == false, "{what}");
                    }
                }
            }
        }
        Ok(())
    })
}
