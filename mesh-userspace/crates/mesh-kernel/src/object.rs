//! The eBPF object, embedded at build time: whoever installs a released binary needs no eBPF toolchain.

use crate::error::KernelError;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/warren.bpf.o"));

/// The object's bytes, aligned for parsing.
pub(crate) fn bytes() -> Result<&'static [u8], KernelError> {
    if OBJECT.is_empty() {
        return Err(KernelError::NoObject);
    }
    Ok(OBJECT)
}
