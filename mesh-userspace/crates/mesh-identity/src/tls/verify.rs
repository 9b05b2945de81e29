//! [`crate::svid`] as the TLS library calls it. Nothing is decided here but who is expected, and whether nobody will do.

use std::marker::PhantomData;

use mesh_core::identity::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::algorithms;
use crate::svid::{ServerIdentity, Subject};
use crate::{SvidError, TrustBundle, failure, svid};

/// A subject that is expected by a workload identity.
pub(super) trait Known: Subject {
    fn known_as(&self) -> &SpiffeId;
}

impl Known for SpiffeId {
    fn known_as(&self) -> &SpiffeId {
        self
    }
}

impl Known for ServerIdentity {
    fn known_as(&self) -> &SpiffeId {
        self.identity()
    }
}

/// Client side: the server's certificate is good, of this kind, and of an expected identity.
#[derive(Debug)]
pub(super) struct ServerVerifier<S> {
    bundle: TrustBundle,
    expected: Vec<SpiffeId>,
    kind: PhantomData<S>,
}

/// Server side: the client's certificate is good and of this kind.
#[derive(Debug)]
pub(super) struct ClientVerifier<S> {
    bundle: TrustBundle,
    accept: Accept,
    kind: PhantomData<S>,
}

/// Which clients may go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Accept {
    /// Those with a good certificate.
    CertificateOnly,
    /// Those without one as well; one that is presented must be good.
    NobodyToo,
}

impl<S: Known> ServerVerifier<S> {
    pub(super) fn new(bundle: &TrustBundle, expected: &[SpiffeId]) -> Self {
        Self {
            bundle: bundle.clone(),
            expected: expected.to_vec(),
            kind: PhantomData,
        }
    }
}

impl<S: Subject> ClientVerifier<S> {
    pub(super) fn new(bundle: &TrustBundle, accept: Accept) -> Self {
        Self {
            bundle: bundle.clone(),
            accept,
            kind: PhantomData,
        }
    }
}

impl<S: Known> ServerCertVerifier for ServerVerifier<S> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let got: S = svid::verify_leaf(&self.bundle, end_entity, intermediates, now)
            .map_err(failure::refusal)?;
        if !self.expected.contains(got.known_as()) {
            return Err(failure::refusal(SvidError::Unexpected {
                got: got.known_as().clone(),
                expected: self.expected.clone(),
            }));
        }
        Ok(ServerCertVerified::assertion())
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

impl<S: Subject> ClientCertVerifier for ClientVerifier<S> {
    fn client_auth_mandatory(&self) -> bool {
        self.accept == Accept::CertificateOnly
    }

    /// No hints: every client of ours has one certificate only, and the names of our roots are nobody's business.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        svid::verify_leaf::<S>(&self.bundle, end_entity, intermediates, now)
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

/// TLS 1.2 is not compiled in; should it ever be, its signatures are refused here.
pub(super) fn tls12() -> rustls::Error {
    PeerIncompatible::Tls12NotOfferedOrEnabled.into()
}
