//! The certificate authority: a root key that signs certificates, and the roots that are trusted beside it.
//!
//! It is kept as five parts ([`material`]): `bundle.pem` (every trusted root), `signer.pem` and `signer.key` (the root that
//! signs), and while a rotation is prepared `next.pem` and `next.key`. On hosts they are files of a directory that the
//! nodes share ([`Authority::open_or_create`]): each is replaced as a whole, by a rename, and whoever reads or writes more
//! than one holds the lock file; those calls block on the file system. In a cluster they are the data of one Secret
//! ([`Authority::from_material`]), which only the controller reads. Both are the same authority, with the same rotation.
//!
//! It must not know which identities a node may have: whoever calls [`Authority::issue`] or [`Authority::sign_request`] has
//! decided that.

mod directory;
mod error;
pub mod material;
mod rotation;
mod sign;
mod state;

use std::path::Path;
use std::time::{Duration, SystemTime};

use mesh_core::identity::{SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, DnsName};

pub use self::error::{AuthorityError, Place};
pub use self::material::Material;
pub use self::rotation::{Phase, Step};

use self::directory::{Directory, Stamp};
use self::state::State;
use crate::node::NodeIdentity;
use crate::request::ProvenKey;
use crate::svid::{ServerIdentity, Subject};
use crate::{Certificate, Root, ServerCertificate, TrustBundle};

/// A root of trust that can sign, and the roots that are trusted beside it.
#[derive(Clone, Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    state: State,
    home: Home,
}

/// Where it is kept.
#[derive(Clone, Debug)]
enum Home {
    /// In a directory, as of a stamp.
    Directory { directory: Directory, stamp: Stamp },
    /// By whoever gave the material.
    Elsewhere(Place),
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
    /// Where it is kept.
    pub place: Place,
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
        directory.create_authority(|| {
            let state = State::generate(trust_domain, SystemTime::now())?;
            tracing::info!(root = state.signer.root().name(), %trust_domain, "made a new root");
            Ok(state)
        })?;
        let state = directory.read(trust_domain)?;
        drop(lock);
        Ok(Self {
            trust_domain: trust_domain.clone(),
            state,
            home: Home::Directory { directory, stamp },
        })
    }

    /// Takes an authority that somebody else keeps. Its rotation steps happen in memory: [`Authority::material`] is then
    /// to be stored, as a whole, provided that nobody else has changed it since. Take a step on a clone, so that nothing is
    /// signed by a root that could not be stored.
    ///
    /// # Errors
    /// Whatever is wrong with the material.
    pub fn from_material(
        material: &Material,
        trust_domain: &TrustDomain,
    ) -> Result<Self, AuthorityError> {
        Ok(Self {
            trust_domain: trust_domain.clone(),
            state: State::read(material, trust_domain)?.state,
            home: Home::Elsewhere(material.place().clone()),
        })
    }

    /// Takes what is kept now instead of what was known. On an error the authority stays as it was.
    ///
    /// # Errors
    /// Whatever is wrong with the material.
    pub fn replace(&mut self, material: &Material) -> Result<Reloaded, AuthorityError> {
        let next = Self::from_material(material, &self.trust_domain)?;
        self.home = next.home;
        Ok(self.set(next.state))
    }

    /// Itself, as it is to be kept.
    pub fn material(&self) -> Material {
        self.state.to_material(self.place())
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
        self.check_domain(identity)?;
        self.state.signer.issue(identity, lifetime, now)
    }

    /// Issues the certificate of a server of the control plane, with a new key: for nodes, who expect the identity, and for
    /// others, who know its DNS names only.
    ///
    /// # Errors
    /// As [`Authority::issue`], and [`AuthorityError::DnsName`].
    pub fn issue_server(
        &self,
        identity: &SpiffeId,
        dns_names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<ServerCertificate, AuthorityError> {
        for name in dns_names {
            if DnsName::try_from(name.as_str()).is_err() {
                return Err(AuthorityError::DnsName {
                    identity: identity.to_string(),
                    name: name.clone(),
                });
            }
        }
        let server = ServerIdentity::new(identity.clone(), dns_names.to_vec());
        self.check_domain(&server)?;
        self.state.signer.issue(&server, lifetime, now)
    }

    /// Signs a certificate for a workload whose key is elsewhere, and gives the chain, leaf first. Of the request (PKCS #10,
    /// DER) it takes the public key, a P-256 one that the sender has proven to have the private half of, and nothing else:
    /// the identity is the caller's decision.
    ///
    /// # Errors
    /// [`AuthorityError::Request`] for what is the sender's fault; else as [`Authority::issue`].
    pub fn sign_request(
        &self,
        csr: &[u8],
        identity: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        self.sign(csr, identity, lifetime, now)
    }

    /// [`Authority::sign_request`] for a node's certificate.
    ///
    /// # Errors
    /// As [`Authority::sign_request`].
    pub fn sign_node_request(
        &self,
        csr: &[u8],
        node: &NodeIdentity,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        self.sign(csr, node, lifetime, now)
    }

    /// The trust domain it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Every trusted root, the one that signs first: nodes that are told the bundle know by this which one that is.
    pub fn bundle(&self) -> TrustBundle {
        self.state.bundle.clone()
    }

    /// The root that signs.
    pub fn signer(&self) -> &Root {
        self.state.signer.root()
    }

    /// Reads the directory again if it has changed since; an authority that is kept elsewhere is never found changed
    /// ([`Authority::replace`]). On an error the authority stays as it was.
    ///
    /// # Errors
    /// Whatever is wrong with the directory now.
    pub fn reload(&mut self) -> Result<Reloaded, AuthorityError> {
        let Home::Directory { directory, stamp } = &self.home else {
            return Ok(Reloaded::default());
        };
        if directory.stamp() == *stamp {
            return Ok(Reloaded::default());
        }
        let directory = directory.clone();
        let _lock = directory.lock()?;
        self.read_again(&directory)
    }

    /// Itself, for people.
    pub fn describe(&self) -> Description {
        let staged = self.state.staged.as_ref().map(|staged| staged.root());
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
            place: self.place(),
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

    fn sign<S: Subject>(
        &self,
        csr: &[u8],
        subject: &S,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        self.check_domain(subject)?;
        let key = ProvenKey::read(csr).map_err(|source| AuthorityError::Request {
            identity: subject.to_string(),
            source,
        })?;
        let signer = &self.state.signer;
        Ok(vec![signer.sign(subject, &key, lifetime, now)?])
    }

    fn check_domain<S: Subject>(&self, subject: &S) -> Result<(), AuthorityError> {
        if subject.domain() == &self.trust_domain {
            return Ok(());
        }
        Err(AuthorityError::ForeignIdentity {
            identity: subject.to_string(),
            trust_domain: self.trust_domain.clone(),
        })
    }

    fn place(&self) -> Place {
        match &self.home {
            Home::Directory { directory, .. } => directory.place(),
            Home::Elsewhere(place) => place.clone(),
        }
    }

    /// Replaces the state by what the directory holds; the lock is held by the caller.
    fn read_again(&mut self, directory: &Directory) -> Result<Reloaded, AuthorityError> {
        let stamp = directory.stamp();
        let state = directory.read(&self.trust_domain)?;
        self.home = Home::Directory {
            directory: directory.clone(),
            stamp,
        };
        Ok(self.set(state))
    }

    fn set(&mut self, state: State) -> Reloaded {
        let reloaded = Reloaded {
            bundle: !state.bundle.has_roots_of(&self.state.bundle),
            signer: state.signer.root() != self.state.signer.root(),
        };
        self.state = state;
        reloaded
    }
}
