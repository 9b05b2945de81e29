//! Everything that could be wrong with a running node.

use std::time::Duration;

use jiff::Timestamp;

use super::State;
use crate::api::objects::{Certificate, Check, CheckState, EnrolmentState};

/// A certificate with less than this left was due for renewal long ago.
const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(3_600);

/// Everything that could be wrong with a running node, each with a fix.
pub(super) fn all(state: &State, now: Timestamp) -> Vec<Check> {
    let mut checks = Vec::new();
    check_kernel(state, &mut checks);
    check_worker(state, &mut checks);
    check_configuration(state, &mut checks);
    check_open(state, &mut checks);
    check_cluster(state, &mut checks);
    check_workloads(state, &mut checks);
    check_identities(state, now, &mut checks);
    checks
}

fn check_kernel(state: &State, checks: &mut Vec<Check>) {
    const SECTION: &str = "programs";
    let kernel = &state.kernel;
    checks.push(match (kernel.attached, kernel.faults.as_slice()) {
        (false, _) => Check::bad(
            SECTION,
            CheckState::Failed,
            "the kernel programs are not attached",
            "restart the agent; its log says why",
        ),
        (true, []) => Check::ok(SECTION, "every program and rule is where it was put"),
        (true, faults) => Check::bad(
            SECTION,
            CheckState::Failed,
            format!(
                "not where it was put, and cannot be put back: {}",
                faults.join("; ")
            ),
            "find out who removes it; then restart the agent",
        ),
    });
    if let Some(why) = &kernel.uncaptured {
        checks.push(Check::bad(
            SECTION,
            CheckState::Failed,
            format!("not every destination is captured, so dials to the others leave in clear: {why}"),
            "it is tried again all the time; if the map is full, have fewer workloads and services in the configuration",
        ));
    }
    if kernel.repaired > 0 {
        checks.push(Check::bad(
            SECTION,
            CheckState::Warning,
            format!(
                "{} parts were removed by somebody and put back since the start",
                kernel.repaired
            ),
            "find out who removes them: the agent's log has the times",
        ));
    }
    let lost = kernel.counters.get("event_lost").copied().unwrap_or(0);
    if lost > 0 {
        checks.push(Check::bad(
            SECTION,
            CheckState::Warning,
            format!("{lost} kernel events were lost; flows lack these drops, metrics have them"),
            "look for the workload that causes so many: warren flows --transport kernel",
        ));
    }
}

fn check_worker(state: &State, checks: &mut Vec<Check>) {
    const SECTION: &str = "proxy";
    let worker = &state.worker;
    checks.push(match worker.ready {
        true => Check::ok(
            SECTION,
            format!("the worker serves (generation {})", worker.generation),
        ),
        false => Check::bad(
            SECTION,
            CheckState::Failed,
            "the worker does not serve: connections wait or are refused",
            "the agent's log says why it ends; it is started again all the time",
        ),
    });
    if worker.restarts > 0 {
        checks.push(Check::bad(
            SECTION,
            CheckState::Warning,
            format!(
                "the worker was replaced {} times since the start",
                worker.restarts
            ),
            "warren flows --reason proxy_died shows what was lost; the agent's log says why",
        ));
    }
    if state.traffic.records_lost > 0 {
        checks.push(Check::bad(
            SECTION,
            CheckState::Warning,
            format!(
                "{} records of connections were lost",
                state.traffic.records_lost
            ),
            "the agent lacks CPU time; give it more",
        ));
    }
}

fn check_configuration(state: &State, checks: &mut Vec<Check>) {
    const SECTION: &str = "configuration";
    let configuration = &state.configuration;
    let fix = match state.plugin {
        Ok(None) => format!("correct {}; it is read again at once", configuration.file),
        _ => "it is tried again all the time; how the controller is, says `kubectl -n warren-system get pods`".to_owned(),
    };
    for problem in &configuration.problems {
        let severity = match problem.severity.as_str() {
            "warning" => CheckState::Warning,
            _ => CheckState::Failed,
        };
        let message = problem.message.clone();
        checks.push(Check::bad(SECTION, severity, message, fix.clone()));
    }
    let (read, applied) = (configuration.generation, configuration.applied_generation);
    checks.push(match read == applied && applied > 0 {
        true => Check::ok(
            SECTION,
            format!("generation {applied} of {} is applied", configuration.file),
        ),
        false => Check::bad(
            SECTION,
            CheckState::Warning,
            format!("generation {read} was read, generation {applied} is applied"),
            "ask again in a moment; if it stays so, look at the worker",
        ),
    });
}

/// Whoever announces an uninstall, and does not let it follow, must not be left believing that policies hold.
fn check_open(state: &State, checks: &mut Vec<Check>) {
    if let Some(until) = state.open_until {
        checks.push(Check::bad(
            "policy",
            CheckState::Warning,
            format!("nobody is refused: an uninstall was announced, and must follow before {until:.0}"),
            "nothing, if it follows; if it does not, policies and strict mode hold again then, or when the agent is restarted",
        ));
    }
}

fn check_cluster(state: &State, checks: &mut Vec<Check>) {
    const SECTION: &str = "cluster";
    match &state.plugin {
        Ok(None) => return,
        Ok(Some(name)) => checks.push(Check::ok(
            SECTION,
            format!("new pods are announced by the CNI plugin, chained in {name}"),
        )),
        Err(why) => checks.push(Check::bad(
            SECTION,
            CheckState::Failed,
            why.clone(),
            "look at the folders of --cni-bin-dir and --cni-conf-dir; it is tried again all the time",
        )),
    }
    checks.push(match &state.kubelet_missing {
        None => Check::ok(SECTION, "kubelet is known by its cgroup"),
        Some(why) => Check::bad(
            SECTION,
            CheckState::Warning,
            why.clone(),
            "does kubelet run on this node, and does the agent see the node's processes (hostPID)?",
        ),
    });
}

fn check_workloads(state: &State, checks: &mut Vec<Check>) {
    const SECTION: &str = "workloads";
    let (mut enrolled, mut leaving) = (0, 0);
    for (name, enrolment) in &state.enrolments {
        match enrolment.state {
            EnrolmentState::Enrolled => {
                enrolled += 1;
                continue;
            }
            // Ends by itself, when its connections have.
            EnrolmentState::Leaving => {
                leaving += 1;
                continue;
            }
            EnrolmentState::Waiting | EnrolmentState::Preparing => {}
        }
        let reason = enrolment.reason.as_deref().unwrap_or("it takes a moment");
        checks.push(Check::bad(
            SECTION,
            CheckState::Warning,
            format!("{name} is {}: {reason}", enrolment.state.label()),
            "start it, or correct its select; it is tried again all the time",
        ));
    }
    let mut said = format!("{enrolled} of {} enrolled", state.enrolments.len());
    if leaving > 0 {
        said += &format!(", {leaving} leaving");
    }
    checks.push(Check::ok(SECTION, said));
}

fn check_identities(state: &State, now: Timestamp, checks: &mut Vec<Check>) {
    const SECTION: &str = "identities";
    let left = |certificate: &Certificate| certificate.not_after.duration_since(now);
    let soon = jiff::SignedDuration::try_from(CERTIFICATE_ENDS_SOON).unwrap_or_default();
    for certificate in &state.certificates {
        // Short lifetimes are renewed at half of it; only one that is past its renewal is late.
        if left(certificate) < soon && certificate.renew_at < now {
            checks.push(Check::bad(
                SECTION,
                CheckState::Failed,
                format!(
                    "the certificate of {} ends at {} and was not renewed",
                    certificate.identity, certificate.not_after
                ),
                "look at the authority's directory and the clock; the agent's log says why",
            ));
        }
    }
    checks.push(Check::ok(
        SECTION,
        format!("{} certificates", state.certificates.len()),
    ));
}
