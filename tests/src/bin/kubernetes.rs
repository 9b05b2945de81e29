//! `warren-kubernetes`, run by `cargo xtask kubernetes`: a real Kubernetes cluster on this machine, see the module
//! `kubernetes` of this package.

#![expect(
    clippy::print_stdout,
    reason = "what a command found is its output; what it does goes to standard error"
)]

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use mesh_tests::host::requires::{Need, met};
use mesh_tests::kubernetes::cache::Cache;
use mesh_tests::kubernetes::cluster::{self, Cluster};
use mesh_tests::kubernetes::layout::{CONTROL, MOST_NODES, Node, folder};
use mesh_tests::kubernetes::{dns, leak, machine};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Parser)]
#[command(
    name = "warren-kubernetes",
    about = "A real Kubernetes cluster on this machine"
)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make what clusters are brought up from, unless it is there.
    Setup {
        /// Only say what is missing; exit code 1 when something is.
        #[arg(long)]
        check: bool,
    },
    /// Bring a cluster up; it goes on until `down`.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_NODES)))]
        nodes: u8,
    },
    /// Take the cluster down, with everything in it.
    Down,
    /// What there is: cache, cluster, nodes; exit code 1 when no cluster runs.
    Status,
    /// Import images on every node, from archives as `docker save` writes them.
    Import {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Run a program where it reaches the API server, with KUBECONFIG set; `kubectl` is the cluster's own.
    Exec {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Serve the cluster's names.
    #[command(hide = true)]
    Dns,
    /// Leave this machine's namespaces for those of a node.
    #[command(hide = true)]
    Machine { number: u8, cache: PathBuf },
    /// Become a node.
    #[command(hide = true)]
    Init { number: u8, cache: PathBuf },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Verb::Setup { check } => setup(check),
        Verb::Up { nodes } => up(nodes),
        Verb::Down => cluster::down(),
        Verb::Status => status(),
        Verb::Import { archives } => import(&archives),
        Verb::Exec { words } => exec(&words),
        Verb::Dns => dns::serve(),
        Verb::Machine { number, cache } => machine::enter(Node(number), &cache),
        Verb::Init { number, cache } => machine::init(Node(number), &cache),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setup(check: bool) -> Result<()> {
    if check {
        return Cache::complete().map(drop);
    }
    let cache = Cache::locate()?;
    cache.fill(&|words| eprintln!("{words}"))?;
    eprintln!("{} is complete", cache.folder().display());
    Ok(())
}

fn up(nodes: u8) -> Result<()> {
    if !met(&[
        Need::Root,
        Need::CgroupTree,
        Need::Program("ip"),
        Need::Program("etcd"),
    ]) {
        bail!("this machine lacks something; see above");
    }
    let started = Instant::now();
    let cache = Cache::complete()?;
    down_on_signal()?;
    let cluster = Cluster::up(&cache, nodes)?;
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{nodes} nodes are ready after {seconds:.1} s; `cargo xtask kubernetes down` takes them down\n"
    );
    let enter = format!("ip netns exec {CONTROL}");
    println!(
        "export KUBECONFIG={}",
        cluster.kubectl().kubeconfig().display()
    );
    println!(
        "alias kubectl='{enter} {}'",
        cache.component("kubectl").display()
    );
    println!("kubectl get nodes -o wide");
    println!("kubectl get pods -A -o wide");
    cluster.keep();
    Ok(())
}

/// Ctrl-C takes away what was made so far.
fn down_on_signal() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("listen for signals")?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("\ntaking the cluster down …");
            if let Err(error) = cluster::down() {
                eprintln!("{error:#}");
            }
            std::process::exit(130);
        }
    });
    Ok(())
}

/// In our place, so that its end is ours.
fn exec(words: &[OsString]) -> Result<()> {
    let cluster = Cluster::running()?.context("no cluster runs on this machine")?;
    let (program, arguments) = words.split_first().context("no program is named")?;
    let kubectl = Cache::locate()?.component("kubectl");
    let program = match program.to_str() {
        Some("kubectl") => kubectl.into_os_string(),
        _ => program.clone(),
    };
    // For the tests that want to be told of a server by name.
    let named = cluster.kubectl().kubeconfig().to_owned();
    let launch = cluster.kubectl().launch(program).args(arguments);
    let mut command = launch.env("WARREN_KUBECONFIG", named).command()?;
    // It goes on when this cluster is dropped: there is nothing left of us.
    Err(command.exec()).with_context(|| format!("run {words:?}"))
}

fn status() -> Result<()> {
    let cache = Cache::locate()?;
    let missing = cache.missing();
    let mut said = format!("cache: {}", cache.folder().display());
    if missing.is_empty() {
        said += ", complete\n";
    } else {
        said += &format!(", lacks {missing:?}\n");
    }
    let running = Cluster::running()?;
    if let Some(cluster) = &running {
        said += &format!("cluster: {}\n", folder().display());
        for machine in cluster.machines()? {
            let (name, process) = (machine.node().name(), machine.process());
            let state = if machine.is_running() {
                "runs"
            } else {
                "has ended"
            };
            said += &format!("{name}: {state}, process {process}\n");
        }
        said += &cluster.kubectl().run(&["get", "nodes", "--output=wide"])?;
    } else {
        for left in leak::find()? {
            said += &format!("left behind: {left}\n");
        }
    }
    std::io::stdout()
        .write_all(said.as_bytes())
        .context("say how things are")?;
    ensure!(
        running.is_some(),
        "no cluster runs; `cargo xtask kubernetes up` brings one up"
    );
    Ok(())
}

fn import(archives: &[PathBuf]) -> Result<()> {
    let cluster = Cluster::running()?
        .context("no cluster runs; `cargo xtask kubernetes up` brings one up")?;
    archives
        .iter()
        .try_for_each(|archive| cluster.import(archive))
}
