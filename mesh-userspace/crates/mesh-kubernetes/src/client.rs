//! How the API server is reached by the controller and the agents, and how agents find the controller.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::names;
use crate::observe::{Group, MemberState};
use crate::source::is_not_found;

/// Why the API server cannot be reached, or does not say what is asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct ClientError {
    what: &'static str,
    why: String,
}

impl ClientError {
    fn new(what: &'static str, why: impl ToString) -> Self {
        Self {
            what,
            why: why.to_string(),
        }
    }
}

/// Watches end after a minute and are begun again; a connection on which nothing comes for longer is dead.
const LONGEST_SILENCE: Duration = Duration::from_secs(75);

/// Name and number of the port on which the controller listens for nodes.
const CONTROLLER_PORT: (&str, u16) = ("grpc", 15010);

/// As the pod in which this runs.
///
/// # Errors
/// This is no pod, or its service account cannot be used.
pub fn in_cluster() -> Result<Client, ClientError> {
    let what = "the service account of this pod cannot be used";
    let config = Config::incluster().map_err(|error| ClientError::new(what, error))?;
    client(config, what)
}

/// As a kubeconfig says; `None`: where kubectl looks for one, else in-cluster.
///
/// # Errors
/// There is none, or it cannot be used.
pub async fn from_kubeconfig(
    file: Option<&Path>,
    context: Option<&str>,
) -> Result<Client, ClientError> {
    let what = "the kubeconfig cannot be used";
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let config = match file {
        Some(file) => {
            let read =
                Kubeconfig::read_from(file).map_err(|error| ClientError::new(what, error))?;
            Config::from_custom_kubeconfig(read, &options).await
        }
        None => match Config::from_kubeconfig(&options).await {
            Ok(config) => Ok(config),
            Err(_) if context.is_none() && Config::incluster().is_ok() => return in_cluster(),
            Err(error) => Err(error),
        },
    };
    client(config.map_err(|error| ClientError::new(what, error))?, what)
}

fn client(mut config: Config, what: &'static str) -> Result<Client, ClientError> {
    config.connect_timeout = Some(Duration::from_secs(10));
    config.read_timeout = Some(LONGEST_SILENCE);
    config.write_timeout = Some(LONGEST_SILENCE);
    Client::try_from(config).map_err(|error| ClientError::new(what, error))
}

/// Where the controller's ready replicas listen for nodes (port named `grpc`, else 15010): by EndpointSlice, core Endpoints
/// where that is absent. Empty when none is ready.
///
/// # Errors
/// The API server does not answer, or does not let us.
pub async fn controller_addresses(
    client: &Client,
    namespace: &str,
) -> Result<Vec<SocketAddr>, ClientError> {
    let what = "the controller's endpoints cannot be read";
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of_controller =
        ListParams::default().labels(&format!("kubernetes.io/service-name={}", names::CONTROLLER));
    let groups: Vec<Group> = match slices.list(&of_controller).await {
        Ok(slices) => slices.items.into_iter().map(Group::from).collect(),
        Err(error) if is_not_found(&error) => {
            let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), namespace);
            let found = endpoints.get_opt(names::CONTROLLER).await;
            let found = found.map_err(|error| ClientError::new(what, error))?;
            found.into_iter().map(Group::from).collect()
        }
        Err(error) => return Err(ClientError::new(what, error)),
    };
    Ok(listening(&groups))
}

fn listening(groups: &[Group]) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for part in groups.iter().flat_map(|group| &group.parts) {
        let (name, number) = CONTROLLER_PORT;
        let named = part
            .ports
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, port)| *port);
        let port = named.unwrap_or(number);
        let ready = part
            .members
            .iter()
            .filter(|member| member.state == MemberState::Ready);
        addresses.extend(ready.map(|member| SocketAddr::new(member.address, port)));
    }
    addresses.sort_by_key(|address| (IpAddr::is_ipv6(&address.ip()), *address));
    addresses.dedup();
    addresses
}
