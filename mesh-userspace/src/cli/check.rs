//! `warren check`: everything that could be wrong, each with a fix.

use std::io::Write;

use super::args::{CheckArgs, TextOutput};
use super::output::{Color, Style, clean};
use super::{CliError, Context, Exit, cluster_check, json};
use crate::agent::preflight;
use crate::api::objects::{CheckState, Checks};

/// Does what was asked.
pub(crate) async fn run(context: &mut Context<'_>, args: &CheckArgs) -> Result<Exit, CliError> {
    let items = if let Some(cluster) = context.client.cluster() {
        match &args.namespace {
            Some(namespace) => {
                let told: Checks = context.client.get("checks", Some(namespace)).await?;
                told.items
            }
            None => cluster_check::run(&context.client, cluster, args.pre).await?,
        }
    } else if args.namespace.is_some() {
        return Err(CliError::Usage(
            "-n is for clusters: a node is checked as a whole".to_owned(),
        ));
    } else {
        let mut items = preflight::checks();
        if !args.pre {
            let agent: Checks = context.client.get("check", None).await?;
            items.extend(agent.items);
        }
        items
    };
    let checks = Checks {
        api_version: crate::api::VERSION.to_owned(),
        kind: "Checks".to_owned(),
        items,
    };
    match args.output {
        TextOutput::Json => json(context.out, &checks)?,
        TextOutput::Text => write(context.out, &checks, context.style)?,
    }
    let failed = checks
        .items
        .iter()
        .any(|check| check.state == CheckState::Failed);
    Ok(if failed { Exit::No } else { Exit::Ok })
}

/// Writes it for people, section by section.
pub(crate) fn write(out: &mut dyn Write, checks: &Checks, style: Style) -> Result<(), CliError> {
    let mut section = "";
    for check in &checks.items {
        if check.section != section {
            section = &check.section;
            writeln!(out, "{}", clean(section))?;
        }
        let (color, glyph) = match check.state {
            CheckState::Ok => (Color::Green, style.glyph("✔", "ok")),
            CheckState::Warning => (Color::Yellow, style.glyph("‼", "! ")),
            CheckState::Failed => (Color::Red, style.glyph("✖", "x ")),
        };
        writeln!(
            out,
            "{} {}",
            style.paint(color, glyph),
            super::output::clean_lines(&check.message)
        )?;
        if let Some(fix) = &check.fix {
            writeln!(out, "     fix: {}", clean(fix))?;
        }
    }
    let count = |state| {
        checks
            .items
            .iter()
            .filter(|check| check.state == state)
            .count()
    };
    let warnings = count(CheckState::Warning);
    writeln!(
        out,
        "Result: {} ok, {warnings} warning{}, {} failed",
        count(CheckState::Ok),
        if warnings == 1 { "" } else { "s" },
        count(CheckState::Failed)
    )?;
    Ok(())
}
