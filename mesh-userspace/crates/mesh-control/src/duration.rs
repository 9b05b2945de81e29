//! Lengths of time as people write them: `30s`, `500ms`, `1h30m`.

use std::time::Duration;

/// Units, the longest spelling of a beginning first.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// The text with a long spelling of a unit replaced by the one that is read: `24hours` → `24h`.
pub(crate) fn respelled(text: &str, unit: &str) -> Option<String> {
    let lower = unit.to_lowercase();
    let short = match lower.as_str() {
        "msec" | "msecs" | "millis" | "milliseconds" => "ms",
        "sec" | "secs" | "second" | "seconds" | "s" => "s",
        "min" | "mins" | "minute" | "minutes" => "m",
        "hr" | "hrs" | "hour" | "hours" | "h" => "h",
        "day" | "days" | "d" => "d",
        _ => return None,
    };
    let respelled = text.replacen(unit, short, 1);
    parse(&respelled).ok().map(|_| respelled)
}

/// Reads numbers with units, each unit at most once and from the greatest to the smallest. Fails with the unit that was
/// not known, if that is it.
pub(crate) fn parse(text: &str) -> Result<Duration, Option<String>> {
    let mut rest = text;
    let mut sum: u64 = 0;
    let mut smaller_than = u64::MAX;
    if rest.is_empty() {
        return Err(None);
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_overflow_or_empty| None)?;
        let letters = after.len()
            - after
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let (unit, after) = after.split_at(letters);
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err((!unit.is_empty()).then(|| unit.to_owned()));
        };
        if *scale >= smaller_than {
            return Err(None);
        }
        smaller_than = *scale;
        sum = number
            .checked_mul(*scale)
            .and_then(|part| sum.checked_add(part))
            .ok_or(None)?;
        rest = after;
    }
    Ok(Duration::from_millis(sum))
}

/// Writes a length of time as it would be read.
pub(crate) fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for name in ["d", "h", "m", "s", "ms"] {
        let Some((_, scale)) = UNITS.iter().find(|(unit, _)| *unit == name) else {
            continue;
        };
        if rest >= *scale {
            text.push_str(&format!("{}{name}", rest / scale));
            rest %= scale;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("1m", 60_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("1d2h3m4s5ms", 93_784_005),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(text), Ok(duration), "{text}");
            assert_eq!(format(duration), text);
        }
    }

    #[test]
    fn refuses() {
        for (text, unit) in [
            ("", None),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("30sec", Some("sec")),
            ("1s1m", None),
            ("1m1m", None),
            ("99999999999999999999s", None),
            ("999999999999999999d", None),
            ("30 s", None),
        ] {
            assert_eq!(parse(text), Err(unit.map(str::to_owned)), "{text:?}");
        }
    }
}
