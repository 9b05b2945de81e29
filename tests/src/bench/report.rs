//! What is shown, and what goes into the file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::contender::{Memory, Variant};
use super::goals::{Bound, Goal};
use super::memory::Profile;
use super::rounds::Measured;

/// Everything that a run found out.
pub struct Report {
    /// The machine, the versions, the options.
    pub about: BTreeMap<&'static str, String>,
    /// Memory.
    pub memory: Vec<Profile>,
    /// The rest.
    pub measured: Vec<Measured>,
    /// The goals.
    pub goals: Vec<Goal>,
}

impl Report {
    /// Writes the file: every sample of every round.
    pub fn write(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let measured: Vec<Value> = self.measured.iter().map(in_full).collect();
        let all = json!({
            "about": self.about,
            "memoryKiB": self.memory,
            "measured": measured,
            "goals": self.goals,
        });
        fs::write(file, format!("{all:#}\n")).with_context(|| format!("write {}", file.display()))
    }

    /// What was not done.
    pub fn failures(&self) -> Vec<&str> {
        let all = self.measured.iter().flat_map(|measured| &measured.failures);
        all.map(String::as_str).collect()
    }

    /// The tables, for a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.about {
            // Writing into a String cannot fail.
            let _infallible = writeln!(text, "{name}: {value}");
        }
        for measured in &self.measured {
            text += &table(measured);
        }
        text += &memory_table(&self.memory);
        text += &goals_table(&self.goals);
        text
    }
}

fn in_full(measured: &Measured) -> Value {
    let variants: BTreeMap<String, Value> = measured
        .samples
        .iter()
        .map(|(variant, samples)| {
            let medians: BTreeMap<&str, f64> = measured
                .figures()
                .into_iter()
                .filter_map(|figure| Some((figure, measured.median(*variant, figure)?)))
                .collect();
            (
                variant.to_string(),
                json!({"rounds": samples, "median": medians}),
            )
        })
        .collect();
    json!({
        "measure": measured.measure.to_string(),
        "title": measured.measure.title(),
        "variants": variants,
        "failures": measured.failures,
    })
}

fn table(measured: &Measured) -> String {
    let variants: Vec<Variant> = measured.samples.keys().copied().collect();
    let mut text = format!("\n{}\n{:14}", measured.measure.title(), "");
    for variant in &variants {
        let _infallible = write!(text, "{variant:>12}");
    }
    let _infallible = writeln!(text, "{:>16}{:>10}", "warren/envoy", "spread");
    for figure in measured.figures() {
        let _infallible = write!(text, "{figure:14}");
        for variant in &variants {
            let _infallible = write!(text, "{:>12}", shown(measured.median(*variant, figure)));
        }
        let ratio = measured
            .median(Variant::Warren, figure)
            .zip(measured.median(Variant::Envoy, figure))
            .map(|(warren, envoy)| warren / envoy);
        let spread = measured.spread(Variant::Warren, figure);
        let _infallible = writeln!(
            text,
            "{:>15}×{:>9}%",
            shown(ratio),
            spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.0}", spread * 100.0))
        );
    }
    text
}

fn memory_table(memory: &[Profile]) -> String {
    let mut text =
        "\nresident memory, MiB: proxy at the client + proxy at the server (+ agents)\n".to_owned();
    for profile in memory {
        let _infallible = write!(
            text,
            "{:10}idle {}",
            profile.variant,
            mebibytes(profile.idle)
        );
        for (count, memory) in &profile.held {
            let _infallible = write!(text, ", {count} connections {}", mebibytes(*memory));
        }
        let _infallible = writeln!(
            text,
            ", closed {}; {} KiB per connection",
            mebibytes(profile.after),
            shown(profile.per_connection())
        );
    }
    text
}

fn mebibytes(memory: Memory) -> String {
    let of = |kibibytes: u64| kibibytes as f64 / 1024.0;
    let agents = if memory.agents > 0 {
        format!(" (+ {:.1})", of(memory.agents))
    } else {
        String::new()
    };
    format!(
        "{:.1} + {:.1}{agents}",
        of(memory.client),
        of(memory.server)
    )
}

fn goals_table(goals: &[Goal]) -> String {
    let mut text = format!(
        "\n{:52}{:>11}{:>11}{:>9}{:>10}\n",
        "goal", "warren", "envoy", "value", "wanted"
    );
    for goal in goals {
        let wanted = match goal.bound {
            Bound::AtMost(most) => format!("<= {}", shown(Some(most))),
            Bound::AtLeast(least) => format!(">= {}", shown(Some(least))),
        };
        let _infallible = writeln!(
            text,
            "{:52}{:>11}{:>11}{:>9}{wanted:>10}  {}",
            goal.name,
            shown(Some(goal.warren)),
            shown(goal.envoy),
            shown(Some(goal.value)),
            if goal.reached { "reached" } else { "missed" }
        );
    }
    text
}

/// Three digits that count.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}
