//! What Warren could leave behind in a cluster and on its nodes, looked at before it comes and after it has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::cluster::Cluster;
use super::machine::Machine;
use crate::host::command::run;

/// Kinds of object of which there may be some more or less, by kubectl's names. Namespaces come and go with stories.
const KINDS: [&str; 6] = [
    "apiservices",
    "clusterrolebindings",
    "clusterroles",
    "crds",
    "mutatingwebhookconfigurations",
    "priorityclasses",
];

/// Folders of a node whose files are nobody's but the network's: names and contents.
const KEPT: [&str; 1] = ["/etc/cni/net.d"];

/// Folders of a node of which the names are enough.
const NAMED: [&str; 5] = [
    "/usr/lib/cni",
    "/run",
    "/var/lib",
    "/sys/fs/bpf",
    "/sys/fs/cgroup/unified",
];

/// Everything that was looked at, by what it is.
#[derive(Debug)]
pub struct Traces(BTreeMap<String, String>);

impl Traces {
    /// Looks.
    pub fn take(cluster: &Cluster) -> Result<Self> {
        let mut found = BTreeMap::new();
        let kubectl = cluster.kubectl();
        for kind in KINDS {
            let names = kubectl.run(&["get", kind, "--output=name"])?;
            found.insert(kind.to_owned(), names);
        }
        let bindings = kubectl.run(&["get", "rolebindings", "-n", "kube-system", "-o", "name"])?;
        found.insert("rolebindings of kube-system".to_owned(), bindings);
        for node in kubectl.list(&["nodes"])? {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let taints = node["spec"]["taints"].to_string();
            found.insert(format!("taints of {name}"), taints);
        }
        for machine in cluster.machines()? {
            of_machine(&machine, &mut found)?;
        }
        Ok(Self(found))
    }

    /// An error that names everything that is not as it was.
    pub fn as_before(&self, before: &Self) -> Result<()> {
        let names: BTreeSet<&String> = self.0.keys().chain(before.0.keys()).collect();
        let differ: Vec<String> = names
            .into_iter()
            .filter(|name| self.0.get(*name) != before.0.get(*name))
            .map(|name| {
                let of = |traces: &Self| traces.0.get(name).cloned().unwrap_or_default();
                format!("{name}:\n{}\nbefore:\n{}", of(self), of(before))
            })
            .collect();
        if !differ.is_empty() {
            bail!("not as before:\n{}", differ.join("\n"));
        }
        Ok(())
    }
}

fn of_machine(machine: &Machine, found: &mut BTreeMap<String, String>) -> Result<()> {
    let node = machine.node().name();
    for folder in KEPT {
        for (name, path) in entries(&machine.path(folder))? {
            let content =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            found.insert(format!("{node}: {folder}/{name}"), content);
        }
    }
    for folder in NAMED {
        let names: Vec<String> = entries(&machine.path(folder))?.into_keys().collect();
        found.insert(format!("{node}: {folder}"), names.join("\n"));
    }
    let process = machine.process().to_string();
    let cgroups = machine.path("/sys/fs/cgroup/unified").display().to_string();
    let attached = run("bpftool", &["cgroup", "tree", &cgroups])?;
    found.insert(format!("{node}: programs on cgroups"), attached);
    let on_node = ["--target", &process, "--net"];
    of_network(&format!("{node}'s network"), &on_node, found)?;
    for (name, path) in entries(&machine.path("/run/netns"))? {
        let net = format!("--net={}", path.display());
        of_network(&format!("{node}: {name}"), &[&net], found)?;
    }
    Ok(())
}

/// Programs on interfaces, rules, routes and the settings that Warren changes, in a network namespace.
fn of_network(what: &str, namespace: &[&str], found: &mut BTreeMap<String, String>) -> Result<()> {
    let mut look = |of: &str, words: &[&str]| -> Result<()> {
        let said = run("nsenter", &[namespace, words].concat())?;
        found.insert(format!("{what}: {of}"), said);
        Ok(())
    };
    look("rules", &["ip", "rule"])?;
    look("rules for IPv6", &["ip", "-6", "rule"])?;
    look("routes", &["ip", "route", "show", "table", "all"])?;
    look("queues", &["tc", "qdisc", "show"])?;
    look("setting", &["sysctl", "net.ipv4.tcp_fwmark_accept"])?;
    let programs = run(
        "nsenter",
        &[namespace, &["bpftool", "--json", "net", "show"]].concat(),
    )?;
    let programs: Value = serde_json::from_str(&programs).context("read bpftool's answer")?;
    found.insert(format!("{what}: programs"), programs[0]["tc"].to_string());
    Ok(())
}

/// What is in a folder; nothing of one that is not there.
fn entries(folder: &Path) -> Result<BTreeMap<String, std::path::PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.with_context(|| format!("read {}", folder.display()))?,
    };
    entries
        .map(|entry| {
            let entry = entry.with_context(|| format!("read {}", folder.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((name, entry.path()))
        })
        .collect()
}
