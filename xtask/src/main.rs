//! Warren's chores, one file each: `cargo xtask ebpf | check | test | fuzz | demo | bench | image | kubernetes | manifests | deps`.
//!
//! What a chore needs and does not find it names, with the command that gets it. This package knows the workspace's
//! layout and its tools; it must not depend on any of the workspace's own crates, so that it builds when they do not.

#![expect(
    clippy::print_stdout,
    reason = "a chore's results are its output; what it does goes to standard error"
)]

mod bench;
mod check;
mod demo;
mod deps;
mod ebpf;
mod fuzz;
mod image;
mod kubernetes;
mod manifests;
mod run;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Warren's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build the eBPF object from source, into target/bpf/.
    Ebpf,
    /// Formatting, lints, dependency rules, documentation and file rules: everything that needs no root.
    Check,
    /// Every test: units, then the stories in the simulated cluster (these need root).
    Test(test::Options),
    /// Bytes that somebody else chooses, at random and guided by coverage: every fuzz target, for a time each.
    Fuzz(fuzz::Options),
    /// Two nodes on this machine, meshed while they run: traffic, weights, policy, packet capture. Needs root.
    Demo(demo::Options),
    /// Measure Warren, no mesh at all, and Warren's peers in the simulated cluster. Needs root.
    Bench(bench::Options),
    /// The container image, as an archive that every container engine loads, made without one.
    Image(image::Options),
    /// Make what `warren install` prints from the Helm chart, into deploy/manifests.
    Manifests,
    /// A real Kubernetes cluster on this machine, without virtual machine or container engine. Needs root.
    Kubernetes(kubernetes::Options),
    /// Install, with apt-get, the programs that tests, demo and benchmarks run. Needs root; the build itself does not.
    Deps(deps::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Ebpf => {
            ebpf::build(&workspace::root()).map(|object| eprintln!("{}", object.display()))
        }
        Chore::Check => check::run(),
        Chore::Test(options) => test::run(&options),
        Chore::Fuzz(options) => fuzz::run(&options),
        Chore::Demo(options) => demo::run(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::Image(options) => image::run(&options),
        Chore::Manifests => manifests::run(),
        Chore::Kubernetes(options) => kubernetes::run(&options),
        Chore::Deps(options) => deps::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
