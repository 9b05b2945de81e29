//! What came out of the tests, and the closing lines of cargo's test harness.

/// More failures than this are no matter of luck: they are not tried again.
pub(super) const LUCK: usize = 8;

/// Counts, with the names of what needs attention.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Totals {
    pub(crate) passed: usize,
    pub(crate) failed: Vec<String>,
    pub(crate) skipped: Vec<String>,
    /// Failed beside others, passed alone: counted as passed, and named, since it asks for attention.
    pub(crate) unsteady: Vec<String>,
    /// Reasons for which tests were skipped before, and that hold no longer: those have run now.
    pub(crate) made_up_for: Vec<&'static str>,
}

impl Totals {
    pub(crate) fn add(&mut self, other: Self) {
        let Self {
            passed,
            failed,
            skipped,
            unsteady,
            made_up_for,
        } = other;
        self.skipped
            .retain(|test| !made_up_for.iter().any(|reason| test.ends_with(reason)));
        self.made_up_for.extend(made_up_for);
        self.passed += passed;
        self.failed.extend(failed);
        self.skipped.extend(skipped);
        self.unsteady.extend(unsteady);
    }

    /// Takes in what is true of a run rather than of one of its tests: a leak is a failure even when every story passed.
    pub(crate) fn note(&mut self, what: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.failed.push(format!("{what}: {error:#}")),
        }
    }

    /// The tests to run once more, alone: failed ones, unless they are many, or something else has failed, too (a build, a test
    /// that hung).
    pub(super) fn to_try_again(&self) -> Option<Vec<String>> {
        let tests = self.failed.iter().all(|what| !what.starts_with('`'));
        let few = (1..=LUCK).contains(&self.failed.len());
        (tests && few).then(|| self.failed.clone())
    }

    /// Takes in what came of running the failed tests alone. What passes then is counted as passed, and named as unsteady. If not
    /// all of them ran again, they stay failed.
    pub(super) fn tried_again(&mut self, again: Self) {
        if again.passed + again.failed.len() < self.failed.len() {
            return;
        }
        let failed = std::mem::replace(&mut self.failed, again.failed);
        for name in failed {
            if !self.failed.contains(&name) {
                self.passed += 1;
                self.unsteady.push(name);
            }
        }
    }

    /// The last line of a run.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        )
    }

    /// Takes in one line of the standard test harness.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            // A test that runs itself in another process shows what that has said.
            if !self.failed.iter().any(|known| known == name) {
                self.failed.push(name.to_owned());
            }
        } else if let Some((name, reason)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... ignored"))
        {
            let reason = reason.strip_prefix(", ").unwrap_or("marked as ignored");
            self.skipped.push(format!("{name}: {reason}"));
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, " passed");
        }
    }
}

/// The number before a word in `ok. 12 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> usize {
    counts
        .split(['.', ';'])
        .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn reads_the_closing_lines_of_the_harness() {
        let mut totals = Totals::default();
        for line in [
            "running 3 tests",
            "test route::splits ... ok",
            "test route::refuses ... FAILED",
            "test route::refuses ... FAILED",
            "test tunnel::bulk ... ignored, takes a minute",
            "test result: FAILED. 12 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            totals.read(line);
        }
        assert_eq!(
            totals,
            Totals {
                passed: 15,
                failed: vec!["route::refuses".to_owned()],
                skipped: vec!["tunnel::bulk: takes a minute".to_owned()],
                unsteady: Vec::new(),
                made_up_for: Vec::new(),
            }
        );
        assert_eq!(totals.line(), "15 passed, 1 failed, 1 skipped");
        totals.add(Totals {
            passed: 1,
            made_up_for: vec!["takes a minute"],
            ..Totals::default()
        });
        assert_eq!(totals.line(), "16 passed, 1 failed, 0 skipped");
    }

    /// Totals as the harness says them.
    fn said(passed: usize, failed: &[&str]) -> Totals {
        Totals {
            passed,
            failed: failed.iter().map(|name| (*name).to_owned()).collect(),
            ..Totals::default()
        }
    }

    #[test]
    fn what_passes_alone_is_passed_and_unsteady() {
        let mut totals = said(7, &["one", "two"]);
        assert_eq!(totals.to_try_again().unwrap(), ["one", "two"]);
        totals.tried_again(said(1, &["two"]));
        assert_eq!(totals.line(), "8 passed, 1 failed, 0 skipped");
        assert_eq!(
            (totals.unsteady, totals.failed),
            (vec!["one".to_owned()], vec!["two".to_owned()])
        );
    }

    #[test]
    fn what_does_not_run_again_stays_failed() {
        for again in [said(0, &[]), said(1, &[])] {
            let mut totals = said(7, &["one", "two"]);
            totals.tried_again(again);
            assert_eq!(totals, said(7, &["one", "two"]));
        }
        // A build that fails, and a failure that many tests share.
        assert_eq!(
            said(7, &["one", "`cargo test`: exit status: 101"]).to_try_again(),
            None
        );
        assert_eq!(said(7, &["one"; super::LUCK + 1]).to_try_again(), None);
        assert_eq!(said(7, &[]).to_try_again(), None);
    }
}
