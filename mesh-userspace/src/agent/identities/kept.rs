//! Certificates with their keys, from one agent to the next, so that an agent that is started again while the controller is
//! away goes on. In memory alone: the file is made in a memory file system, for root, or not at all; so it ends with the
//! machine, and a disk never sees a key.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mesh_identity::{Certificate, TrustBundle, svid};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use crate::agent::supervise::chain;

/// The file's name in the run directory.
pub(crate) const FILE: &str = "identities";

/// ramfs, which nix does not name.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// A certificate with its chain and key is some thousand bytes, and a node has some hundred.
const LARGEST: u64 = 64 << 20;

/// Where they are.
#[derive(Debug)]
pub(super) struct Kept(PathBuf);

impl Kept {
    /// In this folder; `None` where it is not in memory.
    pub(super) fn at(folder: &Path) -> Option<Self> {
        match statfs(folder) {
            Ok(kind) if is_memory(kind.filesystem_type()) => Some(Self(folder.join(FILE))),
            Ok(_) => {
                tracing::info!(
                    folder = %folder.display(),
                    "is not in memory, so that keys are not kept there: an agent that is started again needs the controller"
                );
                None
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot be looked at");
                None
            }
        }
    }

    /// Those that are good still.
    pub(super) fn read(&self, bundle: &TrustBundle, now: SystemTime) -> Vec<Certificate> {
        let bytes = match fs::metadata(&self.0) {
            Ok(file) if file.len() <= LARGEST => fs::read(&self.0).map(Zeroizing::new),
            Ok(_) => Err(io::Error::other("it is too large")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => blocks(&bytes)
                .filter_map(|block| match Certificate::from_handover(block) {
                    Ok(certificate) => Some(certificate),
                    Err(error) => {
                        tracing::warn!(
                            error = chain(&error),
                            "a certificate that was kept is not usable"
                        );
                        None
                    }
                })
                .filter(|certificate| is_good(certificate, bundle, now))
                .collect(),
            Err(error) => {
                tracing::warn!(path = %self.0.display(), %error, "certificates of the agent before are not known");
                Vec::new()
            }
        }
    }

    /// Keeps these, whole or not at all.
    pub(super) fn write(&self, certificates: &[Certificate]) -> io::Result<()> {
        let mut new = self.0.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        for certificate in certificates {
            let block = certificate.to_handover();
            let length = u32::try_from(block.len()).map_err(io::Error::other)?;
            file.write_all(&length.to_be_bytes())?;
            file.write_all(&block)?;
        }
        fs::rename(&new, &self.0)
    }
}

/// Whether peers would take a certificate.
pub(super) fn is_good(certificate: &Certificate, bundle: &TrustBundle, now: SystemTime) -> bool {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = UnixTime::since_unix_epoch(now);
    svid::verify(bundle, certificate.chain(), now).is_ok()
}

fn is_memory(kind: FsType) -> bool {
    kind == TMPFS_MAGIC || kind == RAMFS_MAGIC
}

/// What was written, block by block; it ends where it does not fit.
fn blocks(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (block, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use mesh_core::identity::{SpiffeId, TrustDomain};
    use mesh_identity::authority::Authority;

    use super::*;

    #[test]
    fn what_is_kept_is_for_root_alone_and_good_still_when_it_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let domain = TrustDomain::default();
        let authority =
            Authority::open_or_create(&folder.path().join("ca"), &domain).expect("an authority");
        let now = SystemTime::now();
        let issue = |account: &str, lifetime: u64| {
            let identity = SpiffeId::new(domain.clone(), "shop", account).expect("an identity");
            let lifetime = Duration::from_secs(lifetime);
            authority
                .issue_at(&identity, lifetime, now)
                .expect("issued")
        };
        let (web, short) = (issue("web", 3_600), issue("short", 600));
        let kept = Kept(folder.path().join(FILE));
        assert!(kept.read(&authority.bundle(), now).is_empty());
        kept.write(&[web.clone(), short.clone()]).expect("written");
        let mode = fs::metadata(&kept.0).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(kept.read(&authority.bundle(), now), [web.clone(), short]);
        let later = now + Duration::from_secs(1_200);
        assert_eq!(kept.read(&authority.bundle(), later), [web]);
        // Signed by a root that is trusted no more.
        let other = Authority::open_or_create(&folder.path().join("other"), &domain);
        let other = other.expect("an authority");
        assert!(kept.read(&other.bundle(), now).is_empty());
        fs::write(&kept.0, [0, 0, 0, 9, 1]).expect("damaged");
        assert!(kept.read(&authority.bundle(), now).is_empty());
    }

    #[test]
    fn keys_are_kept_in_memory_only() {
        assert!(Kept::at(Path::new("/proc")).is_none());
        assert!(Kept::at(Path::new("/no/such/folder")).is_none());
        assert!(is_memory(TMPFS_MAGIC));
    }
}
