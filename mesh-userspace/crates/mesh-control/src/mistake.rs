//! A mistake in a configuration: where it stands, what is wrong, and what may have been meant. Nothing here knows the
//! configuration's keys.
//!
//! Every text of a file that ends up in a message goes through [`escaped`] or [`quoted`]: a file may come from somebody
//! else, and a terminal obeys control characters.

use std::fmt;

use serde::Serialize;

/// Line and column, from 1, in characters, and how many characters the value takes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Location {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
    /// Characters to underline.
    #[serde(skip)]
    pub length: u32,
}

impl Location {
    /// The beginning of a file.
    pub const START: Self = Self {
        line: 1,
        column: 1,
        length: 1,
    };
}

/// Whether what a mistake is about can be applied.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// It is rejected.
    Error,
    /// It is applied, but probably not what was meant.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Mistake {
    /// Error or warning.
    pub severity: Severity,
    /// Where.
    #[serde(flatten)]
    pub at: Location,
    /// The value, as `services[2].ports[0].port`; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What may have been meant, or the next step, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Mistake {
    pub(crate) fn error(at: Location, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            at,
            path: path.into(),
            message: message.into(),
            suggestion: None,
        }
    }

    pub(crate) fn warning(
        at: Location,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(at, path, message)
        }
    }

    pub(crate) fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}:{}: {severity}: ", self.at.line, self.at.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; {suggestion}"),
            None => Ok(()),
        }
    }
}

/// Longest text of a file that a message repeats.
const LONGEST_QUOTE: usize = 80;

/// A text of a file in quotes, shortened, harmless to a terminal.
pub(crate) fn quoted(text: &str) -> String {
    if text.chars().count() > LONGEST_QUOTE {
        let head: String = text.chars().take(LONGEST_QUOTE).collect();
        return format!("\"{}…\"", escaped(&head));
    }
    format!("\"{}\"", escaped(text))
}

/// The text with everything escaped that a terminal might obey or that might hide: control characters, changes of the
/// writing direction, characters without width.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Whether a character may not reach a terminal as it is.
pub(crate) fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

/// The one of `candidates` that `text` was probably meant to be, as a sentence.
pub(crate) fn did_you_mean<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(text, candidates).map(|nearest| format!("did you mean {}?", quoted(nearest)))
}

fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing is quadratic in the length.
    if text.len() > 256 {
        return None;
    }
    let lower = text.to_lowercase();
    candidates
        .into_iter()
        // Bounds the work for a file with very many names.
        .take(4096)
        .filter(|candidate| candidate.len() <= 256)
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| {
            let length = candidate.chars().count().max(text.chars().count());
            *distance <= (length / 3).max(1) && *distance < length
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
