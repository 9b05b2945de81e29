//! What the runtime is told, on standard output (CNI specification, section 5).

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use super::wire::VERSIONS;

/// Codes of the specification, and one of our own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Code {
    Version = 1,
    Environment = 4,
    Io = 5,
    Undecodable = 6,
    Configuration = 7,
    /// Try again later.
    Later = 11,
    /// Codes from 100 are the plugin's own.
    NotEnforced = 100,
}

/// Why what was asked is not done.
#[derive(Debug, PartialEq)]
pub(super) struct Failure {
    pub(super) code: Code,
    message: &'static str,
    details: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: &'static str, details: String) -> Self {
        Self {
            code,
            message,
            details,
        }
    }

    /// It may be done later.
    pub(super) fn later(message: &'static str, details: String) -> Self {
        Self::new(Code::Later, message, details)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Error<'a> {
    cni_version: &'a str,
    code: u32,
    /// Runtimes show it to people, with the details behind it.
    msg: String,
    details: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions<'a> {
    cni_version: &'a str,
    supported_versions: [&'a str; VERSIONS.len()],
}

/// The versions that are supported.
pub(super) fn versions(version: &str) -> String {
    text(&Versions {
        cni_version: version,
        supported_versions: VERSIONS,
    })
}

/// Says that it is done.
pub(super) fn write(said: &str) -> ExitCode {
    match std::io::stdout().write_all(said.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asked is gone.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says why it is not done.
pub(super) fn fail(version: &str, failure: &Failure) -> ExitCode {
    write(&error(version, failure));
    ExitCode::FAILURE
}

/// A failure, as the runtime reads it.
pub(super) fn error(version: &str, failure: &Failure) -> String {
    let Failure {
        code,
        message,
        details,
    } = failure;
    text(&Error {
        cni_version: version,
        code: *code as u32,
        msg: format!("warren: {message}"),
        details,
    })
}

fn text(value: &impl Serialize) -> String {
    // These types have no map with keys that are not text, the only thing that JSON cannot say.
    serde_json::to_string(value).unwrap_or_default()
}
