//! Running a program to its end, with its words in the error when it fails.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

/// Runs a program; gives its standard output.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| {
            format!("start {program}; is it installed? `cargo xtask deps` does that")
        })?;
    finish(&format!("{program} {}", arguments.join(" ")), output)
}

/// Runs a program that reads its standard input; gives its standard output.
pub fn run_with_input(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let words = format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    feed(command.args(arguments), &format!("{words}\n{input}"), input)
}

/// Runs a command that reads its standard input; gives its standard output. The words are for its error.
pub fn feed(command: &mut Command, words: &str, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!("start `{words}`; is it installed? `cargo xtask deps` does that")
        })?;
    let mut stdin = child
        .stdin
        .take()
        .ok_or_else(|| anyhow!("`{words}` has no standard input"))?;
    stdin
        .write_all(input.as_bytes())
        .with_context(|| format!("write to `{words}`"))?;
    drop(stdin);
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for `{words}`"))?;
    finish(words, output)
}

/// What a program that has ended printed; an error with its words when it failed.
pub fn finish(words: &str, output: Output) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!(
            "`{words}` failed: {status}\n{stdout}{}",
            String::from_utf8_lossy(&stderr)
        );
    }
    Ok(stdout)
}
