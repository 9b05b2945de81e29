//! A chain of certificates as a peer presents it.

use std::sync::LazyLock;
use std::time::Duration;

use mesh_core::identity::TrustDomain;
use mesh_identity::{TrustBundle, svid};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::script::Script;

/// A root, and a certificate that it issued; valid at [`NOW`].
pub const ROOT: &[u8] = include_bytes!("../fixtures/root.der");
/// See [`ROOT`].
pub const LEAF: &[u8] = include_bytes!("../fixtures/leaf.der");

/// A moment at which the seeds are valid.
pub const NOW: u64 = 1_800_000_000;

static BUNDLE: LazyLock<TrustBundle> = LazyLock::new(|| {
    let domain = TrustDomain::new("fuzz.warren").expect("a trust domain");
    TrustBundle::from_der(&domain, [ROOT.to_vec()]).expect("a bundle")
});

/// Nobody forges a signature here: only the one certificate is accepted, and errors can be told.
pub fn run(input: &[u8]) {
    let mut script = Script(input);
    let mut chain = Vec::new();
    while !script.is_over() {
        let length = script.pair();
        chain.push(CertificateDer::from(script.bytes(length)));
    }
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    match svid::verify(&BUNDLE, &chain, now) {
        Ok(identity) => {
            assert_eq!(
                chain[0].as_ref(),
                LEAF,
                "a certificate that was never issued"
            );
            assert_eq!(
                identity.to_string(),
                "spiffe://fuzz.warren/ns/shop/sa/client"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Some(leaf) = chain.first()
        && let Ok(identity) = svid::identity_in(leaf)
    {
        assert_eq!(identity.to_string().parse(), Ok(identity));
    }
}
