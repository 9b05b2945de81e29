//! Whom a certificate is issued to: a workload, a node, or the controller as a server. Each has its own names and
//! purposes, so that a certificate of one kind never passes for another's.
//!
//! | kind | subject alternative names | extended key usage |
//! |---|---|---|
//! | [`SpiffeId`], a workload | exactly one: the URI `spiffe://<td>/ns/<namespace>/sa/<service-account>` | none, or both sides of TLS |
//! | [`NodeIdentity`], a node | exactly one: the URI `spiffe://<td>/node/<name>` | clientAuth, not serverAuth |
//! | [`ServerIdentity`], a server of the control plane | one workload URI, DNS names beside it | serverAuth, not clientAuth |

use std::fmt;

use mesh_core::identity::{SpiffeId, TrustDomain};
use rcgen::string::Ia5String;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use webpki::KeyUsage;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};

use super::{SvidError, unreadable};
use crate::node::NodeIdentity;

/// Whom a certificate is issued to.
pub trait Subject: Rules {}

impl Subject for SpiffeId {}
impl Subject for NodeIdentity {}
impl Subject for ServerIdentity {}

/// A server of the control plane: a workload's identity, and the DNS names by which others, who know no SPIFFE, verify it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerIdentity {
    identity: SpiffeId,
    dns_names: Vec<String>,
}

impl ServerIdentity {
    pub(crate) fn new(identity: SpiffeId, dns_names: Vec<String>) -> Self {
        Self {
            identity,
            dns_names,
        }
    }

    /// The identity.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The DNS names.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }
}

impl fmt::Display for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

/// What makes the kinds differ. Sealed: a kind of certificate that is verified by other rules is decided here alone.
pub trait Rules: Clone + fmt::Debug + fmt::Display + Eq + Send + Sync + 'static {
    /// What it is issued for.
    const PURPOSES: Purposes;

    /// Reads it from the subject alternative names of a certificate.
    ///
    /// # Errors
    /// The first rule that is broken.
    fn read(certificate: &X509Certificate<'_>) -> Result<Self, SvidError>;

    /// The subject alternative names of a certificate for it.
    ///
    /// # Errors
    /// A name that no certificate can carry.
    fn names(&self) -> Result<Vec<SanType>, rcgen::Error>;

    /// Its trust domain.
    fn domain(&self) -> &TrustDomain;
}

/// The sides of TLS that a certificate serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purposes {
    /// Both: a workload dials and is dialled.
    Both,
    /// It only dials.
    Client,
    /// It is only dialled.
    Server,
}

impl Rules for SpiffeId {
    const PURPOSES: Purposes = Purposes::Both;

    fn read(certificate: &X509Certificate<'_>) -> Result<Self, SvidError> {
        Ok(only_uri(certificate, "a workload's")?.parse()?)
    }

    fn names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        Ok(vec![uri(&self.to_string())?])
    }

    fn domain(&self) -> &TrustDomain {
        self.trust_domain()
    }
}

impl Rules for NodeIdentity {
    const PURPOSES: Purposes = Purposes::Client;

    fn read(certificate: &X509Certificate<'_>) -> Result<Self, SvidError> {
        Ok(only_uri(certificate, "a node's")?.parse()?)
    }

    fn names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        Ok(vec![uri(&self.to_string())?])
    }

    fn domain(&self) -> &TrustDomain {
        self.trust_domain()
    }
}

impl Rules for ServerIdentity {
    const PURPOSES: Purposes = Purposes::Server;

    fn read(certificate: &X509Certificate<'_>) -> Result<Self, SvidError> {
        let mut uris = Vec::new();
        let mut dns_names = Vec::new();
        for name in names(certificate)? {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                other => return Err(SvidError::NotUri { kind: kind(other) }),
            }
        }
        match uris.as_slice() {
            [] => Err(SvidError::Nameless),
            [uri] => Ok(Self::new(uri.parse()?, dns_names)),
            many => Err(SvidError::ManyNames {
                count: many.len(),
                whose: "a server's (its DNS names aside)",
            }),
        }
    }

    fn names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let mut names = vec![uri(&self.identity.to_string())?];
        for name in &self.dns_names {
            names.push(SanType::DnsName(Ia5String::try_from(name.as_str())?));
        }
        Ok(names)
    }

    fn domain(&self) -> &TrustDomain {
        self.identity.trust_domain()
    }
}

impl Purposes {
    /// As a certificate is issued with them.
    pub(crate) fn to_extension(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Both => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Self::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Self::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        }
    }

    /// Whether a certificate's own extension allows them; an error is the rest of a sentence about the certificate.
    pub(crate) fn check(
        self,
        extension: Option<&ExtendedKeyUsage<'_>>,
    ) -> Result<(), &'static str> {
        let sides = extension.map(|usage| (usage.client_auth, usage.server_auth));
        match (self, sides) {
            // Other issuers of workload certificates may leave it out (X509-SVID §4.4).
            (Self::Both, None | Some((true, true)))
            | (Self::Client, Some((true, false)))
            | (Self::Server, Some((false, true))) => Ok(()),
            (Self::Both, _) => Err(
                "may not be used for both sides of TLS (its extended key usage lacks clientAuth or serverAuth)",
            ),
            (Self::Client, _) => Err(
                "is not one for dialling alone, as a node's is (its extended key usage is not just clientAuth)",
            ),
            (Self::Server, _) => Err(
                "is not one for serving alone, as the controller's is (its extended key usage is not just serverAuth)",
            ),
        }
    }

    /// What is missing in the extended key usage of a certificate on the path; `None` when nothing is.
    pub(crate) fn missing(self, client: bool, server: bool) -> Option<KeyUsage> {
        match self {
            Self::Both | Self::Server if !server => Some(KeyUsage::server_auth()),
            Self::Both | Self::Client if !client => Some(KeyUsage::client_auth()),
            _ => None,
        }
    }
}

/// A URI as a certificate carries it.
pub(crate) fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(Ia5String::try_from(text)?))
}

/// Exactly one subject alternative name, of any kind, and it is a URI. SPIFFE allows other kinds beside it; they mean
/// nothing to us, and somebody else might take them for an identity.
fn only_uri<'a>(
    certificate: &'a X509Certificate<'_>,
    whose: &'static str,
) -> Result<&'a str, SvidError> {
    match names(certificate)? {
        [] => Err(SvidError::Nameless),
        [GeneralName::URI(uri)] => Ok(uri),
        [other] => Err(SvidError::NotUri { kind: kind(other) }),
        many => Err(SvidError::ManyNames {
            count: many.len(),
            whose,
        }),
    }
}

fn names<'a, 'b>(certificate: &'a X509Certificate<'b>) -> Result<&'a [GeneralName<'b>], SvidError> {
    Ok(certificate
        .subject_alternative_name()
        .map_err(unreadable)?
        .map_or(&[], |names| names.value.general_names.as_slice()))
}

fn kind(name: &GeneralName<'_>) -> &'static str {
    match name {
        GeneralName::OtherName(..) => "of a custom type",
        GeneralName::RFC822Name(_) => "an e-mail address",
        GeneralName::DNSName(_) => "a DNS name",
        GeneralName::X400Address(_) => "an X.400 address",
        GeneralName::DirectoryName(_) => "a directory name",
        GeneralName::EDIPartyName(_) => "an EDI party name",
        GeneralName::URI(_) => "a URI",
        GeneralName::IPAddress(_) => "an IP address",
        GeneralName::RegisteredID(_) => "a registered id",
        GeneralName::Invalid(..) => "malformed",
    }
}
