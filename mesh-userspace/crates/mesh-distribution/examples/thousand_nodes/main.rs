//! What a large cluster costs one controller: 1,000 nodes and 20,000 pods against one hub and server, over TLS on loopback.
//!
//! ```sh
//! cargo run --release -p mesh-distribution --example thousand_nodes
//! ```
//!
//! The nodes are real ones (`node::Subscription`) in a process of their own, so that memory and CPU are the controller's
//! alone. Pods of a namespace are on 20 nodes, and a namespace reaches itself and two others. Each size is measured by
//! itself: how long until all nodes know everything, what that costs, how long one pod's change takes to the last node that
//! needs it and what it costs, and the same for a change that every node needs. A debug build takes an eighth
//! of everything. After a minute it ends, with what was measured until then.

mod cluster;
mod controller;
mod measure;
mod nodes;
#[path = "../../tests/distribution/support/mod.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use cluster::Size;
use controller::Figures;

/// Everything may take this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Changes of one pod at each size.
const CHANGES: usize = 100;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["nodes", rest @ ..] => nodes::run(rest),
        [] => all(default_size()),
        [nodes, pods] => size(nodes, pods).and_then(all),
        _ => usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thousand_nodes: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage<T>() -> Result<T> {
    bail!("give nothing, or the number of nodes and of pods")
}

fn size(nodes: &str, pods: &str) -> Result<Size> {
    let size = Size {
        nodes: nodes.parse()?,
        pods: pods.parse()?,
    };
    if size.nodes < 80 || size.pods < size.nodes {
        bail!("at least 80 nodes and as many pods");
    }
    Ok(size)
}

fn default_size() -> Size {
    let whole = Size {
        nodes: 1000,
        pods: 20_000,
    };
    if cfg!(debug_assertions) {
        whole.part(1, 8)
    } else {
        whole
    }
}

fn all(size: Size) -> Result<()> {
    let build = if cfg!(debug_assertions) {
        "debug build, figures say little"
    } else {
        "release build"
    };
    eprintln!("{build}; {CHANGES} changes of one pod at each size");
    let mut figures = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut outcome = Ok(());
    for (of, whole) in [(1, 4), (1, 2), (1, 1)] {
        match controller::measure(size.part(of, whole), CHANGES, deadline) {
            Ok(measured) => figures.push(measured),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    table(&figures);
    outcome
}

#[expect(clippy::print_stdout, reason = "the result is what it is run for")]
fn table(figures: &[Figures]) {
    println!("{}", Figures::HEADER);
    for figures in figures {
        println!("{}", figures.row());
    }
    for figures in figures {
        println!("{}", figures.json());
    }
}
