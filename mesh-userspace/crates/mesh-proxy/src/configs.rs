//! The identities of this node's workloads, and the TLS configurations made of them: each is built once per thread and
//! set of identities, not once per connection. How they are built is `mesh_identity`'s business.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_identity::{Certificate, IdentityError, TrustBundle, tls};

use crate::link::Identities;

/// Certificates and trust roots, as the agent last said. Whole each time: what is missing is gone.
#[derive(Debug, Default)]
pub(crate) struct IdentitySet {
    /// Grows with every change.
    pub(crate) generation: u64,
    certificates: HashMap<SpiffeId, Certificate>,
    bundle: Option<TrustBundle>,
}

/// A configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConfig {
    /// The agent has not sent a certificate for it, or took it back.
    #[error("there is no certificate for {0} on this node (yet)")]
    NoCertificate(SpiffeId),
    /// The agent has sent no trust roots.
    #[error("there are no trust roots on this node (yet)")]
    NoRoots,
    /// The TLS library, or a rule of ours, refuses it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl IdentitySet {
    /// Reads what the agent handed over.
    ///
    /// # Errors
    /// When any of it cannot be used; nothing of it is then.
    pub(crate) fn new(identities: &Identities) -> Result<Self, IdentityError> {
        let mut certificates = HashMap::new();
        for handover in &identities.certificates {
            let certificate = Certificate::from_handover(handover)?;
            certificates.insert(certificate.identity().clone(), certificate);
        }
        let bundle = if identities.roots.is_empty() {
            None
        } else {
            let roots = identities.roots.iter().cloned();
            Some(TrustBundle::from_der(&identities.trust_domain, roots)?)
        };
        Ok(Self {
            generation: identities.generation,
            certificates,
            bundle,
        })
    }

    /// Whether there is a certificate for an identity.
    pub(crate) fn has(&self, identity: &SpiffeId) -> bool {
        self.certificates.contains_key(identity)
    }

    /// Whether an identity has another certificate here than in an earlier set.
    pub(crate) fn renews(&self, earlier: &Self, identity: &SpiffeId) -> bool {
        self.certificates.get(identity) != earlier.certificates.get(identity)
    }

    /// The trust roots.
    pub(crate) fn bundle(&self) -> Option<&TrustBundle> {
        self.bundle.as_ref()
    }

    fn certificate(&self, identity: &SpiffeId) -> Result<&Certificate, NoConfig> {
        self.certificates
            .get(identity)
            .ok_or_else(|| NoConfig::NoCertificate(identity.clone()))
    }

    fn trusted(&self) -> Result<&TrustBundle, NoConfig> {
        self.bundle.as_ref().ok_or(NoConfig::NoRoots)
    }
}

/// The configurations of one thread.
#[derive(Default)]
pub(crate) struct Configs {
    made: RefCell<Made>,
}

#[derive(Default)]
struct Made {
    /// Of which set of identities.
    generation: u64,
    clients: HashMap<(SpiffeId, Arc<[SpiffeId]>), Arc<rustls::ClientConfig>>,
    servers: HashMap<Arc<[SpiffeId]>, Arc<rustls::ServerConfig>>,
}

impl Configs {
    /// To dial as `own`, expecting one of `peers`.
    pub(crate) fn client(
        &self,
        identities: &IdentitySet,
        own: &SpiffeId,
        peers: &Arc<[SpiffeId]>,
    ) -> Result<Arc<rustls::ClientConfig>, NoConfig> {
        let mut made = self.of(identities);
        let key = (own.clone(), Arc::clone(peers));
        if let Some(config) = made.clients.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config =
            tls::client_config(identities.certificate(own)?, identities.trusted()?, peers)?;
        made.clients.insert(key, Arc::clone(&config));
        Ok(config)
    }

    /// To accept as each of `own`; the peer's server name chooses when there are several.
    pub(crate) fn server(
        &self,
        identities: &IdentitySet,
        own: &Arc<[SpiffeId]>,
    ) -> Result<Arc<rustls::ServerConfig>, NoConfig> {
        let mut made = self.of(identities);
        if let Some(config) = made.servers.get(own) {
            return Ok(Arc::clone(config));
        }
        let certificates = own
            .iter()
            .map(|identity| identities.certificate(identity).cloned())
            .collect::<Result<Vec<_>, _>>()?;
        let config = tls::server_config(&certificates, identities.trusted()?)?;
        made.servers.insert(Arc::clone(own), Arc::clone(&config));
        Ok(config)
    }

    fn of(&self, identities: &IdentitySet) -> std::cell::RefMut<'_, Made> {
        let mut made = self.made.borrow_mut();
        if made.generation != identities.generation {
            *made = Made {
                generation: identities.generation,
                ..Made::default()
            };
        }
        made
    }
}

/// A set of identities in the form that configurations and tunnels are keyed by: sorted, without repetition.
pub(crate) fn sorted(identities: impl IntoIterator<Item = SpiffeId>) -> Arc<[SpiffeId]> {
    identities
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
