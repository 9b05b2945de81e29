//! What is said about a file: every mistake with the line it is in, and what became of the rejected objects. It knows
//! how to print; it decides nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::mistake::{Mistake, Severity, escaped, is_harmful};
use crate::reconcile::Rejected;

/// Mistakes that are printed or kept; a file can have one per line.
const MOST_MISTAKES: usize = 1000;

/// Longest line of the file that is repeated.
const LONGEST_LINE: usize = 160;

/// What was found in a file.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The file.
    pub file: PathBuf,
    /// It applies, though some of its objects may be rejected. `false`: what applied before stays.
    pub usable: bool,
    /// Mistakes in the order of the file.
    pub mistakes: Vec<Mistake>,
    /// Mistakes beyond those that are listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
    /// Objects that do not apply.
    pub rejected: Vec<Rejected>,
    #[serde(skip)]
    text: Arc<str>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Report {
    pub(crate) fn new(
        file: &Path,
        text: Arc<str>,
        usable: bool,
        mut mistakes: Vec<Mistake>,
        rejected: Vec<Rejected>,
    ) -> Self {
        mistakes.sort_by(|left, right| (left.at, &left.path).cmp(&(right.at, &right.path)));
        mistakes.dedup();
        let more = mistakes.len().saturating_sub(MOST_MISTAKES);
        mistakes.truncate(MOST_MISTAKES);
        Self {
            file: file.to_owned(),
            usable,
            mistakes,
            more,
            rejected,
            text,
        }
    }

    /// Number of errors among the listed mistakes.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// Number of warnings among the listed mistakes.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.mistakes
            .iter()
            .filter(|mistake| mistake.severity == severity)
            .count()
    }

    /// One line for a log.
    pub fn summary(&self) -> String {
        let file = escaped(&self.file.to_string_lossy());
        let counts = match (self.errors(), self.warnings()) {
            (0, 0) => return format!("{file} is good"),
            (0, warnings) => amount(warnings, "warning"),
            (errors, 0) => amount(errors, "error"),
            (errors, warnings) => {
                format!(
                    "{} and {}",
                    amount(errors, "error"),
                    amount(warnings, "warning")
                )
            }
        };
        let outcome = match (self.usable, self.rejected.len()) {
            (false, _) => "; the file is rejected as a whole".to_owned(),
            (true, 0) => String::new(),
            (true, count) => format!("; {} rejected", amount(count, "object")),
        };
        format!("{file} has {counts}{outcome}")
    }
}

fn amount(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// As a compiler prints: each mistake with its line and a caret, then the rejected objects, then the count.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = escaped(&self.file.to_string_lossy());
        let lines: Vec<&str> = if self.mistakes.is_empty() {
            Vec::new()
        } else {
            self.text.lines().collect()
        };
        for mistake in &self.mistakes {
            let line = usize::try_from(mistake.at.line).unwrap_or(usize::MAX);
            let source = lines.get(line.saturating_sub(1)).copied();
            write_mistake(f, &file, mistake, source.unwrap_or_default())?;
        }
        if self.more > 0 {
            writeln!(f, "… and {} more\n", amount(self.more, "mistake"))?;
        }
        for rejected in self.rejected.iter().take(MOST_MISTAKES) {
            let name = rejected
                .name
                .as_ref()
                .map(|name| format!(" {name}"))
                .unwrap_or_default();
            writeln!(
                f,
                "rejected: {}{name} ({}): {}",
                rejected.kind.word(),
                rejected.path,
                rejected.consequence
            )?;
        }
        writeln!(f, "{}", self.summary())
    }
}

fn write_mistake(
    f: &mut fmt::Formatter<'_>,
    file: &str,
    mistake: &Mistake,
    source: &str,
) -> fmt::Result {
    let severity = match mistake.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let number = mistake.at.line.to_string();
    let margin = " ".repeat(number.len());
    let path = if mistake.path.is_empty() {
        String::new()
    } else {
        format!(" ({})", mistake.path)
    };
    let (line, column) = window(source, mistake.at.column);
    let rest = line.chars().count().saturating_sub(column).max(1);
    let length = usize::try_from(mistake.at.length)
        .unwrap_or(1)
        .clamp(1, rest);
    writeln!(f, "{severity}: {}", mistake.message)?;
    writeln!(
        f,
        "{margin}--> {file}:{}:{}{path}",
        mistake.at.line, mistake.at.column
    )?;
    writeln!(f, "{margin} |")?;
    writeln!(f, "{number} | {line}")?;
    writeln!(f, "{margin} | {}{}", " ".repeat(column), "^".repeat(length))?;
    if let Some(suggestion) = &mistake.suggestion {
        writeln!(f, "{margin} = {suggestion}")?;
    }
    writeln!(f)
}

/// The part of a line around a column, one printed character for each of its own, and the column in it from 0.
fn window(source: &str, column: u32) -> (String, usize) {
    let column = usize::try_from(column.saturating_sub(1)).unwrap_or(0);
    let skip = column.saturating_sub(LONGEST_LINE / 2);
    let line: String = source
        .chars()
        .skip(skip)
        .take(LONGEST_LINE)
        .map(|character| match character {
            '\t' => ' ',
            character if is_harmful(character) => '\u{fffd}',
            character => character,
        })
        .collect();
    (line, column - skip)
}
