use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::values::KNOWN;
use super::*;

fn installation(assignments: &[&str]) -> Installation {
    let mut values = Values::default();
    for assignment in assignments {
        values.assign(assignment).expect(assignment);
    }
    Installation {
        namespace: NAMESPACE.to_owned(),
        kubernetes: NEWEST_KUBERNETES,
        values,
    }
}

fn object(objects: &[Value], wanted: &str, called: &str) -> Value {
    let found = objects
        .iter()
        .find(|object| kind(object) == wanted && name(object) == called);
    found
        .cloned()
        .unwrap_or_else(|| panic!("{wanted} {called}"))
}

fn agent(objects: &[Value]) -> Value {
    object(objects, "DaemonSet", "warren-node")["spec"]["template"]["spec"]["containers"][0].clone()
}

#[test]
fn every_value_is_one_that_the_chart_marks_and_has_its_default() {
    let mut marked = BTreeSet::new();
    let holes = format!("{SKELETON}{VARIANTS}");
    for hole in holes.split("${").skip(1) {
        let name = hole.split('}').next().unwrap_or_default();
        marked.insert(name.to_owned());
    }
    for variant in variants().expect("readable") {
        if let When::Value { name, .. } = variant.when {
            marked.insert(name);
        }
    }
    assert!(marked.remove("namespace"));
    let known: BTreeSet<String> = KNOWN.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(known, marked);
    let values = Values::default();
    for name in &known {
        assert!(values.get(name).is_some(), "{name} has no default");
    }
}

#[test]
fn values_arrive_where_they_are_used() {
    let objects = installation(&[
        "image.repository=registry.example:5000/mesh/warren",
        "image.tag=7",
        "trustDomain=example.org",
        "controller.replicas=3",
        "node.paths.cniBin=/usr/lib/cni",
    ])
    .objects()
    .expect("objects");
    let deployment = object(&objects, "Deployment", "warren-controller");
    assert_eq!(deployment["spec"]["replicas"], 3);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example:5000/mesh/warren:7");
    let arguments = container["args"].as_array().expect("arguments");
    assert!(arguments.contains(&json!("--trust-domain=example.org")));
    let daemon_set = object(&objects, "DaemonSet", "warren-node").to_string();
    assert!(daemon_set.contains(r#""path":"/usr/lib/cni""#));
    assert!(!daemon_set.contains("${"));
}

#[test]
fn the_namespace_is_the_same_everywhere() {
    let mut wanted = installation(&[]);
    wanted.namespace = "elsewhere".to_owned();
    let objects = wanted.objects().expect("objects");
    assert_eq!(kind(&objects[0]), "Namespace");
    assert_eq!(name(&objects[0]), "elsewhere");
    assert_eq!(kind(objects.last().expect("some")), "APIService");
    let text = Value::from(objects).to_string();
    assert!(!text.contains(NAMESPACE), "{text}");
}

#[test]
fn an_older_kubernetes_gets_what_it_knows() {
    let of = |minor: u32| {
        let mut wanted = installation(&[]);
        wanted.kubernetes = minor;
        wanted.objects().expect("objects")
    };
    let (newest, oldest) = (of(NEWEST_KUBERNETES), of(OLDEST_KUBERNETES));
    let strategy = |objects: &[Value]| {
        object(objects, "DaemonSet", "warren-node")["spec"]["updateStrategy"]["rollingUpdate"]
            .clone()
    };
    assert_eq!(
        strategy(&newest),
        json!({"maxSurge": 1, "maxUnavailable": 0})
    );
    assert_eq!(strategy(&oldest), json!({"maxUnavailable": 1}));
    let budget = |objects: &[Value]| {
        object(objects, "PodDisruptionBudget", "warren-controller")["apiVersion"].clone()
    };
    assert_eq!(budget(&newest), "policy/v1");
    assert_eq!(budget(&oldest), "policy/v1beta1");
    assert!(!agent(&newest)["securityContext"]["appArmorProfile"].is_null());
    assert!(agent(&oldest)["securityContext"]["appArmorProfile"].is_null());
}

#[test]
fn switches_add_and_remove() {
    let objects = installation(&[
        "node.legacyCapabilities=true",
        "controller.podDisruptionBudget=false",
        "networkPolicy.enabled=true",
    ])
    .objects()
    .expect("objects");
    let kinds: Vec<&str> = objects.iter().map(kind).collect();
    assert!(kinds.contains(&"NetworkPolicy") && !kinds.contains(&"PodDisruptionBudget"));
    let capabilities = agent(&objects)["securityContext"]["capabilities"]["add"].to_string();
    assert!(!capabilities.contains("BPF") && capabilities.contains("SYS_ADMIN"));
}

#[test]
fn nothing_is_forgotten_when_everything_is_removed() {
    let all = every_object(NAMESPACE).expect("objects");
    let names: BTreeSet<(&str, &str)> = all.iter().map(|it| (kind(it), name(it))).collect();
    for (name, kind) in KNOWN {
        let values::Kind::Switch = kind else {
            continue;
        };
        for turned in ["true", "false"] {
            let some = installation(&[&format!("{name}={turned}")]);
            for object in some.objects().expect("objects") {
                let found = (super::kind(&object), super::name(&object));
                assert!(names.contains(&found), "{found:?} with {name}={turned}");
            }
        }
    }
    assert!(!Value::from(all).to_string().contains("${"));
}

#[test]
fn mistakes_are_told_with_what_was_meant() {
    for (assignment, said) in [
        ("image.tag", "sets nothing"),
        ("image.tagg=1", "did you mean image.tag?"),
        ("node.tolerations=x", "known to the Helm chart only"),
        ("image.tag=a b", "the tag of an image"),
        ("image.tag=1@sha256:abc", "the tag of an image"),
        ("image.repository=Warren", "without its tag"),
        ("image.repository=warren:1", "without its tag"),
        ("controller.replicas=0", "a number from 1 to 99"),
        ("controller.replicas=two", "a number from 1 to 99"),
        ("mtls=off", "one of permissive, strict"),
        ("drain=30", "a time, as in"),
        ("node.paths.bpf=sys/fs", "an absolute path"),
        ("node.paths.bpf=/sys/../etc", "an absolute path"),
        ("node.paths.bpf=/", "an absolute path"),
        ("networkPolicy.enabled=yes", "true or false"),
        ("trustDomain=Example", "a domain"),
        ("log.level=\"info\n- --evil\"", "a level"),
    ] {
        let error = Values::default().assign(assignment).expect_err(assignment);
        let error = error.to_string();
        assert!(error.contains(said), "{assignment}: {error}");
    }
}

#[test]
fn a_file_of_values_is_read_as_helm_reads_it() {
    let mut values = Values::default();
    values
        .merge("image:\n  tag: \"7\"\nnode:\n  paths:\n    bpf: /mnt/bpf\n")
        .expect("good");
    assert_eq!(values.get("image.tag"), Some(&json!("7")));
    assert_eq!(values.get("node.paths.bpf"), Some(&json!("/mnt/bpf")));
    values.merge("# nothing\n").expect("good");
    let error = values
        .merge("node:\n  tolerations: []\n")
        .expect_err("not here");
    assert_eq!(
        error,
        ValueError::OnlyOfTheChart("node.tolerations".to_owned())
    );
    assert!(values.merge("- a\n").is_err());
    assert!(values.merge("image: {tag: [1]}\n").is_err());
}
