//! `cargo xtask test`: builds the eBPF object, the binary and every test; runs the units, then the stories in the
//! simulated cluster; looks whether anything was left behind; runs the fuzz targets for a while. Skipped stories are counted, with the reason.

mod leftovers;
mod stories;
pub(crate) mod totals;
mod units;

use anyhow::{Result, bail};
use clap::Args;

use crate::{deps, ebpf, fuzz, workspace};
use totals::Totals;

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 30;

#[derive(Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains this.
    filter: Option<String>,
    /// Only the stories (root tests in the simulated cluster).
    #[arg(long, conflicts_with = "units")]
    stories: bool,
    /// Only the units (no root needed).
    #[arg(long)]
    units: bool,
    /// Only the fuzz targets (no root needed).
    #[arg(long, conflicts_with_all = ["stories", "units"])]
    fuzz: bool,
    /// How many stories or fuzz targets run at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let filter = options.filter.as_deref();
    let object = ebpf::build(&workspace::root())?;
    let mut totals = Totals::default();

    let all = !options.units && !options.stories && !options.fuzz;
    if all || options.units {
        totals.add(units::run(&object, filter)?);
    }
    if all || options.stories {
        totals.add(run_stories(options, filter)?);
    }
    if options.fuzz || (all && filter.is_none()) {
        totals.add(fuzz::Fuzz::build()?.run(filter, FUZZ_SECONDS, options.jobs)?);
    }

    for skipped in &totals.skipped {
        eprintln!("skipped: {skipped}");
    }
    for unsteady in &totals.unsteady {
        eprintln!("unsteady: {unsteady}: failed beside others, passed alone");
    }
    for failed in &totals.failed {
        eprintln!("failed: {failed}");
    }
    println!("{}", totals.line());
    if totals.passed == 0 && totals.failed.is_empty() {
        bail!("no test ran; is the filter right?");
    }
    if !totals.failed.is_empty() {
        bail!("{} tests failed", totals.failed.len());
    }
    Ok(())
}

fn run_stories(options: &Options, filter: Option<&str>) -> Result<Totals> {
    if workspace::is_root() {
        deps::ensure(&[
            "ip",
            "tcpdump",
            "bpftool",
            "nginx",
            "redis-server",
            "redis-benchmark",
            "postgres",
            "pgbench",
            "wrk",
            "curl",
            "mariadbd",
            "mariadb",
        ])?;
    }
    let warren = workspace::build_warren(false)?;
    let stories = stories::Stories::build(&warren, filter)?;
    if !workspace::is_root() {
        return Ok(stories.all_skipped(
            "needs root: namespaces, cgroups and eBPF; run `sudo -E cargo xtask test`",
        ));
    }
    let before = leftovers::Snapshot::take();
    let mut totals = stories.run(options.jobs.max(1))?;
    // Its own line in the totals: a leak is a failure even when every story passed.
    match before.nothing_left() {
        Ok(()) => totals.passed += 1,
        Err(error) => totals
            .failed
            .push(format!("nothing is left behind: {error:#}")),
    }
    Ok(totals)
}
