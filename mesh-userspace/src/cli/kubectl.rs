//! `kubectl warren`: kubectl runs whatever is called `kubectl-warren` on the PATH, and asks `kubectl_complete-warren` for
//! completions. Both are this binary under another name.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use super::args::Cli;

/// Whether kubectl runs us.
pub(crate) fn is_plugin() -> bool {
    invoked_as().is_some_and(|name| name == "kubectl-warren")
}

/// The command under the name by which people called it.
pub(crate) fn named(command: clap::Command) -> clap::Command {
    match is_plugin() {
        true => command.bin_name("kubectl warren"),
        false => command,
    }
}

/// The words to complete, when it is kubectl that asks.
pub(crate) fn completion_request() -> Option<Vec<String>> {
    let asked = invoked_as().is_some_and(|name| name == "kubectl_complete-warren");
    asked.then(|| {
        std::env::args_os()
            .skip(1)
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    })
}

fn invoked_as() -> Option<String> {
    let path = std::env::args_os().next()?;
    let name = Path::new(&path).file_name()?;
    Some(name.to_string_lossy().into_owned())
}

/// Answers in the form of cobra's completion protocol: a candidate per line with its description, then a directive.
pub(crate) fn complete(words: &[String]) -> ExitCode {
    // 4: offer no file names beside these.
    let mut text: String = candidates(words)
        .into_iter()
        .map(|(word, about)| match about.is_empty() {
            true => format!("{word}\n"),
            false => format!("{word}\t{about}\n"),
        })
        .collect();
    text.push_str(":4\n");
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What the last word may become. `words` are those after `kubectl warren`; the last one is being typed, and may be empty.
pub(crate) fn candidates(words: &[String]) -> Vec<(String, String)> {
    let mut root = Cli::command();
    root.build();
    let (typed, before) = words
        .split_last()
        .map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut command = &root;
    for word in before {
        if let Some(verb) = command.find_subcommand(word) {
            command = verb;
        }
    }
    let values = before
        .last()
        .and_then(|flag| argument(command, flag))
        .map(|argument| argument.get_possible_values());
    let mut found: Vec<(String, String)> = match values {
        // The value of the flag before.
        Some(values) if !values.is_empty() => values
            .iter()
            .map(|value| (value.get_name().to_owned(), first_line(value.get_help())))
            .collect(),
        _ if typed.starts_with('-') => command
            .get_arguments()
            .filter(|argument| !argument.is_hide_set())
            .filter_map(|argument| {
                let name = argument.get_long()?;
                Some((format!("--{name}"), first_line(argument.get_help())))
            })
            .collect(),
        _ => words_of(command),
    };
    found.retain(|(word, _)| word.starts_with(typed));
    found
}

/// The argument that takes a value after `flag`.
fn argument<'c>(command: &'c clap::Command, flag: &str) -> Option<&'c clap::Arg> {
    command.get_arguments().find(|argument| {
        argument.get_action().takes_values()
            && (flag
                .strip_prefix("--")
                .is_some_and(|long| argument.get_long() == Some(long))
                || flag.strip_prefix('-').is_some_and(|short| {
                    argument.get_short().map(String::from).as_deref() == Some(short)
                }))
    })
}

fn words_of(command: &clap::Command) -> Vec<(String, String)> {
    if command.get_name() == "get" {
        let kinds = super::get::kinds();
        return kinds.map(|kind| (kind.to_owned(), String::new())).collect();
    }
    command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .map(|verb| (verb.get_name().to_owned(), first_line(verb.get_about())))
        .collect()
}

fn first_line(help: Option<&clap::builder::StyledStr>) -> String {
    let text = help.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}
