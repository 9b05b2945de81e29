//! `warren`: one binary that is the agent of a node, its proxy worker and the command line.
//!
//! Composition and words only: no protocol, no policy, no kernel map. Reading order: [`cli`] (what can be asked),
//! [`api`] (what the agent and the command line say to each other), [`cni`] (what container runtimes ask), [`agent`] (the node's parts, put together in
//! `agent/compose.rs`, the one place that knows all crates), [`manifests`] (what an installation in a cluster is made of),
//! [`telemetry`] (the log), [`memory`] (what the processes hold).

mod agent;
mod api;
mod cli;
mod cni;
mod controller;
mod manifests;
mod memory;
mod telemetry;

fn main() -> std::process::ExitCode {
    if cni::is_called() {
        return cni::run();
    }
    cli::run()
}
