//! Why the authority cannot do what it was asked to. An error names the place that has to be looked at.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mesh_core::identity::TrustDomain;

use crate::request::RequestError;

/// Why the authority cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The file system said no.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// A part that is there, but is not what it should be.
    #[error(
        "{} is damaged: {why}; restore it from a backup, or remove the {} to begin with a new root",
        place.part(part),
        place.kind()
    )]
    Damaged {
        /// Where the authority is kept.
        place: Place,
        /// Which part of it.
        part: &'static str,
        /// What is wrong with it; never quotes a key.
        why: String,
    },
    /// Some of the parts are there, some are not, and none can be made from the others.
    #[error(
        "the certificate authority in {place} is incomplete: {missing} is missing; restore it from a backup, or remove the {} to begin with a new root",
        place.kind()
    )]
    Incomplete {
        /// Where the authority is kept.
        place: Place,
        /// The part.
        missing: &'static str,
    },
    /// It belongs to another mesh.
    #[error(
        "the certificate authority in {place} is of trust domain {found}, not {expected}; set trustDomain to {found}, or use another {}",
        place.kind()
    )]
    ForeignTrustDomain {
        /// Where the authority is kept.
        place: Place,
        /// Its trust domain.
        found: String,
        /// The one asked for.
        expected: TrustDomain,
    },
    /// Somebody else than the owner may read or write the private key.
    #[error("{} may be used by others (mode {mode:o}): chmod 600 it, and rotate the root if others could read it", path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A rotation step out of order.
    #[error("{step} is not due: {why}; the next step is {next}")]
    NotDue {
        /// The step asked for.
        step: &'static str,
        /// Why not.
        why: &'static str,
        /// The step that is due.
        next: &'static str,
    },
    /// An identity of another mesh.
    #[error(
        "{identity} is not of trust domain {trust_domain}, which is all that this authority signs for"
    )]
    ForeignIdentity {
        /// The identity.
        identity: String,
        /// The authority's trust domain.
        trust_domain: TrustDomain,
    },
    /// A lifetime that no certificate can have.
    #[error("a certificate lifetime of {} ms is too short; at least 1 s is needed", lifetime.as_millis())]
    Lifetime {
        /// The lifetime asked for.
        lifetime: Duration,
    },
    /// A name that is no DNS name.
    #[error("a certificate for {identity} cannot be made: {name:?} is not a DNS name")]
    DnsName {
        /// Whose certificate.
        identity: String,
        /// The name.
        name: String,
    },
    /// A request for a certificate that is not to be signed.
    #[error("no certificate is signed for {identity}")]
    Request {
        /// Whose certificate.
        identity: String,
        /// What is wrong with the request.
        #[source]
        source: RequestError,
    },
    /// The signing root's own time is over, or has not come.
    #[error("the root {root} is not valid now; compare the clock, or rotate the root")]
    RootNotValid {
        /// Its name.
        root: String,
    },
    /// Making a key or a signature failed.
    #[error("cannot make {what}")]
    Sign {
        /// What was being made.
        what: &'static str,
        /// What the library says.
        #[source]
        source: rcgen::Error,
    },
    /// What was made does not follow our own rules.
    #[error("cannot use the certificate made for {what}: {why}")]
    Unusable {
        /// What it was for.
        what: String,
        /// Which rule.
        why: String,
    },
}

/// Where an authority is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// Somewhere else, which whoever keeps it has named: "Secret warren-system/warren-ca".
    Named(String),
}

impl Place {
    /// A part of it, for people.
    fn part(&self, name: &str) -> String {
        match self {
            Self::Directory(path) => path.join(name).display().to_string(),
            Self::Named(place) => format!("{name} of {place}"),
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::Named(_) => "object",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Named(place) => place.fmt(f),
        }
    }
}
