//! The bytes by which the agent hands a certificate with its key to the worker. Both are processes of one node; the bytes
//! are never stored. A reader trusts no length in them.
//!
//! Layout, integers big-endian: magic `WCRT`, version u16, issued at (u64 seconds and u32 nanoseconds since 1970), key
//! (u32 length, PKCS #8), number of certificates u8, each certificate (u32 length, DER), leaf first.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::IdentityError;

const MAGIC: &[u8; 4] = b"WCRT";
const VERSION: u16 = 1;
/// A P-256 key takes 138 bytes, an RSA-4096 key 2,400.
const MAX_KEY: usize = 8 * 1024;
const MAX_CERTIFICATE: usize = 64 * 1024;
const MAX_CERTIFICATES: u8 = 8;

/// What was read.
pub(crate) struct Read {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) issued_at: SystemTime,
}

pub(crate) fn write(
    chain: &[CertificateDer<'_>],
    key: &[u8],
    issued_at: SystemTime,
) -> Zeroizing<Vec<u8>> {
    let issued_at = issued_at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    // The exact size at once: growing would leave copies of the key behind.
    let size = 4 + 2 + 12 + 4 + key.len() + 1 + chain.iter().map(|c| 4 + c.len()).sum::<usize>();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&issued_at.as_secs().to_be_bytes());
    bytes.extend_from_slice(&issued_at.subsec_nanos().to_be_bytes());
    write_block(&mut bytes, key);
    bytes.push(u8::try_from(chain.len()).unwrap_or(u8::MAX));
    for certificate in chain {
        write_block(&mut bytes, certificate);
    }
    bytes
}

fn write_block(bytes: &mut Vec<u8>, block: &[u8]) {
    bytes.extend_from_slice(&u32::try_from(block.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(block);
}

pub(crate) fn read(bytes: &[u8]) -> Result<Read, IdentityError> {
    let mut rest = Rest(bytes);
    if rest.array::<4>()? != *MAGIC {
        return Err(malformed("it does not begin with its mark"));
    }
    if u16::from_be_bytes(rest.array()?) != VERSION {
        return Err(malformed("it is of another version"));
    }
    let seconds = u64::from_be_bytes(rest.array()?);
    let nanoseconds = u32::from_be_bytes(rest.array()?);
    if nanoseconds >= 1_000_000_000 {
        return Err(malformed("its time of issue is no time"));
    }
    let issued_at = SystemTime::UNIX_EPOCH
        .checked_add(Duration::new(seconds, nanoseconds))
        .ok_or_else(|| malformed("its time of issue is no time"))?;
    let key = Zeroizing::new(rest.block(MAX_KEY)?.to_vec());
    let [count] = rest.array()?;
    if count == 0 || count > MAX_CERTIFICATES {
        return Err(malformed("it has no certificate, or too many"));
    }
    let chain = (0..count)
        .map(|_| Ok(CertificateDer::from(rest.block(MAX_CERTIFICATE)?.to_vec())))
        .collect::<Result<_, IdentityError>>()?;
    if !rest.0.is_empty() {
        return Err(malformed("there are bytes after its end"));
    }
    Ok(Read {
        chain,
        key,
        issued_at,
    })
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], IdentityError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IdentityError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn block(&mut self, most: usize) -> Result<&'a [u8], IdentityError> {
        let length = u32::from_be_bytes(self.array()?) as usize;
        if length == 0 || length > most {
            return Err(malformed("a block is empty or too long"));
        }
        self.take(length)
    }
}

fn malformed(why: &'static str) -> IdentityError {
    IdentityError::Handover { why }
}
