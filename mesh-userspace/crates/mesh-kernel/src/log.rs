//! Lines of the programs themselves, for whoever debugs them. There are none unless the object was built with them
//! (`WARREN_BPF_LOG=1 cargo xtask ebpf`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The programs' lines, which go to the `log` crate's logger.
pub struct ProgramLog(EbpfLogger<&'static dyn Log>);

impl ProgramLog {
    /// The log of a loaded object, if it has one.
    pub(crate) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        match EbpfLogger::init(ebpf) {
            Ok(logger) => Some(Self(logger)),
            Err(aya_log::Error::MapNotFound) => None,
            Err(error) => {
                tracing::warn!(%error, "the programs' log cannot be read");
                None
            }
        }
    }

    /// Passes lines on as they come. Ends only with an error.
    ///
    /// # Errors
    /// The runtime's I/O is gone.
    pub async fn forward(mut self) -> io::Result<()> {
        let fd: OwnedFd = self.0.as_fd().try_clone_to_owned()?;
        // SAFETY: the duplicate is owned by this registration, which neither closes nor replaces it before its end.
        let ready = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        loop {
            let mut guard = ready.readable().await?;
            self.0.flush();
            guard.clear_ready();
        }
    }
}

impl std::fmt::Debug for ProgramLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProgramLog")
    }
}
