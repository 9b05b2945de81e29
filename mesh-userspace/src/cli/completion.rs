//! `warren completion`: a script for a shell.

use std::io::Write;

use clap::CommandFactory;

use super::args::Cli;
use super::{CliError, Exit};

/// Writes it.
pub(crate) fn run(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<Exit, CliError> {
    // Into memory first: the generator panics when its writer fails, and a closed pipe is no fault.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "warren", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Ok)
}
