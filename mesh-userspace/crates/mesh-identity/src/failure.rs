//! What a failed handshake means, in words and as a reason that records count. It must not decide anything.

use std::io;
use std::sync::Arc;

use mesh_core::outcome::Reason;
use rustls::{AlertDescription, CertificateError, OtherError};

use crate::SvidError;

/// A failed handshake, as a record shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// [`Reason::PeerIdentity`] when a certificate was refused, by us or by the peer; [`Reason::PeerProtocol`] when the
    /// two do not speak the same protocol.
    pub reason: Reason,
    /// What happened, and what to look at.
    pub detail: String,
}

/// Explains an error of the TLS library.
pub fn explain(error: &rustls::Error) -> Failure {
    match error {
        // The words of our own verifiers.
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refused))) => {
            identity(with_causes(refused.as_ref()))
        }
        rustls::Error::InvalidCertificate(_) => identity(error.to_string()),
        rustls::Error::NoCertificatesPresented => identity(SvidError::NoCertificate.to_string()),
        rustls::Error::AlertReceived(alert) => explain_alert(*alert),
        rustls::Error::NoApplicationProtocol => {
            protocol("the peer does not speak warren/1".to_owned())
        }
        _ => protocol(format!("TLS: {error}")),
    }
}

/// Explains an error of a TLS stream; `None` when it is not about TLS (the connection broke).
pub fn explain_io(error: &io::Error) -> Option<Failure> {
    error
        .get_ref()?
        .downcast_ref::<rustls::Error>()
        .map(explain)
}

/// The verifier's own words, where it was our verifier that refused the peer.
pub fn refused(error: &rustls::Error) -> Option<&SvidError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
            cause.downcast_ref()
        }
        _ => None,
    }
}

/// A refusal by our verifier, as the TLS library carries it. The peer sees the alert `certificate_unknown`: what exactly
/// was wrong is for our own records.
pub(crate) fn refusal(error: SvidError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn explain_alert(alert: AlertDescription) -> Failure {
    let what = match alert {
        AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::UnknownCA => "the peer refused our certificate",
        AlertDescription::CertificateRequired => "the peer requires a certificate, and got none",
        // What a server of several certificates answers to a name that is none of theirs.
        AlertDescription::AccessDenied | AlertDescription::UnrecognisedName => {
            "the peer has no certificate of the expected identity"
        }
        AlertDescription::NoApplicationProtocol => {
            return protocol("the peer does not speak warren/1".to_owned());
        }
        AlertDescription::ProtocolVersion => {
            return protocol("the peer does not speak TLS 1.3".to_owned());
        }
        _ => return protocol(format!("the peer ended TLS with the alert {alert:?}")),
    };
    identity(format!(
        "{what} (alert {alert:?}); its node's record says why"
    ))
}

fn identity(detail: String) -> Failure {
    Failure {
        reason: Reason::PeerIdentity,
        detail,
    }
}

fn protocol(detail: String) -> Failure {
    Failure {
        reason: Reason::PeerProtocol,
        detail,
    }
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
