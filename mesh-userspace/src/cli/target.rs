//! Whom a verb asks: this node's agent, or a cluster.

use std::path::{Path, PathBuf};

use mesh_kubernetes::raw::{ConnectError, Connection};

use super::CliError;
use super::args::Global;
use super::kubectl;
use crate::api::client::{Client, ClientError, Cluster};

/// Whom a verb can ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Whom {
    /// A node only.
    Node,
    /// A cluster only.
    Cluster,
    /// Whichever is there.
    Either,
    /// Whichever is there; else this machine, of which something can be said without anybody being asked.
    EitherOrMachine,
}

/// The node's socket, given or not.
pub(crate) fn socket(global: &Global) -> PathBuf {
    global
        .socket
        .clone()
        .unwrap_or_else(|| Path::new(crate::api::DEFAULT_RUN_DIR).join(crate::api::SOCKET_NAME))
}

/// Chooses: what was said; else the node, where there is one; else the cluster.
pub(crate) async fn client(global: &Global, whom: Whom) -> Result<Client, CliError> {
    let socket = socket(global);
    let said_cluster =
        global.kubeconfig.is_some() || global.context.is_some() || kubectl::is_plugin();
    let node = match whom {
        Whom::Node => true,
        Whom::Cluster if global.socket.is_some() => {
            return Err(CliError::Usage(
                "labels are a cluster's; --socket names a node, where the configuration file says what is in the mesh"
                    .to_owned(),
            ));
        }
        Whom::Cluster => false,
        Whom::Either | Whom::EitherOrMachine => {
            global.socket.is_some() || (!said_cluster && exists(&socket))
        }
    };
    if node {
        return Ok(Client::of_node(&socket, global.timeout));
    }
    match Connection::open(global.kubeconfig.as_deref(), global.context.as_deref()).await {
        Ok(connection) => Ok(Client::of_cluster(Cluster::new(connection), global.timeout)),
        Err(ConnectError::Nowhere { .. }) if whom == Whom::EitherOrMachine => {
            Ok(Client::of_node(&socket, global.timeout))
        }
        Err(error @ ConnectError::Nowhere { .. }) => Err(ClientError::Nobody {
            socket,
            source: error.into(),
        }
        .into()),
        Err(error) => Err(ClientError::Kubeconfig(error.into()).into()),
    }
}

/// A socket in a folder that may not be looked into is there, as far as one can tell.
fn exists(socket: &Path) -> bool {
    match socket.try_exists() {
        Ok(exists) => exists,
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}
