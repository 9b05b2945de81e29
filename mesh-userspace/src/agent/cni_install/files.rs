//! Files that somebody else reads at any moment: each is replaced whole.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Ends the names of files that are not whole yet. No runtime reads such.
const UNFINISHED: &str = ".warren-new";

/// By which a file that was compared once is known again, without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    mode: u32,
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file; `None` where there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.len(),
            mode: file.mode(),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// Reads a file; `None` where there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file whole, with owner and mode of the one that is there, or of `like`.
pub(super) fn write(path: &Path, bytes: &[u8], like: &Path) -> io::Result<()> {
    let before = fs::metadata(path).or_else(|_| fs::metadata(like)).ok();
    let mode = before.as_ref().map_or(0o644, MetadataExt::mode);
    replace(path, mode, |file| file.write_all(bytes))?;
    match before {
        // As root it is root's anyway.
        Some(before) if before.uid() != 0 || before.gid() != 0 => {
            std::os::unix::fs::chown(path, Some(before.uid()), Some(before.gid()))
        }
        _ => Ok(()),
    }
}

/// Copies a program, unless the same is there already; `true`: it was copied.
pub(super) fn copy_program(from: &Path, to: &Path) -> io::Result<bool> {
    if is_same(from, to)? {
        return Ok(false);
    }
    replace(to, 0o755, |file| {
        io::copy(&mut File::open(from)?, file).map(drop)
    })?;
    Ok(true)
}

/// Removes a file; one that is gone is removed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn replace(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(UNFINISHED);
    let new = PathBuf::from(new);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    let done = fill(&mut file)
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        // A machine that loses power right now must find one file or the other.
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        remove(&new)?;
    }
    done
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let mut one = File::open(one)?;
    let mut other = match File::open(other) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let metadata = other.metadata()?;
    if metadata.len() != one.metadata()?.len() || metadata.mode() & 0o111 != 0o111 {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..length])?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
    }
}
