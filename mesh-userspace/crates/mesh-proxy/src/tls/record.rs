//! One TLS 1.3 record (RFC 8446 §5), encrypted or decrypted where it lies.
//!
//! ```text
//!  ┌──────────┬──────────────┬───────────────────────────────┬──────┬────────┐
//!  │ 23  3  3 │ length u16   │ payload, at most 16384 bytes  │ type │ tag 16 │
//!  └──────────┴──────────────┴───────────────────────────────┴──────┴────────┘
//!   additional data           └────────── encrypted ────────────────┘
//! ```

use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

use super::TlsError;

/// Bytes before the payload.
pub(super) const HEAD: usize = 5;

/// Bytes after it: the true content type, and the tag.
pub(super) const TAIL: usize = 1 + TAG;

/// The largest payload (RFC 8446 §5.1).
pub(super) const MAX_PAYLOAD: usize = crate::wire::MAX_RECORD;

/// The largest record that we write.
pub(super) const MAX_SIZE: usize = HEAD + MAX_PAYLOAD + TAIL;

/// Content types.
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION: u8 = 23;

/// Alerts.
pub(super) const CLOSE_NOTIFY: u8 = 0;

const TAG: usize = 16;

/// The largest record that a peer may send (RFC 8446 §5.2): it may pad.
const MAX_RECEIVED: usize = MAX_PAYLOAD + 256;

/// Records after which our keys are renewed: half of what is safe for AES-GCM (RFC 8446 §5.5).
const RENEWAL: u64 = 1 << 23;

/// Encrypts.
pub(super) struct Sealer(Direction);

/// Decrypts.
pub(super) struct Opener(Direction);

/// Where a decrypted record's parts are.
#[derive(Debug)]
pub(super) struct Opened {
    /// What it is.
    pub(super) content: u8,
    /// Its payload.
    pub(super) payload: Range<usize>,
    /// Where the next record begins.
    pub(super) end: usize,
}

struct Direction {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Direction {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(TlsError::Record("an unknown cipher was agreed")),
        };
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_unspecified| TlsError::Record("the cipher refuses the key"))?;
        let mut bytes = [0; NONCE_LEN];
        bytes.copy_from_slice(iv.as_ref());
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: bytes,
            sequence,
        })
    }

    /// The nonce of the next record (RFC 8446 §5.3). Each sequence number is used once: that is what makes the cipher
    /// safe.
    fn next_nonce(&mut self) -> Result<Nonce, TlsError> {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence = self
            .sequence
            .checked_add(1)
            .ok_or(TlsError::Record("the keys are used up"))?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

impl Sealer {
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        Direction::new(secrets).map(Self)
    }

    /// Whether so many records were made that the keys should be renewed first.
    pub(super) fn is_worn(&self) -> bool {
        self.0.sequence >= RENEWAL
    }

    /// Encrypts the payload that lies at `record[HEAD..][..length]`. Returns the size of the whole record.
    pub(super) fn seal(
        &mut self,
        content: u8,
        record: &mut [u8],
        length: usize,
    ) -> Result<usize, TlsError> {
        let size = HEAD + length + TAIL;
        let (head, rest) = record[..size].split_at_mut(HEAD);
        let [high, low] = ((length + TAIL) as u16).to_be_bytes();
        head.copy_from_slice(&[APPLICATION, 3, 3, high, low]);
        let (inner, tag) = rest.split_at_mut(length + 1);
        inner[length] = content;
        let nonce = self.0.next_nonce()?;
        let made = self
            .0
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*head), inner)
            .map_err(|_unspecified| TlsError::Record("the cipher failed"))?;
        tag.copy_from_slice(made.as_ref());
        Ok(size)
    }
}

impl Opener {
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        Direction::new(secrets).map(Self)
    }

    /// Decrypts the record that begins at `at`. `None` when it has not arrived whole.
    pub(super) fn open(
        &mut self,
        buffer: &mut [u8],
        at: usize,
    ) -> Result<Option<Opened>, TlsError> {
        let Some((head, rest)) = buffer
            .get_mut(at..)
            .and_then(|rest| rest.split_at_mut_checked(HEAD))
        else {
            return Ok(None);
        };
        let length = received_length(head)?;
        let Some(sealed) = rest.get_mut(..length) else {
            return Ok(None);
        };
        let nonce = self.0.next_nonce()?;
        let plain = self
            .0
            .key
            .open_in_place(nonce, Aad::from(&*head), sealed)
            .map_err(|_unspecified| TlsError::Record("it was changed, or is out of order"))?;
        // Zeros after the type are padding (RFC 8446 §5.4).
        let end = plain
            .iter()
            .rposition(|byte| *byte != 0)
            .ok_or(TlsError::Record("it has no content type"))?;
        if end > MAX_PAYLOAD {
            return Err(TlsError::Record("it is too long"));
        }
        let begin = at + HEAD;
        Ok(Some(Opened {
            content: plain[end],
            payload: begin..begin + end,
            end: begin + length,
        }))
    }
}

/// The length in a record's header, which is all of it that is not encrypted.
fn received_length(head: &[u8]) -> Result<usize, TlsError> {
    let &[APPLICATION, 3, 3, high, low] = head else {
        return Err(TlsError::Record("its header is malformed"));
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        length @ TAIL..=MAX_RECEIVED => Ok(length),
        _ => Err(TlsError::Record("its length is not allowed")),
    }
}
