//! TLS, from the first byte of a hello to the last record, in both roles: bytes of anybody, or of a real peer with some of
//! them changed on the way.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_identity::authority::Authority;
use mesh_identity::tls;
use mesh_proxy::fuzzing::{Plan, channel};

use crate::script::Script;

/// The largest number of changes.
const EDITS: u8 = 4;

struct Mesh {
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
    identities: [SpiffeId; 2],
}

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a folder");
    let domain = TrustDomain::new("fuzz.warren").expect("a trust domain");
    let identities = ["client", "server"]
        .map(|account| SpiffeId::new(domain.clone(), "shop", account).expect("an identity"));
    let authority = Authority::open_or_create(directory.path(), &domain).expect("an authority");
    let bundle = authority.bundle();
    let [client, server] = identities.each_ref().map(|identity| {
        authority
            .issue(identity, Duration::from_secs(86_400))
            .expect("a certificate")
    });
    Mesh {
        client: tls::client_config(&client, &bundle, &identities[1..]).expect("a configuration"),
        server: tls::server_config(&[server], &bundle).expect("a configuration"),
        identities,
    }
});

/// What is decrypted is what the peer said, and the peer is who it is.
pub fn run(input: &[u8]) {
    let mut script = Script(input);
    let flags = script.byte();
    let accepting = flags & 1 == 0;
    let [client, server] = &MESH.identities;
    let mut plan = Plan {
        client: Arc::clone(&MESH.client),
        server: Arc::clone(&MESH.server),
        name: tls::server_name(server),
        peer: if accepting {
            client.clone()
        } else {
            server.clone()
        },
        accepting,
        bytes: None,
        edits: Vec::new(),
        piece: script.pair(),
        says: Vec::new(),
        renews_before: usize::from(flags >> 4),
        closes: flags & 4 != 0,
    };
    if flags & 2 == 0 {
        plan.bytes = Some(script.0);
    } else {
        for _ in 0..script.byte() % (EDITS + 1) {
            plan.edits
                .push((script.pair(), script.byte() % 5, script.byte()));
        }
        while !script.is_over() {
            let length = script.pair() % 20_000;
            plan.says.push(script.bytes(length));
        }
    }
    channel(&plan);
}
