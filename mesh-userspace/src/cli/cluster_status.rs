//! `warren status` of a cluster: the mesh as a whole in a few lines.

use std::io::Write;

use jiff::Timestamp;

use super::CliError;
use super::output::{Color, Style, clean, until};
use crate::api::cluster::{ClusterStatus, NodeStatus};

/// Nodes and objects that are listed one by one, of those that are not in order.
const LISTED: usize = 20;

/// Writes it for people.
pub(crate) fn write(
    out: &mut dyn Write,
    status: &ClusterStatus,
    server: &str,
    style: Style,
    now: Timestamp,
) -> Result<(), CliError> {
    let version = status
        .controllers
        .first()
        .map_or("", |controller| controller.version.as_str());
    writeln!(
        out,
        "warren {}   cluster {}   trust domain {}{}{}",
        clean(version),
        clean(server),
        clean(&status.trust_domain),
        match status.trusted_roots {
            0 | 1 => String::new(),
            several => format!(" ({several} roots trusted)"),
        },
        status
            .root_not_after
            .map(|end| format!("   root expires in {}", until(end, now)))
            .unwrap_or_default(),
    )?;
    let ready = status.controllers.iter().filter(|item| item.ready).count();
    writeln!(
        out,
        "CONTROLLERS   {ready}/{} ready   {}   {}",
        status.controllers.len(),
        status.leader.as_ref().map_or_else(
            || "nobody writes".to_owned(),
            |leader| format!("{} writes", clean(leader))
        ),
        refused(status),
    )?;
    if !status.nodes.is_empty() {
        nodes(out, status)?;
    }
    let objects = &status.objects;
    writeln!(
        out,
        "OBJECTS       {} namespaces meshed   {} workloads   {} services   {} routes   {} policies   {} mTLS exceptions",
        objects.meshed_namespaces,
        objects.workloads,
        objects.services,
        objects.routes,
        objects.policies,
        objects.mtls_exceptions,
    )?;
    remarks(out, status, style)
}

fn nodes(out: &mut dyn Write, status: &ClusterStatus) -> Result<(), CliError> {
    let count =
        |wanted: fn(&NodeStatus) -> bool| status.nodes.iter().filter(|node| wanted(node)).count();
    writeln!(
        out,
        "NODES         {} of {} ready   {} connected   {} current",
        count(|node| node.state() == "ready"),
        status.nodes.len(),
        count(|node| node.controller.is_some()),
        count(|node| node.current),
    )?;
    let sum = |of: fn(&NodeStatus) -> u32| -> u64 {
        status.nodes.iter().map(|node| u64::from(of(node))).sum()
    };
    writeln!(
        out,
        "WORKLOADS     {} of {} enrolled",
        sum(|node| node.enrolled),
        sum(|node| node.workloads),
    )?;
    Ok(())
}

/// What the controller that answers has refused: requests for certificates, questions.
fn refused(status: &ClusterStatus) -> String {
    status.controllers.first().map_or_else(String::new, |own| {
        let count: u64 = own.refusals.values().sum();
        format!("{} refused {count}", clean(&own.name))
    })
}

/// Everything that is not in order, each in a line.
fn remarks(out: &mut dyn Write, status: &ClusterStatus, style: Style) -> Result<(), CliError> {
    let bad = style.paint(Color::Red, style.glyph("✖", "x"));
    let warning = style.paint(Color::Yellow, style.glyph("‼", "!"));
    for controller in &status.controllers {
        for why in &controller.not_ready {
            writeln!(
                out,
                "{bad} controller {}: {}",
                clean(&controller.name),
                clean(why)
            )?;
        }
    }
    let lacking: Vec<&NodeStatus> = status
        .nodes
        .iter()
        .filter(|node| node.state() != "ready" || !node.current)
        .collect();
    for node in lacking.iter().take(LISTED) {
        let why = match node.not_ready.is_empty() {
            true if node.controller.is_none() => "its agent is not connected".to_owned(),
            true => "it does not decide with the newest configuration yet".to_owned(),
            false => node.not_ready.join("; "),
        };
        let glyph = if node.state() == "ready" {
            &warning
        } else {
            &bad
        };
        writeln!(out, "{glyph} node {}: {}", clean(&node.name), clean(&why))?;
    }
    if lacking.len() > LISTED {
        let more = lacking.len() - LISTED;
        writeln!(out, "{bad} and {more} more nodes: warren get nodes -o wide")?;
    }
    for problem in status.problems.iter().take(LISTED) {
        writeln!(
            out,
            "{warning} {} {}.{}: not {}: {} ({})",
            clean(&problem.kind),
            clean(&problem.name),
            clean(&problem.namespace),
            clean(&problem.condition),
            clean(&problem.message),
            clean(&problem.reason),
        )?;
    }
    for text in &status.warnings {
        writeln!(out, "{warning} {}", clean(text))?;
    }
    if status.problems.len() > LISTED {
        let more = status.problems.len() - LISTED;
        writeln!(
            out,
            "{warning} and {more} more objects: warren status -o json"
        )?;
    }
    Ok(())
}
