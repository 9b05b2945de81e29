//! Who may reach whom. Evaluation is pure and names the policy and the rule that decided.
//!
//! Order: DENY rules, then ALLOW rules, then the default: nothing selects the destination → allowed inside the mesh;
//! something selects it and nothing allows → denied.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::addr::AppAddr;
use crate::identity::SpiffeId;
use crate::workload::{Labels, Name, Workload};

/// A set of rules for the workloads it selects.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuthorizationPolicy {
    /// Its name; it only ever selects workloads of its own namespace.
    pub name: Name,
    /// Which workloads of the namespace.
    pub target: Target,
    /// Report what would be denied, deny nothing.
    pub dry_run: bool,
    /// Rules. An empty list denies everything.
    pub rules: Vec<Rule>,
}

/// Which workloads of a namespace a policy or an mTLS rule is about.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Target {
    /// Every workload of the namespace.
    Namespace,
    /// The workload of this name.
    Workload(String),
    /// Workloads with these labels.
    Labels(Labels),
    /// The endpoints of the service of this name (resolved to workload names by the source's reconciler).
    Workloads {
        /// The service, for explanations.
        service: String,
        /// Its workloads in the policy's namespace.
        names: Vec<String>,
    },
}

/// What a rule does when it matches.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Action {
    /// Allows the connection.
    Allow,
    /// Denies it, whatever allows it.
    Deny,
}

/// One rule. It matches when one of `from` (or none is given) and one of `ports` (or none is given) match.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rule {
    /// Its name, or its position, as explanations give it.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Sources; empty for every source, also unauthenticated ones.
    pub from: Vec<Source>,
    /// Destination ports of the application; empty for every port.
    pub ports: Vec<u16>,
}

/// A source, matched exactly: no prefixes, no patterns.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Source {
    /// Any caller with a verified identity of the mesh's trust domain.
    Authenticated,
    /// Any service account of a namespace.
    Namespace(String),
    /// One service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// One identity in full, also of another trust domain.
    Identity(SpiffeId),
    /// A network, for callers outside the mesh (never a proof of identity).
    Network(ipnet::IpNet),
}

/// Whether mutual TLS is required.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum MtlsMode {
    /// Connections in clear are refused.
    #[default]
    Strict,
    /// They are taken, authorised by what is known of them, and counted.
    Permissive,
}

/// An exception to the default mode.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MtlsRule {
    /// Its name.
    pub name: Name,
    /// Which workloads of its namespace.
    pub target: Target,
    /// Ports; empty for all.
    pub ports: Vec<u16>,
    /// The mode there.
    pub mode: MtlsMode,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Caller<'a> {
    /// A peer whose certificate was verified, or a workload of this node that the kernel vouches for.
    Authenticated {
        /// Its identity.
        identity: &'a SpiffeId,
        /// Its address.
        address: IpAddr,
    },
    /// Somebody outside the mesh, in clear.
    Anonymous {
        /// The packet's source address.
        address: IpAddr,
    },
}

/// Proof that a caller may reach a destination, under one generation of the world. Only [`authorize`] makes one, and
/// nothing is delivered without one.
#[derive(Clone, Debug)]
pub struct Permit {
    destination: AppAddr,
    rule: String,
    would_deny: Option<String>,
    generation: u64,
}

impl Permit {
    /// Where the permit leads.
    pub fn destination(&self) -> AppAddr {
        self.destination
    }

    /// The policy and rule that allowed it, for the record.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The rule of a dry-run policy that would have denied it.
    pub fn would_deny(&self) -> Option<&str> {
        self.would_deny.as_deref()
    }

    /// The generation of the world that allowed it.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Why a caller may not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denied {
    /// The reason, as records count it.
    pub reason: crate::outcome::Reason,
    /// The policy and rule that denied it, or what was missing.
    pub rule: String,
}

/// Decides whether `caller` may connect to `destination`, a port of `workload`.
///
/// # Errors
/// [`Denied`] names the policy and rule.
pub fn authorize(
    snapshot: &crate::snapshot::Snapshot,
    caller: Caller<'_>,
    workload: &Workload,
    destination: AppAddr,
) -> Result<Permit, Denied> {
    let _ = (snapshot, caller, workload, destination);
    unimplemented!("written by its owner")
}

/// The mutual TLS mode for a port of a workload, and the rule that says so (`None`: the default).
pub fn mtls_mode<'a>(
    snapshot: &'a crate::snapshot::Snapshot,
    workload: &Workload,
    port: u16,
) -> (MtlsMode, Option<&'a MtlsRule>) {
    let _ = (workload, port);
    (snapshot.world.default_mtls, None)
}
