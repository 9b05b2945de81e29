//! The log: to standard error, as text or one JSON object per line. Records of the `log` crate (rustls, and the eBPF
//! programs by way of aya-log) arrive in the same place.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::cli::args::{LogArgs, LogFormat};

/// The level was not understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log-level {level:?} is not understood; use error, warn, info, debug, trace or module=level pairs"
)]
pub(crate) struct InvalidLevel {
    level: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// Libraries that warn of what whoever calls them deals with: of every kind of object that an API server does not have.
const LOUD: &str = "kube_client::client";

/// Without what says nothing, unless it was asked for.
fn quieted(filter: EnvFilter, asked: &str) -> EnvFilter {
    match format!("{LOUD}=error").parse() {
        Ok(directive) if !asked.contains("kube") => filter.add_directive(directive),
        _ => filter,
    }
}

/// Sets the log up, once per process.
pub(crate) fn start(args: &LogArgs) -> Result<(), InvalidLevel> {
    let filter = EnvFilter::builder()
        .parse(&args.log_level)
        .map_err(|source| InvalidLevel {
            level: args.log_level.clone(),
            source,
        })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(quieted(filter, &args.log_level))
        // A worker goes on when the agent that reads its log is gone; a line that nobody takes is no reason to end.
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // tracing-subscriber installs the bridge from `log` too. It fails only when a log is set up already: in tests.
    let installed = match args.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    if let Err(error) = installed {
        tracing::debug!(%error, "the log was set up before");
    }
    Ok(())
}
