//! The handshake: rustls decides, and what it decides on is kept; then the traffic keys are taken over.
//!
//! What the side that dialled says last is not written at once: it leaves together with the first records, which saves a
//! system call and a segment for every new tunnel.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{
    ClientHello, ResolvesServerCert, ServerConnectionData, UnbufferedServerConnection,
};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CommonState, ConnectionTrafficSecrets, ExtractedSecrets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::record::{Opener, Sealer};
use super::{ALPN, Channel, Session, TlsError};

/// What a peer may make us keep before it has proved who it is. rustls limits a message to 64 KiB.
const MAX_INCOMING: usize = 72 * 1024;

/// First guess for both flights: with post-quantum key exchange and a short chain they fit.
const FLIGHT: usize = 4096;

/// Makes new traffic keys when one side wants them renewed.
pub(super) enum Keys {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Keys {
    /// Handles a handshake message that came after the handshake. Returns whether the peer wants our keys renewed.
    ///
    /// Only KeyUpdate (RFC 8446 §4.6.3), alone in its record as it must be, because the next record has other keys.
    /// Tickets are not asked for, and a peer that speaks our protocol sends none.
    pub(super) fn received(
        &mut self,
        message: &[u8],
        opener: &mut Opener,
    ) -> Result<bool, TlsError> {
        let &[24, 0, 0, 1, request @ (0 | 1)] = message else {
            return Err(TlsError::Record(
                "it carries a handshake message out of place",
            ));
        };
        let secrets = match self {
            Self::Client(keys) => keys.update_rx_secret(),
            Self::Server(keys) => keys.update_rx_secret(),
        };
        *opener = Opener::new(secrets.map_err(TlsError::Handshake)?)?;
        Ok(request == 1)
    }

    /// Our next keys.
    pub(super) fn renew(&mut self) -> Result<Sealer, TlsError> {
        let secrets: (u64, ConnectionTrafficSecrets) = match self {
            Self::Client(keys) => keys.update_tx_secret(),
            Self::Server(keys) => keys.update_tx_secret(),
        }
        .map_err(TlsError::Handshake)?;
        Sealer::new(secrets)
    }
}

pub(super) async fn client(
    socket: TcpStream,
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
) -> Result<(Channel, Session), TlsError> {
    let config = if config.enable_secret_extraction {
        config
    } else {
        let mut config = (*config).clone();
        config.enable_secret_extraction = true;
        Arc::new(config)
    };
    let side = UnbufferedClientConnection::new(config, name).map_err(TlsError::Handshake)?;
    shake(socket, side).await
}

pub(super) async fn server(
    socket: TcpStream,
    config: Arc<rustls::ServerConfig>,
) -> Result<(Channel, Session), TlsError> {
    // Which certificate was shown is known to the resolver alone.
    let shown = Arc::new(Witness {
        resolver: Arc::clone(&config.cert_resolver),
        shown: Mutex::default(),
    });
    let mut config = (*config).clone();
    config.enable_secret_extraction = true;
    config.cert_resolver = Arc::clone(&shown) as Arc<dyn ResolvesServerCert>;
    let side = UnbufferedServerConnection::new(Arc::new(config)).map_err(TlsError::Handshake)?;
    let (channel, mut session) = shake(socket, side).await?;
    let mut chain = shown.shown.lock().unwrap_or_else(PoisonError::into_inner);
    session.shown = std::mem::take(&mut *chain);
    Ok((channel, session))
}

/// Passes the choice of the certificate on, and remembers it.
#[derive(Debug)]
struct Witness {
    resolver: Arc<dyn ResolvesServerCert>,
    shown: Mutex<Vec<CertificateDer<'static>>>,
}

impl ResolvesServerCert for Witness {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.resolver.resolve(hello)?;
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.clone_from(&chosen.cert);
        Some(chosen)
    }
}

/// What both sides have in common.
trait Side: Sized {
    type Data;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn take_keys(self) -> Result<(ExtractedSecrets, Keys), rustls::Error>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn take_keys(self) -> Result<(ExtractedSecrets, Keys), rustls::Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keys::Client(keys)))
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn take_keys(self) -> Result<(ExtractedSecrets, Keys), rustls::Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keys::Server(keys)))
    }
}

/// Both directions of a handshake.
#[derive(Default)]
struct Flights {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Application bytes that came right behind the handshake.
    early: VecDeque<Vec<u8>>,
}

/// What the handshake needs next.
enum Step {
    Read,
    Done,
}

async fn shake<S: Side>(
    mut socket: TcpStream,
    mut side: S,
) -> Result<(Channel, Session), TlsError> {
    let mut flights = Flights::default();
    loop {
        match flights.advance(&mut side) {
            Ok(Step::Read) => {}
            Ok(Step::Done) => break,
            Err(error) => {
                // The peer is told by an alert, if rustls made one; it is our error all the same when that fails.
                let _told = socket.write_all(&flights.outgoing).await;
                return Err(error);
            }
        }
        socket
            .write_all(&flights.outgoing)
            .await
            .map_err(TlsError::Socket)?;
        flights.outgoing.clear();
        if flights.incoming.len() >= MAX_INCOMING {
            return Err(TlsError::Record("the handshake is too large"));
        }
        flights.incoming.reserve(FLIGHT);
        let count = socket
            .read_buf(&mut flights.incoming)
            .await
            .map_err(TlsError::Socket)?;
        if count == 0 {
            return Err(TlsError::Socket(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    finish(socket, side, flights)
}

impl Flights {
    /// Goes as far as it goes without the network.
    fn advance<S: Side>(&mut self, side: &mut S) -> Result<Step, TlsError> {
        loop {
            let UnbufferedStatus { mut discard, state } = side.process(&mut self.incoming);
            let step = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.outgoing, |space| data.encode(space))?;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // Written when we have to wait for the peer anyway, or with the first records.
                    data.done();
                    None
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(TlsError::Handshake)?;
                        discard += record.discard;
                        if !record.payload.is_empty() {
                            self.early.push_back(record.payload.to_vec());
                        }
                    }
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Step::Read),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Step::Done),
                Ok(_) => return Err(TlsError::Record("the peer closed before it began")),
                Err(error) => {
                    self.incoming.drain(..discard);
                    self.append_alert(side);
                    return Err(TlsError::Handshake(error));
                }
            };
            self.incoming.drain(..discard);
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    /// After an error rustls has an alert to send, at most. It is given the same bytes again, because it remembers how far
    /// it came in them; and only once, because it would find the same error in them again.
    fn append_alert<S: Side>(&mut self, side: &mut S) {
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) =
            side.process(&mut self.incoming).state
            && append(&mut self.outgoing, |space| alert.encode(space)).is_err()
        {
            self.outgoing.clear();
        }
    }
}

/// Appends what `encode` writes, with as much space as it asks for.
fn append(
    out: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), TlsError> {
    let begin = out.len();
    out.resize(begin + FLIGHT, 0);
    let written = match encode(&mut out[begin..]) {
        Err(EncodeError::InsufficientSize(needed)) => {
            out.resize(begin + needed.required_size, 0);
            encode(&mut out[begin..])
        }
        other => other,
    };
    out.truncate(begin + written.as_ref().map_or(0, |written| *written));
    written
        .map(drop)
        .map_err(|error| TlsError::Handshake(rustls::Error::General(error.to_string())))
}

/// Takes over from rustls.
fn finish<S: Side>(
    socket: TcpStream,
    side: S,
    flights: Flights,
) -> Result<(Channel, Session), TlsError> {
    let Flights {
        incoming,
        outgoing,
        early,
    } = flights;
    let common = side.common();
    if common.alpn_protocol() != Some(ALPN) {
        return Err(TlsError::Protocol);
    }
    let session = Session {
        peer: common
            .peer_certificates()
            .into_iter()
            .flatten()
            .map(|certificate| certificate.clone().into_owned())
            .collect(),
        shown: Vec::new(),
        // No other version is ever offered or accepted.
        name: format!(
            "TLSv1.3 {}",
            common
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or_default(),
        ),
    };
    let (secrets, keys) = side.take_keys().map_err(TlsError::Handshake)?;
    let channel = Channel {
        socket: Rc::new(socket),
        watch: None,
        opener: Opener::new(secrets.rx)?,
        sealer: Sealer::new(secrets.tx)?,
        keys,
        inbox: Inbox::new(early, incoming),
        outbox: Outbox::new(&outgoing),
    };
    Ok((channel, session))
}
