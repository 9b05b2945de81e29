//! A node whose certificates a controller signs, in simulated time.

use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_identity::TrustBundle;
use mesh_identity::authority::Authority;
use mesh_identity::store::{Due, Store};

use super::{authority, domain, id};

pub const HOUR: Duration = Duration::from_secs(3600);
pub const SECOND: Duration = Duration::from_secs(1);

/// A node and the controller that signs for it.
pub struct Cluster {
    pub authority: Authority,
    pub store: Store,
    pub now: SystemTime,
}

impl Cluster {
    pub fn new(names: &[&str]) -> Self {
        let authority = authority();
        let mut store = Store::remote(authority.bundle(), HOUR);
        store.want(names.iter().map(|name| id(name)));
        let mut cluster = Self {
            authority,
            store,
            now: SystemTime::now(),
        };
        cluster.tell();
        cluster
    }

    /// The controller tells which roots are trusted, as a text, the one that signs first.
    pub fn tell(&mut self) {
        let pem = self.authority.bundle().to_pem();
        let bundle = TrustBundle::from_pem(&domain(), pem.as_bytes()).unwrap();
        self.store.trust(bundle, None, self.now);
    }

    pub fn sign(&self, due: &Due) -> Vec<Vec<u8>> {
        self.authority
            .sign_request(&due.csr, &due.identity, HOUR, self.now)
            .unwrap()
            .into_iter()
            .map(|certificate| certificate.to_vec())
            .collect()
    }

    /// Asks for what is due, and takes all answers. Says whose certificates are new.
    pub fn catch_up(&mut self) -> Vec<SpiffeId> {
        let due = self.store.requests_due(self.now);
        for due in &due {
            let chain = self.sign(due);
            self.store.take(&due.identity, chain, self.now).unwrap();
        }
        due.into_iter().map(|due| due.identity).collect()
    }

    pub fn serial(&self, name: &str) -> String {
        self.store
            .certificate(&id(name))
            .unwrap()
            .serial()
            .to_owned()
    }

    pub fn wait(&self, name: &str) -> u64 {
        let due = self.store.renews_at(&id(name)).unwrap();
        due.duration_since(self.now).unwrap().as_secs()
    }
}
