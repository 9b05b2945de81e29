//! An authority in memory, wherever it is kept: reading it from its parts, and the steps of a rotation. It must not know
//! files, nor when a step is due.

use std::sync::Arc;
use std::time::SystemTime;

use mesh_core::identity::TrustDomain;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;
use zeroize::Zeroize;

use super::material::{BUNDLE, Material, NEXT, NEXT_KEY, SIGNER, SIGNER_KEY};
use super::rotation::Phase;
use super::sign::{Signer, certifies};
use super::{AuthorityError, Place};
use crate::key::Key;
use crate::{Root, TrustBundle, bundle, svid};

/// A root that signs, and the roots that are trusted beside it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) signer: Arc<Signer>,
    /// The root that signs first: whoever gets only the bundle knows by this which one it is.
    pub(super) bundle: TrustBundle,
    /// A root that is to sign next: already in the bundle, unless a staging was interrupted.
    pub(super) staged: Option<Arc<Signer>>,
}

/// What was read.
pub(super) struct Read {
    pub(super) state: State,
    /// Something that was interrupted is complete now: what is kept is to be replaced.
    pub(super) completed: bool,
}

impl State {
    /// Makes a new root.
    pub(super) fn generate(
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let signer = Signer::generate(trust_domain, now)?;
        let bundle = bundle_of(trust_domain, [signer.root()])?;
        Ok(Self {
            signer: Arc::new(signer),
            bundle,
            staged: None,
        })
    }

    /// Reads an authority from its parts, and completes a creation or an activation that was interrupted.
    pub(super) fn read(
        material: &Material,
        trust_domain: &TrustDomain,
    ) -> Result<Read, AuthorityError> {
        let reader = Reader {
            material,
            trust_domain,
        };
        if let Some(signer) = reader.interrupted_activation()? {
            let (bundle, _) = reader.bundle(&signer)?;
            return Ok(Read {
                state: Self {
                    signer: Arc::new(signer),
                    bundle,
                    staged: None,
                },
                completed: true,
            });
        }
        let signer =
            reader
                .pair(SIGNER, SIGNER_KEY)?
                .map_err(|missing| AuthorityError::Incomplete {
                    place: material.place().clone(),
                    missing,
                })?;
        let (bundle, completed) = reader.bundle(&signer)?;
        let staged = reader.pair(NEXT, NEXT_KEY)?.ok().map(Arc::new);
        Ok(Read {
            state: Self {
                signer: Arc::new(signer),
                bundle,
                staged,
            },
            completed,
        })
    }

    /// Its parts, as they are kept.
    pub(super) fn to_material(&self, place: Place) -> Material {
        let mut material = Material::empty(place);
        material.set(BUNDLE, self.bundle.to_pem().into_bytes());
        let staged = self
            .staged
            .as_deref()
            .map(|staged| (NEXT, NEXT_KEY, staged));
        let pairs = [Some((SIGNER, SIGNER_KEY, &*self.signer)), staged];
        for (certificate, key, signer) in pairs.into_iter().flatten() {
            material.set(certificate, bundle::pem(signer.root().der()).into_bytes());
            material.set(key, signer.key_pem().as_bytes().to_vec());
        }
        material
    }

    /// How far a rotation is.
    pub(super) fn phase(&self) -> Phase {
        let roots = self.bundle.roots();
        match &self.staged {
            Some(staged) if roots.contains(staged.root()) => Phase::Staged,
            _ if roots.len() > 1 => Phase::Activated,
            _ => Phase::Stable,
        }
    }

    /// With the next root made and trusted; `None` when that was done before.
    pub(super) fn stage(&self, now: SystemTime) -> Result<Option<Self>, AuthorityError> {
        match self.phase() {
            Phase::Staged => return Ok(None),
            Phase::Activated => {
                return Err(self.not_due("stage", "the rotation before is not finished"));
            }
            Phase::Stable => {}
        }
        let trust_domain = self.bundle.trust_domain();
        // A staging that was interrupted left a root that nobody has seen; it serves as well as another.
        let next = match &self.staged {
            Some(next) => Arc::clone(next),
            None => Arc::new(Signer::generate(trust_domain, now)?),
        };
        let roots = self.bundle.roots().iter().chain([next.root()]);
        Ok(Some(Self {
            signer: Arc::clone(&self.signer),
            bundle: bundle_of(trust_domain, roots)?,
            staged: Some(next),
        }))
    }

    /// With the staged root signing; `None` when that was done before.
    pub(super) fn activate(&self) -> Result<Option<Self>, AuthorityError> {
        match (&self.staged, self.phase()) {
            (Some(next), Phase::Staged) => Ok(Some(Self {
                signer: Arc::clone(next),
                bundle: signer_first(next.root(), &self.bundle)?,
                staged: None,
            })),
            (_, Phase::Activated) => Ok(None),
            _ => Err(self.not_due("activate", "no root is staged")),
        }
    }

    /// With no root trusted but the one that signs; `None` when that was done before.
    pub(super) fn finish(&self) -> Result<Option<Self>, AuthorityError> {
        match self.phase() {
            Phase::Stable => Ok(None),
            Phase::Staged => Err(self.not_due("finish", "the old root still signs")),
            Phase::Activated => Ok(Some(Self {
                signer: Arc::clone(&self.signer),
                bundle: bundle_of(self.bundle.trust_domain(), [self.signer.root()])?,
                staged: self.staged.clone(),
            })),
        }
    }

    fn not_due(&self, step: &'static str, why: &'static str) -> AuthorityError {
        AuthorityError::NotDue {
            step,
            why,
            next: self.phase().next_step(),
        }
    }
}

/// Reads parts; its errors name them.
struct Reader<'a> {
    material: &'a Material,
    trust_domain: &'a TrustDomain,
}

impl Reader<'_> {
    /// Activation replaces the signing key, then its certificate, then removes the staged ones. Wherever it stopped, the
    /// staged certificate tells that it had begun.
    fn interrupted_activation(&self) -> Result<Option<Signer>, AuthorityError> {
        let (Some(key), Some(next)) = (self.key(SIGNER_KEY)?, self.certificate(NEXT)?) else {
            return Ok(None);
        };
        let damaged = |why| self.damaged(NEXT, why);
        if !certifies(&next, &key).map_err(damaged)? {
            return Ok(None);
        }
        Signer::join(next, key, self.trust_domain)
            .map(Some)
            .map_err(damaged)
    }

    /// A root with its key; or the name of the part that is missing.
    fn pair(
        &self,
        certificate_part: &'static str,
        key_part: &'static str,
    ) -> Result<Result<Signer, &'static str>, AuthorityError> {
        let Some(certificate) = self.certificate(certificate_part)? else {
            return Ok(Err(certificate_part));
        };
        let Some(key) = self.key(key_part)? else {
            return Ok(Err(key_part));
        };
        self.check_trust_domain(&certificate, certificate_part)?;
        let damaged = |why| self.damaged(certificate_part, why);
        if !certifies(&certificate, &key).map_err(damaged)? {
            return Err(damaged(format!(
                "it is not the certificate of the private key in {key_part}"
            )));
        }
        Signer::join(certificate, key, self.trust_domain)
            .map(Ok)
            .map_err(damaged)
    }

    /// The bundle; made of the signer when an interrupted creation left none, and whether it was.
    fn bundle(&self, signer: &Signer) -> Result<(TrustBundle, bool), AuthorityError> {
        let Some(pem) = self.material.get(BUNDLE) else {
            return Ok((bundle_of(self.trust_domain, [signer.root()])?, true));
        };
        let roots = bundle::certificates(pem).map_err(|why| self.damaged(BUNDLE, why))?;
        for root in &roots {
            self.check_trust_domain(root, BUNDLE)?;
        }
        let bundle =
            TrustBundle::from_der(self.trust_domain, roots.iter().map(|root| root.to_vec()))
                .map_err(|error| self.damaged(BUNDLE, error.to_string()))?;
        if !bundle.roots().contains(signer.root()) {
            return Err(self.damaged(
                BUNDLE,
                "the root that signs (signer.pem) is not in it".to_owned(),
            ));
        }
        Ok((signer_first(signer.root(), &bundle)?, false))
    }

    fn certificate(
        &self,
        part: &'static str,
    ) -> Result<Option<CertificateDer<'static>>, AuthorityError> {
        let Some(pem) = self.material.get(part) else {
            return Ok(None);
        };
        let mut all = bundle::certificates(pem).map_err(|why| self.damaged(part, why))?;
        if all.len() > 1 {
            return Err(self.damaged(part, "it holds more than one certificate".to_owned()));
        }
        Ok(all.pop())
    }

    fn key(&self, part: &'static str) -> Result<Option<Key>, AuthorityError> {
        let Some(pem) = self.material.get(part) else {
            return Ok(None);
        };
        // What the parsers say could quote the text; that it is not a key says enough.
        let unusable = || {
            self.damaged(
                part,
                "it does not hold a P-256 private key (PKCS #8, PEM)".to_owned(),
            )
        };
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_quotes| unusable())?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
        der.zeroize();
        key.map(|key| Some(Key(key))).map_err(|_quotes| unusable())
    }

    /// A root names its trust domain as its own SPIFFE ID.
    fn check_trust_domain(
        &self,
        certificate: &CertificateDer<'_>,
        part: &'static str,
    ) -> Result<(), AuthorityError> {
        let unreadable = |error: svid::SvidError| self.damaged(part, error.to_string());
        let certificate = svid::parse(certificate).map_err(unreadable)?;
        if svid::within_trust_domain(&certificate, self.trust_domain).map_err(unreadable)? {
            return Ok(());
        }
        let names = certificate.subject_alternative_name().ok().flatten();
        let found = names
            .and_then(|names| {
                names
                    .value
                    .general_names
                    .iter()
                    .find_map(|name| match name {
                        GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
                        _ => None,
                    })
            })
            .unwrap_or("an unknown one");
        Err(AuthorityError::ForeignTrustDomain {
            place: self.material.place().clone(),
            found: found.escape_debug().to_string(),
            expected: self.trust_domain.clone(),
        })
    }

    fn damaged(&self, part: &'static str, why: String) -> AuthorityError {
        AuthorityError::Damaged {
            place: self.material.place().clone(),
            part,
            why,
        }
    }
}

/// A bundle with the root that signs before the others.
fn signer_first(signer: &Root, bundle: &TrustBundle) -> Result<TrustBundle, AuthorityError> {
    // What comes again counts once.
    bundle_of(
        bundle.trust_domain(),
        std::iter::once(signer).chain(bundle.roots()),
    )
}

fn bundle_of<'a>(
    trust_domain: &TrustDomain,
    roots: impl IntoIterator<Item = &'a Root>,
) -> Result<TrustBundle, AuthorityError> {
    TrustBundle::from_der(
        trust_domain,
        roots.into_iter().map(|root| root.der().to_vec()),
    )
    .map_err(|error| AuthorityError::Unusable {
        what: format!("the roots of {trust_domain}"),
        why: error.to_string(),
    })
}
