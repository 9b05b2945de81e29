//! Identities: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>` (SPIFFE ID §2; the path form is Istio's).
//! Parsing and printing, nothing else.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A trust domain: lower-case letters, digits, `.`, `-`, `_` (SPIFFE ID §2.1), at most 255 bytes.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

/// A workload identity.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a text is not an identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{text:?} is not a workload identity: {why}; the form is spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>"
)]
pub struct InvalidIdentity {
    text: String,
    why: &'static str,
}

impl TrustDomain {
    /// Checks and takes a trust domain.
    ///
    /// # Errors
    /// Names the character or length that is wrong.
    pub fn new(text: &str) -> Result<Self, InvalidIdentity> {
        let fail = |why| {
            Err(InvalidIdentity {
                text: text.to_owned(),
                why,
            })
        };
        if text.is_empty() {
            return fail("the trust domain is empty");
        }
        if text.len() > 255 {
            return fail("the trust domain is longer than 255 bytes");
        }
        if !text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
        {
            return fail("a trust domain has only lower-case letters, digits, '.', '-' and '_'");
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl SpiffeId {
    /// Makes an identity from its parts.
    ///
    /// # Errors
    /// Names the part that is not a path segment (SPIFFE ID §2.2).
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidIdentity> {
        for part in [namespace, service_account] {
            let why = if part.is_empty() {
                "a path segment is empty"
            } else if part == "." || part == ".." {
                "a path segment is '.' or '..'"
            } else if !part
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
            {
                "a path segment has only letters, digits, '.', '-' and '_'"
            } else {
                continue;
            };
            return Err(InvalidIdentity {
                text: format!(
                    "spiffe://{}/ns/{namespace}/sa/{service_account}",
                    trust_domain.as_str()
                ),
                why,
            });
        }
        let id = Self {
            trust_domain,
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        // SPIFFE ID §2.3: at most 2048 bytes.
        if id.to_string().len() > 2048 {
            return Err(InvalidIdentity {
                text: id.to_string(),
                why: "it is longer than 2048 bytes",
            });
        }
        Ok(id)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let fail = |why| InvalidIdentity {
            text: text.to_owned(),
            why,
        };
        // Exactly this spelling: an identity that needs normalising is an identity that can be confused.
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| fail("it does not begin with spiffe://"))?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(fail("its path is not /ns/<namespace>/sa/<service-account>"));
        };
        Self::new(TrustDomain::new(domain)?, namespace, account)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
