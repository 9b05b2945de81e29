//! How the Kubernetes API server asks the controller (API aggregation): by what it is to be recognised, and by what it
//! recognises the controller.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

/// Where the API server says who may ask in the name of others.
const CLIENTS: (&str, &str) = ("kube-system", "extension-apiserver-authentication");

/// The data of the ConfigMap that says by what the API server is recognised: authority, names, headers.
///
/// # Errors
/// It is not there, or may not be read.
pub async fn request_headers(client: &Client) -> Result<BTreeMap<String, String>, kube::Error> {
    let (namespace, name) = CLIENTS;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    Ok(maps.get(name).await?.data.unwrap_or_default())
}

/// Has the API server take the controller for who it is, by `roots` (PEM). Says whether that was new.
///
/// # Errors
/// The APIService is not there, or may not be changed.
pub async fn announce(client: &Client, name: &str, roots: &str) -> Result<bool, kube::Error> {
    let services: Api<APIService> = Api::all(client.clone());
    let service = services.get(name).await?;
    let said = service.spec.and_then(|spec| spec.ca_bundle);
    let wanted = ByteString(roots.as_bytes().to_vec());
    if said.as_ref() == Some(&wanted) {
        return Ok(false);
    }
    let patch = json!({ "spec": { "caBundle": wanted } });
    services
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(true)
}
