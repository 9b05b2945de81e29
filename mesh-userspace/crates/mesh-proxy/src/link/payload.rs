//! Payloads beside a message: a memfd that can no longer change, so that the reader may check first and use afterwards.
//! It knows nothing of what it carries.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::uio::pread;
use nix::unistd::{Whence, lseek, write};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::error::LinkError;

/// Most bytes of a payload. A world of 100,000 workloads is about a tenth of it.
pub const MAX_PAYLOAD: usize = 256 << 20;

/// What makes a memfd immutable, for its writer too.
const IMMUTABLE: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Writes a value into a sealed memfd.
///
/// # Errors
/// [`LinkError::TooLarge`], or what the system calls answered.
pub fn seal<T: Serialize>(value: &T) -> Result<OwnedFd, LinkError> {
    // Identities carry private keys.
    let bytes = Zeroizing::new(postcard::to_stdvec(value).map_err(LinkError::Message)?);
    seal_bytes(&bytes)
}

/// Reads a value from a sealed memfd.
///
/// # Errors
/// [`LinkError::Payload`] when it is not sealed or too large, [`LinkError::Message`] when it does not decode.
pub fn unseal<T: DeserializeOwned>(payload: &OwnedFd) -> Result<T, LinkError> {
    let bytes = unseal_bytes(payload)?;
    let (value, rest) = postcard::take_from_bytes(&bytes).map_err(LinkError::Message)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(LinkError::Payload("bytes follow the value"))
    }
}

/// Writes bytes into a sealed memfd.
///
/// # Errors
/// As [`seal`].
pub fn seal_bytes(bytes: &[u8]) -> Result<OwnedFd, LinkError> {
    if bytes.len() > MAX_PAYLOAD {
        return Err(LinkError::TooLarge {
            size: bytes.len(),
            most: MAX_PAYLOAD,
        });
    }
    let memfd = memfd_create(
        c"warren-payload",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )
    .map_err(failed("create"))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match write(&memfd, rest) {
            Ok(written) => rest = &rest[written..],
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(failed("write")(error)),
        }
    }
    fcntl(
        &memfd,
        FcntlArg::F_ADD_SEALS(IMMUTABLE | SealFlag::F_SEAL_SEAL),
    )
    .map_err(failed("seal"))?;
    Ok(memfd)
}

/// Reads the bytes of a sealed memfd.
///
/// # Errors
/// As [`unseal`].
pub fn unseal_bytes(payload: &OwnedFd) -> Result<Zeroizing<Vec<u8>>, LinkError> {
    // Only memfds (and files of tmpfs) have seals: anything else fails here with EINVAL.
    let seals = fcntl(payload, FcntlArg::F_GET_SEALS).map_err(failed("read the seals of"))?;
    if !SealFlag::from_bits_truncate(seals).contains(IMMUTABLE) {
        return Err(LinkError::Payload("it is not sealed"));
    }
    // lseek rather than fstat: the worker's system-call filter allows no call that can take a path.
    let size = lseek(payload.as_fd(), 0, Whence::SeekEnd).map_err(failed("measure"))?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > MAX_PAYLOAD {
        return Err(LinkError::TooLarge {
            size,
            most: MAX_PAYLOAD,
        });
    }
    let mut bytes = Zeroizing::new(vec![0; size]);
    let mut filled = 0;
    while filled < size {
        let offset = i64::try_from(filled).unwrap_or(i64::MAX);
        match pread(payload, &mut bytes[filled..], offset) {
            Ok(0) => return Err(LinkError::Payload("it is shorter than it says")),
            Ok(read) => filled += read,
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(failed("read")(error)),
        }
    }
    Ok(bytes)
}

fn failed(operation: &'static str) -> impl Fn(nix::Error) -> LinkError {
    move |error| LinkError::PayloadIo {
        operation,
        source: io::Error::from(error),
    }
}
