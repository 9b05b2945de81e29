//! Which of our own certificates is presented.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{check_own, server_name_text};
use crate::svid::Subject;
use crate::{Certificate, IdentityError, TrustBundle};

/// The only certificate there is, for whoever asks.
pub(super) struct Own {
    only: Arc<CertifiedKey>,
}

impl Own {
    pub(super) fn new<S: Subject>(only: &Certificate<S>) -> Self {
        Self {
            only: only.certified(),
        }
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

impl ResolvesClientCert for Own {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.only))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.only))
    }
}

/// One certificate per server name.
pub(super) struct ByName {
    certificates: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    pub(super) fn new(own: &[Certificate], bundle: &TrustBundle) -> Result<Self, IdentityError> {
        let mut certificates = HashMap::with_capacity(own.len());
        for certificate in own {
            check_own(certificate, bundle)?;
            let name = server_name_text(certificate.identity());
            if certificates.insert(name, certificate.certified()).is_some() {
                return Err(IdentityError::Duplicate {
                    identity: certificate.identity().to_string(),
                });
            }
        }
        Ok(Self { certificates })
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByName({})", self.certificates.len())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificates.get(hello.server_name()?).cloned()
    }
}
