//! The controller's side of certificates for nodes: requests are held against what the asking node may have, signed or
//! refused, and counted. Who asks (a token, a certificate) and what runs where is for others to find out; it must not know
//! Kubernetes or connections.
//!
//! Signing takes a processor a fraction of a millisecond for each request: run batches where they may take that long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use mesh_core::identity::{InvalidIdentity, SpiffeId};
use rustls_pki_types::CertificateDer;

use crate::authority::{Authority, AuthorityError, Material, Reloaded};
use crate::failure::with_causes;
use crate::node::{InvalidNode, NodeIdentity};
use crate::request::RequestError;

/// The most requests that one batch may hold; more than [`crate::store::MOST_AT_ONCE`], which ours ask for.
pub const LARGEST_BATCH: usize = 500;

/// Signs what nodes ask for. Shared by all connections: readers never wait for a rotation.
#[derive(Debug)]
pub struct Registrar {
    authority: RwLock<Arc<Authority>>,
    nodes_signed: AtomicU64,
    workloads_signed: AtomicU64,
    /// One for each of [`Reason::ALL`].
    refused: [AtomicU64; Reason::ALL.len()],
}

/// A workload's certificate that a node asks for, as it came.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// For whom; a SPIFFE ID.
    pub identity: &'a str,
    /// The request (PKCS #10, DER).
    pub csr: &'a [u8],
}

/// A certificate chain, leaf first.
pub type Chain = Vec<CertificateDer<'static>>;

/// Why a certificate is not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Whoever asks has not shown who it is.
    #[error("the node's token is not accepted: {why}")]
    Token {
        /// What is wrong with it.
        why: String,
    },
    /// A node that asks in the name of another.
    #[error("the token is bound to the node {bound}, a certificate for {asked} was asked for")]
    OtherNode {
        /// For whom it asks.
        asked: String,
        /// Who it is.
        bound: String,
    },
    /// A name that no node has.
    #[error(transparent)]
    NotANode(#[from] InvalidNode),
    /// Not a workload identity.
    #[error(transparent)]
    NotAnIdentity(#[from] InvalidIdentity),
    /// An identity that nothing on the node has.
    #[error("no pod of {identity} runs on the node {node}")]
    NotOnNode {
        /// Who asks.
        node: String,
        /// For whom.
        identity: SpiffeId,
    },
    /// The request itself.
    #[error("the request for {identity} is refused")]
    Request {
        /// For whom.
        identity: String,
        /// What is wrong with it.
        #[source]
        source: RequestError,
    },
    /// More at once than is looked at.
    #[error("at most {LARGEST_BATCH} requests are taken at once; ask again for the others")]
    TooMany,
    /// Not the node's fault.
    #[error("the certificate of {identity} cannot be signed")]
    CannotSign {
        /// For whom.
        identity: String,
        /// Why not.
        #[source]
        source: AuthorityError,
    },
}

/// What refusals are counted by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// [`Refusal::Token`].
    Token,
    /// [`Refusal::OtherNode`].
    OtherNode,
    /// [`Refusal::NotANode`].
    NotANode,
    /// [`Refusal::NotAnIdentity`].
    NotAnIdentity,
    /// [`Refusal::NotOnNode`].
    NotOnNode,
    /// [`Refusal::Request`].
    Request,
    /// [`Refusal::TooMany`].
    TooMany,
    /// [`Refusal::CannotSign`].
    CannotSign,
}

impl Reason {
    /// Each of them.
    pub const ALL: [Self; 8] = [
        Self::Token,
        Self::OtherNode,
        Self::NotANode,
        Self::NotAnIdentity,
        Self::NotOnNode,
        Self::Request,
        Self::TooMany,
        Self::CannotSign,
    ];

    /// The word for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::OtherNode => "other-node",
            Self::NotANode => "not-a-node",
            Self::NotAnIdentity => "not-an-identity",
            Self::NotOnNode => "not-on-node",
            Self::Request => "request",
            Self::TooMany => "too-many",
            Self::CannotSign => "cannot-sign",
        }
    }
}

impl Refusal {
    /// What it is counted by.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Token { .. } => Reason::Token,
            Self::OtherNode { .. } => Reason::OtherNode,
            Self::NotANode(_) => Reason::NotANode,
            Self::NotAnIdentity(_) => Reason::NotAnIdentity,
            Self::NotOnNode { .. } => Reason::NotOnNode,
            Self::Request { .. } => Reason::Request,
            Self::TooMany => Reason::TooMany,
            Self::CannotSign { .. } => Reason::CannotSign,
        }
    }

    /// With its causes: what the node is told.
    pub fn in_words(&self) -> String {
        with_causes(self)
    }

    fn of(identity: String, error: AuthorityError) -> Self {
        match error {
            AuthorityError::Request { source, .. } => Self::Request { identity, source },
            source => Self::CannotSign { identity, source },
        }
    }
}

impl Registrar {
    /// Signs with this authority.
    pub fn new(authority: Authority) -> Self {
        Self {
            authority: RwLock::new(Arc::new(authority)),
            nodes_signed: AtomicU64::new(0),
            workloads_signed: AtomicU64::new(0),
            refused: Default::default(),
        }
    }

    /// The authority as it is now.
    pub fn authority(&self) -> Arc<Authority> {
        let authority = self.authority.read();
        Arc::clone(&authority.unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what the authority is kept as now; says what is different. On an error it goes on as before.
    ///
    /// # Errors
    /// As [`Authority::replace`].
    pub fn replace(&self, material: &Material) -> Result<Reloaded, AuthorityError> {
        let mut next = Authority::clone(&self.authority());
        let reloaded = next.replace(material)?;
        let mut authority = self
            .authority
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *authority = Arc::new(next);
        Ok(reloaded)
    }

    /// Signs a node's own certificate. `bound` is the node that the caller has proven to run on, `asked` the one that it
    /// says it is.
    ///
    /// # Errors
    /// The refusal, counted.
    pub fn enrol(
        &self,
        bound: &str,
        asked: &str,
        csr: &[u8],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Chain, Refusal> {
        let signed = self.sign_node(bound, asked, csr, lifetime, now);
        self.counted(signed, &self.nodes_signed, asked)
    }

    /// Signs one workload's certificate for a node, if `may_have` says that the node may have that identity.
    ///
    /// # Errors
    /// The refusal, counted.
    pub fn sign(
        &self,
        node: &NodeIdentity,
        asked: Asked<'_>,
        may_have: impl Fn(&NodeIdentity, &SpiffeId) -> bool,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Chain, Refusal> {
        let signed = self.sign_workload(node, asked, may_have, lifetime, now);
        self.counted(signed, &self.workloads_signed, node.name())
    }

    /// [`Registrar::sign`] for each of a batch; the answers are in the order of the requests. What is beyond
    /// [`LARGEST_BATCH`] is refused unread.
    pub fn sign_all<'a>(
        &self,
        node: &NodeIdentity,
        batch: impl IntoIterator<Item = Asked<'a>>,
        may_have: impl Fn(&NodeIdentity, &SpiffeId) -> bool,
        lifetime: Duration,
        now: SystemTime,
    ) -> Vec<Result<Chain, Refusal>> {
        batch
            .into_iter()
            .enumerate()
            .map(|(position, asked)| {
                if position >= LARGEST_BATCH {
                    return Err(self.refuse(Refusal::TooMany, node.name()));
                }
                self.sign(node, asked, &may_have, lifetime, now)
            })
            .collect()
    }

    /// Counts a refusal that was decided elsewhere, and gives it back.
    pub fn refuse(&self, refusal: Refusal, node: &str) -> Refusal {
        let Some(counter) = self.refused.get(refusal.reason() as usize) else {
            return refusal;
        };
        let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
        // Whoever tries a thousand times must not fill the log: the 1st, 2nd, 4th, … of each reason.
        if count.is_power_of_two() {
            tracing::warn!(
                node,
                reason = refusal.reason().label(),
                count,
                refusal = refusal.in_words(),
                "refused to sign a certificate"
            );
        }
        refusal
    }

    /// How many certificates of nodes were signed.
    pub fn nodes_signed(&self) -> u64 {
        self.nodes_signed.load(Ordering::Relaxed)
    }

    /// How many certificates of workloads were signed.
    pub fn workloads_signed(&self) -> u64 {
        self.workloads_signed.load(Ordering::Relaxed)
    }

    /// How many requests were refused, by reason; every reason is there.
    pub fn refusals(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL
            .into_iter()
            .zip(&self.refused)
            .map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }

    fn sign_node(
        &self,
        bound: &str,
        asked: &str,
        csr: &[u8],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Chain, Refusal> {
        if asked != bound {
            return Err(Refusal::OtherNode {
                asked: asked.to_owned(),
                bound: bound.to_owned(),
            });
        }
        let authority = self.authority();
        let node = NodeIdentity::new(authority.trust_domain().clone(), bound)?;
        authority
            .sign_node_request(csr, &node, lifetime, now)
            .map_err(|error| Refusal::of(node.to_string(), error))
    }

    fn sign_workload(
        &self,
        node: &NodeIdentity,
        asked: Asked<'_>,
        may_have: impl Fn(&NodeIdentity, &SpiffeId) -> bool,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Chain, Refusal> {
        let identity: SpiffeId = asked.identity.parse()?;
        if !may_have(node, &identity) {
            return Err(Refusal::NotOnNode {
                node: node.name().to_owned(),
                identity,
            });
        }
        self.authority()
            .sign_request(asked.csr, &identity, lifetime, now)
            .map_err(|error| Refusal::of(identity.to_string(), error))
    }

    fn counted(
        &self,
        signed: Result<Chain, Refusal>,
        counter: &AtomicU64,
        node: &str,
    ) -> Result<Chain, Refusal> {
        match signed {
            Ok(chain) => {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(chain)
            }
            Err(refusal) => Err(self.refuse(refusal, node)),
        }
    }
}
