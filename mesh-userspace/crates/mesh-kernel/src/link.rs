//! Attached programs: one link, one pin, one name.
//!
//! The pin is the link's owner. A new agent finds it, swaps the program in it and goes on, so that a hook is never without
//! a program. The open descriptor is kept as well, so that removing the pin by hand does not detach anything. Where the
//! kernel has no links for interfaces, a filter with a marker takes its part: see `filter.rs`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::bpf::{self, AttachType, LinkInfo, LinkTarget};
use crate::error::KernelError;
use crate::filter::{self, Filter, Hold};
use crate::pin::{self, Pins};

/// An attached program that outlives this process.
#[derive(Debug)]
pub(crate) struct Link {
    name: String,
    path: PathBuf,
    hold: Hold,
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
        let path = pins.links().join(name);
        let attached = match wanted.target {
            LinkTarget::Interface(index) if filter::needed() => {
                Self::attach_filter(name, path, index, wanted.program)
            }
            _ => Self::attach_link(name, path, wanted),
        };
        attached.map_err(failed("attach", name))
    }

    fn attach_link(name: &str, path: PathBuf, wanted: Wanted<'_>) -> io::Result<Attached> {
        let create = || bpf::link_create(wanted.program, wanted.target, wanted.attach);
        let (fd, new) = match bpf::open_pin(&path) {
            Ok(fd) if bpf::link_info(fd.as_fd()).is_ok_and(|i| i.target == wanted.target_id) => {
                bpf::link_update(fd.as_fd(), wanted.program)?;
                (fd, false)
            }
            Ok(stale) => {
                let fd = create()?;
                pin::remove(&path)?;
                bpf::link_detach(stale.as_fd())?;
                bpf::pin(fd.as_fd(), &path)?;
                (fd, true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A marker of a filter, from a kernel without links, reads as not found too.
                pin::remove(&path)?;
                let fd = create()?;
                bpf::pin(fd.as_fd(), &path)?;
                (fd, true)
            }
            Err(error) => return Err(error),
        };
        let hold = Hold::Link(fd);
        let name = name.to_owned();
        let link = Self { name, path, hold };
        Ok(Attached { link, new })
    }

    fn attach_filter(
        name: &str,
        path: PathBuf,
        interface: u32,
        program: BorrowedFd<'_>,
    ) -> io::Result<Attached> {
        let older = read_marker(&path);
        let (mut filter, new) = Filter::attach(interface, program, name)?;
        filter.inherit(older.as_ref());
        write_marker(&path, &filter)?;
        let hold = Hold::Filter(filter);
        let name = name.to_owned();
        let link = Self { name, path, hold };
        Ok(Attached { link, new })
    }

    /// Opens the pin of this name as it is.
    pub(crate) fn open(pins: &Pins, name: &str) -> io::Result<Self> {
        let path = pins.links().join(name);
        let hold = match read_marker(&path) {
            Some(filter) => Hold::Filter(filter),
            None => Hold::Link(bpf::open_pin(&path)?),
        };
        let name = name.to_owned();
        Ok(Self { name, path, hold })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel says about it.
    pub(crate) fn info(&self) -> io::Result<LinkInfo> {
        match &self.hold {
            Hold::Link(fd) => bpf::link_info(fd.as_fd()),
            Hold::Filter(filter) => filter.info(),
        }
    }

    /// Swaps the program, atomically.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> Result<(), KernelError> {
        match &self.hold {
            Hold::Link(fd) => bpf::link_update(fd.as_fd(), program),
            Hold::Filter(filter) => filter.update(program, &self.name),
        }
        .map_err(failed("replace", &self.name))
    }

    /// Moves the pin into another folder of pins.
    pub(crate) fn move_to(&self, pins: &Pins) -> io::Result<()> {
        self.pin_at(&pins.links().join(&self.name))?;
        pin::remove(&self.path)
    }

    fn pin_at(&self, path: &Path) -> io::Result<()> {
        match &self.hold {
            Hold::Link(fd) => {
                pin::remove(path)?;
                bpf::pin(fd.as_fd(), path)
            }
            Hold::Filter(filter) => write_marker(path, filter),
        }
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
        self.pin_at(&self.path).map_err(failed("pin", &self.name))
    }

    /// Whether the pin is there and stands for this very link.
    pub(crate) fn is_pinned(&self) -> bool {
        match &self.hold {
            Hold::Filter(filter) => {
                fs::read_link(&self.path).is_ok_and(|text| text.to_str() == Some(&filter.as_text()))
            }
            Hold::Link(fd) => bpf::open_pin(&self.path).is_ok_and(|pinned| {
                match (bpf::object_id(pinned.as_fd()), bpf::object_id(fd.as_fd())) {
                    (Ok(pinned), Ok(own)) => pinned == own,
                    _ => false,
                }
            }),
        }
    }

    /// Detaches the program and removes the pin.
    pub(crate) fn remove(self) -> Result<(), KernelError> {
        match &self.hold {
            // The pin first: should detaching fail, closing the last descriptor still detaches.
            Hold::Link(fd) => pin::remove(&self.path).and_then(|()| bpf::link_detach(fd.as_fd())),
            // The marker last: it is the only way to find the filter again.
            Hold::Filter(filter) => filter.remove().and_then(|()| pin::remove(&self.path)),
        }
        .map_err(failed("detach", &self.name))
    }
}

fn read_marker(path: &Path) -> Option<Filter> {
    Filter::from_text(fs::read_link(path).ok()?.to_str()?)
}

fn write_marker(path: &Path, filter: &Filter) -> io::Result<()> {
    pin::remove(path)?;
    symlink(filter.as_text(), path)
}

fn failed(operation: &'static str, name: &str) -> impl FnOnce(io::Error) -> KernelError + use<> {
    let object = format!("program {name}");
    move |source| KernelError::Bpf {
        operation,
        object,
        source,
    }
}
