//! The authority's files: reading them as one, replacing each as a whole, and the lock that keeps processes apart. It must
//! not know what is in them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mesh_core::identity::TrustDomain;

use super::material::{BUNDLE, Material, NEXT, NEXT_KEY, PARTS, SIGNER, SIGNER_KEY};
use super::state::{Read, State};
use super::{AuthorityError, Place};

const LOCK: &str = "lock";
/// Far above any honest file; a directory that something else writes to must not fill our memory.
const LARGEST_FILE: u64 = 1024 * 1024;

/// The directory of an authority.
#[derive(Clone, Debug)]
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
        let names = [BUNDLE, SIGNER, SIGNER_KEY, NEXT];
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

    /// Writes a new authority, unless there is one, whole or damaged. The bundle is written last, because it is what makes
    /// the rest count.
    pub(super) fn create_authority(
        &self,
        make: impl FnOnce() -> Result<State, AuthorityError>,
    ) -> Result<(), AuthorityError> {
        if !self.material()?.is_vacant() {
            return Ok(());
        }
        let parts = make()?.to_material(self.place());
        self.write(&parts, &[SIGNER_KEY, SIGNER, BUNDLE])
    }

    /// Reads everything. The lock is held. What was interrupted is completed.
    pub(super) fn read(&self, trust_domain: &TrustDomain) -> Result<State, AuthorityError> {
        let material = self.material()?;
        let Read { state, completed } = State::read(&material, trust_domain)?;
        if completed {
            self.write(
                &state.to_material(self.place()),
                &[SIGNER_KEY, SIGNER, BUNDLE],
            )?;
            if state.staged.is_none() {
                self.remove(&[NEXT, NEXT_KEY])?;
            }
        }
        Ok(state)
    }

    /// Replaces what a rotation step has changed. Wherever it is interrupted, [`State::read`] makes sense of it: a key
    /// comes before its certificate and leaves after it, the next root is there before it is trusted, and it signs before
    /// its staged files go.
    pub(super) fn replace(&self, before: &State, after: &State) -> Result<(), AuthorityError> {
        let parts = after.to_material(self.place());
        let staged = |state: &State| state.staged.as_ref().map(|next| next.root().clone());
        if staged(after).is_some() && staged(after) != staged(before) {
            self.write(&parts, &[NEXT_KEY, NEXT])?;
        }
        if after.signer.root() != before.signer.root() {
            self.write(&parts, &[SIGNER_KEY, SIGNER])?;
        }
        if staged(after).is_none() && staged(before).is_some() {
            self.remove(&[NEXT, NEXT_KEY])?;
        }
        if after.bundle != before.bundle {
            self.write(&parts, &[BUNDLE])?;
        }
        Ok(())
    }

    pub(super) fn place(&self) -> Place {
        Place::Directory(self.0.clone())
    }

    /// The files as they are.
    fn material(&self) -> Result<Material, AuthorityError> {
        let mut material = Material::empty(self.place());
        for name in PARTS {
            if let Some(content) = self.read_file(name)? {
                material.set(name, content);
            }
        }
        Ok(material)
    }

    /// Writes these parts, in this order.
    fn write(&self, parts: &Material, names: &[&'static str]) -> Result<(), AuthorityError> {
        for name in names {
            if let Some(content) = parts.get(name) {
                self.replace_file(name, content)?;
            }
        }
        Ok(())
    }

    /// Removes files, if they are there, in this order.
    fn remove(&self, names: &[&str]) -> Result<(), AuthorityError> {
        for name in names {
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

    fn read_file(&self, name: &'static str) -> Result<Option<Vec<u8>>, AuthorityError> {
        let path = self.0.join(name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("look at", &path)(error)),
        };
        if metadata.size() > LARGEST_FILE {
            return Err(AuthorityError::Damaged {
                place: self.place(),
                part: name,
                why: "it is larger than 1 MiB".to_owned(),
            });
        }
        let mode = metadata.permissions().mode() & 0o777;
        if is_key(name) && mode & 0o077 != 0 {
            return Err(AuthorityError::KeyExposed { path, mode });
        }
        fs::read(&path).map(Some).map_err(file_error("read", &path))
    }

    /// Replaces a file as a whole: whoever opens it sees the old one or the new one, also after a crash.
    fn replace_file(&self, name: &str, content: &[u8]) -> Result<(), AuthorityError> {
        let mode = if is_key(name) { 0o600 } else { 0o644 };
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
}

fn is_key(name: &str) -> bool {
    [SIGNER_KEY, NEXT_KEY].contains(&name)
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
