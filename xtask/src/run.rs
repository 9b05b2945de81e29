//! Running other programs: what is run is printed, and a failure names the command.

use std::fmt::Write as _;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs a command with its output shown; an error when it fails.
pub(crate) fn step(command: &mut Command) -> Result<()> {
    let words = words(command);
    eprintln!("$ {words}");
    let status = command
        .status()
        .with_context(|| format!("start `{words}`"))?;
    if !status.success() {
        bail!("`{words}` failed: {status}");
    }
    Ok(())
}

/// Runs a command and gives its standard output; its standard error is shown. An error when it fails.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let words = words(command);
    let Output { status, stdout, .. } = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{words}`"))?;
    if !status.success() {
        bail!("`{words}` failed: {status}");
    }
    String::from_utf8(stdout).with_context(|| format!("`{words}` did not print UTF-8"))
}

/// Ends a program at once, and whatever it has started: a child that stays would hold its output open, and what it took.
pub(crate) fn end(child: &mut Child) -> Result<()> {
    let descendants = descendants(child.id());
    // First, or it might start the next one when one of them ends.
    child.kill().context("end a program")?;
    for process in descendants {
        // An error means that it has ended.
        let _ended = kill(process, Signal::SIGKILL);
    }
    child.wait().context("wait for a program that was ended")?;
    Ok(())
}

/// Children, their children and so on.
fn descendants(ancestor: u32) -> Vec<Pid> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name, which may hold anything: the state, and the parent (proc_pid_stat(5)).
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            Some((process, parent.parse().ok()?))
        })
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(process, _)| process),
        );
        next += 1;
    }
    found
        .into_iter()
        .skip(1)
        .filter_map(|process| i32::try_from(process).ok().map(Pid::from_raw))
        .collect()
}

/// Whether a program is on the path, or where Debian keeps PostgreSQL's: in a folder per version.
pub(crate) fn is_installed(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"));
    // Administrators' tools live in folders that an ordinary user's path may lack.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain(versions)
        .any(|folder| folder.join(program).is_file())
}

/// The command as a person would type it.
pub(crate) fn words(command: &Command) -> String {
    let mut words = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        // Writing into a String cannot fail.
        let _infallible = write!(words, " {}", argument.to_string_lossy());
    }
    words
}
