//! What would happen to a connection, for somebody who may know about one namespace, or about all.

use mesh_core::addr::OrigDst;
use mesh_core::explain::{self, Unresolved};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Name, Workload};

use crate::agent::describe;
use crate::api::filter::nearest;
use crate::api::objects::{Explanation, Problem};

/// Explains it by the very functions that decide about real ones. Within a namespace, names without one are of it, one of
/// the ends must be in it, and no names of others are told.
pub(super) fn explain(
    snapshot: &Snapshot,
    scope: Option<&str>,
    source: &str,
    destination: &str,
) -> Result<Explanation, Problem> {
    let from = describe::without_kind(source);
    let own = scope.map(|namespace| Name::new(namespace, from));
    let workload = match own.and_then(|own| snapshot.workload(&own)) {
        Some(workload) => workload,
        None => explain::workload(snapshot, from).map_err(|error| {
            let workloads = snapshot.world.workloads.iter();
            problem(
                &error,
                scope,
                from,
                workloads.map(|workload| &workload.name),
            )
        })?,
    };
    let to = describe::without_kind(destination);
    let dialled = explain::destination(snapshot, workload, to).map_err(|error| {
        let world = &snapshot.world;
        let workloads = world.workloads.iter().map(|workload| &workload.name);
        let services = world.services.iter().map(|service| &service.name);
        let name = to.split(':').next().unwrap_or(to);
        problem(&error, scope, name, workloads.chain(services))
    })?;
    if let Some(namespace) = scope
        && workload.name.namespace != namespace
        && !is_in(snapshot, dialled, namespace)
    {
        return Err(Problem::new(format!(
            "neither {source} nor {destination} is in namespace {namespace}, which is what you ask about; say another one with -n"
        )));
    }
    Ok(describe::explanation(snapshot, workload, dialled))
}

/// Whether whoever is dialled is in a namespace.
fn is_in(snapshot: &Snapshot, dialled: OrigDst, namespace: &str) -> bool {
    let service = snapshot.service_at(dialled.0);
    let workload = snapshot.workload_at(dialled.0);
    service.is_some_and(|(service, _)| service.name.namespace == namespace)
        || workload
            .is_some_and(|workload: &std::sync::Arc<Workload>| workload.name.namespace == namespace)
}

/// What is wrong with a name, with the nearest one that whoever asks may know of.
fn problem<'n>(
    error: &Unresolved,
    scope: Option<&str>,
    text: &str,
    names: impl Iterator<Item = &'n Name>,
) -> Problem {
    let words = match (error, scope) {
        // Its candidates are names of other namespaces.
        (Unresolved::Ambiguous { text, .. }, Some(namespace)) => format!(
            "{text:?} is not in namespace {namespace}, and there are several elsewhere; say which, as name.namespace"
        ),
        _ => error.to_string(),
    };
    let missing = matches!(
        error,
        Unresolved::NoWorkload { .. } | Unresolved::NoDestination { .. }
    );
    let known: Vec<String> = names
        .filter(|name| missing && scope.is_none_or(|namespace| name.namespace == namespace))
        .map(|name| match scope {
            Some(_) => name.name.clone(),
            None => name.to_string(),
        })
        .collect();
    let hint = nearest(text, known.iter().map(String::as_str))
        .map(|near| format!(" (did you mean {near}?)"))
        .unwrap_or_default();
    Problem::new(format!("{words}{hint}"))
}

#[cfg(test)]
mod tests;
