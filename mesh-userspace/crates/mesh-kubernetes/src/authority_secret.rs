//! The root key in its Secret, and the ConfigMap that says whom to trust.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_all};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use zeroize::Zeroize;

use crate::names;
use crate::source::LONGEST_WATCH;

/// What a Secret holds: key → bytes. Never printed; wiped from memory when it goes.
#[derive(Clone, PartialEq)]
pub struct SecretData(pub BTreeMap<String, Vec<u8>>);

impl Debug for SecretData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Drop for SecretData {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

/// Whom everybody trusts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trust {
    /// All trusted roots, in PEM.
    pub bundle_pem: String,
    /// The trust domain.
    pub trust_domain: String,
}

const BUNDLE: &str = "bundle.pem";
const TRUST_DOMAIN: &str = "trust-domain";

/// Why the Secret or the ConfigMap cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} {namespace}/{name}: {why}")]
pub struct StoreError {
    /// `Secret` or `ConfigMap`.
    pub what: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is wrong, and what to do.
    pub why: String,
}

impl StoreError {
    fn secret(namespace: &str, why: impl ToString) -> Self {
        Self {
            what: "Secret",
            namespace: namespace.to_owned(),
            name: names::AUTHORITY_SECRET.to_owned(),
            why: why.to_string(),
        }
    }

    fn config_map(namespace: &str, why: impl ToString) -> Self {
        Self {
            what: "ConfigMap",
            name: names::TRUST_CONFIG_MAP.to_owned(),
            ..Self::secret(namespace, why)
        }
    }
}

/// Reads the Secret `warren-ca`; makes it with what `make` gives when there is none. Of several that make it at once, one
/// wins, and all get what that one made.
///
/// # Errors
/// It can neither be read nor made.
pub async fn read_or_create<E: std::fmt::Display>(
    client: &Client,
    namespace: &str,
    make: impl FnOnce() -> Result<SecretData, E>,
) -> Result<SecretData, StoreError> {
    if let Some(found) = read(client, namespace).await? {
        return Ok(found);
    }
    let made = make().map_err(|error| StoreError::secret(namespace, error))?;
    let secret = Secret {
        metadata: metadata(namespace, names::AUTHORITY_SECRET),
        type_: Some("warren.dev/authority".to_owned()),
        data: Some(bytes(&made)),
        ..Secret::default()
    };
    match secrets(client, namespace)
        .create(&PostParams::default(), &secret)
        .await
    {
        Ok(_) => {
            tracing::info!(namespace, "made the root key");
            Ok(made)
        }
        Err(error) if is_conflict(&error) => {
            let found = read(client, namespace).await?;
            found.ok_or_else(|| StoreError::secret(namespace, "it was made and is gone again"))
        }
        Err(error) => Err(StoreError::secret(namespace, words(&error))),
    }
}

/// Reads the Secret `warren-ca`; `None` when there is none.
///
/// # Errors
/// It cannot be read.
pub async fn read(client: &Client, namespace: &str) -> Result<Option<SecretData>, StoreError> {
    let found = secrets(client, namespace)
        .get_opt(names::AUTHORITY_SECRET)
        .await;
    let found = found.map_err(|error| StoreError::secret(namespace, words(&error)))?;
    Ok(found.map(data))
}

/// Writes the Secret's data whole, if it still is `from` (for adding and removing roots).
///
/// # Errors
/// Somebody else changed it, or it cannot be written.
pub async fn replace(
    client: &Client,
    namespace: &str,
    from: &SecretData,
    to: &SecretData,
) -> Result<(), StoreError> {
    let changed = || StoreError::secret(namespace, "somebody else changed it; read it again");
    let secrets = secrets(client, namespace);
    let found = secrets.get_opt(names::AUTHORITY_SECRET).await;
    let found = found.map_err(|error| StoreError::secret(namespace, words(&error)))?;
    let Some(mut secret) = found else {
        return Err(changed());
    };
    if data(secret.clone()) != *from {
        return Err(changed());
    }
    secret.data = Some(bytes(to));
    // The resource version that was read goes along: the server refuses what is not based on the latest.
    match secrets
        .replace(names::AUTHORITY_SECRET, &PostParams::default(), &secret)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_conflict(&error) => Err(changed()),
        Err(error) => Err(StoreError::secret(namespace, words(&error))),
    }
}

/// Follows the Secret: the sender is set on every change; `None` when it is gone. Until every receiver is gone.
pub async fn follow_secret(
    client: Client,
    namespace: String,
    latest: watch::Sender<Option<SecretData>>,
) {
    let api = secrets(&client, &namespace);
    follow(api, names::AUTHORITY_SECRET, latest, |secret: Secret| {
        Ok(data(secret))
    })
    .await;
}

/// Writes the ConfigMap `warren-trust`, if it differs.
///
/// # Errors
/// It cannot be written.
pub async fn publish_trust(
    client: &Client,
    namespace: &str,
    trust: &Trust,
) -> Result<(), StoreError> {
    let maps = config_maps(client, namespace);
    let failed = |error| StoreError::config_map(namespace, words(&error));
    let wanted = BTreeMap::from([
        (BUNDLE.to_owned(), trust.bundle_pem.clone()),
        (TRUST_DOMAIN.to_owned(), trust.trust_domain.clone()),
    ]);
    let params = PostParams::default();
    match maps
        .get_opt(names::TRUST_CONFIG_MAP)
        .await
        .map_err(failed)?
    {
        Some(found) if found.data.as_ref() == Some(&wanted) => return Ok(()),
        Some(mut found) => {
            found.data = Some(wanted);
            maps.replace(names::TRUST_CONFIG_MAP, &params, &found).await
        }
        None => {
            let map = ConfigMap {
                metadata: metadata(namespace, names::TRUST_CONFIG_MAP),
                data: Some(wanted),
                ..ConfigMap::default()
            };
            maps.create(&params, &map).await
        }
    }
    .map_err(failed)?;
    Ok(())
}

/// Reads the ConfigMap `warren-trust`; `None` when there is none (yet).
///
/// # Errors
/// It cannot be read, or does not say what it should.
pub async fn read_trust(client: &Client, namespace: &str) -> Result<Option<Trust>, StoreError> {
    let found = config_maps(client, namespace)
        .get_opt(names::TRUST_CONFIG_MAP)
        .await;
    let found = found.map_err(|error| StoreError::config_map(namespace, words(&error)))?;
    found
        .map(trust)
        .transpose()
        .map_err(|why| StoreError::config_map(namespace, why))
}

/// Follows the ConfigMap: the sender is set on every change; `None` when it is gone. One that does not say what it should is
/// reported and changes nothing. Until every receiver is gone.
pub async fn follow_trust(client: Client, namespace: String, latest: watch::Sender<Option<Trust>>) {
    let api = config_maps(&client, &namespace);
    follow(api, names::TRUST_CONFIG_MAP, latest, trust).await;
}

fn trust(map: ConfigMap) -> Result<Trust, String> {
    let mut data = map.data.unwrap_or_default();
    let mut take = |key| {
        let value = data.remove(key).filter(|value: &String| !value.is_empty());
        value.ok_or_else(|| format!("it has no {key}; the controller writes it"))
    };
    Ok(Trust {
        bundle_pem: take(BUNDLE)?,
        trust_domain: take(TRUST_DOMAIN)?,
    })
}

async fn follow<K, T>(
    api: Api<K>,
    name: &str,
    latest: watch::Sender<Option<T>>,
    read: impl Fn(K) -> Result<T, String>,
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: PartialEq,
{
    let only = watcher::Config::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(LONGEST_WATCH);
    let mut events = pin!(watch_all(api, only).default_backoff());
    let mut listed: Option<K> = None;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = latest.closed() => return,
        };
        let object = match event {
            None => return,
            Some(Ok(Event::Init)) => {
                listed = None;
                continue;
            }
            Some(Ok(Event::InitApply(object))) => {
                listed = Some(object);
                continue;
            }
            Some(Ok(Event::InitDone)) => listed.take(),
            Some(Ok(Event::Apply(object))) => Some(object),
            Some(Ok(Event::Delete(_))) => None,
            Some(Err(error)) => {
                tracing::warn!(%error, name, "a watch fails");
                continue;
            }
        };
        let value = match object.map(&read).transpose() {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(
                    error,
                    name,
                    "it cannot be used; what was there before stays"
                );
                continue;
            }
        };
        latest.send_if_modified(|latest| {
            let differs = *latest != value;
            *latest = value;
            differs
        });
    }
}

fn secrets(client: &Client, namespace: &str) -> Api<Secret> {
    Api::namespaced(client.clone(), namespace)
}

fn config_maps(client: &Client, namespace: &str) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), namespace)
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([(
            "app.kubernetes.io/part-of".to_owned(),
            "warren".to_owned(),
        )])),
        ..ObjectMeta::default()
    }
}

fn data(secret: Secret) -> SecretData {
    let entries = secret.data.unwrap_or_default().into_iter();
    SecretData(
        entries
            .map(|(key, ByteString(bytes))| (key, bytes))
            .collect(),
    )
}

fn bytes(data: &SecretData) -> BTreeMap<String, ByteString> {
    let entries = data.0.iter();
    entries
        .map(|(key, bytes)| (key.clone(), ByteString(bytes.clone())))
        .collect()
}

/// What the server says, without everything else that came with it.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
