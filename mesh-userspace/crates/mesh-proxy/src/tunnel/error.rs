//! Why a tunnel ended.

use mesh_core::outcome::Reason;

use super::credit::Exceeded;
use super::state::Violation;
use crate::tls::TlsError;
use crate::wire::WireError;

/// Why a tunnel ended, other than in good order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// TLS or the connection underneath.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A certificate that the verifier accepted, without an identity.
    #[error("the certificate names no identity")]
    Identity(#[from] mesh_identity::SvidError),
    /// The peer closed it while streams were open.
    #[error("the peer closed the tunnel while streams were open")]
    Closed,
    /// It was cut.
    #[error("cut: {}", .0.label())]
    Cut(Reason),
    /// What the peer sent is no frame.
    #[error("the peer broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// A frame out of place.
    #[error("the peer broke the protocol: {0}")]
    Violation(ViolationError),
    /// More than the credit.
    #[error("the peer broke the protocol: {0}")]
    Credit(CreditError),
    /// A frame that this side never gets.
    #[error("the peer broke the protocol: unexpected {0}")]
    Unexpected(&'static str),
    /// More than anybody needs.
    #[error("the peer misuses the tunnel: {0}")]
    Flood(&'static str),
}

/// A frame that is not allowed in the state of its stream.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ViolationError(Violation);

/// A breach of the credit.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CreditError(Exceeded);

impl From<Violation> for TunnelError {
    fn from(violation: Violation) -> Self {
        Self::Violation(ViolationError(violation))
    }
}

impl From<Exceeded> for TunnelError {
    fn from(exceeded: Exceeded) -> Self {
        Self::Credit(CreditError(exceeded))
    }
}

impl TunnelError {
    /// What it means for the streams.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Tls(error) => error.reason(),
            Self::Identity(_) => Reason::PeerIdentity,
            Self::Closed => Reason::TunnelLost,
            Self::Cut(reason) => *reason,
            Self::Wire(_)
            | Self::Violation(_)
            | Self::Credit(_)
            | Self::Unexpected(_)
            | Self::Flood(_) => Reason::PeerProtocol,
        }
    }

    /// Whether the peer broke the protocol.
    pub fn is_protocol_error(&self) -> bool {
        !matches!(self, Self::Cut(_)) && self.reason() == Reason::PeerProtocol
    }
}
