//! `warren cni`: the CNI plugin, chained behind the plugins that make a pod's network. It gives a pod to the runtime only
//! once the node's agent enforces the mesh for it, or has said that it is not in the mesh; so not even an init container's
//! first packet is missed.
//!
//! It starts with every pod of the node, so it is as small as can be: no runtime, no thread, no log. It decides nothing:
//! [`request`] (what the runtime asks) → [`agent`] (ask the node's agent) → [`namespaces`] (who is in the mesh, as written
//! down for when no agent answers) → `answer` (what the runtime is told).
//!
//! Its rule when no agent answers: pods of a namespace that is in the mesh wait (the runtime tries again), every other pod
//! starts as ever.

use std::process::ExitCode;
use std::time::{Duration, Instant};

pub(crate) mod agent;
mod answer;
pub(crate) mod json;
pub(crate) mod namespaces;
mod request;
pub(crate) mod wire;

use agent::Unanswered;
use answer::{Code, Failure};
use namespaces::Membership;
use request::{Command, Request};
use wire::{PodAnswer, PodRequest};

/// The plugin's name: its file's, and its type in network configurations.
pub(crate) const PLUGIN: &str = "warren-cni";

/// For the agent's answer. Kubelet gives a pod's sandbox two minutes, network and all.
const ENFORCED_WITHIN: Duration = Duration::from_secs(25);

/// For an answer about a pod of a namespace that was not in the mesh when that was last written down: an agent that hangs
/// must not hold up the whole node.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(5);

/// How long an agent that is not there is waited for: about as long as a restart takes.
const RESTART: Duration = Duration::from_secs(6);

/// Between two attempts to reach an agent that is not there.
const ATTEMPT: Duration = Duration::from_millis(200);

/// For answers that change nothing about what the runtime is told.
const IN_PASSING: Duration = Duration::from_secs(2);

/// Nothing may hold the process for longer, whatever happens: the system ends it then.
const LIFETIME: u32 = 30;

/// Whether this process is to be the plugin: by its name, or by its first argument and a runtime's variable.
pub(crate) fn is_called() -> bool {
    let mut arguments = std::env::args_os();
    let by_name = arguments.next().is_some_and(|name| {
        std::path::Path::new(&name)
            .file_name()
            .is_some_and(|file| file == PLUGIN)
    });
    let by_argument = arguments.next().is_some_and(|verb| verb == "cni");
    by_name || by_argument && std::env::var_os(request::COMMAND).is_some()
}

/// Does what the runtime asks.
pub(crate) fn run() -> ExitCode {
    nix::unistd::alarm::set(LIFETIME);
    let mut version = wire::NEWEST.to_owned();
    let done = Request::read(&mut version).and_then(|request| answer(&request));
    match done {
        Ok(said) => answer::write(&said),
        Err(failure) => answer::fail(&version, &failure),
    }
}

fn answer(request: &Request) -> Result<String, Failure> {
    match request.command {
        Command::Version => Ok(answer::versions(&request.version)),
        Command::Add => add(request),
        Command::Check => check(request).map(|()| String::new()),
        Command::Delete => {
            // Whatever becomes of it: a pod must be able to go without an agent, which finds out by itself.
            if let Some(pod) = request.pod() {
                drop(agent::ask::<()>(
                    &request.socket(),
                    wire::DELETE,
                    &pod,
                    IN_PASSING,
                ));
            }
            Ok(String::new())
        }
        // An agent finds by itself what is no longer there, and a node without one still starts pods outside the mesh.
        Command::CollectGarbage | Command::Status => Ok(String::new()),
    }
}

/// A pod's network is there. It goes to the runtime as it came, once the pod is the agent's.
fn add(request: &Request) -> Result<String, Failure> {
    let network = request.previous()?;
    if let Some(pod) = request.pod() {
        enforce(request, &pod)?;
    }
    Ok(network)
}

fn enforce(request: &Request, pod: &PodRequest) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let membership = namespaces::look_up(&request.places(), &pod.namespace);
        let patience = match membership {
            Membership::Outside => ELSEWHERE_WITHIN,
            Membership::Meshed | Membership::Unknown(_) => ENFORCED_WITHIN,
        };
        let left = patience.saturating_sub(begun.elapsed());
        let unanswered = match agent::ask(&request.socket(), wire::ADD, pod, left) {
            Ok(PodAnswer::Enforced | PodAnswer::NotMeshed { .. }) => return Ok(()),
            Err(unanswered) => unanswered,
        };
        match (membership, unanswered) {
            (_, Unanswered::Refused(why)) => {
                return Err(Failure::later("the pod is not in the mesh yet", why));
            }
            (Membership::Outside, _) => return Ok(()),
            (_, Unanswered::Absent(_)) if begun.elapsed() < RESTART => {
                std::thread::sleep(ATTEMPT);
            }
            (membership, unanswered) => {
                let why = format!("{membership}, and {unanswered}");
                return Err(Failure::later("the pod waits for the node's agent", why));
            }
        }
    }
}

fn check(request: &Request) -> Result<(), Failure> {
    let Some(pod) = request.pod() else {
        return Ok(());
    };
    match agent::ask::<PodAnswer>(&request.socket(), wire::CHECK, &pod, IN_PASSING) {
        Err(Unanswered::Refused(why)) => Err(Failure::new(
            Code::NotEnforced,
            "the pod is not enforced",
            why,
        )),
        // What is enforced stays so without an agent.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
