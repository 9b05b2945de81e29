//! `warren get`: what the node, or the cluster, knows, as tables or objects.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::{GetArgs, GetOutput};
use super::output::{Table, clean};
use super::{CliError, Context, Exit, json};
use crate::api::client::Cluster;
use crate::api::cluster::{ClusterStatus, NodeStatus};
use crate::api::filter::nearest;
use crate::api::objects::{Certificate, List, Object, Policy, Route, Service, Workload};

mod tables;

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

/// Who tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Of {
    Node,
    Cluster,
}

/// A kind of object with its table.
trait Listed: Object + Serialize + DeserializeOwned {
    /// Headers; those after `|` in the wide form only.
    const HEADERS: &'static [&'static str];
    const WIDE: &'static [&'static str];
    /// One or more rows, with as many cells as headers and wide headers together.
    fn rows(&self, of: Of) -> Vec<Vec<String>>;
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
            let of = match context.client.cluster() {
                Some(_) => Of::Cluster,
                None => Of::Node,
            };
            table(out, &items, args, of)?;
            if items.is_empty() {
                eprintln!("{}", nothing(&args.kind, scope, of));
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
    of: Of,
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
        for mut row in item.rows(of) {
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
pub(crate) fn nothing(kind: &str, scope: Option<&str>, of: Of) -> String {
    match (scope, of) {
        (Some(namespace), Of::Cluster) => format!(
            "No {kind} in namespace {namespace}. Is it in the mesh? run: warren enable ns/{namespace}. All namespaces: -A"
        ),
        (None, Of::Cluster) => {
            format!("No {kind}. Which namespaces are in the mesh? run: warren check")
        }
        (scope, Of::Node) => format!(
            "No {kind}{}. What does the configuration say? run: warren status",
            scope
                .map(|namespace| format!(" in namespace {namespace}"))
                .unwrap_or_default()
        ),
    }
}
