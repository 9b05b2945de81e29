//! `warren config`: configuration files, without an agent.

use std::io::Write;

use super::args::ConfigCommand;
use super::{CliError, Exit, json};

/// Does what was asked.
pub(crate) fn run(command: ConfigCommand, out: &mut dyn Write) -> Result<Exit, CliError> {
    match command {
        ConfigCommand::Schema => {
            json(out, &mesh_control::schema())?;
            Ok(Exit::Ok)
        }
        ConfigCommand::Validate { file, name } => {
            let report = mesh_control::validate_file(&file, name.as_deref()).map_err(|source| {
                CliError::Io {
                    what: format!("cannot read {}", file.display()),
                    source,
                }
            })?;
            // The mistakes are what was asked for: they are data. The report escapes what it quotes.
            write!(out, "{report}")?;
            Ok(if report.errors() == 0 {
                Exit::Ok
            } else {
                Exit::No
            })
        }
    }
}
