//! `warren explain`: what would happen to a connection, and why. The agent asks the very functions that carry real ones.

use std::io::Write;

use super::args::{ExplainArgs, TextOutput};
use super::output::{Color, Style, clean};
use super::{CliError, Context, Exit, json};
use crate::api::flow::Verdict;
use crate::api::objects::Explanation;

/// Does what was asked.
pub(crate) async fn run(context: &mut Context<'_>, args: &ExplainArgs) -> Result<Exit, CliError> {
    let path = format!(
        "/v1/explain?source={}&destination={}",
        escaped(&args.source),
        escaped(&args.destination)
    );
    let explanation: Explanation = context.client.get(&path).await?;
    match args.output {
        TextOutput::Json => json(context.out, &explanation)?,
        TextOutput::Text => write(context.out, &explanation, context.style)?,
    }
    Ok(match explanation.verdict {
        Verdict::Allowed => Exit::Ok,
        Verdict::Denied | Verdict::Failed => Exit::No,
    })
}

/// Writes it for people.
pub(crate) fn write(
    out: &mut dyn Write,
    explanation: &Explanation,
    style: Style,
) -> Result<(), CliError> {
    let width = explanation
        .steps
        .iter()
        .map(|step| step.step.len())
        .max()
        .unwrap_or(0);
    for (number, step) in explanation.steps.iter().enumerate() {
        let mut line = format!(
            "{:<3}{:<width$}   {}   ",
            number + 1,
            step.step,
            clean(&step.subject)
        );
        if let Some(share) = step.share {
            line.push_str(format!("{share:.1}").trim_end_matches(".0"));
            line.push_str("%   ");
        }
        line.push_str(&clean(&step.outcome));
        if let Some(rule) = &step.rule {
            line.push_str(&format!("   by {}", clean(rule)));
        }
        if let Some(reason) = &step.refused {
            let words = format!("{} {reason}", style.glyph("✖", "x"));
            line.push_str(&format!("   {}", style.paint(Color::Red, &words)));
        }
        writeln!(out, "{line}")?;
    }
    let verdict = match explanation.verdict {
        Verdict::Allowed => style.paint(Color::Green, "ALLOWED"),
        Verdict::Denied => style.paint(Color::Red, "DENIED"),
        Verdict::Failed => style.paint(Color::Yellow, "FAILED"),
    };
    writeln!(
        out,
        "verdict: {verdict}   {} {} {}   generation {}",
        clean(&explanation.source),
        style.glyph("→", "->"),
        clean(&explanation.destination),
        explanation.generation
    )?;
    Ok(())
}

/// As part of a URL's query (RFC 3986 §2.3: everything but the unreserved set).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
