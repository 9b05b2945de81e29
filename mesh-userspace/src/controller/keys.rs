//! What the controller signs with, and what it shows of itself: the authority as the Secret has it, its own certificates, and
//! the TLS configurations made of both. Whatever of it changes, changes while everything runs.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_distribution::hub::Hub;
use mesh_identity::authority::{Authority, AuthorityError, Material};
use mesh_identity::registrar::Registrar;
use mesh_identity::store::Serving;
use mesh_identity::{Certificate, TrustBundle, tls};
use mesh_kubernetes::authority_secret::{self, SecretData};
use mesh_kubernetes::names::AUTHORITY_SECRET;
use mesh_kubernetes::{Client, aggregation};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use super::ControllerError;
use super::api::caller::RequestHeaders;

/// How long the controller's own certificates are valid. They are renewed at half of it, and cost it nothing.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// Before the next try while the API server does not answer.
const RETRY: Duration = Duration::from_secs(2);

/// How often is looked whether something is due.
const LOOK: Duration = Duration::from_secs(5);

/// How often is looked by what the API server is recognised. Its certificates change with an upgrade of the cluster.
const LOOK_FOR_RULES: Duration = Duration::from_secs(60);

/// What is signed with and shown at the moment.
pub(super) struct Keys {
    pub(super) registrar: Registrar,
    /// Who every controller of the mesh is.
    pub(super) identity: SpiffeId,
    for_nodes: watch::Sender<Arc<ServerConfig>>,
    for_api: watch::Sender<Option<Arc<ServerConfig>>>,
    for_replicas: ArcSwap<ClientConfig>,
    rules: ArcSwapOption<RequestHeaders>,
    /// Why the API server cannot ask.
    deaf: Mutex<Option<String>>,
    /// Why what is kept in the Secret is not what is signed with.
    outdated: Mutex<Option<String>>,
}

/// Keeps them up to date.
pub(super) struct Keeper {
    client: Client,
    namespace: String,
    serving: Serving,
    /// For other controllers.
    own: Certificate,
    bundle: TrustBundle,
    rules_read_at: Option<Instant>,
}

/// Opens the authority, making one where there is none, and everything that is made of it.
pub(super) async fn open(
    client: &Client,
    namespace: &str,
    trust_domain: &TrustDomain,
) -> Result<(Arc<Keys>, Keeper), ControllerError> {
    let place = place(namespace);
    let made = read_or_make(client, namespace, trust_domain).await;
    let unusable = |source| ControllerError::Authority {
        namespace: namespace.to_owned(),
        source,
    };
    let authority =
        Authority::from_material(&to_material(&place, &made), trust_domain).map_err(unusable)?;
    let identity = SpiffeId::new(
        trust_domain.clone(),
        namespace,
        mesh_kubernetes::names::CONTROLLER,
    )
    .map_err(|source| ControllerError::Identity {
        namespace: namespace.to_owned(),
        source,
    })?;
    let now = SystemTime::now();
    let mut serving = Serving::new(identity.clone(), dns_names(namespace), LIFETIME);
    serving.refresh(now, &authority).map_err(unusable)?;
    let own = authority
        .issue_at(&identity, LIFETIME, now)
        .map_err(unusable)?;
    let bundle = authority.bundle();
    let Some(shown) = serving.certificate() else {
        return Err(unusable(AuthorityError::RootNotValid {
            root: authority.signer().name().to_owned(),
        }));
    };
    let keys = Keys {
        for_nodes: watch::Sender::new(tls::controller_server(shown, &bundle)?),
        for_api: watch::Sender::new(None),
        for_replicas: ArcSwap::new(tls::replica_client(&own, &bundle)?),
        rules: ArcSwapOption::empty(),
        deaf: Mutex::new(Some(
            "it was not read yet by what the API server is recognised".to_owned(),
        )),
        outdated: Mutex::new(None),
        registrar: Registrar::new(authority),
        identity,
    };
    let keeper = Keeper {
        client: client.clone(),
        namespace: namespace.to_owned(),
        serving,
        own,
        bundle,
        rules_read_at: None,
    };
    Ok((Arc::new(keys), keeper))
}

/// Reads the Secret, or makes it. An API server that does not answer is waited for: a controller that ends is started again
/// later and later.
async fn read_or_make(client: &Client, namespace: &str, trust_domain: &TrustDomain) -> SecretData {
    let place = place(namespace);
    loop {
        let made = authority_secret::read_or_create(client, namespace, || {
            tracing::info!(%trust_domain, secret = place, "there is no certificate authority yet; making one");
            Material::generate(place.as_str(), trust_domain).map(|material| to_secret(&material))
        });
        match made.await {
            Ok(made) => return made,
            Err(error) => tracing::warn!(
                %error,
                "the certificate authority can be neither read nor made; it is tried again"
            ),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn place(namespace: &str) -> String {
    format!("Secret {namespace}/{AUTHORITY_SECRET}")
}

/// The names by which the API server, and people, reach the controller.
fn dns_names(namespace: &str) -> Vec<String> {
    let service = format!("{}.{namespace}.svc", mesh_kubernetes::names::CONTROLLER);
    vec![format!("{service}.cluster.local"), service]
}

fn to_secret(material: &Material) -> SecretData {
    let entries = material.entries();
    SecretData(
        entries
            .map(|(name, content)| (name.to_owned(), content.to_vec()))
            .collect(),
    )
}

fn to_material(place: &str, data: &SecretData) -> Material {
    Material::from_entries(place, &data.0)
}

impl Keys {
    /// For the next connection of a node.
    pub(super) fn for_nodes(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.for_nodes.subscribe()
    }

    /// For the next connection of the API server; `None` while it is not known by what it is recognised.
    pub(super) fn for_api(&self) -> watch::Receiver<Option<Arc<ServerConfig>>> {
        self.for_api.subscribe()
    }

    /// For the next connection to another controller.
    pub(super) fn for_replicas(&self) -> Arc<ClientConfig> {
        self.for_replicas.load_full()
    }

    /// How the API server says who asks.
    pub(super) fn rules(&self) -> Option<Arc<RequestHeaders>> {
        self.rules.load_full()
    }

    /// The roots that are trusted.
    pub(super) fn bundle(&self) -> TrustBundle {
        self.registrar.authority().bundle()
    }

    /// What a person should see to.
    pub(super) fn problems(&self) -> Vec<String> {
        [&self.deaf, &self.outdated]
            .into_iter()
            .filter_map(|problem| lock(problem).clone())
            .collect()
    }
}

fn lock(problem: &Mutex<Option<String>>) -> std::sync::MutexGuard<'_, Option<String>> {
    problem.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says a problem, once; `None`: it is gone.
fn note(problem: &Mutex<Option<String>>, now: Option<String>) {
    let mut known = lock(problem);
    if *known != now {
        if let Some(why) = &now {
            tracing::warn!("{why}");
        }
        *known = now;
    }
}

impl Keeper {
    /// Keeps everything up to date, until dropped. `secret` is what the Secret holds.
    pub(super) async fn run(
        mut self,
        keys: Arc<Keys>,
        hub: Hub,
        mut secret: watch::Receiver<Option<SecretData>>,
    ) {
        hub.set_bundle(&self.bundle.to_pem());
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut followed = true;
        loop {
            let changed = tokio::select! {
                changed = secret.changed(), if followed => {
                    followed = changed.is_ok();
                    followed
                }
                _ = look.tick() => false,
            };
            if changed {
                let kept = secret.borrow_and_update().clone();
                self.take(&keys, kept).await;
            }
            let rules = self.look_for_rules(&keys).await;
            self.renew(&keys, &hub, rules);
        }
    }

    /// Takes what the Secret holds now.
    async fn take(&self, keys: &Keys, kept: Option<SecretData>) {
        let place = place(&self.namespace);
        let Some(kept) = kept else {
            self.put_back(keys, &place).await;
            return;
        };
        match keys.registrar.replace(&to_material(&place, &kept)) {
            Ok(reloaded) => {
                note(&keys.outdated, None);
                if reloaded.signer || reloaded.bundle {
                    tracing::info!(
                        signer = keys.registrar.authority().signer().name(),
                        roots = keys.bundle().roots().len(),
                        "the certificate authority was changed"
                    );
                }
            }
            Err(error) => note(
                &keys.outdated,
                Some(format!(
                    "{place} cannot be used, and what it held before is signed with: {}",
                    in_words(&error)
                )),
            ),
        }
    }

    /// The Secret was deleted. What every node trusts must not be lost with it.
    async fn put_back(&self, keys: &Keys, place: &str) {
        let current = to_secret(&keys.registrar.authority().material());
        let put = authority_secret::read_or_create(&self.client, &self.namespace, || {
            Ok::<_, Infallible>(current)
        });
        match put.await {
            Ok(_) => tracing::warn!("{place} was deleted; it was made again with what it held"),
            Err(error) => note(
                &keys.outdated,
                Some(format!(
                    "{place} was deleted, and cannot be made again: {error}"
                )),
            ),
        }
    }

    /// Reads by what the API server is recognised, when it is time. Says whether that changed.
    async fn look_for_rules(&mut self, keys: &Keys) -> bool {
        let due = match (self.rules_read_at, keys.rules.load().is_some()) {
            (Some(at), true) => at.elapsed() >= LOOK_FOR_RULES,
            _ => true,
        };
        if !due {
            return false;
        }
        self.rules_read_at = Some(Instant::now());
        let read = match aggregation::request_headers(&self.client).await {
            Ok(data) => RequestHeaders::read(&data).map_err(|error| error.to_string()),
            Err(error) => Err(format!(
                "the ConfigMap kube-system/extension-apiserver-authentication cannot be read ({error}); has the controller's \
                 service account the Role extension-apiserver-authentication-reader?"
            )),
        };
        match read {
            Ok(rules) => {
                note(&keys.deaf, None);
                let same = keys.rules.load().as_deref() == Some(&rules);
                if !same {
                    keys.rules.store(Some(Arc::new(rules)));
                }
                !same
            }
            Err(why) => {
                // What was known before is still right, most likely.
                note(
                    &keys.deaf,
                    Some(format!("the API server may not be recognised: {why}")),
                );
                false
            }
        }
    }

    /// Renews what is due, and makes the configurations anew if anything of theirs has changed.
    fn renew(&mut self, keys: &Keys, hub: &Hub, mut changed: bool) {
        let authority = keys.registrar.authority();
        let now = SystemTime::now();
        match self.serving.refresh(now, &authority) {
            Ok(false) => {}
            Ok(true) => {
                changed = true;
                match authority.issue_at(&keys.identity, LIFETIME, now) {
                    Ok(own) => self.own = own,
                    Err(error) => failed(&error),
                }
            }
            Err(error) => failed(&error),
        }
        let bundle = authority.bundle();
        if bundle != self.bundle {
            changed = true;
            hub.set_bundle(&bundle.to_pem());
            self.bundle = bundle;
        }
        if changed && let Err(error) = self.show(keys) {
            failed(&error);
        }
    }

    fn show(&self, keys: &Keys) -> Result<(), mesh_identity::IdentityError> {
        let Some(shown) = self.serving.certificate() else {
            return Ok(());
        };
        keys.for_nodes
            .send_replace(tls::controller_server(shown, &self.bundle)?);
        keys.for_replicas
            .store(tls::replica_client(&self.own, &self.bundle)?);
        if let Some(rules) = keys.rules() {
            let pem = rules.client_ca.as_bytes();
            let config = tls::api_server(shown, pem, &rules.allowed_names)?;
            keys.for_api.send_replace(Some(config));
        }
        Ok(())
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) {
    tracing::error!(
        error = in_words(error),
        "the controller's own certificate cannot be renewed; it is tried again"
    );
}

/// With its causes.
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        words.push_str(&format!(": {next}"));
        cause = next.source();
    }
    words
}
