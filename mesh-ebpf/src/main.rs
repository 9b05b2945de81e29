//! Warren's kernel half: the programs, one file per hook.
//!
//! | file | hook | does |
//! |---|---|---|
//! | `connect` | cgroup/connect4, connect6 | sends a dial of an enrolled workload to the proxy, remembering where it was going |
//! | `peername` | cgroup/getpeername4, getpeername6 | shows the application the peer that it dialled |
//! | `origin` | sockops, at the capture root and at the mesh's cgroup | carries that memory to the accepted socket |
//! | `origdst` | cgroup/getsockopt | hands it to the proxy |
//! | `ingress` | tcx ingress, in the workload and on the host | gives arriving connections to the proxy's listeners |
//! | `guard` | tcx ingress, host end of the veth | drops what leaves the workload past the capture |
//!
//! Every entry point is a few lines: it calls a function that returns `Err` for whatever goes wrong, and its `Err` arm
//! says which way it fails and counts a [`mesh_common::counter::Reason`]. Decisions that need no kernel are in the
//! library next to this binary; context fields, helpers and `unsafe` are in `context`.
#![no_std]
#![no_main]
// For a few instructions, in `context`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a map key passed by value is copied to another place on the stack, of which there are 512 bytes"
)]

mod connect;
mod context;
mod count;
mod guard;
mod ingress;
mod log;
mod maps;
mod origdst;
mod origin;
mod peername;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program with an endless loop in it, so a panic that the compiler could not
    // rule out fails at load time.
    loop {}
}

/// Some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
