//! Who may reach whom. Evaluation is pure and names the policy and the rule that decided. It knows nothing of TLS or of
//! sockets: who the caller is was verified before, and is an argument.
//!
//! Order: DENY rules, then ALLOW rules, then the default: nothing selects the destination → allowed inside the mesh;
//! something selects it and nothing allows → denied. "Inside the mesh" is a verified identity of the mesh's own trust
//! domain, or anybody where mutual TLS is permissive. A caller in clear is refused first of all where it is strict.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::addr::AppAddr;
use crate::identity::SpiffeId;
use crate::outcome::Reason;
use crate::route::selects;
use crate::snapshot::Snapshot;
use crate::workload::{Labels, Name, Workload};

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

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
    caller: PermittedCaller,
    workload: Name,
    destination: AppAddr,
    rule: String,
    would_deny: Option<String>,
    generation: u64,
}

/// [`Caller`], owned, so that the question can be asked again.
#[derive(Clone, Debug)]
struct PermittedCaller {
    identity: Option<SpiffeId>,
    address: IpAddr,
}

impl PermittedCaller {
    fn as_caller(&self) -> Caller<'_> {
        let address = self.address;
        match &self.identity {
            Some(identity) => Caller::Authenticated { identity, address },
            None => Caller::Anonymous { address },
        }
    }
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

    /// Asks again, for a connection that is open, under another world: the same question to the same [`authorize`].
    ///
    /// # Errors
    /// [`Denied`] with reason [`Reason::PolicyRevoked`], and the rule that says no now.
    pub fn recheck(&self, snapshot: &Snapshot) -> Result<Self, Denied> {
        let Some(workload) = snapshot.workload(&self.workload) else {
            return Err(Denied {
                reason: Reason::PolicyRevoked,
                rule: format!("workload {} left the mesh", self.workload),
            });
        };
        authorize(
            snapshot,
            self.caller.as_caller(),
            workload,
            self.destination,
        )
        .map_err(|denied| Denied {
            reason: Reason::PolicyRevoked,
            rule: denied.rule,
        })
    }
}

/// Why a caller may not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denied {
    /// The reason, as records count it.
    pub reason: Reason,
    /// The policy and rule that denied it, or what was missing.
    pub rule: String,
}

/// Decides whether `caller` may connect to `destination`, a port of `workload`.
///
/// # Errors
/// [`Denied`] names the policy and rule.
pub fn authorize(
    snapshot: &Snapshot,
    caller: Caller<'_>,
    workload: &Workload,
    destination: AppAddr,
) -> Result<Permit, Denied> {
    let port = destination.0.port();
    refuse_plaintext(snapshot, caller, workload, port)?;
    let request = Request {
        snapshot,
        caller,
        workload,
        port,
    };
    let rule = request.evaluate(|policy| !policy.dry_run)?;
    let dry_run = request.selecting(|policy| policy.dry_run).next().is_some();
    let would_deny = if dry_run {
        request.evaluate(|_| true).err().map(|denied| denied.rule)
    } else {
        None
    };
    Ok(Permit {
        caller: PermittedCaller {
            identity: caller.identity().cloned(),
            address: caller.address(),
        },
        workload: workload.name.clone(),
        destination,
        rule,
        would_deny,
        generation: snapshot.world.generation,
    })
}

/// The mutual TLS mode for a port of a workload, and the rule that says so (`None`: the default).
///
/// The most specific rule speaks: about a workload, about labels or a service, about the namespace; among these, about
/// ports before about all. Of equally specific rules a strict one wins.
pub fn mtls_mode<'a>(
    snapshot: &'a Snapshot,
    workload: &Workload,
    port: u16,
) -> (MtlsMode, Option<&'a MtlsRule>) {
    let mut best: Option<((u8, bool, bool), &MtlsRule)> = None;
    for rule in &snapshot.world.mtls {
        let about_port = rule.ports.is_empty() || rule.ports.contains(&port);
        if !about_port || !rule.target.selects(&rule.name.namespace, workload) {
            continue;
        }
        let strict = rule.mode == MtlsMode::Strict;
        let rank = (rule.target.specificity(), !rule.ports.is_empty(), strict);
        if best.is_none_or(|(greatest, _)| rank > greatest) {
            best = Some((rank, rule));
        }
    }
    match best {
        Some((_, rule)) => (rule.mode, Some(rule)),
        None => (snapshot.world.default_mtls, None),
    }
}

/// The mutual TLS mode and what says so, in words: `mtls strict (default)`, `mtls permissive (rule metrics.shop)`.
pub fn describe_mtls(mode: MtlsMode, rule: Option<&MtlsRule>) -> String {
    let mode = match mode {
        MtlsMode::Strict => "strict",
        MtlsMode::Permissive => "permissive",
    };
    match rule {
        Some(rule) => format!("mtls {mode} (rule {})", rule.name),
        None => format!("mtls {mode} (default)"),
    }
}

fn refuse_plaintext(
    snapshot: &Snapshot,
    caller: Caller<'_>,
    workload: &Workload,
    port: u16,
) -> Result<(), Denied> {
    if caller.identity().is_some() {
        return Ok(());
    }
    match mtls_mode(snapshot, workload, port) {
        (MtlsMode::Permissive, _) => Ok(()),
        (MtlsMode::Strict, rule) => Err(Denied {
            reason: Reason::PlaintextRefused,
            rule: describe_mtls(MtlsMode::Strict, rule),
        }),
    }
}

impl Target {
    /// Whether a policy or rule of `namespace` with this target is about `workload`.
    pub fn selects(&self, namespace: &str, workload: &Workload) -> bool {
        workload.name.namespace == namespace
            && match self {
                Self::Namespace => true,
                Self::Workload(name) => *name == workload.name.name,
                Self::Labels(labels) => selects(labels, &workload.labels),
                Self::Workloads { service: _, names } => names.contains(&workload.name.name),
            }
    }

    fn specificity(&self) -> u8 {
        match self {
            Self::Namespace => 0,
            Self::Labels(_) | Self::Workloads { .. } => 1,
            Self::Workload(_) => 2,
        }
    }
}

impl<'a> Caller<'a> {
    /// Its identity, if it has one.
    pub fn identity(self) -> Option<&'a SpiffeId> {
        match self {
            Self::Authenticated { identity, .. } => Some(identity),
            Self::Anonymous { .. } => None,
        }
    }

    /// Its address.
    pub fn address(self) -> IpAddr {
        match self {
            Self::Authenticated { address, .. } | Self::Anonymous { address } => address,
        }
    }
}

impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticated { identity, .. } => identity.fmt(f),
            Self::Anonymous { address } => write!(f, "{address} without an identity"),
        }
    }
}

/// One question, as all policies are asked it.
struct Request<'a> {
    snapshot: &'a Snapshot,
    caller: Caller<'a>,
    workload: &'a Workload,
    port: u16,
}

impl<'a> Request<'a> {
    /// The policies that speak about the destination.
    fn selecting(
        &self,
        take: impl Fn(&AuthorizationPolicy) -> bool,
    ) -> impl Iterator<Item = &'a AuthorizationPolicy> {
        let workload = self.workload;
        self.snapshot
            .policies_of(&workload.name.namespace)
            .iter()
            .map(AsRef::as_ref)
            .filter(move |policy| {
                take(policy) && policy.target.selects(&policy.name.namespace, workload)
            })
    }

    /// The answer of the policies that `take` takes, with what gave it in words.
    fn evaluate(&self, take: impl Fn(&AuthorizationPolicy) -> bool) -> Result<String, Denied> {
        if let Some((policy, rule)) = self.first_match(Action::Deny, &take) {
            return Err(Denied {
                reason: Reason::PolicyDenied,
                rule: describe(policy, rule),
            });
        }
        if let Some((policy, rule)) = self.first_match(Action::Allow, &take) {
            return Ok(describe(policy, rule));
        }
        if let Some(policy) = self.selecting(&take).next() {
            return Err(Denied {
                reason: Reason::NoRuleAllows,
                rule: format!("policy {} (no rule allows {})", policy.name, self.caller),
            });
        }
        let nothing_selects = format!("no policy selects {}", self.workload.name);
        let own_domain = &self.snapshot.world.trust_domain;
        match self.caller.identity() {
            Some(identity) if identity.trust_domain() != own_domain => Err(Denied {
                reason: Reason::NoRuleAllows,
                rule: format!("{nothing_selects}, and {identity} is not of {own_domain}"),
            }),
            _ => Ok(nothing_selects),
        }
    }

    fn first_match(
        &self,
        action: Action,
        take: impl Fn(&AuthorizationPolicy) -> bool,
    ) -> Option<(&'a AuthorizationPolicy, &'a Rule)> {
        self.selecting(take).find_map(|policy| {
            let rule = policy
                .rules
                .iter()
                .find(|rule| rule.action == action && self.matches(rule))?;
            Some((policy, rule))
        })
    }

    fn matches(&self, rule: &Rule) -> bool {
        let port = rule.ports.is_empty() || rule.ports.contains(&self.port);
        port && (rule.from.is_empty() || rule.from.iter().any(|source| self.is_from(source)))
    }

    fn is_from(&self, source: &Source) -> bool {
        let own_domain = &self.snapshot.world.trust_domain;
        // What has no identity can match a network, and nothing else.
        let of_the_mesh = self
            .caller
            .identity()
            .filter(|identity| identity.trust_domain() == own_domain);
        match source {
            Source::Authenticated => of_the_mesh.is_some(),
            Source::Namespace(namespace) => {
                of_the_mesh.is_some_and(|identity| identity.namespace() == namespace)
            }
            Source::ServiceAccount { namespace, name } => of_the_mesh.is_some_and(|identity| {
                identity.namespace() == namespace && identity.service_account() == name
            }),
            Source::Identity(wanted) => self.caller.identity() == Some(wanted),
            Source::Network(network) => network.contains(&self.caller.address().to_canonical()),
        }
    }
}

/// As a person finds it in the configuration.
fn describe(policy: &AuthorizationPolicy, rule: &Rule) -> String {
    format!("policy {} rule {}", policy.name, rule.name)
}
