//! Who calls: what the handshake proved, and nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

/// A caller.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Peer {
    /// It showed no certificate.
    Anonymous,
    /// A node.
    Node(String),
    /// A replica of the controller.
    Controller,
}

/// A caller with a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identified {
    /// Who it is; never [`Peer::Anonymous`].
    pub peer: Peer,
    /// When its certificate ends: its connection is not kept for longer.
    pub until: SystemTime,
}

/// Tells who showed a chain that the TLS configuration has verified. The error says what is wrong with it.
pub type Identify = Arc<dyn Fn(&[CertificateDer<'_>]) -> Result<Identified, String> + Send + Sync>;
