//! TLS among the replicas of the controller, who share the nodes: the listener for nodes takes them, too.
//!
//! A replica dials with a certificate of its own kind: a workload's, of the identity that all replicas serve as. No node
//! ever gets one (whoever signs for nodes has to see to that), and it is good for nothing else here.

use std::sync::Arc;
use std::time::SystemTime;

use mesh_core::identity::SpiffeId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::distribution::ALPN_H2;
use super::present::Own;
use super::verify::{ServerVerifier, tls12};
use super::{algorithms, check_own, provider, start_anew_as_client, start_anew_as_server};
use crate::node::NodeIdentity;
use crate::svid::{self, ServerIdentity};
use crate::{Certificate, IdentityError, ServerCertificate, SvidError, TrustBundle, failure};

/// Who presented a certificate to [`controller_server`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Caller {
    /// A node.
    Node(NodeIdentity),
    /// Another replica of the controller.
    Replica,
}

/// Who it is, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Presented {
    /// Who.
    pub caller: Caller,
    /// When the certificate ends.
    pub until: SystemTime,
}

/// The controller's side: as [`super::distribution_server`], and takes other replicas, which are known by having the
/// identity of `own` in a workload's certificate. Who it is says [`presented`].
///
/// # Errors
/// [`IdentityError::ForeignCertificate`], [`IdentityError::Tls`].
pub fn controller_server(
    own: &ServerCertificate,
    bundle: &TrustBundle,
) -> Result<Arc<ServerConfig>, IdentityError> {
    check_own(own, bundle)?;
    let verifier = Arc::new(NodeOrReplica {
        bundle: bundle.clone(),
        replica: own.identity().identity().clone(),
    });
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Own::new(own)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    start_anew_as_server(&mut config);
    Ok(Arc::new(config))
}

/// A replica's side: presents `own`, and accepts a controller of the same identity, by its serving certificate.
///
/// # Errors
/// [`IdentityError::ForeignCertificate`], [`IdentityError::Tls`].
pub fn replica_client(
    own: &Certificate,
    bundle: &TrustBundle,
) -> Result<Arc<ClientConfig>, IdentityError> {
    check_own(own, bundle)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::<ServerIdentity>::new(
            bundle,
            std::slice::from_ref(own.identity()),
        )))
        .with_client_cert_resolver(Arc::new(Own::new(own)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    start_anew_as_client(&mut config);
    Ok(Arc::new(config))
}

/// Who a client of [`controller_server`] is, given the certificates that it presented in a handshake that is finished (and
/// has verified them). `replica` is the identity of the controller.
///
/// # Errors
/// [`SvidError`]; none that the handshake would not have failed with.
pub fn presented(chain: &[CertificateDer<'_>], replica: &SpiffeId) -> Result<Presented, SvidError> {
    let leaf = chain.first().ok_or(SvidError::NoCertificate)?;
    if let Ok(node) = svid::inspect::<NodeIdentity>(leaf) {
        return Ok(Presented {
            caller: Caller::Node(node.subject),
            until: node.not_after,
        });
    }
    let other = svid::inspect::<SpiffeId>(leaf)?;
    is_replica(&other.subject, replica)?;
    Ok(Presented {
        caller: Caller::Replica,
        until: other.not_after,
    })
}

fn is_replica(got: &SpiffeId, replica: &SpiffeId) -> Result<(), SvidError> {
    if got == replica {
        return Ok(());
    }
    Err(SvidError::Unexpected {
        got: got.clone(),
        expected: vec![replica.clone()],
    })
}

/// The client's certificate, if it presents one, is a good one of a node or of a replica.
#[derive(Debug)]
struct NodeOrReplica {
    bundle: TrustBundle,
    replica: SpiffeId,
}

impl NodeOrReplica {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), SvidError> {
        // What it says decides by which rules it is verified; that it may say so is what these find out.
        if svid::node_in(leaf).is_ok() {
            let _: NodeIdentity = svid::verify_leaf(&self.bundle, leaf, intermediates, now)?;
            return Ok(());
        }
        let got: SpiffeId = svid::verify_leaf(&self.bundle, leaf, intermediates, now)?;
        is_replica(&got, &self.replica)
    }
}

impl ClientCertVerifier for NodeOrReplica {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)
            .map_err(failure::refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
