//! What the worker process gives up before it touches a byte from the network. It cannot be undone.
//!
//! Two steps, because threads lie between them: [`give_up_privileges`] while the process has one thread (capabilities
//! belong to threads, and new threads inherit), [`filter_system_calls`] once everything is set up (for all threads at once).
//! It knows nothing of what the process is for, but for the list of system calls it may make.

use std::io;

use caps::{CapSet, Capability};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

mod filter;

pub use filter::filter_system_calls;

/// User and group `nobody`, as every distribution numbers it. The worker opens no file, so it needs to be nobody.
const NOBODY: u32 = 65_534;

/// The process could not be confined. It must not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfineError {
    /// A step failed.
    #[error("the worker cannot {step}, and does not serve without that")]
    Step {
        /// What it was.
        step: &'static str,
        /// What the operating system answered.
        #[source]
        source: io::Error,
    },
    /// After all steps a capability is left.
    #[error(
        "the worker still has capabilities in its {set} set: {left}; it does not serve with them"
    )]
    CapabilitiesLeft {
        /// Which set.
        set: &'static str,
        /// Which ones.
        left: String,
    },
    /// The system-call filter was refused.
    #[error(
        "the kernel does not accept the worker's system-call filter; it needs CONFIG_SECCOMP_FILTER"
    )]
    Filter(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Gives up every capability, the way back to them, the user, core dumps and being traced. To be called while the
/// process has one thread.
///
/// # Errors
/// The first step that failed. Some may have been taken.
pub fn give_up_privileges() -> Result<(), ConfineError> {
    // The worker outlives its agent (connections go on), so it must not be told when that dies.
    prctl::set_pdeathsig(None).map_err(step("clear its parent-death signal"))?;
    raise_open_files()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(step("forbid core dumps"))?;
    drop_bounding_set()?;
    become_nobody()?;
    drop_capabilities()?;
    prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
    // After the change of user, which resets it. Keys are in memory: nobody may attach, nothing may dump.
    prctl::set_dumpable(false).map_err(step("make itself undumpable"))?;
    verify()
}

/// Sockets are what the worker is made of.
fn raise_open_files() -> Result<(), ConfineError> {
    let (_, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(step("read its limit of open files"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(step("raise its limit of open files"))
}

/// Needs CAP_SETPCAP. Without that capability there is nothing to drop that no_new_privs does not already close.
fn drop_bounding_set() -> Result<(), ConfineError> {
    let may = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)
        .map_err(capability_step("read its capabilities"))?;
    if may {
        for capability in caps::runtime::thread_all_supported() {
            caps::drop(None, CapSet::Bounding, capability)
                .map_err(capability_step("drop its bounding set"))?;
        }
    }
    Ok(())
}

fn become_nobody() -> Result<(), ConfineError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[]).map_err(step("leave its groups"))?;
    setresgid(group, group, group).map_err(step("change its group"))?;
    setresuid(user, user, user).map_err(step("change its user"))
}

fn drop_capabilities() -> Result<(), ConfineError> {
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).map_err(capability_step("drop its capabilities"))?;
    }
    Ok(())
}

/// Steps can be forgotten, or be made void by a kernel's or a container's settings: what counts is what is left.
fn verify() -> Result<(), ConfineError> {
    for (set, name) in [
        (CapSet::Effective, "effective"),
        (CapSet::Permitted, "permitted"),
        (CapSet::Inheritable, "inheritable"),
        (CapSet::Ambient, "ambient"),
    ] {
        let left = caps::read(None, set).map_err(capability_step("read its capabilities"))?;
        if !left.is_empty() {
            let left = left.iter().map(ToString::to_string).collect::<Vec<_>>();
            return Err(ConfineError::CapabilitiesLeft {
                set: name,
                left: left.join(", "),
            });
        }
    }
    Ok(())
}

fn step(step: &'static str) -> impl Fn(nix::Error) -> ConfineError {
    move |error| ConfineError::Step {
        step,
        source: error.into(),
    }
}

fn capability_step(step: &'static str) -> impl Fn(caps::errors::CapsError) -> ConfineError {
    move |error| ConfineError::Step {
        step,
        source: io::Error::other(error),
    }
}

#[cfg(test)]
mod tests;
