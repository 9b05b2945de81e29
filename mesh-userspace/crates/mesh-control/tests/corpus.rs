//! Broken files with the exact words that are said about them: `corpus/NN-name.yaml` and `.expected`.
//!
//! After a change of the words: `WARREN_BLESS=1 cargo test -p mesh-control --test corpus`, and read the difference.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn corpus() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
}

fn told(file: &Path) -> String {
    let report = mesh_control::validate_file(file, None).expect("readable");
    let mut told = String::new();
    for mistake in &report.mistakes {
        writeln!(told, "{mistake}").expect("a String takes everything");
    }
    for rejected in &report.rejected {
        let name = rejected
            .name
            .as_ref()
            .map(|name| format!(" {name}"))
            .unwrap_or_default();
        let (kind, path) = (rejected.kind.word(), &rejected.path);
        writeln!(
            told,
            "rejected: {kind}{name} ({path}): {}",
            rejected.consequence
        )
        .expect("a String takes everything");
    }
    let outcome = if report.usable {
        "the rest applies"
    } else {
        "the file is rejected"
    };
    writeln!(told, "{outcome}").expect("a String takes everything");
    told
}

#[test]
fn every_broken_file_is_told_exactly_what_is_wrong() {
    let files = corpus();
    let mut wrong = String::new();
    for file in &files {
        let expected_file = file.with_extension("expected");
        let told = told(file);
        if std::env::var_os("WARREN_BLESS").is_some() {
            std::fs::write(&expected_file, &told).expect("writable");
        }
        let expected = std::fs::read_to_string(&expected_file).unwrap_or_default();
        if told != expected {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            writeln!(wrong, "{name}").expect("a String takes everything");
            for line in expected
                .lines()
                .filter(|line| !told.lines().any(|other| other == *line))
            {
                writeln!(wrong, "  - {line}").expect("a String takes everything");
            }
            for line in told
                .lines()
                .filter(|line| !expected.lines().any(|other| other == *line))
            {
                writeln!(wrong, "  + {line}").expect("a String takes everything");
            }
        }
    }
    assert!(wrong.is_empty(), "other words than expected:\n{wrong}");
    assert!(files.len() >= 60, "only {} files", files.len());
}

#[test]
fn every_broken_file_has_an_error_or_a_warning_with_a_place() {
    for file in corpus() {
        let report = mesh_control::validate_file(&file, None).expect("readable");
        let name = file.display();
        assert!(!report.mistakes.is_empty(), "{name} is not broken");
        let text = String::from_utf8_lossy(&std::fs::read(&file).expect("readable")).into_owned();
        let lines = text.split('\n').count();
        for mistake in &report.mistakes {
            let line = mistake.at.line as usize;
            assert!((1..=lines.max(1)).contains(&line), "{name}: {mistake}");
            assert!(mistake.at.column >= 1, "{name}: {mistake}");
        }
        let printed = report.to_string();
        let harmful = |character: char| character.is_control() && character != '\n';
        assert!(
            !printed.contains(harmful),
            "{name} prints control characters: {printed:?}"
        );
    }
}

#[test]
fn the_example_is_good() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deploy/examples/two-nodes.yaml");
    for node in [None, Some("a"), Some("b")] {
        let report = mesh_control::validate_file(&file, node).expect("readable");
        assert!(
            report.mistakes.is_empty() && report.usable,
            "as {node:?}:\n{report}"
        );
    }
}
