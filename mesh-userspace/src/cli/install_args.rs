//! What can be typed about putting Warren into a cluster and taking it out; the rest is in [`super::args`].

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::args::duration;
use crate::manifests::{NEWEST_KUBERNETES, OLDEST_KUBERNETES};

/// `warren install`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Values are those of the Helm chart, and so are the objects; --set knows the most used ones, which its\n\
    values.yaml marks. Nothing is changed in the cluster: it is only asked for its version.\n\n\
    Examples:\n  warren install --crds | kubectl apply -f -\n  warren install | kubectl apply -f -\n  \
    warren install --set image.repository=registry.example/warren --set mtls=strict | kubectl apply -f -"
)]
pub(crate) struct InstallArgs {
    /// Set a value of the chart
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Read values from a file, as Helm does; --set wins
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) values: Vec<PathBuf>,
    /// The namespace of the mesh itself
    #[arg(short, long, value_name = "NAMESPACE", default_value = crate::manifests::NAMESPACE, value_parser = namespace)]
    pub(crate) namespace: String,
    /// For which Kubernetes, as in 1.29 [default: the cluster's, where one can be asked; else the newest that is known]
    #[arg(long, value_name = "VERSION", value_parser = kubernetes_minor)]
    pub(crate) kubernetes_version: Option<u32>,
    /// Print the definitions of our kinds of object instead: they are installed, upgraded and removed apart from the rest
    #[arg(long, conflicts_with_all = ["set", "values"])]
    pub(crate) crds: bool,
}

/// `warren uninstall --kubernetes`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Of a cluster")]
pub(crate) struct ClusterUninstallArgs {
    /// Take Warren out of the cluster: every node is cleaned, then the objects are removed
    #[arg(long, conflicts_with_all = ["bpffs", "cgroup_root", "mesh_cgroup", "run_dir"])]
    pub(crate) kubernetes: bool,
    /// Remove the definitions of our kinds of object, too, and with them every policy in the cluster
    #[arg(long, requires = "kubernetes")]
    pub(crate) crds: bool,
    /// Clean the nodes and remove what Helm does not know of; Helm removes the rest (the chart's own hook runs this)
    #[arg(long, requires = "kubernetes", conflicts_with = "crds")]
    pub(crate) before_helm: bool,
    /// Go on without nodes that do not answer; what is left on them goes with their next reboot
    #[arg(long, requires = "kubernetes")]
    pub(crate) force: bool,
    /// The namespace of the mesh itself
    #[arg(long, value_name = "NAMESPACE", requires = "kubernetes", default_value = crate::manifests::NAMESPACE, value_parser = namespace)]
    pub(crate) namespace: String,
    /// How long the nodes may take
    #[arg(long, value_name = "TIME", requires = "kubernetes", default_value = "5m", value_parser = duration)]
    pub(crate) wait: Duration,
    /// What the pods do that clean the nodes of a cluster
    #[arg(long, value_enum, hide = true, conflicts_with = "kubernetes")]
    pub(crate) on_node: Option<OnNode>,
    /// Within which everything else is to follow once nodes are open
    #[arg(long, hide = true, value_name = "TIME", requires = "on_node", default_value = "15m", value_parser = duration)]
    pub(crate) open_for: Duration,
}

/// What the pods do that `warren uninstall --kubernetes` runs on every node.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum OnNode {
    /// Have the agent refuse nobody from now on
    Open,
    /// Do nothing until told to end
    Wait,
    /// Give everything back, and keep agents from taking it again
    Clean,
    /// Stay until the agents are gone
    Stay,
}

/// A DNS label: it becomes part of paths and host names.
fn namespace(text: &str) -> Result<String, String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = text.starts_with(is_inner)
        && text.ends_with(is_inner)
        && text.len() <= 63
        && text.chars().all(|c| is_inner(c) || c == '-');
    match fits {
        true => Ok(text.to_owned()),
        false => Err("a namespace has lower-case letters, digits and hyphens".to_owned()),
    }
}

/// `1.29`, or `v1.29.3`.
fn kubernetes_minor(text: &str) -> Result<u32, String> {
    let mut parts = text.trim_start_matches('v').split('.');
    let (major, minor) = (
        parts.next(),
        parts.next().and_then(|minor| minor.parse().ok()),
    );
    match (major, minor) {
        (Some("1"), Some(minor)) if minor >= OLDEST_KUBERNETES => Ok(minor),
        (Some("1"), Some(_)) => Err(format!("the oldest is 1.{OLDEST_KUBERNETES}")),
        _ => Err(format!("write it as in 1.{NEWEST_KUBERNETES}")),
    }
}
