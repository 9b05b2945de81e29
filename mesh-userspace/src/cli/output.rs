//! How things are written: tables, colours beside words, sizes and times, and nothing that a stranger could use to
//! steer a terminal.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::args::{ColorChoice, Global};

/// What the output may contain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) color: bool,
    pub(crate) ascii: bool,
}

/// A colour. It always stands beside a word or a glyph that says the same.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Color {
    Green,
    Yellow,
    Red,
    Cyan,
    Faint,
}

impl Style {
    /// As flags and environment ask, for standard output.
    pub(crate) fn of(global: &Global) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let color = match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            // The order of no-color.org and bixense.com/clicolors.
            ColorChoice::Auto if set("NO_COLOR") => false,
            ColorChoice::Auto if set("CLICOLOR_FORCE") => true,
            ColorChoice::Auto => {
                io::stdout().is_terminal()
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .filter_map(std::env::var_os)
            .find(|value| !value.is_empty());
        // Without any locale, the C.UTF-8 of minimal images is more common than a terminal that cannot show it.
        let utf8 = locale.is_none_or(|locale| {
            let locale = locale.to_string_lossy().to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        Self {
            color,
            ascii: global.ascii || !utf8,
        }
    }

    /// The glyph, or its ASCII fallback.
    pub(crate) fn glyph(self, glyph: &'static str, ascii: &'static str) -> &'static str {
        if self.ascii { ascii } else { glyph }
    }

    /// The text in a colour.
    pub(crate) fn paint(self, color: Color, text: &str) -> Cow<'_, str> {
        if !self.color {
            return Cow::Borrowed(text);
        }
        let code = match color {
            Color::Green => "32",
            Color::Yellow => "33",
            Color::Red => "31",
            Color::Cyan => "36",
            Color::Faint => "2",
        };
        Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m"))
    }
}

/// Text that came from elsewhere, with every control character (also of the C1 set, and those that reorder text) shown
/// rather than sent.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let harmful = |character: char| {
        character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if harmful(character) {
            clean.extend(character.escape_default());
        } else {
            clean.push(character);
        }
    }
    Cow::Owned(clean)
}

/// A table: upper-case headers, columns three spaces apart, left aligned. It may be written in parts; columns only ever
/// grow.
#[derive(Debug)]
pub(crate) struct Table {
    headers: Vec<&'static str>,
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
    begun: bool,
}

impl Table {
    /// An empty table, with or without headers.
    pub(crate) fn new(headers: &[&'static str], shown: bool) -> Self {
        let widths = headers
            .iter()
            .map(|header| if shown { header.len() } else { 0 });
        Self {
            headers: headers.to_vec(),
            widths: widths.collect(),
            rows: Vec::new(),
            begun: !shown,
        }
    }

    /// Adds a row. Empty cells are shown as `-`.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headers.len(), "a cell per column");
        let cells: Vec<String> = cells
            .into_iter()
            .map(|cell| match cell.as_str() {
                "" => "-".to_owned(),
                text => clean(text).into_owned(),
            })
            .collect();
        for (widest, cell) in self.widths.iter_mut().zip(&cells) {
            *widest = (*widest).max(cell.chars().count());
        }
        self.rows.push(cells);
    }

    /// Writes the rows that were added since the last time, after the headers if they were not written yet.
    pub(crate) fn write(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            line(out, self.headers.iter().copied(), &self.widths)?;
        }
        for row in std::mem::take(&mut self.rows) {
            line(out, row.iter().map(String::as_str), &self.widths)?;
        }
        Ok(())
    }
}

fn line<'a>(
    out: &mut dyn Write,
    cells: impl Iterator<Item = &'a str>,
    widths: &[usize],
) -> io::Result<()> {
    let mut text = String::new();
    for (cell, wide) in cells.zip(widths) {
        text.push_str(cell);
        let pad = wide.saturating_sub(cell.chars().count()) + 3;
        text.extend(std::iter::repeat_n(' ', pad));
    }
    writeln!(out, "{}", text.trim_end())
}

/// A number of bytes: `0B`, `999B`, `1.2KB`, `8.0KB`, `3.4GB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    if count < 1_000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1_000.0;
    let mut unit = 0;
    // 999.95 would be written as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// How long something took: `850µs`, `12ms`, `1.5s`, `2m3s`, `5h12m`, `3d4h`.
pub(crate) fn lasted(duration: Duration, style: Style) -> String {
    let micros = duration.as_micros();
    let seconds = duration.as_secs();
    match seconds {
        0 if micros < 1_000 => format!("{micros}{}", style.glyph("µs", "us")),
        0 => format!("{}ms", duration.as_millis()),
        1..=59 => format!("{:.1}s", micros as f64 / 1e6),
        60..=3_599 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// The time until a moment (or since), in its largest unit: `23h`, `5m`, `-2d`.
pub(crate) fn until(moment: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = moment.duration_since(now).as_secs();
    let (sign, seconds) = if seconds < 0 {
        ("-", -seconds)
    } else {
        ("", seconds)
    };
    match seconds {
        0..=119 => format!("{sign}{seconds}s"),
        120..=7_199 => format!("{sign}{}m", seconds / 60),
        7_200..=172_799 => format!("{sign}{}h", seconds / 3_600),
        _ => format!("{sign}{}d", seconds / 86_400),
    }
}

/// As [`clean`], but line ends stay.
pub(crate) fn clean_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(clean).collect();
    lines.join("\n")
}
