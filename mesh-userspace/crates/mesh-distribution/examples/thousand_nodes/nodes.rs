//! The process that plays the nodes: each a real subscription, with a certificate of its own.

use std::io::Read;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use mesh_distribution::node::{Connect, Connection, Options, Subscription, TlsConnect};
use mesh_distribution::question::{Answer, Question};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::cluster::node_name;
use crate::support::NAME;

/// What the controller hands over: the root, and a certificate and a key per node.
pub(crate) struct Handover {
    pub(crate) root: Vec<u8>,
    pub(crate) nodes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Handover {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let parts = self.nodes.iter().flat_map(|(leaf, key)| [leaf, key]);
        for part in std::iter::once(&self.root).chain(parts) {
            bytes.extend((part.len() as u32).to_be_bytes());
            bytes.extend(part);
        }
        bytes
    }

    fn read(mut bytes: &[u8]) -> Result<Self> {
        let mut part = || -> Result<Option<Vec<u8>>> {
            let Some((length, rest)) = bytes.split_first_chunk() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes(*length) as usize;
            let (part, rest) = rest.split_at_checked(length).context("it is cut off")?;
            bytes = rest;
            Ok(Some(part.to_vec()))
        };
        let root = part()?.context("there is no root")?;
        let mut nodes = Vec::new();
        while let Some(leaf) = part()? {
            nodes.push((leaf, part()?.context("a key is missing")?));
        }
        Ok(Self { root, nodes })
    }
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let [target] = arguments else {
        bail!("nodes are started by the controller");
    };
    // The end of the input ends the nodes: they do not outlive who plays the controller.
    let mut input = std::io::stdin();
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::try_from(u64::from_be_bytes(length))?];
    input.read_exact(&mut bytes)?;
    let Handover { root, nodes } = Handover::read(&bytes)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root))?;
    let roots = Arc::new(roots);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut subscriptions = Vec::with_capacity(nodes.len());
        for (number, (leaf, key)) in nodes.into_iter().enumerate() {
            let tls = client(&roots, leaf, key)?;
            subscriptions.push(follow(number, target, tls)?);
        }
        tokio::task::spawn_blocking(move || input.read(&mut [0])).await??;
        anyhow::Ok(())
    })
}

fn client(roots: &Arc<RootCertStore>, leaf: Vec<u8>, key: Vec<u8>) -> Result<Arc<ClientConfig>> {
    let key = PrivateKeyDer::try_from(key).map_err(|why| anyhow::anyhow!("a bad key: {why}"))?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(vec![CertificateDer::from(leaf)], key)?;
    Ok(Arc::new(config))
}

fn follow(number: usize, target: &str, tls: Arc<ClientConfig>) -> Result<Subscription> {
    let connect = TlsConnect {
        target: target.to_owned(),
        name: ServerName::try_from(NAME)?,
        tls,
    };
    Ok(Subscription::start(Options {
        node: node_name(number),
        version: "benchmark".to_owned(),
        connect: Arc::new(Few(connect)),
        cache: None,
        answers: Arc::new(|_: Question| async { Answer::whole(404, "", "") }),
    }))
}

/// A few handshakes at a time: nodes of a real cluster have processors of their own.
struct Few(TlsConnect<Arc<ClientConfig>>);

static PLACES: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(16);

impl Connect for Few {
    fn connect(
        &self,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Connection, String>> + Send + '_>> {
        Box::pin(async {
            let _place = PLACES.acquire().await.map_err(|error| error.to_string())?;
            self.0.connect().await
        })
    }
}
