//! TLS between the Kubernetes API server and the controller, which serves an aggregated API.
//!
//! The API server asks in the name of its own users, whom it names in headers. Whoever can make such a request is believed
//! everything, so that a certificate is required of every client, of the authority that the API server names for this and
//! nothing else (requestheader-client-ca-file).

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::present::Own;
use super::verify::tls12;
use super::{provider, start_anew_as_server};
use crate::bundle::certificates;
use crate::{IdentityError, ServerCertificate, SvidError, svid};

/// HTTP/1.1, as ALPN names it: the only protocol of the aggregated API.
const ALPN_HTTP_1: &[u8] = b"http/1.1";

/// Why a client of the aggregated API is refused, beyond what path validation says.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiClientError {
    /// Its certificate names nobody.
    #[error("the client's certificate has no common name, or more than one")]
    Nameless,
    /// A good certificate of somebody who is not to speak for others.
    #[error("the client is {name:?}; only {} may ask in the name of others (requestheader-allowed-names)", allowed.join(", "))]
    NotAllowed {
        /// Who it is.
        name: String,
        /// Who may.
        allowed: Vec<String>,
    },
    /// It cannot be read at all.
    #[error(transparent)]
    Unreadable(#[from] SvidError),
}

/// The controller's side: presents `own`, requires a certificate that leads to one of the roots in `client_ca_pem`, and,
/// unless `allowed_names` is empty, has one of these as its common name. Who the client is says [`api_client`].
///
/// # Errors
/// [`IdentityError::Pem`], [`IdentityError::Tls`].
pub fn api_server(
    own: &ServerCertificate,
    client_ca_pem: &[u8],
    allowed_names: &[String],
) -> Result<Arc<ServerConfig>, IdentityError> {
    let unusable = |why: String| IdentityError::Pem {
        what: "the authority of the aggregated API's clients (requestheader-client-ca-file)"
            .to_owned(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(client_ca_pem).map_err(unusable)? {
        roots
            .add(root)
            .map_err(|error| unusable(error.to_string()))?;
    }
    let chains =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()))
            .build()
            .map_err(|error| unusable(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(Arc::new(Spokesman {
            chains,
            allowed: allowed_names.to_vec(),
        }))
        .with_cert_resolver(Arc::new(Own::new(own)));
    config.alpn_protocols = vec![ALPN_HTTP_1.to_vec()];
    start_anew_as_server(&mut config);
    Ok(Arc::new(config))
}

/// Who a client of [`api_server`] is, by the common name of the certificate that it presented. The handshake has verified
/// it.
///
/// # Errors
/// [`ApiClientError::Nameless`]; anything else would have failed the handshake.
pub fn api_client(chain: &[CertificateDer<'_>]) -> Result<String, ApiClientError> {
    common_name(chain.first().ok_or(SvidError::NoCertificate)?)
}

fn common_name(leaf: &CertificateDer<'_>) -> Result<String, ApiClientError> {
    let certificate = svid::parse(leaf)?;
    let mut names = certificate.subject().iter_common_name();
    match (names.next(), names.next()) {
        (Some(name), None) => name
            .as_str()
            .map(str::to_owned)
            .map_err(|_not_a_text| ApiClientError::Nameless),
        _ => Err(ApiClientError::Nameless),
    }
}

/// The client's certificate is good, and that of somebody who may speak for others.
#[derive(Debug)]
struct Spokesman {
    chains: Arc<dyn ClientCertVerifier>,
    /// Common names; everybody when there are none.
    allowed: Vec<String>,
}

impl Spokesman {
    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), ApiClientError> {
        if self.allowed.is_empty() {
            return Ok(());
        }
        let name = common_name(leaf)?;
        if self.allowed.contains(&name) {
            return Ok(());
        }
        Err(ApiClientError::NotAllowed {
            name,
            allowed: self.allowed.clone(),
        })
    }
}

impl ClientCertVerifier for Spokesman {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .chains
            .verify_client_cert(end_entity, intermediates, now)?;
        self.check(end_entity).map_err(|error| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        })?;
        Ok(verified)
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
        self.chains.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
