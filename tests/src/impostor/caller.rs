//! The dialling side: shows its papers to a workload's tunnel port and asks for a stream.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::frames::{DATA, Frame, OPEN_RESULT, RAW, RESET};
use super::papers::Papers;
use super::{PROTOCOL, TUNNEL_PORT, provider};
use crate::host::namespace::Namespace;

/// Patience with an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The only stream.
const STREAM: u32 = 1;

/// A connection to a tunnel port.
pub struct Caller {
    tls: StreamOwned<ClientConnection, TcpStream>,
    /// The stream has the rest of the tunnel to itself.
    raw: bool,
    own: SocketAddr,
}

/// What came of asking for a stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The application has it.
    Taken,
    /// It was refused, with a code and words: the peer itself was accepted.
    Refused(u8, String),
    /// The connection ended: the peer was not accepted.
    Ended(String),
}

impl Caller {
    /// Connects from a namespace. In TLS 1.3 a client does not learn from the handshake whether it was accepted.
    pub fn dial(from: &Namespace, to: SocketAddr, papers: Option<&Papers>) -> Result<Self> {
        let to = SocketAddr::new(to.ip(), TUNNEL_PORT);
        let socket = from
            .enter(|| TcpStream::connect_timeout(&to, PATIENCE))?
            .with_context(|| format!("connect to {to}"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let own = socket.local_addr()?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match papers {
            Some(Papers { chain, key }) => {
                config.with_client_auth_cert(chain.clone(), key.clone_key())?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        let name = ServerName::try_from("anybody.warren.invalid")?;
        let mut tls = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, socket);
        tls.conn
            .complete_io(&mut tls.sock)
            .context("shake hands as client")?;
        Ok(Self {
            tls,
            raw: false,
            own,
        })
    }

    /// The certificate that the workload showed.
    pub fn shown(&self) -> Result<CertificateDer<'static>> {
        self.tls
            .conn
            .peer_certificates()
            .and_then(|chain| chain.first())
            .cloned()
            .context("the server showed no certificate")
    }

    /// Asks for a stream to an application, and sends it the first bytes without waiting for the answer.
    pub fn open(&mut self, destination: SocketAddr, first: &str) -> Answer {
        self.try_open(destination, first)
            .unwrap_or_else(|error| Answer::Ended(format!("{error:#}")))
    }

    fn try_open(&mut self, destination: SocketAddr, first: &str) -> Result<Answer> {
        Frame::open(STREAM, destination, self.own).write(&mut self.tls)?;
        if !first.is_empty() {
            self.send(first)?;
        }
        loop {
            let frame = Frame::read(&mut self.tls)?;
            if frame.kind == OPEN_RESULT {
                return Ok(match frame.payload.as_slice() {
                    [0] => Answer::Taken,
                    [code, words @ ..] => {
                        Answer::Refused(*code, String::from_utf8_lossy(words).into_owned())
                    }
                    [] => bail!("an empty answer"),
                });
            }
        }
    }

    /// Says something and expects it back.
    pub fn echo(&mut self, text: &str) -> Result<()> {
        self.send(text)?;
        self.expect(text)
    }

    fn send(&mut self, text: &str) -> Result<()> {
        Frame::new(DATA, STREAM, text.as_bytes().to_vec()).write(&mut self.tls)?;
        Ok(())
    }

    /// Waits for these bytes of the application.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        let mut got = Vec::new();
        while got.len() < text.len() {
            if self.raw {
                let mut buffer = [0; 4_096];
                let count = self.tls.read(&mut buffer)?;
                if count == 0 {
                    bail!("the tunnel ended");
                }
                got.extend(&buffer[..count]);
                continue;
            }
            let frame = Frame::read(&mut self.tls)?;
            match frame.kind {
                DATA => got.extend(frame.payload),
                RAW => self.raw = true,
                _ => {}
            }
        }
        if got != text.as_bytes() {
            bail!(
                "sent {text:?}, got {:?} back",
                String::from_utf8_lossy(&got)
            );
        }
        Ok(())
    }

    /// Waits until the stream has been reset by the other side, or the tunnel ended; says which.
    pub fn reset(&mut self, within: Duration) -> Result<&'static str> {
        self.tls.sock.set_read_timeout(Some(within))?;
        loop {
            match Frame::read(&mut self.tls) {
                Ok(frame) if frame.kind == RESET => return Ok("its stream was reset"),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {
                    bail!("the stream lives after {} ms", within.as_millis())
                }
                Err(_ended) => return Ok("its tunnel was ended"),
            }
        }
    }

    /// Waits until the tunnel has been ended by the other side.
    pub fn ended(&mut self, within: Duration) -> Result<()> {
        self.tls.sock.set_read_timeout(Some(within))?;
        let mut buffer = [0; 4_096];
        loop {
            match self.tls.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {
                    bail!("the tunnel lives after {} ms", within.as_millis())
                }
                Err(_reset) => return Ok(()),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.tls.conn.send_close_notify();
        // Whether anybody hears it does not matter to the stories.
        drop(self.tls.flush());
    }
}

/// Takes any server: whom it talks to is not what this side is about.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
