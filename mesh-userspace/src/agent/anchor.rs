//! Something that stays in the agent's container when the agent moves into the mesh's own cgroup, where its sockets have to
//! be made: service managers remove the cgroup of a container that has no process any more, and then nobody could look into
//! it (`kubectl exec`).

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, fork, pause};

use super::AgentError;

/// Tells an agent that began anew that it has one.
const CAST: &str = "WARREN_ANCHOR";

/// Leaves a process here that ends with this one. To be called while this process has one thread.
pub(super) fn cast() -> Result<(), AgentError> {
    if std::env::var_os(CAST).is_some() {
        return Ok(());
    }
    // SAFETY: there is one thread, so that the child may go on as if nothing had happened.
    let forked = unsafe { fork() }.map_err(|error| AgentError::System {
        step: "cannot leave a process in the agent's container",
        source: error.into(),
    })?;
    match forked {
        ForkResult::Parent { .. } => {
            // SAFETY: as above; nobody else reads the environment.
            unsafe { std::env::set_var(CAST, "cast") };
            Ok(())
        }
        ForkResult::Child => hold(),
    }
}

/// Does nothing, until the agent ends.
fn hold() -> ! {
    let agent_was_there = prctl::set_pdeathsig(Signal::SIGKILL).is_ok();
    // What the agent holds open is not ours to keep.
    // SAFETY: no descriptor is used any more.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    while agent_was_there && nix::unistd::getppid().as_raw() > 1 {
        pause();
    }
    std::process::exit(0);
}
