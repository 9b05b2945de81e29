//! A connection to whichever controller answers at an address.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Connect, Connection};

/// How long one address may take, handshake included.
const PATIENCE: Duration = Duration::from_secs(5);

/// The TLS configuration for the next connection: the node's current certificate, the roots, and who the controller has to
/// be. It may take a while: the first one needs an enrolment.
pub trait ClientTls: Send + Sync + 'static {
    /// The configuration, or why there is none.
    fn config(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<ClientConfig>, String>> + Send + '_>>;
}

/// A configuration that stays as it is.
impl ClientTls for Arc<ClientConfig> {
    fn config(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<ClientConfig>, String>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }
}

/// TLS over TCP.
#[derive(Clone, Debug)]
pub struct TlsConnect<T> {
    /// Name or address, and port.
    pub target: String,
    /// For the server's name indication; whom the configuration takes for the controller is its matter.
    pub name: ServerName<'static>,
    /// The configuration.
    pub tls: T,
}

impl<T: ClientTls> Connect for TlsConnect<T> {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Connection, String>> + Send + '_>> {
        Box::pin(self.any())
    }
}

impl<T: ClientTls> TlsConnect<T> {
    /// The first of the addresses that works, in an order of chance: replicas share the nodes.
    async fn any(&self) -> Result<Connection, String> {
        let target = &self.target;
        let config = self.tls.config().await?;
        let addresses = tokio::net::lookup_host(target)
            .await
            .map_err(|error| format!("{target} has no address: {error}"))?;
        let mut addresses: Vec<SocketAddr> = addresses.collect();
        addresses.shuffle(&mut rand::rng());
        let mut why = format!("{target} has no address");
        for address in addresses {
            let one = self.one(address, config.clone());
            why = match tokio::time::timeout(PATIENCE, one).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_late) => format!(
                    "{target} ({address}) did not answer within {} s",
                    PATIENCE.as_secs()
                ),
            };
        }
        Err(why)
    }

    async fn one(
        &self,
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> Result<Connection, String> {
        let target = &self.target;
        let to = format!("{target} ({address})");
        let socket = TcpStream::connect(address)
            .await
            .map_err(|error| format!("cannot connect to {to}: {error}"))?;
        socket
            .set_nodelay(true)
            .map_err(|error| format!("cannot set up the connection to {to}: {error}"))?;
        let stream = TlsConnector::from(config)
            .connect(self.name.clone(), socket)
            .await
            .map_err(|error| format!("no TLS with {to}: {error}"))?;
        let io = Box::new(stream);
        Ok(Connection { io, to })
    }
}
