//! What a node tells about itself and its world: status, listings, explanations, checks, problems.

mod said;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use super::flow::Flow;

pub(crate) use said::{Lost, Problem};

/// A listing.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List<T> {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) items: Vec<T>,
    /// What is missing from the listing, in words: nodes that did not answer.
    #[serde(skip_serializing_if = "Vec::is_empty", default = "Vec::new")]
    pub(crate) notices: Vec<String>,
}

impl<T: Object> List<T> {
    /// Makes a listing.
    pub(crate) fn new(items: Vec<T>) -> Self {
        Self {
            api_version: super::VERSION.to_owned(),
            kind: format!("{}List", T::KIND),
            items,
            notices: Vec::new(),
        }
    }
}

/// A kind of object that is listed.
pub(crate) trait Object {
    /// Its kind.
    const KIND: &'static str;
    /// Its namespace; `None` where it has none.
    fn namespace(&self) -> Option<&str>;
    /// Its name.
    fn name(&self) -> String;
}

macro_rules! object {
    ($type:ident, $kind:literal) => {
        impl Object for $type {
            const KIND: &'static str = $kind;
            fn namespace(&self) -> Option<&str> {
                Some(&self.namespace)
            }
            fn name(&self) -> String {
                self.name.clone()
            }
        }
    };
}

/// One workload of the mesh, on this node or another.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) identity: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) ports: Vec<u16>,
    /// Absent for workloads of other nodes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) enrolment: Option<Enrolment>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) certificate_not_after: Option<Timestamp>,
}
object!(Workload, "Workload");

/// How far a workload of this node has come.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Enrolment {
    pub(crate) state: EnrolmentState,
    pub(crate) since: Timestamp,
    /// Why it is waiting, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) reason: Option<String>,
    /// The node's number for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) id: Option<u32>,
}

/// The states of an enrolment, in order.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EnrolmentState {
    /// What it is selected by is not there (yet); tried again.
    Waiting,
    /// Guarded, and waiting for the worker to accept from its listeners.
    Preparing,
    /// Captured and served.
    Enrolled,
    /// No longer captured; its last connections finish.
    Leaving,
}

impl EnrolmentState {
    /// As in JSON.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Preparing => "preparing",
            Self::Enrolled => "enrolled",
            Self::Leaving => "leaving",
        }
    }
}

/// A service.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) subsets: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) routes: Vec<String>,
}
object!(Service, "Service");

/// A port of a service.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServicePort {
    pub(crate) port: u16,
    pub(crate) target_port: u16,
}

/// Where a service runs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) port: Option<u16>,
    pub(crate) weight: u32,
    /// Absent outside the mesh.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) workload: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) labels: BTreeMap<String, String>,
}

/// A route.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) rules: Vec<RouteRule>,
}
object!(Route, "Route");

/// A rule of a route.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteRule {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) port: Option<u16>,
    pub(crate) backends: Vec<Backend>,
}

/// A weighted backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backend {
    pub(crate) service: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) subset: Option<String>,
    pub(crate) weight: u32,
}

/// An authorization policy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// `namespace`, `workload/x`, `service/x` or `labels a=b`.
    pub(crate) target: String,
    pub(crate) dry_run: bool,
    pub(crate) rules: Vec<PolicyRule>,
}
object!(Policy, "AuthorizationPolicy");

/// A rule of a policy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyRule {
    pub(crate) name: String,
    /// `allow` or `deny`.
    pub(crate) action: String,
    /// Empty: everybody.
    pub(crate) from: Vec<String>,
    /// Empty: every port.
    pub(crate) ports: Vec<u16>,
}

/// A certificate that this node holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Certificate {
    pub(crate) identity: String,
    /// The node that holds it; absent where it is this node that answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) node: Option<String>,
    pub(crate) serial: String,
    pub(crate) issuer: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) renew_at: Timestamp,
    /// The workloads of this node that use it.
    pub(crate) workloads: Vec<String>,
}

impl Object for Certificate {
    const KIND: &'static str = "Certificate";
    fn namespace(&self) -> Option<&str> {
        // The form of an identity is checked where it is made: spiffe://<trust-domain>/ns/<namespace>/sa/<account>.
        self.identity.split('/').nth(4)
    }
    fn name(&self) -> String {
        self.identity.clone()
    }
}

/// A node in one object.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) node: String,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) started_at: Timestamp,
    pub(crate) trust_domain: String,
    /// Roots that are trusted: more than one while the root is being replaced.
    #[serde(default)]
    pub(crate) trusted_roots: usize,
    pub(crate) ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) not_ready: Vec<String>,
    pub(crate) configuration: Configuration,
    pub(crate) worker: Worker,
    pub(crate) kernel: Kernel,
    pub(crate) workloads: WorkloadCounts,
    pub(crate) traffic: Traffic,
}

/// Where a node's configuration stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Configuration {
    pub(crate) file: String,
    /// The newest generation that was read.
    pub(crate) generation: u64,
    /// The generation that the worker decides with.
    pub(crate) applied_generation: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) read_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) problems: Vec<ConfigurationProblem>,
}

/// A mistake in the configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConfigurationProblem {
    /// `error` (the object is left out) or `warning`.
    pub(crate) severity: String,
    /// In full: file, line, column, what, why, suggestion.
    pub(crate) message: String,
}

/// The worker.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Worker {
    pub(crate) ready: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) pid: Option<u32>,
    pub(crate) generation: u32,
    pub(crate) restarts: u64,
}

/// The kernel half.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kernel {
    pub(crate) attached: bool,
    /// Why not every destination of the mesh is captured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) uncaptured: Option<String>,
    /// Faults that the watchdog found and repaired, since the start.
    pub(crate) repaired: u64,
    /// Faults that it could not repair.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) faults: Vec<String>,
    /// Dials and packets per reason.
    pub(crate) counters: BTreeMap<String, u64>,
}

/// Workloads per state.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadCounts {
    pub(crate) enrolled: u32,
    pub(crate) preparing: u32,
    pub(crate) waiting: u32,
    pub(crate) leaving: u32,
    pub(crate) remote: u32,
}

/// Figures of the worker.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Traffic {
    pub(crate) open_outbound: u64,
    pub(crate) open_inbound: u64,
    pub(crate) tunnels_outbound: u64,
    pub(crate) tunnels_inbound: u64,
    pub(crate) handshakes: u64,
    pub(crate) handshake_failures: u64,
    pub(crate) records_lost: u64,
    pub(crate) flows_held: u64,
}

/// The way of a connection that nobody has made, step by step.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// The workload that would dial.
    pub(crate) source: String,
    /// The address that it would dial.
    pub(crate) destination: String,
    pub(crate) verdict: super::flow::Verdict,
    pub(crate) generation: u64,
    pub(crate) steps: Vec<ExplanationStep>,
}

/// One step of an explanation.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExplanationStep {
    /// `resolve`, `route`, `split`, `policy` or `mtls`; a reader must bear new ones.
    pub(crate) step: String,
    /// An address, a backend, an endpoint.
    pub(crate) subject: String,
    pub(crate) outcome: String,
    /// The rule that says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) rule: Option<String>,
    /// Expected share of the connections, in percent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) share: Option<f64>,
    /// The reason, when the connection would end here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) refused: Option<String>,
}

/// The answer of `warren check`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Checks {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) items: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Check {
    pub(crate) section: String,
    pub(crate) state: CheckState,
    pub(crate) message: String,
    /// What to do about it; there for everything that is not in order.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) fix: Option<String>,
}

/// How a check went.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CheckState {
    Ok,
    Warning,
    Failed,
}

impl Check {
    /// In order.
    pub(crate) fn ok(section: &str, message: impl Into<String>) -> Self {
        Self {
            section: section.to_owned(),
            state: CheckState::Ok,
            message: message.into(),
            fix: None,
        }
    }

    /// Not in order; `fix` says what to do.
    pub(crate) fn bad(
        section: &str,
        state: CheckState,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            section: section.to_owned(),
            state,
            message: message.into(),
            fix: Some(fix.into()),
        }
    }
}

/// Which flows, and how many.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct FlowQuery {
    pub(crate) filter: Filter,
    /// The last so many that match.
    pub(crate) last: Option<usize>,
    /// Those that ended, or were still open, after this.
    pub(crate) since: Option<Timestamp>,
    /// Then go on with new ones.
    pub(crate) follow: bool,
    /// Only those with an end in this namespace, whatever the filter says: the limit of what the reader may see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    /// Say where the past ends, with a [`Bookmark`]: for whoever merges the answers of several nodes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) bookmark: bool,
}

impl FlowQuery {
    /// Whether a flow is meant.
    pub(crate) fn means(&self, flow: &Flow) -> bool {
        self.scope
            .as_ref()
            .is_none_or(|namespace| flow.touches(namespace))
            && self.filter.matches(flow)
            && self.since.is_none_or(|since| flow.ended_at() >= since)
    }
}

/// Stands in a flow stream between the flows of the past and those to come.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bookmark {
    pub(crate) api_version: String,
    pub(crate) kind: String,
}

impl Bookmark {
    /// The object's kind.
    pub(crate) const KIND: &'static str = "Bookmark";

    /// Makes one.
    pub(crate) fn new() -> Self {
        Self {
            api_version: super::VERSION.to_owned(),
            kind: Self::KIND.to_owned(),
        }
    }
}
