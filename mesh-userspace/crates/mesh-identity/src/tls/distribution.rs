//! TLS between the nodes and the controller.
//!
//! The controller always shows who it is. A node shows its certificate once it has one; before that it may connect without,
//! to ask for one with its token: whoever serves decides what a caller without a node's certificate may do.

use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;

use super::present::Own;
use super::verify::{Accept, ClientVerifier, ServerVerifier};
use super::{check_own, provider, start_anew_as_client, start_anew_as_server};
use crate::node::NodeIdentity;
use crate::svid::{self, ServerIdentity};
use crate::{IdentityError, NodeCertificate, ServerCertificate, TrustBundle};

/// HTTP/2, which gRPC runs over, as ALPN names it.
pub const ALPN_H2: &[u8] = b"h2";

/// The controller's side: presents `own`, takes clients without a certificate, and refuses those whose certificate is not
/// a good one of a node. Which node it is says [`node_of`].
///
/// A configuration is of one certificate and one bundle; make another when either changes, and use it for connections to
/// come. On one that lives long a node's certificate may expire, or its root may go: [`svid::verify_node`] tells.
///
/// # Errors
/// [`IdentityError::ForeignCertificate`], [`IdentityError::Tls`].
pub fn distribution_server(
    own: &ServerCertificate,
    bundle: &TrustBundle,
) -> Result<Arc<ServerConfig>, IdentityError> {
    check_own(own, bundle)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(Arc::new(ClientVerifier::<NodeIdentity>::new(
            bundle,
            Accept::NobodyToo,
        )))
        .with_cert_resolver(Arc::new(Own::new(own)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    start_anew_as_server(&mut config);
    Ok(Arc::new(config))
}

/// A node's side: presents `own` when it has one, and accepts the controller alone, by its serving certificate; whatever
/// name is dialled is not what it is verified by.
///
/// # Errors
/// [`IdentityError::ForeignCertificate`], [`IdentityError::Tls`].
pub fn distribution_client(
    own: Option<&NodeCertificate>,
    bundle: &TrustBundle,
    controller: &SpiffeId,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::<ServerIdentity>::new(
            bundle,
            std::slice::from_ref(controller),
        )));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            check_own(own, bundle)?;
            builder.with_client_cert_resolver(Arc::new(Own::new(own)))
        }
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    start_anew_as_client(&mut config);
    Ok(Arc::new(config))
}

/// Which node a client of [`distribution_server`] is, given the certificates that it presented in a handshake that is
/// finished (and has verified them); `None` when it presented none.
pub fn node_of(chain: Option<&[CertificateDer<'_>]>) -> Option<NodeIdentity> {
    svid::node_in(chain?.first()?).ok()
}
