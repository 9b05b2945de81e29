//! `warren explain`: what would happen to a connection, and why. The agent asks the very functions that carry real ones.

use std::io::Write;

use super::args::{ExplainArgs, TextOutput};
use super::output::{Color, Style, clean};
use super::{CliError, Context, Exit, json};
use crate::api::client::Cluster;
use crate::api::flow::Verdict;
use crate::api::objects::Explanation;
use crate::api::query::escaped;

/// Does what was asked.
pub(crate) async fn run(context: &mut Context<'_>, args: &ExplainArgs) -> Result<Exit, CliError> {
    let (resource, namespace) = question(args, context.client.cluster().map(Cluster::namespace));
    let explanation: Explanation = context.client.get(&resource, namespace.as_deref()).await?;
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

/// What is asked, and about which namespace. In a cluster that is where the caller needs rights: `-n`, else the source's own
/// word for it, else that of the kubeconfig; names without a namespace are meant there.
pub(crate) fn question(args: &ExplainArgs, of_cluster: Option<&str>) -> (String, Option<String>) {
    let (mut source, said) = place(&args.source);
    let (destination, _) = place(&args.destination);
    let scope = match of_cluster {
        Some(default) => Some(
            args.namespace
                .clone()
                .or(said)
                .unwrap_or_else(|| default.to_owned()),
        ),
        None => {
            if let (Some(namespace), None) = (&args.namespace, &said) {
                source = qualified(&source, namespace);
            }
            None
        }
    };
    let resource = format!(
        "explain?source={}&destination={}",
        escaped(&source),
        escaped(&destination)
    );
    (resource, scope)
}

/// `pod/shop/client` → `pod/client.shop`; whatever else stays as it is. With the namespace that it says.
fn place(typed: &str) -> (String, Option<String>) {
    let (kind, rest) = match typed.split_once('/') {
        Some((kind, rest)) if !kind.contains(':') => (Some(kind), rest),
        _ => (None, typed),
    };
    if let (Some(kind), Some((namespace, name))) = (kind, rest.split_once('/')) {
        let name = qualified(name, namespace);
        return (format!("{kind}/{name}"), Some(namespace.to_owned()));
    }
    let said = rest
        .rsplit_once('.')
        .map(|(_, namespace)| namespace.to_owned());
    (typed.to_owned(), said)
}

/// `web:80` of `shop` → `web.shop:80`.
fn qualified(name: &str, namespace: &str) -> String {
    match name.rsplit_once(':') {
        Some((name, port)) => format!("{name}.{namespace}:{port}"),
        None => format!("{name}.{namespace}"),
    }
}
