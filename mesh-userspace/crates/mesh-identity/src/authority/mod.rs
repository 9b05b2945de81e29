//! The embedded certificate authority: a root key in a directory that the nodes share, which signs workload certificates.
//!
//! Files: `bundle.pem` (every trusted root), `signer.pem` and `signer.key` (the root that signs), and while a rotation is
//! prepared `next.pem` and `next.key`. Each is replaced as a whole, by a rename; whoever reads or writes more than one
//! holds the lock file. All calls block on the file system.
//!
//! It must not know which identities a node may have: whoever calls [`Authority::issue`] has decided that.

mod directory;
mod rotation;
mod sign;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mesh_core::identity::{SpiffeId, TrustDomain};

pub use rotation::{Phase, Step};

use self::directory::{Directory, Stamp};
use self::sign::Signer;
use crate::{Certificate, Root, TrustBundle};

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
    /// A file that is there, but is not what it should be.
    #[error(
        "{} is damaged: {why}; restore it from a backup, or remove the directory to begin with a new root",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never quotes a key.
        why: String,
    },
    /// Some of the files are there, some are not, and none can be made from the others.
    #[error(
        "the certificate authority in {} is incomplete: {missing} is missing; restore it from a backup, or remove the directory to begin with a new root",
        directory.display()
    )]
    Incomplete {
        /// The directory.
        directory: PathBuf,
        /// The file.
        missing: &'static str,
    },
    /// The directory belongs to another mesh.
    #[error(
        "the certificate authority in {} is of trust domain {found}, not {expected}; set trustDomain to {found}, or use another directory",
        directory.display()
    )]
    ForeignTrustDomain {
        /// The directory.
        directory: PathBuf,
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
        identity: SpiffeId,
        /// The authority's trust domain.
        trust_domain: TrustDomain,
    },
    /// A lifetime that no certificate can have.
    #[error("a certificate lifetime of {} ms is too short; at least 1 s is needed", lifetime.as_millis())]
    Lifetime {
        /// The lifetime asked for.
        lifetime: Duration,
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

/// A root of trust that can sign, and the roots that are trusted beside it.
#[derive(Debug)]
pub struct Authority {
    directory: Directory,
    trust_domain: TrustDomain,
    state: State,
    stamp: Stamp,
}

/// What the directory holds.
#[derive(Debug)]
struct State {
    signer: Signer,
    bundle: TrustBundle,
    /// A root that is to sign next: already in the bundle, unless a staging was interrupted.
    staged: Option<Signer>,
}

/// What [`Authority::reload`] found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reloaded {
    /// Another set of trusted roots.
    pub bundle: bool,
    /// Another root signs: every certificate is to be issued anew.
    pub signer: bool,
}

/// The authority, as people look at it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Description {
    /// Where it lives.
    pub directory: PathBuf,
    /// For whom it signs.
    pub trust_domain: TrustDomain,
    /// How far a rotation of the root is.
    pub phase: Phase,
    /// Every trusted root, with its part.
    pub roots: Vec<(Root, Role)>,
}

/// The part that a root plays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// It signs new certificates.
    Signing,
    /// It will sign once it is activated.
    Staged,
    /// It signed earlier certificates, which are still accepted.
    Leaving,
}

impl Role {
    /// The word for tables and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Signing => "signing",
            Self::Staged => "staged",
            Self::Leaving => "leaving",
        }
    }
}

impl Authority {
    /// Opens the authority in `directory`, or makes a new root there when there is none. Several processes may do so at
    /// once and get the same root.
    ///
    /// # Errors
    /// Whatever is wrong with the directory; nothing that is there is overwritten.
    pub fn open_or_create(
        directory: &Path,
        trust_domain: &TrustDomain,
    ) -> Result<Self, AuthorityError> {
        let directory = Directory::create(directory)?;
        let lock = directory.lock()?;
        let stamp = directory.stamp();
        if !directory.has_authority()? {
            let signer = Signer::generate(trust_domain, SystemTime::now())?;
            tracing::info!(root = signer.root().name(), %trust_domain, "made a new root");
            directory.write_new(&signer)?;
        }
        let state = directory.read(trust_domain)?;
        drop(lock);
        Ok(Self {
            directory,
            trust_domain: trust_domain.clone(),
            state,
            stamp,
        })
    }

    /// Issues a certificate with a new key. It is back-dated by five minutes for peers whose clocks are behind, and never
    /// outlives its root.
    ///
    /// # Errors
    /// [`AuthorityError::ForeignIdentity`], [`AuthorityError::Lifetime`], [`AuthorityError::RootNotValid`],
    /// [`AuthorityError::Sign`].
    pub fn issue(
        &self,
        identity: &SpiffeId,
        lifetime: Duration,
    ) -> Result<Certificate, AuthorityError> {
        self.issue_at(identity, lifetime, SystemTime::now())
    }

    /// [`Authority::issue`] as of a given moment.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_at(
        &self,
        identity: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Certificate, AuthorityError> {
        if identity.trust_domain() != &self.trust_domain {
            return Err(AuthorityError::ForeignIdentity {
                identity: identity.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        self.state.signer.issue(identity, lifetime, now)
    }

    /// The trust domain it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Every trusted root.
    pub fn bundle(&self) -> TrustBundle {
        self.state.bundle.clone()
    }

    /// The root that signs.
    pub fn signer(&self) -> &Root {
        self.state.signer.root()
    }

    /// Reads the directory again if it has changed since. On an error the authority stays as it was.
    ///
    /// # Errors
    /// Whatever is wrong with the directory now.
    pub fn reload(&mut self) -> Result<Reloaded, AuthorityError> {
        if self.directory.stamp() == self.stamp {
            return Ok(Reloaded::default());
        }
        let _lock = self.directory.lock()?;
        self.read_again()
    }

    /// Itself, for people.
    pub fn describe(&self) -> Description {
        let staged = self.state.staged.as_ref().map(Signer::root);
        let role = |root: &Root| {
            if root == self.signer() {
                Role::Signing
            } else if Some(root) == staged {
                Role::Staged
            } else {
                Role::Leaving
            }
        };
        Description {
            directory: self.directory.path().to_owned(),
            trust_domain: self.trust_domain.clone(),
            phase: self.phase(),
            roots: self
                .state
                .bundle
                .roots()
                .iter()
                .map(|root| (root.clone(), role(root)))
                .collect(),
        }
    }

    /// Replaces the state by what the directory holds; the lock is held by the caller.
    fn read_again(&mut self) -> Result<Reloaded, AuthorityError> {
        let stamp = self.directory.stamp();
        let state = self.directory.read(&self.trust_domain)?;
        let reloaded = Reloaded {
            bundle: state.bundle != self.state.bundle,
            signer: state.signer.root() != self.state.signer.root(),
        };
        self.state = state;
        self.stamp = stamp;
        Ok(reloaded)
    }
}
