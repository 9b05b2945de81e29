//! The other controllers of the mesh: where they are, so that what is asked of their nodes can be passed on.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_distribution::node::{ClientTls, Connect, TlsConnect};
use mesh_distribution::relay::Fleet;
use mesh_identity::tls;
use mesh_kubernetes::{Client, client};
use tokio::sync::watch;
use tokio_rustls::rustls::ClientConfig;

use super::keys::Keys;

/// How often is looked where they are.
const LOOK: Duration = Duration::from_secs(3);

/// Keeps `fleet` and `found` told of them, until dropped. `port` is the one on which we serve nodes ourselves.
pub(super) async fn follow(
    client: Client,
    namespace: String,
    port: u16,
    keys: Arc<Keys>,
    fleet: Fleet,
    found: watch::Sender<BTreeSet<String>>,
) {
    let mut known = BTreeSet::new();
    loop {
        match client::controller_addresses(&client, &namespace).await {
            Ok(addresses) => {
                let own = own_addresses();
                let others: BTreeSet<SocketAddr> = addresses
                    .into_iter()
                    .filter(|address| !(address.port() == port && own.contains(&address.ip())))
                    .collect();
                if others != known {
                    tracing::info!(others = ?others, "the other controllers");
                    fleet.set_replicas(others.iter().map(|at| replica(*at, &keys)).collect());
                    found.send_replace(others.iter().map(ToString::to_string).collect());
                    known = others;
                }
            }
            Err(error) => tracing::debug!(%error, "the other controllers cannot be looked up"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn replica(at: SocketAddr, keys: &Arc<Keys>) -> (String, Arc<dyn Connect>) {
    let connect = TlsConnect {
        target: at.to_string(),
        name: tls::server_name(&keys.identity),
        tls: Current(Arc::clone(keys)),
    };
    (at.to_string(), Arc::new(connect))
}

/// Whatever is shown to other controllers at the moment.
struct Current(Arc<Keys>);

impl ClientTls for Current {
    fn config(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<ClientConfig>, String>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(self.0.for_replicas())))
    }
}

/// The addresses of this machine or pod: ours, among those of all controllers.
fn own_addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return BTreeSet::new();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
            v4.or_else(v6)
        })
        .collect()
}
