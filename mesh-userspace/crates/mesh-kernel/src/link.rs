//! Attached programs: one link, one pin, one name.
//!
//! The pin is the link's owner. A new agent finds it, swaps the program in it and goes on, so that a hook is never without
//! a program. The open descriptor is kept as well, so that removing the pin by hand does not detach anything.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::bpf::{self, AttachType, LinkInfo, LinkTarget};
use crate::error::KernelError;
use crate::pin::{self, Pins};

/// A pinned link.
#[derive(Debug)]
pub(crate) struct Link {
    name: String,
    path: PathBuf,
    fd: OwnedFd,
}

/// What a link must look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The program.
    pub(crate) program: BorrowedFd<'a>,
    /// Where.
    pub(crate) target: LinkTarget<'a>,
    /// Id of the cgroup or index of the interface, as the kernel reports it.
    pub(crate) target_id: u64,
    /// Which hook.
    pub(crate) attach: AttachType,
}

/// What [`Link::attach`] gives.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) link: Link,
    /// There was none before, so undoing means removing it.
    pub(crate) new: bool,
}

impl Link {
    /// Adopts the pin of this name, swapping its program, or attaches anew. A pin whose target is gone or another one is
    /// replaced: the new link first, then the old one goes. For interfaces, call it inside their namespace.
    pub(crate) fn attach(
        pins: &Pins,
        name: &str,
        wanted: Wanted<'_>,
    ) -> Result<Attached, KernelError> {
        let fail = |operation| {
            let object = format!("program {name}");
            move |source| KernelError::Bpf {
                operation,
                object,
                source,
            }
        };
        let path = pins.links().join(name);
        match bpf::open_pin(&path) {
            Ok(fd) if bpf::link_info(fd.as_fd()).is_ok_and(|i| i.target == wanted.target_id) => {
                bpf::link_update(fd.as_fd(), wanted.program).map_err(fail("replace"))?;
                let name = name.to_owned();
                let link = Self { name, path, fd };
                Ok(Attached { link, new: false })
            }
            Ok(stale) => {
                let fd = bpf::link_create(wanted.program, wanted.target, wanted.attach)
                    .map_err(fail("attach"))?;
                pin::remove(&path).map_err(fail("unpin the old"))?;
                bpf::link_detach(stale.as_fd()).map_err(fail("detach the old"))?;
                Self::pinned(name, path, fd).map_err(fail("pin"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fd = bpf::link_create(wanted.program, wanted.target, wanted.attach)
                    .map_err(fail("attach"))?;
                Self::pinned(name, path, fd).map_err(fail("pin"))
            }
            Err(error) => Err(fail("open the pin of")(error)),
        }
    }

    fn pinned(name: &str, path: PathBuf, fd: OwnedFd) -> io::Result<Attached> {
        bpf::pin(fd.as_fd(), &path)?;
        let name = name.to_owned();
        let link = Self { name, path, fd };
        Ok(Attached { link, new: true })
    }

    /// Opens the pin of this name as it is.
    pub(crate) fn open(pins: &Pins, name: &str) -> io::Result<Self> {
        let path = pins.links().join(name);
        Ok(Self {
            name: name.to_owned(),
            fd: bpf::open_pin(&path)?,
            path,
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel says about it.
    pub(crate) fn info(&self) -> io::Result<LinkInfo> {
        bpf::link_info(self.fd.as_fd())
    }

    /// Swaps the program, atomically.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> Result<(), KernelError> {
        bpf::link_update(self.fd.as_fd(), program).map_err(|source| KernelError::Bpf {
            operation: "replace",
            object: format!("program {}", self.name),
            source,
        })
    }

    /// Moves the pin into another folder of pins.
    pub(crate) fn move_to(&self, pins: &Pins) -> io::Result<()> {
        bpf::pin(self.fd.as_fd(), &pins.links().join(&self.name))?;
        pin::remove(&self.path)
    }

    /// Whether it is attached.
    pub(crate) fn is_attached(&self) -> bool {
        self.info().is_ok_and(|info| info.target != 0)
    }

    /// Makes sure that the pin is there and stands for this very link.
    pub(crate) fn pin_again(&self) -> Result<(), KernelError> {
        if self.is_pinned() {
            return Ok(());
        }
        pin::remove(&self.path)
            .and_then(|()| bpf::pin(self.fd.as_fd(), &self.path))
            .map_err(|source| KernelError::Bpf {
                operation: "pin",
                object: format!("program {}", self.name),
                source,
            })
    }

    /// Whether the pin is there and stands for this very link.
    pub(crate) fn is_pinned(&self) -> bool {
        bpf::open_pin(&self.path).is_ok_and(|pinned| {
            match (
                bpf::object_id(pinned.as_fd()),
                bpf::object_id(self.fd.as_fd()),
            ) {
                (Ok(pinned), Ok(own)) => pinned == own,
                _ => false,
            }
        })
    }

    /// Detaches the program and removes the pin.
    pub(crate) fn remove(self) -> Result<(), KernelError> {
        let fail = |operation| {
            let object = format!("program {}", self.name);
            move |source| KernelError::Bpf {
                operation,
                object,
                source,
            }
        };
        // The pin first: should detaching fail, closing the last descriptor still detaches.
        pin::remove(&self.path).map_err(fail("unpin"))?;
        bpf::link_detach(self.fd.as_fd()).map_err(fail("detach"))
    }
}
