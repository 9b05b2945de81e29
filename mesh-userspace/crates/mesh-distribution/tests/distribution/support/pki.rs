//! A certificate authority, and who is behind which of its certificates.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use mesh_distribution::server::{Identified, Identify, Peer};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::NAME;

/// Who may be whom.
pub(crate) struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
    peers: Arc<Mutex<HashMap<Vec<u8>, Identified>>>,
}

impl Pki {
    pub(crate) fn new() -> Arc<Self> {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a root");
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).expect("a root");
        Arc::new(Self {
            issuer,
            roots: roots.into(),
            peers: Arc::default(),
        })
    }

    fn leaf(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a leaf");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (leaf.der().clone(), key)
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let (leaf, key) = self.leaf(NAME);
        let verifier = WebPkiClientVerifier::builder(self.roots.clone())
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf], key);
        Arc::new(config.expect("a configuration"))
    }

    /// A client that shows who it is until `until`; anonymous ones show nothing.
    pub(crate) fn client_until(&self, peer: Peer, until: SystemTime) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder().with_root_certificates(self.roots.clone());
        if peer == Peer::Anonymous {
            return Arc::new(builder.with_no_client_auth());
        }
        let (leaf, key) = self.leaf("client");
        let identified = Identified { peer, until };
        let mut peers = self.peers.lock().expect("not poisoned");
        peers.insert(leaf.to_vec(), identified);
        drop(peers);
        let config = builder.with_client_auth_cert(vec![leaf], key);
        Arc::new(config.expect("a configuration"))
    }

    pub(crate) fn client(&self, peer: Peer) -> Arc<ClientConfig> {
        self.client_until(peer, SystemTime::now() + Duration::from_secs(3600))
    }

    /// A certificate and its key for somebody who runs elsewhere, DER.
    pub(crate) fn certificate(&self, peer: Peer) -> (Vec<u8>, Vec<u8>) {
        let (leaf, key) = self.leaf("client");
        let until = SystemTime::now() + Duration::from_secs(3600);
        let identified = Identified { peer, until };
        let mut peers = self.peers.lock().expect("not poisoned");
        peers.insert(leaf.to_vec(), identified);
        (leaf.to_vec(), key.secret_der().to_vec())
    }

    pub(crate) fn root(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// A certificate of this authority that names nobody known.
    pub(crate) fn stranger(&self) -> Arc<ClientConfig> {
        let (leaf, key) = self.leaf("client");
        let builder = ClientConfig::builder().with_root_certificates(self.roots.clone());
        let config = builder.with_client_auth_cert(vec![leaf], key);
        Arc::new(config.expect("a configuration"))
    }

    pub(crate) fn identify(&self) -> Identify {
        let peers = self.peers.clone();
        Arc::new(move |chain| {
            let leaf = chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
            let peers = peers.lock().expect("not poisoned");
            peers.get(&leaf).cloned().ok_or_else(|| "nobody".to_owned())
        })
    }
}
