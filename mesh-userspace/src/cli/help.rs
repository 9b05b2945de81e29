//! `warren help`: the help of a verb, or a topic.

use std::io::Write;

use clap::CommandFactory;

use super::args::Cli;
use super::{CliError, Exit};
use crate::api::filter::nearest;

const EXIT_CODES: &str = "\
Exit codes of warren:

  0     done; or the answer is yes (allowed, in order, valid). Also when the reader of a pipe has enough
  1     the answer is no (a check failed, the connection would be denied, the file has mistakes), or it did not work
  2     the command line is not understood
  3     no agent, no cluster or no controller could be reached
  4     not permitted
  124   there was no answer within --timeout, or not everything was done within --wait
";

/// Writes it.
pub(crate) fn run(topic: &[String], out: &mut dyn Write) -> Result<Exit, CliError> {
    if topic.first().is_some_and(|topic| topic == "exit-codes") {
        write!(out, "{EXIT_CODES}")?;
        return Ok(Exit::Ok);
    }
    let mut found = Cli::command();
    found.build();
    for word in topic {
        let names: Vec<String> = found
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .chain(["exit-codes".to_owned()])
            .collect();
        if !names.contains(word) {
            let hint = nearest(word, names.iter().map(String::as_str))
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            return Err(CliError::Usage(format!(
                "there is no help about {word:?}{hint} (topics: exit-codes)"
            )));
        }
        found = match found.find_subcommand(word) {
            Some(next) => next.clone(),
            None => break,
        };
    }
    write!(out, "{}", found.render_long_help())?;
    Ok(Exit::Ok)
}
