//! `cargo xtask test`: builds the eBPF object, the binary and every test; runs the units, then the stories about what is
//! delivered (charts, manifests), those in simulated clusters, those in a real one; looks whether anything was left behind;
//! runs the fuzz targets for a while. Skipped tests are counted, with the reason; one that fails beside others and passes alone
//! is named.

mod leftovers;
mod stories;
pub(crate) mod totals;
mod units;

use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;

use crate::tools::Tools;
use crate::{deps, ebpf, fuzz, kubernetes, workspace};
use stories::{Stories, Tier};
use totals::Totals;

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 30;

#[derive(Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains this.
    filter: Option<String>,
    /// Only the stories about what is delivered, and those in simulated clusters (root tests).
    #[arg(long, group = "only")]
    stories: bool,
    /// Only the stories in a real Kubernetes cluster (root tests), which is made first where it is missing.
    #[arg(long, group = "only")]
    kubernetes: bool,
    /// Only the units (no root needed).
    #[arg(long, group = "only")]
    units: bool,
    /// Only the fuzz targets (no root needed).
    #[arg(long, group = "only")]
    fuzz: bool,
    /// How many stories or fuzz targets run at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let filter = options.filter.as_deref();
    let object = ebpf::build(&workspace::root())?;
    let mut totals = Totals::default();

    let all = !(options.units || options.stories || options.kubernetes || options.fuzz);
    if all || options.units {
        totals.add(units::run(&object, filter)?);
    }
    let mut tiers = Vec::new();
    if all || options.stories {
        tiers.push(Tier::Delivery);
        tiers.push(Tier::Simulated);
    }
    if all || options.kubernetes {
        tiers.push(Tier::Kubernetes);
    }
    if !tiers.is_empty() {
        totals.add(run_stories(&tiers, options, &object, filter)?);
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

fn run_stories(
    tiers: &[Tier],
    options: &Options,
    object: &Path,
    filter: Option<&str>,
) -> Result<Totals> {
    let jobs = options.jobs;
    let warren = workspace::build_warren(false)?;
    let stories = Stories::build(&warren, filter)?;
    let mut totals = Totals::default();
    for tier in tiers {
        let stories = stories.of(*tier);
        // What needs an API server has no story of its own.
        if stories.is_empty() && !options.kubernetes {
            continue;
        }
        if !workspace::is_root() && *tier != Tier::Delivery {
            totals.add(stories.all_skipped(
                "needs root: namespaces, cgroups and eBPF; run `sudo -E cargo xtask test`",
            ));
            continue;
        }
        totals.add(match tier {
            Tier::Delivery => run_delivery(stories, jobs)?,
            Tier::Simulated => run_simulated(stories, jobs)?,
            Tier::Kubernetes => run_in_kubernetes(stories, object, filter)?,
        });
    }
    Ok(totals)
}

fn run_delivery(stories: Stories, jobs: usize) -> Result<Totals> {
    // A machine that cannot fetch them is no fault of the chart.
    if let Err(error) = Tools::find_or_fetch() {
        return Ok(stories.all_skipped(&format!("Helm cannot be had: {error:#}")));
    }
    stories.run(Tier::Delivery, jobs)
}

fn run_simulated(stories: Stories, jobs: usize) -> Result<Totals> {
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
    let before = leftovers::Snapshot::take();
    let mut totals = stories.run(Tier::Simulated, jobs)?;
    totals.note("nothing is left behind", before.nothing_left());
    Ok(totals)
}

fn run_in_kubernetes(stories: Stories, object: &Path, filter: Option<&str>) -> Result<Totals> {
    // What cannot be had here is no fault of what is tested; a cluster that does not come up is.
    if let Err(error) = kubernetes::prepare() {
        return Ok(stories.all_skipped(&format!("no cluster can be made: {error:#}")));
    }
    // The story that needs Helm says that it is skipped without.
    if let Err(error) = Tools::find_or_fetch() {
        eprintln!("Helm cannot be had: {error:#}");
    }
    let before = leftovers::Snapshot::take();
    let cluster = match kubernetes::Running::bring_up() {
        Ok(cluster) => cluster,
        Err(error) => {
            let mut totals = stories.all_skipped("no cluster came up");
            totals.note("a cluster comes up", Err(error));
            return Ok(totals);
        }
    };
    // First, while the server knows nothing of Warren: its kinds of object come and go in these.
    let mut totals = units::run_with_server(&cluster, object, filter)?;
    totals.add(stories.run(Tier::Kubernetes, 1)?);
    // One that ran before goes on, with what the stories have put into it.
    if cluster.is_ours() {
        totals.note("nothing is left of the cluster", cluster.take_down());
        totals.note("nothing is left behind", before.nothing_left());
    }
    Ok(totals)
}
