//! Who a node is: `spiffe://<trust-domain>/node/<node-name>`. Parsing and printing, nothing else.
//!
//! A node's certificate proves to the controller which node asks; it is nobody's in the mesh. Its identity is a type of
//! its own, so that no workload can be taken for a node, nor a node for a workload.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mesh_core::identity::{InvalidIdentity, TrustDomain};

/// RFC 1123 as Kubernetes reads it for object names: it limits the whole, not the labels.
const LONGEST_NAME: usize = 253;

/// A node of the mesh.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeIdentity {
    trust_domain: TrustDomain,
    name: Arc<str>,
}

/// Why a text is not a node's identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{text:?} is not a node identity: {why}; the form is spiffe://<trust-domain>/node/<node-name>"
)]
pub struct InvalidNode {
    text: String,
    why: String,
}

impl NodeIdentity {
    /// Makes an identity of a trust domain and a node's name (a DNS-1123 subdomain, as Kubernetes names its nodes).
    ///
    /// # Errors
    /// Names what is wrong with the name.
    pub fn new(trust_domain: TrustDomain, name: &str) -> Result<Self, InvalidNode> {
        if let Err(why) = check_name(name) {
            return Err(InvalidNode {
                text: format!("spiffe://{trust_domain}/node/{name}"),
                why: why.to_owned(),
            });
        }
        Ok(Self {
            trust_domain,
            name: name.into(),
        })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/node/{}", self.trust_domain, self.name)
    }
}

impl FromStr for NodeIdentity {
    type Err = InvalidNode;

    fn from_str(text: &str) -> Result<Self, InvalidNode> {
        let fail = |why: String| InvalidNode {
            text: text.to_owned(),
            why,
        };
        // Exactly this spelling, as with workloads: what needs normalising can be confused.
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| fail("it does not begin with spiffe://".to_owned()))?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("node"), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(fail("its path is not /node/<node-name>".to_owned()));
        };
        let domain =
            TrustDomain::new(domain).map_err(|error: InvalidIdentity| fail(error.to_string()))?;
        Self::new(domain, name)
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the node's name is empty");
    }
    if name.len() > LONGEST_NAME {
        return Err("the node's name is longer than 253 bytes");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err("a part of the node's name is empty");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("a part of the node's name begins or ends with '-'");
        }
        if !label
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        {
            return Err("a node's name has only lower-case letters, digits, '-' and '.'");
        }
    }
    Ok(())
}
