//! The accepting side: sits where a workload should be, shows its papers to whoever dials, and echoes what it is told.

use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection, SignatureScheme,
    StreamOwned,
};

use super::frames::{DATA, FIN, Frame, OPEN, OPEN_RESULT};
use super::papers::Papers;
use super::{PROTOCOL, TUNNEL_PORT, provider};
use crate::host::namespace::Namespace;

/// What one client did.
#[derive(Clone, Debug)]
pub struct Met {
    /// Frames that it sent, by type: none from a client that did not accept the papers.
    pub frames: Vec<u8>,
    /// How it ended.
    pub end: String,
}

/// A server that claims to be a workload.
pub struct Impostor {
    papers: Arc<Mutex<Papers>>,
    met: Receiver<Met>,
}

impl Impostor {
    /// Listens on the tunnel port of a namespace, until the story's process ends.
    pub fn listen(place: &Namespace, papers: Papers) -> Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, TUNNEL_PORT));
        let listener = place
            .enter(|| TcpListener::bind(any))?
            .with_context(|| format!("listen on {any}"))?;
        let papers = Arc::new(Mutex::new(papers));
        let (say, met) = channel();
        let shown = Arc::clone(&papers);
        thread::spawn(move || accept(&listener, &shown, &say));
        Ok(Self { papers, met })
    }

    /// Shows other papers from now on.
    pub fn show(&self, papers: Papers) {
        *self.papers.lock().unwrap_or_else(PoisonError::into_inner) = papers;
        while self.met.try_recv().is_ok() {}
    }

    /// The next client that has left.
    pub fn met(&self) -> Result<Met> {
        self.met
            .recv_timeout(Duration::from_secs(10))
            .context("nobody came")
    }
}

fn accept(listener: &TcpListener, papers: &Mutex<Papers>, say: &Sender<Met>) {
    for socket in listener.incoming().flatten() {
        let papers = papers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let say = say.clone();
        thread::spawn(move || {
            let mut frames = Vec::new();
            let end = serve(socket, papers, &mut frames)
                .map_or_else(|error| format!("{error:#}"), |()| "closed".to_owned());
            // The story may be over.
            drop(say.send(Met { frames, end }));
        });
    }
}

fn serve(socket: TcpStream, papers: Papers, frames: &mut Vec<u8>) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_single_cert(papers.chain, papers.key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Peers of the mesh resume nothing, and take a ticket for a breach of the protocol.
    config.send_tls13_tickets = 0;
    let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(config))?, socket);
    tls.conn
        .complete_io(&mut tls.sock)
        .context("shake hands as server")?;
    loop {
        let frame = Frame::read(&mut tls)?;
        frames.push(frame.kind);
        match frame.kind {
            OPEN => Frame::new(OPEN_RESULT, frame.stream, vec![0]).write(&mut tls)?,
            DATA => frame.write(&mut tls)?,
            // One stream only, so that the next one meets whoever the impostor is then.
            FIN => {
                frame.write(&mut tls)?;
                tls.conn.send_close_notify();
                tls.flush()?;
                return Ok(());
            }
            _ => {}
        }
    }
}

/// Takes any client, with or without a certificate.
#[derive(Debug)]
struct Anybody;

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
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
