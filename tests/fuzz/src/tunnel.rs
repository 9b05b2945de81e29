//! The streams of a tunnel, and a peer that breaks every rule it can. The rules of the script are in
//! `mesh-proxy/src/tunnel/fuzzing.rs`.

/// Carries the script out.
pub fn run(script: &[u8]) {
    mesh_proxy::fuzzing::misbehaving_peer(script);
}
