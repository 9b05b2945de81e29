//! Who this node is to the controller: what it trusts comes from the cluster (a mounted ConfigMap), what it shows first is
//! the token of its pod, and what it shows from then on is a certificate of its own, renewed in time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_distribution::gatekeeper::{Enrolled, Enrolment};
use mesh_distribution::node::{self, ClientTls, Connect, Connection, Subscription, TlsConnect};
use mesh_identity::store::NodeStore;
use mesh_identity::{NodeIdentity, TrustBundle, tls};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::agent::options::Cluster;
use crate::agent::supervise::chain;

/// The controller's service account.
const CONTROLLER: &str = "warren-controller";

/// What everybody trusts: PEM of the roots.
const BUNDLE: &str = "bundle.pem";

/// For which domain.
const TRUST_DOMAIN: &str = "trust-domain";

/// How often is looked whether the certificate is due.
const LOOK: Duration = Duration::from_secs(20);

/// Connections in a row that led to nothing, after which the certificate is doubted: the controller's root may be another
/// one than it was signed by.
const DOUBT: u32 = 3;

/// Why it is not known whom to trust.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error(
        "cannot read {}, by which the controller is known; it is in the ConfigMap warren-trust, which the controller \
         writes: does a controller run?",
        path.display()
    )]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not usable: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
    #[error("the node cannot be named {node:?} to the controller: {why}")]
    Name { node: String, why: String },
}

/// What this node trusts and shows.
pub(crate) struct Credentials {
    trust_dir: PathBuf,
    token_file: PathBuf,
    target: String,
    name: ServerName<'static>,
    controller: SpiffeId,
    node: NodeIdentity,
    state: Mutex<State>,
    /// One enrolment at a time.
    enrolling: tokio::sync::Mutex<()>,
}

struct State {
    store: NodeStore,
    /// As mounted.
    mounted: TrustBundle,
    /// As the controller said last.
    told: Option<TrustBundle>,
    /// Connections since the controller last told everything.
    fruitless: u32,
}

impl Credentials {
    /// Reads what is to be trusted.
    pub(crate) fn read(cluster: &Cluster) -> Result<Self, TrustError> {
        let domain = trust_domain(&cluster.trust_dir)?;
        let mounted = bundle(&cluster.trust_dir, &domain)?;
        let unusable = |why: String| TrustError::Name {
            node: cluster.node.clone(),
            why,
        };
        let node = NodeIdentity::new(domain.clone(), &cluster.node)
            .map_err(|error| unusable(error.to_string()))?;
        let controller = SpiffeId::new(domain, &cluster.namespace, CONTROLLER)
            .map_err(|error| unusable(error.to_string()))?;
        let name = format!("{CONTROLLER}.{}.svc", cluster.namespace);
        let name = ServerName::try_from(name).map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            trust_dir: cluster.trust_dir.clone(),
            token_file: cluster.token_file.clone(),
            target: cluster.controller.clone(),
            name,
            controller,
            state: Mutex::new(State {
                store: NodeStore::new(node.clone(), mounted.clone()),
                mounted,
                told: None,
                fruitless: 0,
            }),
            node,
            enrolling: tokio::sync::Mutex::new(()),
        })
    }

    /// The roots that are trusted by whoever runs here.
    pub(crate) fn bundle(&self) -> TrustBundle {
        let state = self.state();
        state.told.clone().unwrap_or_else(|| state.mounted.clone())
    }

    /// The controller says which roots are trusted now.
    pub(super) fn told(&self, pem: &str) -> Option<TrustBundle> {
        match TrustBundle::from_pem(self.node.trust_domain(), pem.as_bytes()) {
            Ok(bundle) => {
                let mut state = self.state();
                state.told = Some(bundle.clone());
                state.trust_anew();
                Some(bundle)
            }
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "the roots that the controller tells cannot be trusted"
                );
                None
            }
        }
    }

    /// The controller takes what this node shows.
    pub(super) fn accepted(&self) {
        self.state().fruitless = 0;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is mounted again. What cannot be read stays as it was.
    fn look_at_mounted(&self) {
        match bundle(&self.trust_dir, self.node.trust_domain()) {
            Ok(mounted) => {
                let mut state = self.state();
                if state.mounted != mounted {
                    tracing::info!(roots = mounted.roots().len(), "other roots are mounted");
                    state.mounted = mounted;
                    state.trust_anew();
                }
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "going on with the roots from before")
            }
        }
    }

    /// The configuration for the next connection, with a certificate.
    async fn certified(&self) -> Result<Arc<ClientConfig>, String> {
        self.look_at_mounted();
        {
            let mut state = self.state();
            // Whoever makes connections waits between two attempts, which is enough.
            state.store.retry();
            if state.fruitless >= DOUBT {
                tracing::warn!(
                    "the controller does not take this node's certificate; asking for another"
                );
                state.fruitless = 0;
                state.store = NodeStore::new(self.node.clone(), state.everything());
            }
        }
        let failed = self.renew().await.err();
        let state = self.state();
        let certificate = state.store.certificate(SystemTime::now());
        if certificate.is_none() {
            return Err(failed.unwrap_or_else(|| "the node has no certificate yet".to_owned()));
        }
        tls::distribution_client(certificate, &state.everything(), &self.controller)
            .map_err(|error| chain(&error))
    }

    /// Gets a certificate with the token, when one is due; `false`: none was.
    async fn renew(&self) -> Result<bool, String> {
        let _one_at_a_time = self.enrolling.lock().await;
        let (request, anonymous) = {
            let mut state = self.state();
            let Some(request) = state.store.request_due(SystemTime::now()) else {
                return Ok(false);
            };
            let anonymous = tls::distribution_client(None, &state.everything(), &self.controller);
            (request, anonymous)
        };
        let enrolled = self
            .enrol(request, anonymous.map_err(|error| chain(&error)))
            .await;
        let mut state = self.state();
        let now = SystemTime::now();
        let taken = enrolled.and_then(
            |Enrolled {
                 chain: certificates,
                 roots: _,
                 lifetime,
             }| {
                state
                    .store
                    .take(certificates, now)
                    .map_err(|error| chain(&error))?;
                tracing::info!(node = %self.node, ?lifetime, "the controller knows this node");
                Ok(true)
            },
        );
        if let Err(why) = &taken {
            state.store.refused(why, now);
        }
        taken.map_err(|why| format!("no certificate for this node: {why}"))
    }

    async fn enrol(
        &self,
        request: Vec<u8>,
        anonymous: Result<Arc<ClientConfig>, String>,
    ) -> Result<Enrolled, String> {
        let token = fs::read_to_string(&self.token_file)
            .map_err(|error| format!("cannot read {}: {error}", self.token_file.display()))?;
        let connect = TlsConnect {
            target: self.target.clone(),
            name: self.name.clone(),
            tls: anonymous?,
        };
        let enrolment = Enrolment {
            token: token.trim().to_owned(),
            request,
            node: self.node.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        node::enrol(&connect, enrolment)
            .await
            .map_err(|error| chain(&error))
    }
}

impl State {
    /// Everything by which the controller may be known: what is mounted is late by a minute, what it told may be older than
    /// a change while it was away.
    fn everything(&self) -> TrustBundle {
        let Some(told) = &self.told else {
            return self.mounted.clone();
        };
        let roots = self.mounted.to_der().into_iter().chain(told.to_der());
        TrustBundle::from_der(self.mounted.trust_domain(), roots)
            .unwrap_or_else(|_| self.mounted.clone())
    }

    fn trust_anew(&mut self) {
        let everything = self.everything();
        self.store.trust(everything, None, SystemTime::now());
    }
}

/// Renews the certificate in time, and shows it, as long as there is anybody to show it to.
pub(super) async fn renew(subscription: Weak<Subscription>, credentials: Arc<Credentials>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(subscription) = subscription.upgrade() else {
            return;
        };
        credentials.look_at_mounted();
        // The first one is a matter of the first connection.
        let has_one = credentials
            .state()
            .store
            .certificate(SystemTime::now())
            .is_some();
        if !has_one {
            continue;
        }
        match credentials.renew().await {
            // A connection that showed the old one would end with it.
            Ok(true) => subscription.reconnect(),
            Ok(false) => {}
            Err(why) => {
                tracing::warn!(why, "the node's certificate was not renewed; trying again");
            }
        }
    }
}

/// Makes connections that show who this node is.
pub(super) struct Connector(TlsConnect<Shown>);

/// What a connection shows.
struct Shown(Arc<Credentials>);

impl Connector {
    pub(super) fn new(cluster: &Cluster, credentials: Arc<Credentials>) -> Self {
        Self(TlsConnect {
            target: cluster.controller.clone(),
            name: credentials.name.clone(),
            tls: Shown(credentials),
        })
    }
}

impl Connect for Connector {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Connection, String>> + Send + '_>> {
        Box::pin(async {
            let connection = self.0.connect().await?;
            // In TLS 1.3 whether the other side takes our certificate shows only afterwards.
            self.0.tls.0.state().fruitless += 1;
            Ok(connection)
        })
    }
}

impl ClientTls for Shown {
    fn config(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<ClientConfig>, String>> + Send + '_>> {
        Box::pin(self.0.certified())
    }
}

fn trust_domain(folder: &Path) -> Result<TrustDomain, TrustError> {
    let path = folder.join(TRUST_DOMAIN);
    match fs::read_to_string(&path) {
        Ok(text) => TrustDomain::new(text.trim()).map_err(|error| TrustError::Unusable {
            path,
            why: error.to_string(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(TrustDomain::default()),
        Err(source) => Err(TrustError::Read { path, source }),
    }
}

fn bundle(folder: &Path, domain: &TrustDomain) -> Result<TrustBundle, TrustError> {
    let path = folder.join(BUNDLE);
    let pem = fs::read(&path).map_err(|source| TrustError::Read {
        path: path.clone(),
        source,
    })?;
    TrustBundle::from_pem(domain, &pem).map_err(|error| TrustError::Unusable {
        path,
        why: chain(&error),
    })
}
