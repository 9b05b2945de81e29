//! Facts and keys as they travel. It knows no connection.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use mesh_control::facts::{Fact, FactKey, FactKind};

use crate::proto;

/// Tells one version of a fact from another: the beginning of the SHA-256 of its body. Owners of objects choose what is in
/// bodies, so it must not be possible to make two of the same hash.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Hash([u8; 16]);

impl Hash {
    /// The hash of a body.
    pub fn of(body: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, body);
        let mut hash = [0; 16];
        for (to, from) in hash.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(hash)
    }

    /// Reads what [`Hash::as_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads what is printed.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let number = u128::from_str_radix(text, 16).ok()?;
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A fact as it travels.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) hash: Hash,
}

/// The body of a fact. The same fact always has the same, whichever replica makes it: every map in a fact is sorted.
pub(crate) fn body(fact: &Fact) -> Result<Body, serde_json::Error> {
    let bytes = Bytes::from(serde_json::to_vec(fact)?);
    let hash = Hash::of(&bytes);
    Ok(Body { bytes, hash })
}

/// A key as it travels.
pub(crate) fn key_to_wire(key: &FactKey) -> proto::Key {
    let FactKey {
        kind,
        namespace,
        name,
    } = key;
    proto::Key {
        kind: kind_to_wire(*kind).into(),
        namespace: namespace.clone(),
        name: name.clone(),
    }
}

/// A key that has come; `None` for a kind that this release does not know.
pub(crate) fn key_from_wire(key: proto::Key) -> Option<FactKey> {
    let kind = kind_from_wire(key.kind())?;
    let proto::Key {
        kind: _,
        namespace,
        name,
    } = key;
    Some(FactKey {
        kind,
        namespace,
        name,
    })
}

/// What a key takes in a message, about.
pub(crate) fn key_size(key: &FactKey) -> usize {
    key.namespace.len() + key.name.len() + 12
}

/// A fact as nodes are told it.
pub(crate) fn told(key: &Arc<FactKey>, body: &Body) -> proto::Told {
    proto::Told {
        key: Some(key_to_wire(key)),
        hash: Bytes::copy_from_slice(body.hash.as_bytes()),
        body: body.bytes.clone(),
    }
}

fn kind_to_wire(kind: FactKind) -> proto::Kind {
    match kind {
        FactKind::Mesh => proto::Kind::Mesh,
        FactKind::Namespace => proto::Kind::Namespace,
        FactKind::Workload => proto::Kind::Workload,
        FactKind::Service => proto::Kind::Service,
        FactKind::Route => proto::Kind::Route,
        FactKind::Policy => proto::Kind::Policy,
        FactKind::Mtls => proto::Kind::Mtls,
    }
}

fn kind_from_wire(kind: proto::Kind) -> Option<FactKind> {
    Some(match kind {
        proto::Kind::Unspecified => return None,
        proto::Kind::Mesh => FactKind::Mesh,
        proto::Kind::Namespace => FactKind::Namespace,
        proto::Kind::Workload => FactKind::Workload,
        proto::Kind::Service => FactKind::Service,
        proto::Kind::Route => FactKind::Route,
        proto::Kind::Policy => FactKind::Policy,
        proto::Kind::Mtls => FactKind::Mtls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_as_they_are_printed() {
        let hash = Hash::of(b"a body");
        assert_eq!(Hash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(Hash::from_bytes(hash.as_bytes()), Some(hash));
        assert_ne!(Hash::of(b"another"), hash);
        for bad in ["", "12", "+2345678901234567890123456789012"] {
            assert_eq!(Hash::from_hex(bad), None, "{bad:?}");
        }
        assert_eq!(Hash::from_bytes(&[]), None);
    }

    #[test]
    fn keys_survive_the_way() {
        for kind in FactKind::ALL {
            let key = FactKey {
                kind,
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
            };
            assert_eq!(key_from_wire(key_to_wire(&key)), Some(key));
        }
        let unknown = proto::Key {
            kind: 99,
            ..proto::Key::default()
        };
        assert_eq!(key_from_wire(unknown), None);
    }
}
