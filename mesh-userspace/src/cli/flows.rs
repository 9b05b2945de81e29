//! `warren flows`: connections of the past and those to come, from the agent, the cluster or a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

use clap::ArgMatches;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::args::{FlowsArgs, FlowsOutput, duration};
use super::output::{Style, Table, clean};
use super::{CliError, Context, Exit, flow_line};
use crate::api::client::{Client, Cluster, Lines};
use crate::api::cluster::Notice;
use crate::api::filter::{Field, Filter, Term};
use crate::api::flow::{self, Flow};
use crate::api::objects::{FlowQuery, Lost};

/// Before asking again for a stream that has ended, and how often.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: u32 = 10;

/// How many flows of the past are shown when nothing else says how many.
const LAST: usize = 20;

/// The filters as they were typed, in order, so that each `--not` finds the one after it.
pub(crate) fn terms(matches: &ArgMatches) -> Result<Vec<Term>, CliError> {
    const FILTERS: &[(&str, Field)] = &[
        ("from", Field::From),
        ("to", Field::To),
        ("ns", Field::Namespace),
        ("workload", Field::Workload),
        ("service", Field::Service),
        ("verdict", Field::Verdict),
        ("reason", Field::Reason),
        ("direction", Field::Direction),
        ("transport", Field::Transport),
        ("port", Field::Port),
    ];
    let mut typed: Vec<(usize, Option<(Field, &String)>)> = Vec::new();
    for (name, field) in FILTERS {
        let values = matches.get_many::<String>(name).into_iter().flatten();
        let indices = matches.indices_of(name).into_iter().flatten();
        typed.extend(
            indices
                .zip(values)
                .map(|(index, value)| (index, Some((*field, value)))),
        );
    }
    typed.extend(
        matches
            .indices_of("not")
            .into_iter()
            .flatten()
            .map(|index| (index, None)),
    );
    typed.sort_by_key(|(index, _)| *index);

    let mut terms = Vec::new();
    let mut negated = false;
    for (_, part) in typed {
        let Some((field, value)) = part else {
            negated = !negated;
            continue;
        };
        terms.push(
            Term::new(field, value, negated).map_err(|error| CliError::Usage(error.to_string()))?,
        );
        negated = false;
    }
    if negated {
        return Err(CliError::Usage(
            "--not turns the filter after it around, and there is none".to_owned(),
        ));
    }
    Ok(terms)
}

/// Does what was asked.
pub(crate) async fn run(
    context: &mut Context<'_>,
    args: FlowsArgs,
    terms: Vec<Term>,
) -> Result<Exit, CliError> {
    let (scope, terms) = match context.client.cluster().map(Cluster::namespace) {
        Some(default) => scoped(terms, args.all_namespaces, default),
        None => (None, terms),
    };
    let query = FlowQuery {
        filter: Filter { terms },
        since: args.since.as_deref().map(since).transpose()?,
        last: args
            .last
            .or_else(|| (args.since.is_none() && args.input.is_none()).then_some(LAST)),
        follow: args.follow,
        ..FlowQuery::default()
    };
    let mut printer = Printer {
        out: &mut *context.out,
        style: context.style,
        zone: TimeZone::system(),
        output: args.output,
        table: flow_line::table(!args.no_headers),
        printed: 0,
    };
    match &args.input {
        Some(path) => replay(path, &query, &mut printer)?,
        None => {
            ask(&context.client, query, scope.as_deref(), &mut printer).await?;
        }
    }
    if printer.printed == 0 {
        explain_empty(&args, scope.as_deref());
    }
    Ok(Exit::Ok)
}

/// Asks, and prints what comes.
async fn ask(
    client: &Client,
    mut query: FlowQuery,
    scope: Option<&str>,
    printer: &mut Printer<'_>,
) -> Result<(), CliError> {
    // A controller that ends hands its work to another one, which then has to be asked.
    let again = query.follow && client.cluster().is_some();
    let mut tries = 0;
    loop {
        let asked = client.flows(&query, scope).await;
        let ended = match asked {
            Ok(lines) => {
                tries = 0;
                print(lines, query.follow, printer).await
            }
            Err(error) => Err(error.into()),
        };
        match ended {
            Ok(()) if !again => return Ok(()),
            Ok(()) => {}
            Err(CliError::Agent(error)) if again && tries < TRIES && error.may_pass() => {}
            Err(error) => return Err(error),
        }
        if tries == 0 {
            eprintln!("The controller has ended the stream; another one is asked.");
        }
        tries += 1;
        query.last = Some(0);
        tokio::time::sleep(AGAIN).await;
    }
}

async fn print(mut lines: Lines, follow: bool, printer: &mut Printer<'_>) -> Result<(), CliError> {
    // Rows of a table are lined up, so they wait for each other; lines do not.
    let streamed = follow || printer.output != FlowsOutput::Table;
    while let Some(line) = lines.next().await? {
        take(&line, printer)?;
        if streamed {
            printer.flush(follow)?;
        }
    }
    printer.flush(true)
}

/// The namespace whose flows are asked for, `None` for all, and the conditions that are left. Whoever may see one namespace
/// only must be able to say so; several of them, or all but one, are a question about the cluster.
fn scoped(mut terms: Vec<Term>, all: bool, default: &str) -> (Option<String>, Vec<Term>) {
    let about = |term: &&Term| term.field == Field::Namespace;
    let said: Vec<&Term> = terms.iter().filter(about).collect();
    let scope = match said.as_slice() {
        [] => (!all).then(|| default.to_owned()),
        [only] if !only.negated => Some(only.value.clone()),
        _ => return (None, terms),
    };
    terms.retain(|term| term.field != Field::Namespace);
    (scope, terms)
}

/// One line of the answer.
fn take(line: &[u8], printer: &mut Printer<'_>) -> Result<(), CliError> {
    match serde_json::from_slice::<Flow>(line) {
        Ok(flow) => printer.print(&flow),
        Err(error) => {
            if let Ok(lost) = serde_json::from_slice::<Lost>(line) {
                eprintln!(
                    "{} flows were not shown: they came faster than they were read",
                    lost.count
                );
            } else if let Ok(notice) = serde_json::from_slice::<Notice>(line) {
                eprintln!("{}", clean(&notice.message));
            } else {
                return Err(CliError::failed("the answer is not understood", error));
            }
            Ok(())
        }
    }
}

/// Flows that were saved with `-o json`.
fn replay(path: &Path, query: &FlowQuery, printer: &mut Printer<'_>) -> Result<(), CliError> {
    let cannot = |what: &str, source| CliError::Io {
        what: format!("cannot {what} {}", path.display()),
        source,
    };
    let input: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(
            File::open(path).map_err(|error| cannot("open", error))?,
        ))
    };
    let mut held = VecDeque::new();
    for (number, line) in input.lines().enumerate() {
        let line = line.map_err(|error| cannot("read", error))?;
        if line.trim().is_empty() {
            continue;
        }
        let flow: Flow = match serde_json::from_str(&line) {
            Ok(flow) => flow,
            // Saved from a stream that was too fast for its reader: not a flow, not a mistake.
            Err(_) if is_remark(&line) => continue,
            Err(error) => {
                let what = format!(
                    "line {} of {} is not a {} object; save flows with `warren flows -o json`",
                    number + 1,
                    path.display(),
                    flow::KIND
                );
                return Err(CliError::failed(what, error));
            }
        };
        if !query.filter.matches(&flow) || query.since.is_some_and(|since| flow.ended_at() < since)
        {
            continue;
        }
        match query.last {
            Some(last) => {
                held.push_back(flow);
                if held.len() > last {
                    held.pop_front();
                }
            }
            None => printer.print(&flow)?,
        }
    }
    for flow in &held {
        printer.print(flow)?;
    }
    printer.flush(true)
}

/// Whether a saved line stands for flows that are missing.
fn is_remark(line: &str) -> bool {
    serde_json::from_str::<Lost>(line).is_ok_and(|lost| lost.kind == Lost::KIND)
        || serde_json::from_str::<Notice>(line).is_ok_and(|notice| notice.kind == Notice::KIND)
}

/// Writes flows in the form that was asked for.
struct Printer<'a> {
    out: &'a mut dyn Write,
    style: Style,
    zone: TimeZone,
    output: FlowsOutput,
    table: Table,
    printed: u64,
}

impl Printer<'_> {
    fn print(&mut self, flow: &Flow) -> Result<(), CliError> {
        self.printed += 1;
        match self.output {
            FlowsOutput::Compact => {
                let line = flow_line::compact(flow, &self.zone, self.style);
                writeln!(self.out, "{line}")?;
            }
            FlowsOutput::Table => self.table.row(flow_line::row(flow, &self.zone, self.style)),
            FlowsOutput::Json => {
                let line = serde_json::to_string(flow)
                    .map_err(|error| CliError::failed("cannot write JSON", error))?;
                // JSON escapes the C0 set itself; what else could steer a terminal only occurs within strings.
                writeln!(self.out, "{}", clean_json(&line))?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, now: bool) -> Result<(), CliError> {
        if self.output == FlowsOutput::Table && self.printed > 0 {
            self.table.write(self.out)?;
        }
        if now {
            self.out.flush()?;
        }
        Ok(())
    }
}

/// JSON with characters beyond the C0 set that could steer a terminal written as `\uXXXX`.
fn clean_json(line: &str) -> std::borrow::Cow<'_, str> {
    if matches!(clean(line), std::borrow::Cow::Borrowed(_)) {
        return line.into();
    }
    let mut text = String::with_capacity(line.len() + 16);
    for character in line.chars() {
        let single = character.to_string();
        if clean(&single) == single {
            text.push(character);
        } else {
            text.push_str(&format!("\\u{:04x}", u32::from(character)));
        }
    }
    text.into()
}

/// The moment that `--since` means.
fn since(text: &str) -> Result<Timestamp, CliError> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let ago = duration(text).map_err(|why| {
        CliError::Usage(format!(
            "--since {text:?} is neither a time ({why}) nor a moment as in 2026-01-31T12:00:00Z"
        ))
    })?;
    Timestamp::now()
        .checked_sub(ago)
        .map_err(|_wrong| CliError::Usage(format!("--since {text:?} is before time began")))
}

/// Nothing to show is an answer that wants a reason.
fn explain_empty(args: &FlowsArgs, scope: Option<&str>) {
    let window = args
        .since
        .as_ref()
        .map(|since| format!(" since {since}"))
        .unwrap_or_default();
    let filtered = if [
        &args.from,
        &args.to,
        &args.workload,
        &args.service,
        &args.verdict,
        &args.reason,
        &args.direction,
        &args.transport,
        &args.port,
    ]
    .iter()
    .any(|filter| !filter.is_empty())
        || (scope.is_none() && !args.ns.is_empty())
    {
        " that match"
    } else {
        ""
    };
    match &args.input {
        Some(path) => eprintln!("No flows{filtered}{window} in {}.", path.display()),
        None => {
            let (within, all) = match scope {
                Some(namespace) => (format!(" in namespace {namespace}"), " All namespaces: -A"),
                None => (String::new(), ""),
            };
            eprintln!(
                "No flows{filtered}{within}{window}. A connection is shown when it ends, or has been open for a while. \
                 Is its workload in the mesh? run: warren get workloads.{all}"
            );
        }
    }
}
