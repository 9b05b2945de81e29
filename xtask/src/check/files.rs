//! Rules about files: a header that says what the file is for, a length that fits one reading, no trace of the machine
//! on which it was written, no unfinished work.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{run, workspace};

/// A longer file does more than one thing.
const MOST_LINES: usize = 500;

pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let mut faults = Vec::new();
    for file in tracked()? {
        let path = root.join(&file);
        // Deleted but not yet committed, a link, or not text: nothing to read.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        if file.extension().is_some_and(|extension| extension == "rs") {
            faults.extend(of_source(&file, &text));
        }
        faults.extend(of_any(&file, &text));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n  "));
    }
    Ok(())
}

/// Files that are, or would be, in the repository.
fn tracked() -> Result<Vec<PathBuf>> {
    let list = run::read(
        std::process::Command::new("git")
            .current_dir(workspace::root())
            .args(["ls-files", "--cached", "--others", "--exclude-standard"]),
    )
    .context("list the repository's files")?;
    Ok(list.lines().map(PathBuf::from).collect())
}

fn of_source(file: &Path, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    // Unit tests in a file of their own belong to the file that they test, whose header speaks for both.
    let is_unit_tests = file.file_name().is_some_and(|name| name == "tests.rs");
    let file = file.display();
    if !has_header(text) && !is_unit_tests {
        faults.push(format!(
            "{file}: begins without a `//!` header that says what it does"
        ));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        faults.push(format!(
            "{file}: {lines} lines, the budget is {MOST_LINES}; split it by reason to change"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        for unfinished in ["todo!(", "unimplemented!(", "#[ignore", "#[should_panic"] {
            // The list itself is the one place where the words may stand.
            if line.contains(unfinished) && !line.contains('"') {
                faults.push(format!("{file}:{}: {unfinished}…", number + 1));
            }
        }
    }
    faults
}

/// Attributes of the crate may stand above it.
fn has_header(text: &str) -> bool {
    text.lines()
        .find(|line| !line.is_empty() && !line.starts_with("#!["))
        .is_some_and(|line| line.starts_with("//!"))
}

/// Paths of this machine mean nothing elsewhere.
fn of_any(file: &Path, text: &str) -> Vec<String> {
    let mut private = vec![format!("{}/", workspace::root().display())];
    if let Some(home) = std::env::var_os("HOME").filter(|home| home.len() > 1) {
        private.push(format!("{}/", Path::new(&home).display()));
    }
    private
        .iter()
        .filter(|path| text.contains(path.as_str()))
        .map(|path| format!("{}: names a path of this machine ({path})", file.display()))
        .collect()
}
