//! `warren get`: what the node, or the cluster, knows, as tables or objects.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::{GetArgs, GetOutput};
use super::output::{Table, clean, until};
use super::{CliError, Context, Exit, json};
use crate::api::client::Cluster;
use crate::api::cluster::{ClusterStatus, NodeStatus};
use crate::api::filter::nearest;
use crate::api::objects::{
    Backend, Certificate, EnrolmentState, List, Object, Policy, Route, Service, Workload,
};

/// Every spelling of a kind, and the kind.
const KINDS: &[(&str, &str)] = &[
    ("workloads", "workloads"),
    ("workload", "workloads"),
    ("wl", "workloads"),
    ("services", "services"),
    ("service", "services"),
    ("svc", "services"),
    ("routes", "routes"),
    ("route", "routes"),
    ("policies", "policies"),
    ("policy", "policies"),
    ("certs", "certs"),
    ("cert", "certs"),
    ("certificates", "certs"),
    ("certificate", "certs"),
    ("nodes", "nodes"),
    ("node", "nodes"),
    ("no", "nodes"),
];

/// The kinds, each once.
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS
        .iter()
        .filter(|(spelling, kind)| spelling == kind)
        .map(|(_, kind)| *kind)
}

/// Does what was asked.
pub(crate) async fn run(context: &mut Context<'_>, args: &GetArgs) -> Result<Exit, CliError> {
    match kind(&args.kind)? {
        "workloads" => get::<Workload>(context, args, "workloads").await,
        "services" => get::<Service>(context, args, "services").await,
        "routes" => get::<Route>(context, args, "routes").await,
        "policies" => get::<Policy>(context, args, "policies").await,
        "nodes" => nodes(context, args).await,
        _ => get::<Certificate>(context, args, "certs").await,
    }
}

/// Nodes are part of the cluster's status.
async fn nodes(context: &mut Context<'_>, args: &GetArgs) -> Result<Exit, CliError> {
    if context.client.cluster().is_none() {
        return Err(CliError::Usage(
            "nodes are a cluster's, and it is this node's agent that is asked; ask the cluster with --context or \
             --kubeconfig"
                .to_owned(),
        ));
    }
    let status: ClusterStatus = context.client.get("status", None).await?;
    show(context, args, List::<NodeStatus>::new(status.nodes), None)
}

fn kind(typed: &str) -> Result<&'static str, CliError> {
    KINDS
        .iter()
        .find(|(spelling, _)| *spelling == typed)
        .map(|(_, kind)| *kind)
        .ok_or_else(|| {
            let hint = nearest(typed, KINDS.iter().map(|(spelling, _)| *spelling))
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            CliError::Usage(format!(
                "there is no kind {typed:?}{hint} (kinds: {})",
                kinds().collect::<Vec<_>>().join(", ")
            ))
        })
}

/// A kind of object with its table.
trait Listed: Object + Serialize + DeserializeOwned {
    /// Headers; those after `|` in the wide form only.
    const HEADERS: &'static [&'static str];
    const WIDE: &'static [&'static str];
    /// One or more rows, with as many cells as headers and wide headers together.
    fn rows(&self) -> Vec<Vec<String>>;
    /// What a person should know beside the table.
    fn remark(&self) -> Option<String> {
        None
    }
}

async fn get<T: Listed>(
    context: &mut Context<'_>,
    args: &GetArgs,
    resource: &str,
) -> Result<Exit, CliError> {
    let scope = scope(context, args);
    let list: List<T> = context.client.get(resource, scope.as_deref()).await?;
    show(context, args, list, scope.as_deref())
}

/// The namespace that is asked about; `None` for all.
fn scope(context: &Context<'_>, args: &GetArgs) -> Option<String> {
    if args.all_namespaces {
        return None;
    }
    let default = context.client.cluster().map(Cluster::namespace);
    let namespace = args.namespace.as_deref().or(default);
    namespace.map(str::to_owned)
}

fn show<T: Listed>(
    context: &mut Context<'_>,
    args: &GetArgs,
    list: List<T>,
    scope: Option<&str>,
) -> Result<Exit, CliError> {
    let List {
        api_version,
        kind,
        mut items,
        notices,
    } = list;
    if let Some(namespace) = scope {
        items.retain(|item| item.namespace() == Some(namespace));
    }
    for notice in &notices {
        eprintln!("{}", clean(notice));
    }
    if let Some(wanted) = &args.name {
        let full = |item: &T| full_name(item);
        let names: Vec<String> = items.iter().map(full).collect();
        items.retain(|item| item.name() == *wanted || full_name(item) == *wanted);
        if items.is_empty() {
            let hint = nearest(wanted, names.iter().map(String::as_str))
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            eprintln!("There is no {} {:?}{hint}", T::KIND, wanted);
            return Ok(Exit::No);
        }
    }
    let out = &mut *context.out;
    match args.output {
        GetOutput::Json => json(
            out,
            &List {
                api_version,
                kind,
                items,
                notices,
            },
        )?,
        GetOutput::Yaml => {
            let list = List {
                api_version,
                kind,
                items,
                notices,
            };
            let text = serde_saphyr::to_string(&list)
                .map_err(|error| CliError::failed("cannot write YAML", error))?;
            write!(out, "{text}")?;
        }
        GetOutput::Name => {
            for item in &items {
                writeln!(
                    out,
                    "{}/{}",
                    T::KIND.to_ascii_lowercase(),
                    clean(&full_name(item))
                )?;
            }
        }
        GetOutput::Table | GetOutput::Wide => {
            table(out, &items, args)?;
            if items.is_empty() {
                let cluster = context.client.cluster().is_some();
                eprintln!("{}", nothing(&args.kind, scope, cluster));
            }
        }
    }
    Ok(Exit::Ok)
}

fn full_name<T: Object>(item: &T) -> String {
    match item.namespace() {
        // An identity says its namespace itself.
        Some(namespace) if !item.name().contains("://") => format!("{}.{namespace}", item.name()),
        _ => item.name(),
    }
}

fn table<T: Listed>(
    out: &mut dyn std::io::Write,
    items: &[T],
    args: &GetArgs,
) -> Result<(), CliError> {
    if items.is_empty() {
        return Ok(());
    }
    let wide = args.output == GetOutput::Wide;
    let mut headers = T::HEADERS.to_vec();
    if wide {
        headers.extend_from_slice(T::WIDE);
    }
    let mut table = Table::new(&headers, !args.no_headers);
    for item in items {
        for mut row in item.rows() {
            row.truncate(headers.len());
            table.row(row);
        }
    }
    table.write(out)?;
    out.flush()?;
    for remark in items.iter().filter_map(Listed::remark) {
        eprintln!("{}", clean(&remark));
    }
    Ok(())
}

/// Nothing to show is an answer that wants a reason.
pub(crate) fn nothing(kind: &str, scope: Option<&str>, cluster: bool) -> String {
    match (scope, cluster) {
        (Some(namespace), true) => format!(
            "No {kind} in namespace {namespace}. Is it in the mesh? run: warren enable ns/{namespace}. All namespaces: -A"
        ),
        (None, true) => {
            format!("No {kind}. Which namespaces are in the mesh? run: warren check")
        }
        (scope, false) => format!(
            "No {kind}{}. What does the configuration say? run: warren status",
            scope
                .map(|namespace| format!(" in namespace {namespace}"))
                .unwrap_or_default()
        ),
    }
}

fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

fn numbers(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(",")
}

impl Listed for Workload {
    const HEADERS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "NODE",
        "ADDRESS",
        "MESH",
        "IDENTITY",
        "CERT EXPIRES",
    ];
    const WIDE: &'static [&'static str] = &["ID", "PORTS", "LABELS"];

    fn rows(&self) -> Vec<Vec<String>> {
        let state = self
            .enrolment
            .as_ref()
            .map_or("remote", |enrolment| enrolment.state.label());
        let id = self.enrolment.as_ref().and_then(|enrolment| enrolment.id);
        vec![vec![
            self.namespace.clone(),
            self.name.clone(),
            self.node.clone(),
            self.addresses.join(","),
            state.to_owned(),
            self.identity.clone(),
            self.certificate_not_after
                .map(|moment| until(moment, now()))
                .unwrap_or_default(),
            id.map(|id| id.to_string()).unwrap_or_default(),
            numbers(&self.ports),
            labels(&self.labels),
        ]]
    }

    fn remark(&self) -> Option<String> {
        let enrolment = self.enrolment.as_ref()?;
        let reason = enrolment.reason.as_ref()?;
        (enrolment.state != EnrolmentState::Enrolled).then(|| {
            format!(
                "{}.{} is {}: {reason}",
                self.name,
                self.namespace,
                enrolment.state.label()
            )
        })
    }
}

impl Listed for NodeStatus {
    const HEADERS: &'static [&'static str] = &[
        "NAME",
        "STATE",
        "CONTROLLER",
        "CURRENT",
        "ENROLLED",
        "WORKLOADS",
        "VERSION",
    ];
    const WIDE: &'static [&'static str] = &["WHY"];

    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![
            self.name.clone(),
            self.state().to_owned(),
            self.controller.clone().unwrap_or_default(),
            if self.current { "yes" } else { "no" }.to_owned(),
            self.enrolled.to_string(),
            self.workloads.to_string(),
            self.version.clone().unwrap_or_default(),
            self.not_ready.join("; "),
        ]]
    }
}

impl Listed for Service {
    const HEADERS: &'static [&'static str] =
        &["NAMESPACE", "NAME", "VIP", "PORTS", "ENDPOINTS", "ROUTES"];
    const WIDE: &'static [&'static str] = &["SUBSETS", "BACKED BY"];

    fn rows(&self) -> Vec<Vec<String>> {
        let ports: Vec<String> = self
            .ports
            .iter()
            .map(|port| match port.target_port == port.port {
                true => port.port.to_string(),
                false => format!("{}→{}", port.port, port.target_port),
            })
            .collect();
        let subsets: Vec<&str> = self.subsets.keys().map(String::as_str).collect();
        let backed: Vec<&str> = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.workload.as_deref().unwrap_or(&endpoint.address))
            .collect();
        vec![vec![
            self.namespace.clone(),
            self.name.clone(),
            self.addresses.join(","),
            ports.join(","),
            self.endpoints.len().to_string(),
            self.routes.join(","),
            subsets.join(","),
            backed.join(","),
        ]]
    }
}

impl Listed for Route {
    const HEADERS: &'static [&'static str] =
        &["NAMESPACE", "NAME", "SERVICE", "RULE", "PORT", "BACKENDS"];
    const WIDE: &'static [&'static str] = &[];

    fn rows(&self) -> Vec<Vec<String>> {
        self.rules
            .iter()
            .map(|rule| {
                vec![
                    self.namespace.clone(),
                    self.name.clone(),
                    self.service.clone(),
                    rule.name.clone(),
                    rule.port
                        .map_or_else(|| "any".to_owned(), |port| port.to_string()),
                    shares(&rule.backends, &self.service),
                ]
            })
            .collect()
    }
}

/// Weights as shares, because that is what they mean.
fn shares(backends: &[Backend], service: &str) -> String {
    let total: u64 = backends
        .iter()
        .map(|backend| u64::from(backend.weight))
        .sum();
    let parts: Vec<String> = backends
        .iter()
        .map(|backend| {
            let name = match (&backend.subset, backend.service == service) {
                (Some(subset), true) => subset.clone(),
                (Some(subset), false) => format!("{}/{subset}", backend.service),
                (None, _) => backend.service.clone(),
            };
            let share = match total {
                0 => 0.0,
                total => f64::from(backend.weight) * 100.0 / total as f64,
            };
            let share = format!("{share:.1}");
            format!("{name} {}%", share.trim_end_matches(".0"))
        })
        .collect();
    match parts.is_empty() {
        true => "none: refuses".to_owned(),
        false => parts.join(", "),
    }
}

impl Listed for Policy {
    const HEADERS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "TARGET",
        "MODE",
        "RULE",
        "ACTION",
        "FROM",
        "PORTS",
    ];
    const WIDE: &'static [&'static str] = &[];

    fn rows(&self) -> Vec<Vec<String>> {
        let mode = if self.dry_run { "dry run" } else { "enforced" };
        let head = [&self.namespace, &self.name, &self.target].map(String::clone);
        if self.rules.is_empty() {
            let mut row = head.to_vec();
            row.extend([mode, "none", "deny", "anybody", "any"].map(str::to_owned));
            return vec![row];
        }
        self.rules
            .iter()
            .map(|rule| {
                let mut row = head.to_vec();
                row.extend([
                    mode.to_owned(),
                    rule.name.clone(),
                    rule.action.clone(),
                    match rule.from.is_empty() {
                        true => "anybody".to_owned(),
                        false => rule.from.join(","),
                    },
                    match rule.ports.is_empty() {
                        true => "any".to_owned(),
                        false => numbers(&rule.ports),
                    },
                ]);
                row
            })
            .collect()
    }
}

impl Listed for Certificate {
    const HEADERS: &'static [&'static str] = &[
        "IDENTITY",
        "SERIAL",
        "NOT AFTER",
        "EXPIRES",
        "RENEWS",
        "WORKLOADS",
    ];
    const WIDE: &'static [&'static str] = &["NOT BEFORE", "ISSUER"];

    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![
            self.identity.clone(),
            self.serial.clone(),
            self.not_after.to_string(),
            until(self.not_after, now()),
            until(self.renew_at, now()),
            self.workloads.join(","),
            self.not_before.to_string(),
            self.issuer.clone(),
        ]]
    }
}
