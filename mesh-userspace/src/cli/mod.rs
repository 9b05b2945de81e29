//! The command line. [`args`] is what can be typed; each verb has a file that says what it does; [`output`] is how things
//! are written. Data goes to standard output, everything else to standard error.
//!
//! Verbs that ask do so of a node's agent or of a cluster ([`target`] says of which); what they show has the same form.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::api::client::{Client, ClientError};

pub(crate) mod args;
mod ca;
mod check;
mod cluster_args;
mod cluster_check;
mod cluster_status;
mod cluster_uninstall;
mod completion;
mod config;
mod controller;
mod explain;
mod flow_line;
mod flows;
mod get;
mod help;
mod install;
mod install_args;
mod kubectl;
mod membership;
mod node;
mod node_args;
mod on_node;
mod output;
mod proxy;
mod ready;
mod status;
mod target;
mod uninstall;
mod version;

#[cfg(test)]
mod tests;

use args::{Cli, Command, Global};
use membership::Membership;
use output::Style;
use target::Whom;

/// How a verb ended, as the process tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// Done, or the answer is yes.
    Ok,
    /// The answer is no: a check failed, a connection would be denied, a file has mistakes.
    No,
}

/// Why a verb could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Agent(#[from] ClientError),
    #[error("{0}")]
    NotPermitted(String),
    #[error("{0}")]
    TimedOut(String),
    /// Standard output or a file.
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    /// A part of the product says no, with causes.
    #[error("{what}")]
    Failed {
        what: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl CliError {
    /// A failure with its cause.
    pub(crate) fn failed(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            what: what.into(),
            source: Some(source.into()),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Agent(error) => error.code(),
            Self::NotPermitted(_) => 4,
            Self::TimedOut(_) => 124,
            Self::Io { .. } | Self::Failed { .. } => 1,
        }
    }

    /// Whoever read our output has enough: `warren flows | head` is no error.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<io::Error> for CliError {
    fn from(source: io::Error) -> Self {
        Self::Io {
            what: "cannot write the output".to_owned(),
            source,
        }
    }
}

/// What verbs that ask and print share.
pub(crate) struct Context<'a> {
    pub(crate) style: Style,
    pub(crate) client: Client,
    pub(crate) out: &'a mut dyn Write,
}

/// Parses the command line and does what it says.
pub(crate) fn run() -> ExitCode {
    if let Some(words) = kubectl::completion_request() {
        return kubectl::complete(&words);
    }
    let matches = kubectl::named(Cli::command()).get_matches();
    let outcome = Cli::from_arg_matches(&matches)
        .map_err(|error| CliError::Usage(error.to_string()))
        .and_then(|cli| dispatch(cli, &matches));
    match outcome {
        Ok(Exit::Ok) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(1),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(error.code())
        }
    }
}

/// Says what went wrong, with every cause.
fn report(error: &dyn std::error::Error) {
    eprintln!("{}", output::clean_lines(&in_words(error)));
}

/// With every cause; some libraries say theirs themselves, which is often enough.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.ends_with(&words) {
            text.push_str(&format!("\n  because: {words}"));
        }
        cause = next.source();
    }
    text
}

fn dispatch(cli: Cli, matches: &clap::ArgMatches) -> Result<Exit, CliError> {
    let Cli { global, command } = cli;
    match command {
        Command::Node(args) => node::run(args),
        Command::Ready(args) => ready::run(&args),
        Command::Cni => Err(CliError::Usage(
            "this is a CNI plugin: container runtimes call it, with CNI_COMMAND in its environment"
                .to_owned(),
        )),
        Command::Proxy(args) => proxy::run(&args),
        Command::Controller(args) => controller::run(args, &global),
        Command::Flows(args) => {
            let terms = flows::terms(matches.subcommand().map_or(matches, |(_, matches)| matches))?;
            // Saved flows are read without asking anybody.
            let whom = match args.input {
                Some(_) => Whom::Node,
                None => Whom::Either,
            };
            asking(&global, whom, async |context| {
                flows::run(context, args, terms).await
            })
        }
        Command::Status(args) => asking(&global, Whom::Either, async |context| {
            status::run(context, &args).await
        }),
        Command::Get(args) => asking(&global, Whom::Either, async |context| {
            get::run(context, &args).await
        }),
        Command::Enable(args) => asking(&global, Whom::Cluster, async |context| {
            membership::run(context, &args, Membership::Enabled).await
        }),
        Command::Disable(args) => asking(&global, Whom::Cluster, async |context| {
            membership::run(context, &args, Membership::Disabled).await
        }),
        Command::Check(args) => {
            let whom = match args.pre {
                true => Whom::EitherOrMachine,
                false => Whom::Either,
            };
            asking(&global, whom, async |context| {
                check::run(context, &args).await
            })
        }
        Command::Explain(args) => asking(&global, Whom::Either, async |context| {
            explain::run(context, &args).await
        }),
        Command::Config(command) => config::run(command, &mut io::stdout().lock()),
        Command::Ca(command) => ca::run(command, &global, &mut io::stdout().lock()),
        Command::Install(args) => install::run(&global, &args),
        Command::Uninstall(args) if args.cluster.kubernetes => {
            asking(&global, Whom::Cluster, async |context| {
                cluster_uninstall::run(context, &args.cluster, global.timeout).await
            })
        }
        Command::Uninstall(args) => {
            let socket = target::socket(&global);
            asking(&global, Whom::Node, async |context| {
                uninstall::run(context, args, &socket).await
            })
        }
        Command::Version(args) => version::run(&global, &args),
        Command::Completion { shell } => completion::run(shell, &mut io::stdout().lock()),
        Command::Help { topic } => help::run(&topic, &mut io::stdout().lock()),
    }
}

/// Runs a verb that asks.
fn asking(
    global: &Global,
    whom: Whom,
    verb: impl AsyncFnOnce(&mut Context<'_>) -> Result<Exit, CliError>,
) -> Result<Exit, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed("cannot start", error))?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let exit = runtime.block_on(async {
        let mut context = Context {
            style: Style::of(global),
            client: target::client(global, whom).await?,
            out: &mut out,
        };
        verb(&mut context).await
    })?;
    out.flush()?;
    Ok(exit)
}

/// Writes an object as JSON, for people and programs.
pub(crate) fn json<T: serde::Serialize>(out: &mut dyn Write, value: &T) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::failed("cannot write JSON", error))?;
    Ok(writeln!(out, "{text}")?)
}
