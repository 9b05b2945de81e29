//! A program on an interface where the kernel has no tcx links: a filter, remembered by a marker in place of a pin.
//!
//! The kernel keeps a filter as long as its interface, so nothing needs to be pinned; but it must be found again, after
//! the agent died, in its namespace.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bpf::LinkInfo;
use crate::namespace::{self, Place};
use crate::netlink::clsact;
use crate::probe;

/// Set by tests, which run on kernels with tcx, to use filters all the same.
static WITHOUT_TCX: AtomicBool = AtomicBool::new(false);

/// Uses filters even where tcx links are possible, to test them.
#[doc(hidden)]
pub fn without_tcx() {
    WITHOUT_TCX.store(true, Ordering::Relaxed);
}

/// Whether programs on interfaces must be filters.
pub(crate) fn needed() -> bool {
    static TCX: OnceLock<bool> = OnceLock::new();
    WITHOUT_TCX.load(Ordering::Relaxed) || !*TCX.get_or_init(|| probe::tcx().is_ok())
}

/// One filter.
#[derive(Debug)]
pub(crate) struct Filter {
    interface: u32,
    /// Of the interface's namespace.
    cookie: u64,
    /// The qdisc was made for this filter, and goes with it.
    own_qdisc: bool,
    /// Where it is; `None` when its namespace is gone.
    place: Option<Place>,
}

impl Filter {
    /// Attaches a program to an interface of the calling thread's namespace, or swaps the one in our filter. Also tells
    /// whether there was none.
    pub(crate) fn attach(
        interface: u32,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<(Self, bool)> {
        let new = clsact::attached(interface)?.is_none();
        let own_qdisc = clsact::attach(interface, program, name)?;
        let filter = Self {
            interface,
            cookie: namespace::own_cookie()?,
            own_qdisc,
            place: Some(Place::Namespace(namespace::open(Path::new(
                "/proc/thread-self/ns/net",
            ))?)),
        };
        Ok((filter, new))
    }

    /// The text of the marker.
    pub(crate) fn as_text(&self) -> String {
        format!(
            "filter {} {} {}",
            self.interface,
            self.cookie,
            u8::from(self.own_qdisc)
        )
    }

    /// The filter of a marker.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("filter ")?.split(' ');
        let interface = words.next()?.parse().ok()?;
        let cookie = words.next()?.parse().ok()?;
        let own_qdisc = words.next()? == "1";
        let place = match namespace::own_cookie() {
            Ok(own) if own == cookie => Some(Place::Node),
            _ => namespace::find(cookie).map(Place::Namespace),
        };
        Some(Self {
            interface,
            cookie,
            own_qdisc,
            place,
        })
    }

    /// Whether a marker's filter made its qdisc, which a swap must not forget.
    pub(crate) fn inherit(&mut self, older: Option<&Self>) {
        self.own_qdisc |= older.is_some_and(|older| older.own_qdisc);
    }

    fn visit<T: Send>(
        &self,
        gone: T,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        match &self.place {
            Some(place) => place.visit(work),
            None => Ok(gone),
        }
    }

    /// What a link's info would say.
    pub(crate) fn info(&self) -> io::Result<LinkInfo> {
        let interface = self.interface;
        let program = self.visit(None, || clsact::attached(interface))?;
        Ok(LinkInfo {
            program: program.unwrap_or(0),
            target: program.map_or(0, |_| u64::from(interface)),
        })
    }

    /// Swaps the program, atomically.
    pub(crate) fn update(&self, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let interface = self.interface;
        self.visit((), || clsact::attach(interface, program, name).map(drop))
    }

    /// Removes the filter, and the qdisc if it is ours and nobody else uses it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let (interface, own_qdisc) = (self.interface, self.own_qdisc);
        self.visit((), || {
            clsact::detach(interface)?;
            if own_qdisc {
                clsact::remove_unused(interface)?;
            }
            Ok(())
        })
    }
}

/// What holds a program at its hook.
#[derive(Debug)]
pub(crate) enum Hold {
    /// A link of the kernel, pinned.
    Link(OwnedFd),
    /// A filter, with a marker.
    Filter(Filter),
}
