//! How a connection ended: the closed list that records, metrics and the command line share.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal, $verdict:ident;)+) => {
        /// Why a connection was closed or refused.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The label in metrics, records and JSON.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),+ }
            }

            /// What the reason says about the connection as a whole.
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict),+ }
            }
        }
    };
}

/// The answer in one word.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Verdict {
    /// The connection was carried.
    Allowed,
    /// Policy, in the proxy or in the kernel, said no.
    Denied,
    /// It was allowed, but could not be made or was broken.
    Failed,
}

impl Verdict {
    /// The label in metrics, records and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

reasons! {
    /// Both sides finished.
    Finished = "finished", Allowed;
    /// The client reset the connection.
    ClientReset = "client_reset", Allowed;
    /// The server reset the connection.
    ServerReset = "server_reset", Allowed;
    /// Still open (a record of a live connection).
    Open = "open", Allowed;
    /// A rule of a policy denied it.
    PolicyDenied = "policy_denied", Denied;
    /// A policy selects the destination, and no rule allows this source.
    NoRuleAllows = "no_rule_allows", Denied;
    /// A changed policy no longer allows it; it was cut.
    PolicyRevoked = "policy_revoked", Denied;
    /// It came in clear to a port where mutual TLS is required.
    PlaintextRefused = "plaintext_refused", Denied;
    /// The peer's certificate was refused, or ours by the peer.
    PeerIdentity = "peer_identity", Denied;
    /// Its certificate or its trust root is no longer valid; it was cut.
    IdentityRevoked = "identity_revoked", Denied;
    /// The kernel dropped or refused it; the rule names why.
    Kernel = "kernel", Denied;
    /// Somebody dialled the proxy itself.
    NoOriginalDestination = "no_original_destination", Denied;
    /// No route rule, or only weights of 0, for this destination.
    NoRoute = "no_route", Failed;
    /// The service has no healthy endpoint (or none at all).
    NothingHealthy = "nothing_healthy", Failed;
    /// Every endpoint that was tried refused the connection.
    ConnectionRefused = "connection_refused", Failed;
    /// Every endpoint that was tried could not be reached in time.
    Unreachable = "unreachable", Failed;
    /// The peer speaks TLS, but not a protocol that we do.
    PeerProtocol = "peer_protocol", Failed;
    /// The tunnel broke underneath.
    TunnelLost = "tunnel_lost", Failed;
    /// The destination is not a workload of this node, or not one of the mesh.
    WrongDestination = "wrong_destination", Failed;
    /// A limit of the workload (connections, memory) was reached.
    Overloaded = "overloaded", Failed;
    /// The proxy stopped, and its time to finish ran out.
    Drained = "drained", Failed;
    /// The proxy died.
    ProxyDied = "proxy_died", Failed;
    /// A fault of ours; the log has the details.
    Fault = "fault", Failed;
}
