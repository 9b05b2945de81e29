//! PROMISES.md names the test that proves each promise; a name that no story has proves nothing.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// What is promised.
const PROMISES: &str = "PROMISES.md";

/// Where stories are.
const STORIES: &str = "tests/tests";

pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let promises =
        fs::read_to_string(root.join(PROMISES)).with_context(|| format!("read {PROMISES}"))?;
    let mut faults = Vec::new();
    for (number, line) in promises.lines().enumerate() {
        for (file, test) in named_stories(line) {
            let path = root.join(STORIES).join(file).with_extension("rs");
            let story = fs::read_to_string(&path).unwrap_or_default();
            if !story.contains(&format!("fn {test}()")) {
                faults.push(format!(
                    "{PROMISES}:{}: {file}::{test} is no story in {STORIES}",
                    number + 1
                ));
            }
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n  "));
    }
    Ok(())
}

/// Names of the form `file::test`, in back-quotes. The form itself, as the page explains it, names no file.
fn named_stories(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|name| name.split_once("::"))
        .filter(|(file, _)| *file != "file")
}

#[cfg(test)]
mod tests {
    use super::named_stories;

    #[test]
    fn finds_names_in_back_quotes() {
        let line = "| A promise, `file::test` | `capture::plain_connect` crate `mesh-core` `guard::spoofed_sources` |";
        let names: Vec<_> = named_stories(line).collect();
        assert_eq!(
            names,
            [("capture", "plain_connect"), ("guard", "spoofed_sources")]
        );
    }
}
