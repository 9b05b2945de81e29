//! A certificate with its key, as the agent hands it to the worker.

use mesh_identity::Certificate;

/// What was read is written the same again, and a key never shows.
pub fn run(bytes: &[u8]) {
    if let Ok(certificate) = Certificate::from_handover(bytes) {
        assert_eq!(certificate.to_handover().as_slice(), bytes);
        assert!(!format!("{certificate:?}").contains("key"));
    }
}
