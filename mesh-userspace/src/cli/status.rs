//! `warren status`: a node in a few lines; [`super::cluster_status`] has a cluster.

use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;

use super::args::{StatusArgs, TextOutput};
use super::output::{Color, Style, clean, lasted};
use super::{CliError, Context, Exit, cluster_status, json};
use crate::api::cluster::ClusterStatus;
use crate::api::objects::Status;

/// Does what was asked.
pub(crate) async fn run(context: &mut Context<'_>, args: &StatusArgs) -> Result<Exit, CliError> {
    if let Some(cluster) = context.client.cluster() {
        let server = cluster.server().to_owned();
        let scope = args.namespace.as_deref();
        let resource = match scope {
            None => "status",
            Some(_) => "summary",
        };
        let status: ClusterStatus = context.client.get(resource, scope).await?;
        match args.output {
            TextOutput::Json => json(context.out, &status)?,
            TextOutput::Text => {
                let now = Timestamp::now();
                cluster_status::write(context.out, &status, &server, context.style, now)?;
            }
        }
        return Ok(Exit::Ok);
    }
    if args.namespace.is_some() {
        return Err(CliError::Usage(
            "-n is for clusters: a node's status has no namespaces".to_owned(),
        ));
    }
    let status: Status = context.client.get("status", None).await?;
    match args.output {
        TextOutput::Json => json(context.out, &status)?,
        TextOutput::Text => write(context.out, &status, context.style, Timestamp::now())?,
    }
    Ok(Exit::Ok)
}

/// Writes it for people.
pub(crate) fn write(
    out: &mut dyn Write,
    status: &Status,
    style: Style,
    now: Timestamp,
) -> Result<(), CliError> {
    let up = Duration::try_from(now.duration_since(status.started_at)).unwrap_or_default();
    let ready = match status.ready {
        true => style.paint(Color::Green, "ready"),
        false => style.paint(Color::Red, "not ready"),
    };
    writeln!(
        out,
        "warren {}   node {}   trust domain {}{}   {ready}   up {}",
        clean(&status.version),
        clean(&status.node),
        clean(&status.trust_domain),
        match status.trusted_roots {
            0 | 1 => String::new(),
            several => format!(" ({several} roots trusted)"),
        },
        lasted(up, style),
    )?;
    let configuration = &status.configuration;
    writeln!(
        out,
        "CONFIGURATION   {}   generation {}   applied {}   problems {}",
        clean(&configuration.file),
        configuration.generation,
        configuration.applied_generation,
        configuration.problems.len(),
    )?;
    let workloads = &status.workloads;
    writeln!(
        out,
        "WORKLOADS       {} enrolled   {} preparing   {} waiting   {} leaving   {} on other nodes",
        workloads.enrolled,
        workloads.preparing,
        workloads.waiting,
        workloads.leaving,
        workloads.remote,
    )?;
    let worker = &status.worker;
    writeln!(
        out,
        "WORKER          {}   pid {}   generation {}   restarts {}",
        if worker.ready {
            "serving"
        } else {
            "not serving"
        },
        worker
            .pid
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        worker.generation,
        worker.restarts,
    )?;
    let traffic = &status.traffic;
    writeln!(
        out,
        "CONNECTIONS     {} outbound   {} inbound   tunnels {} out {} in   handshakes {} ok {} failed",
        traffic.open_outbound,
        traffic.open_inbound,
        traffic.tunnels_outbound,
        traffic.tunnels_inbound,
        traffic.handshakes,
        traffic.handshake_failures,
    )?;
    let kernel = &status.kernel;
    writeln!(
        out,
        "KERNEL          {}   captured {}   dropped {}   repaired {}   events lost {}",
        if kernel.attached {
            "attached"
        } else {
            "not attached"
        },
        kernel.counters.get("captured").copied().unwrap_or(0),
        dropped(status),
        kernel.repaired,
        kernel.counters.get("event_lost").copied().unwrap_or(0),
    )?;
    let remarks = status.not_ready.iter().chain(&kernel.faults);
    for remark in remarks {
        writeln!(
            out,
            "{} {}",
            style.paint(Color::Red, style.glyph("✖", "x")),
            clean(remark)
        )?;
    }
    for problem in &configuration.problems {
        let glyph = style.paint(Color::Yellow, style.glyph("‼", "!"));
        writeln!(
            out,
            "{glyph} {}",
            super::output::clean_lines(&problem.message)
        )?;
    }
    Ok(())
}

fn dropped(status: &Status) -> u64 {
    mesh_common::counter::Reason::ALL
        .iter()
        .filter(|reason| reason.verdict() != mesh_common::counter::Verdict::Passed)
        .filter_map(|reason| status.kernel.counters.get(reason.label()))
        .sum()
}
