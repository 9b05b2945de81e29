//! The authority's files: reading them as one state, replacing each as a whole, and the lock that keeps processes apart.
//! It must not know when a rotation step is due.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mesh_core::identity::TrustDomain;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;
use zeroize::{Zeroize, Zeroizing};

use super::sign::{Key, Signer, certifies};
use super::{AuthorityError, State};
use crate::{IdentityError, TrustBundle, svid};

const BUNDLE: &str = "bundle.pem";
const LOCK: &str = "lock";
/// Far above any honest file; a directory that something else writes to must not fill our memory.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Names of a certificate and of its key.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    certificate: &'static str,
    key: &'static str,
}

pub(super) const SIGNER: Pair = Pair {
    certificate: "signer.pem",
    key: "signer.key",
};
pub(super) const NEXT: Pair = Pair {
    certificate: "next.pem",
    key: "next.key",
};

/// The directory of an authority.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

/// Held while more than one file is read or written. Closing the file unlocks it, also when the process dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Which version of each file was there; tells whether anything was replaced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stamp([Option<FileVersion>; 4]);

/// Device, inode, size, and time of the last change of the inode.
type FileVersion = (u64, u64, u64, i64, i64);

impl Directory {
    /// Makes the directory, for its owner alone, unless it is there.
    pub(super) fn create(path: &Path) -> Result<Self, AuthorityError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(file_error("create", path))?;
        Ok(Self(path.to_owned()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Waits until no other process reads or writes.
    pub(super) fn lock(&self) -> Result<Lock, AuthorityError> {
        let path = self.0.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(file_error("open", &path))?;
        file.lock().map_err(file_error("lock", &path))?;
        Ok(Lock { _file: file })
    }

    pub(super) fn stamp(&self) -> Stamp {
        let names = [BUNDLE, SIGNER.certificate, SIGNER.key, NEXT.certificate];
        Stamp(names.map(|name| {
            let metadata = fs::metadata(self.0.join(name)).ok()?;
            Some((
                metadata.dev(),
                metadata.ino(),
                metadata.size(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ))
        }))
    }

    /// Whether there is an authority, whole or damaged. A key alone is what an interrupted creation leaves: no root was
    /// made of it yet.
    pub(super) fn has_authority(&self) -> Result<bool, AuthorityError> {
        for name in [BUNDLE, SIGNER.certificate, NEXT.certificate] {
            if self.exists(name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a new authority: the bundle last, because it is what makes the rest count.
    pub(super) fn write_new(&self, signer: &Signer) -> Result<(), AuthorityError> {
        self.write_pair(SIGNER, signer)?;
        self.write_bundle(&[signer.root().der()])
    }

    /// Reads everything. The lock is held. Completes an activation that was interrupted between its two files.
    pub(super) fn read(&self, trust_domain: &TrustDomain) -> Result<State, AuthorityError> {
        self.complete_activation(trust_domain)?;
        let signer = self.read_pair(SIGNER, trust_domain)?.map_err(|missing| {
            AuthorityError::Incomplete {
                directory: self.0.clone(),
                missing,
            }
        })?;
        let bundle = self.read_bundle(&signer, trust_domain)?;
        let staged = self.read_pair(NEXT, trust_domain)?.ok();
        Ok(State {
            signer,
            bundle,
            staged,
        })
    }

    /// Replaces a certificate and its key: the key first, so that a certificate never stands without its key.
    pub(super) fn write_pair(&self, pair: Pair, signer: &Signer) -> Result<(), AuthorityError> {
        self.replace(pair.key, 0o600, signer.key_pem().as_bytes())?;
        self.replace(pair.certificate, 0o644, pem(signer.root().der()).as_bytes())
    }

    pub(super) fn write_bundle(&self, roots: &[&CertificateDer<'_>]) -> Result<(), AuthorityError> {
        let text: String = roots.iter().map(|root| pem(root)).collect();
        self.replace(BUNDLE, 0o644, text.as_bytes())
    }

    /// Removes a certificate and its key, if they are there: the certificate first, as above.
    pub(super) fn remove_pair(&self, pair: Pair) -> Result<(), AuthorityError> {
        for name in [pair.certificate, pair.key] {
            let path = self.0.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(file_error("remove", &path)(error));
                }
                _ => {}
            }
        }
        self.sync()
    }

    /// Activation replaces `signer.key`, then `signer.pem`, then removes `next.*`. Wherever it stopped, the staged
    /// certificate tells that it had begun.
    fn complete_activation(&self, trust_domain: &TrustDomain) -> Result<(), AuthorityError> {
        let (Some(key), Some(next)) = (
            self.read_key(SIGNER.key)?,
            self.read_certificate(NEXT.certificate)?,
        ) else {
            return Ok(());
        };
        let is_active =
            certifies(&next, &key).map_err(|why| self.damaged(NEXT.certificate, why))?;
        if is_active {
            let signer = Signer::join(next, key, trust_domain)
                .map_err(|why| self.damaged(NEXT.certificate, why))?;
            self.write_pair(SIGNER, &signer)?;
            self.remove_pair(NEXT)?;
        }
        Ok(())
    }

    /// A root with its key; or the name of the file that is missing.
    fn read_pair(
        &self,
        pair: Pair,
        trust_domain: &TrustDomain,
    ) -> Result<Result<Signer, &'static str>, AuthorityError> {
        let Some(certificate) = self.read_certificate(pair.certificate)? else {
            return Ok(Err(pair.certificate));
        };
        let Some(key) = self.read_key(pair.key)? else {
            return Ok(Err(pair.key));
        };
        self.check_trust_domain(&certificate, pair.certificate, trust_domain)?;
        let damaged = |why| self.damaged(pair.certificate, why);
        if !certifies(&certificate, &key).map_err(damaged)? {
            return Err(damaged(format!(
                "it is not the certificate of the private key in {}",
                pair.key
            )));
        }
        Signer::join(certificate, key, trust_domain)
            .map(Ok)
            .map_err(damaged)
    }

    /// The bundle; made again from the signer when an interrupted creation left none.
    fn read_bundle(
        &self,
        signer: &Signer,
        trust_domain: &TrustDomain,
    ) -> Result<TrustBundle, AuthorityError> {
        let Some(bytes) = self.read_file(BUNDLE)? else {
            self.write_bundle(&[signer.root().der()])?;
            return bundle_of(trust_domain, [signer.root().der().to_vec()])
                .map_err(|why| self.damaged(BUNDLE, why));
        };
        let roots = certificates(&bytes).map_err(|why| self.damaged(BUNDLE, why))?;
        for root in &roots {
            self.check_trust_domain(root, BUNDLE, trust_domain)?;
        }
        let bundle = bundle_of(trust_domain, roots.iter().map(|root| root.to_vec()))
            .map_err(|why| self.damaged(BUNDLE, why))?;
        if !bundle.roots().contains(signer.root()) {
            return Err(self.damaged(
                BUNDLE,
                "the root that signs (signer.pem) is not in it".to_owned(),
            ));
        }
        Ok(bundle)
    }

    fn read_certificate(
        &self,
        name: &'static str,
    ) -> Result<Option<CertificateDer<'static>>, AuthorityError> {
        let Some(bytes) = self.read_file(name)? else {
            return Ok(None);
        };
        let mut all = certificates(&bytes).map_err(|why| self.damaged(name, why))?;
        if all.len() > 1 {
            return Err(self.damaged(name, "it holds more than one certificate".to_owned()));
        }
        Ok(all.pop())
    }

    fn read_key(&self, name: &'static str) -> Result<Option<Key>, AuthorityError> {
        let Some(pem) = self.read_file(name)? else {
            return Ok(None);
        };
        let path = self.0.join(name);
        let mode = fs::metadata(&path)
            .map_err(file_error("look at", &path))?
            .permissions()
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            return Err(AuthorityError::KeyExposed { path, mode });
        }
        // What the parsers say could quote the file; that it is not a key says enough.
        let unusable = || {
            self.damaged(
                name,
                "it does not hold a P-256 private key (PKCS #8, PEM)".to_owned(),
            )
        };
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_quotes| unusable())?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
        der.zeroize();
        key.map(|key| Some(Key(key))).map_err(|_quotes| unusable())
    }

    /// A root names its trust domain as its own SPIFFE ID.
    fn check_trust_domain(
        &self,
        certificate: &CertificateDer<'_>,
        name: &'static str,
        expected: &TrustDomain,
    ) -> Result<(), AuthorityError> {
        let certificate =
            svid::parse(certificate).map_err(|error| self.damaged(name, error.to_string()))?;
        let within = svid::within_trust_domain(&certificate, expected)
            .map_err(|error| self.damaged(name, error.to_string()))?;
        if within {
            return Ok(());
        }
        let found = certificate
            .subject_alternative_name()
            .ok()
            .flatten()
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
            directory: self.0.clone(),
            found: found.escape_debug().to_string(),
            expected: expected.clone(),
        })
    }

    fn read_file(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, AuthorityError> {
        let path = self.0.join(name);
        let size = match fs::metadata(&path) {
            Ok(metadata) => metadata.size(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("look at", &path)(error)),
        };
        if size > LARGEST_FILE {
            return Err(self.damaged(name, "it is larger than 1 MiB".to_owned()));
        }
        fs::read(&path)
            .map(|bytes| Some(Zeroizing::new(bytes)))
            .map_err(file_error("read", &path))
    }

    /// Replaces a file as a whole: whoever opens it sees the old one or the new one, also after a crash.
    fn replace(&self, name: &str, mode: u32, content: &[u8]) -> Result<(), AuthorityError> {
        // One name for all writers: they hold the lock, and what a crash left is overwritten.
        let new = self.0.join(format!(".new-{name}"));
        let path = self.0.join(name);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(file_error("remove", &new)(error));
            }
            _ => {}
        }
        write_synced(&new, mode, content).map_err(file_error("write", &new))?;
        fs::rename(&new, &path).map_err(file_error("replace", &path))?;
        self.sync()
    }

    /// Makes renames and removals outlive a power cut.
    fn sync(&self) -> Result<(), AuthorityError> {
        File::open(&self.0)
            .and_then(|directory| directory.sync_all())
            .map_err(file_error("write", &self.0))
    }

    fn exists(&self, name: &str) -> Result<bool, AuthorityError> {
        let path = self.0.join(name);
        path.try_exists().map_err(file_error("look at", &path))
    }

    fn damaged(&self, name: &str, why: String) -> AuthorityError {
        AuthorityError::Damaged {
            path: self.0.join(name),
            why,
        }
    }
}

fn write_synced(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn file_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> AuthorityError + use<'a> {
    move |source| AuthorityError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

fn bundle_of(
    trust_domain: &TrustDomain,
    roots: impl IntoIterator<Item = Vec<u8>>,
) -> Result<TrustBundle, String> {
    TrustBundle::from_der(trust_domain, roots).map_err(|error: IdentityError| error.to_string())
}

/// Every certificate of a PEM file; at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is not PEM ({error})"))?;
    if all.is_empty() {
        return Err("it holds no certificate (PEM)".to_owned());
    }
    Ok(all)
}

fn pem(der: &CertificateDer<'_>) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der.to_vec()),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}
