//! Our side of handshakes with peers that are as good or bad as a test wants.

use std::time::Duration;

use mesh_core::outcome::Reason;
use mesh_identity::authority::Authority;
use mesh_identity::failure::explain;
use mesh_identity::{Certificate, TrustBundle, tls};

use super::{MARKER, Made, Maker, domain, handshake, id};

/// Our own side of a handshake, trusting `maker`'s root.
pub struct Us {
    pub certificate: Certificate,
    pub bundle: TrustBundle,
}

impl Us {
    /// A good certificate needs an authority; a bundle of both roots lets it talk to what `maker` made.
    pub fn trusting(maker: &Maker) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(directory.path(), &domain()).expect("authority");
        let certificate = authority
            .issue(&id("us"), Duration::from_secs(3600))
            .expect("issued");
        let roots = [authority.bundle().to_der(), maker.bundle().to_der()].concat();
        let bundle = TrustBundle::from_der(&domain(), roots).expect("a bundle");
        Self {
            certificate,
            bundle,
        }
    }

    /// The peer serves, then dials; it must be refused both times, with these words.
    pub fn refuse(&self, what: &str, peer: &Made, words: &str) {
        let config = tls::client_config(&self.certificate, &self.bundle, &[id("peer")]).unwrap();
        let ended = handshake(config, peer.server(), tls::server_name(&id("peer")));
        let error = ended
            .client_error
            .unwrap_or_else(|| panic!("{what}: our client accepted it"));
        check_refusal(&format!("{what}, serving"), &error, words);
        assert!(
            !ended.received.windows(4).any(|w| MARKER.starts_with(w)),
            "{what}: application bytes went out"
        );

        let config = tls::server_config(std::slice::from_ref(&self.certificate), &self.bundle);
        let ended = handshake(peer.client(), config.unwrap(), tls::server_name(&id("us")));
        let error = ended
            .server_error
            .unwrap_or_else(|| panic!("{what}: our server accepted it"));
        check_refusal(&format!("{what}, dialling"), &error, words);
        assert!(
            ended.received.is_empty(),
            "{what}: application bytes got in"
        );
    }

    pub fn accept(&self, what: &str, peer: &Made) {
        let config = tls::client_config(&self.certificate, &self.bundle, &[id("peer")]).unwrap();
        let ended = handshake(config, peer.server(), tls::server_name(&id("peer")));
        assert!(
            ended.is_good(),
            "{what}: {:?} {:?}",
            ended.client_error,
            ended.server_error
        );

        let config = tls::server_config(std::slice::from_ref(&self.certificate), &self.bundle);
        let ended = handshake(peer.client(), config.unwrap(), tls::server_name(&id("us")));
        assert!(
            ended.is_good(),
            "{what}: {:?} {:?}",
            ended.client_error,
            ended.server_error
        );
        let chain = ended.server.peer_certificates().expect("a peer");
        assert_eq!(tls::peer_identity(chain).expect("an identity"), id("peer"));
    }
}

pub fn check_refusal(what: &str, error: &rustls::Error, words: &str) {
    let failure = explain(error);
    assert_eq!(failure.reason, Reason::PeerIdentity, "{what}: {failure:?}");
    assert!(
        failure.detail.contains(words),
        "{what}: {:?} lacks {words:?}",
        failure.detail
    );
}
