//! Rounds: every contender does the same work in turn, again and again; the median of the rounds counts.

use std::collections::BTreeMap;
use std::path::Path;

use super::contender::{Contender, Variant};
use super::measure::{Measure, Sample};

/// All rounds of one measure.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was measured.
    pub measure: Measure,
    /// Samples in the order of the rounds.
    pub samples: BTreeMap<Variant, Vec<Sample>>,
    /// Rounds in which the work was not done, with why. They have no sample.
    pub failures: Vec<String>,
}

/// Runs the rounds of one measure. Who begins changes from round to round, so that nobody always comes after the same.
pub fn run(
    measure: Measure,
    contenders: &[Contender],
    rounds: u32,
    seconds: u32,
    folder: &Path,
) -> Measured {
    let mut failures = Vec::new();
    let mut samples: BTreeMap<Variant, Vec<Sample>> = BTreeMap::new();
    for round in 0..rounds as usize {
        eprintln!("bench: {measure}, round {}", round + 1);
        for position in 0..contenders.len() {
            let contender = &contenders[(position + round) % contenders.len()];
            let variant = contender.variant;
            match measure.run(contender, seconds, folder) {
                Ok(sample) => samples.entry(variant).or_default().push(sample),
                Err(error) => {
                    let failure = format!("{measure} of {variant}, round {}: {error:#}", round + 1);
                    eprintln!("bench: {failure}");
                    failures.push(failure);
                }
            }
        }
    }
    Measured {
        measure,
        samples,
        failures,
    }
}

impl Measured {
    /// The median of a figure over the rounds.
    pub fn median(&self, variant: Variant, figure: &str) -> Option<f64> {
        let mut values = self.values(variant, figure);
        if values.is_empty() {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        Some(if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        })
    }

    /// How far the rounds are apart, as a share of the median.
    pub fn spread(&self, variant: Variant, figure: &str) -> Option<f64> {
        let values = self.values(variant, figure);
        let most = values.iter().copied().max_by(f64::total_cmp)?;
        let least = values.iter().copied().min_by(f64::total_cmp)?;
        let median = self.median(variant, figure)?;
        (median > 0.0).then(|| (most - least) / median)
    }

    /// Names of all figures, in order.
    pub fn figures(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self
            .samples
            .values()
            .flatten()
            .flat_map(|sample| sample.keys().copied())
            .collect();
        names.sort_by_key(|name| rank(name));
        names.dedup();
        names
    }

    fn values(&self, variant: Variant, figure: &str) -> Vec<f64> {
        self.samples
            .get(&variant)
            .into_iter()
            .flatten()
            .filter_map(|sample| sample.get(figure).copied())
            .collect()
    }
}

/// What people look for first comes first.
fn rank(figure: &'static str) -> (usize, &'static str) {
    const ORDER: [&str; 12] = [
        "requests/s",
        "connections/s",
        "Gbit/s",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "p50 ms",
        "p99 ms",
        "CPU s/100k",
        "CPU s/GB",
        "of it user",
        "of it agents",
    ];
    let place = ORDER.iter().position(|known| *known == figure);
    (place.unwrap_or(ORDER.len()), figure)
}
