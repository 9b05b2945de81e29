//! What can be changed while a workload stays where it is.

use super::{Context, Entry, Wanted};
use crate::agent::select::Selector;
use crate::agent::supervise::chain;

/// Changes what can be changed in place; `false`: it has to leave and come again.
pub(super) fn adjust(old: &Wanted, new: &Wanted, entry: &Entry, cx: &mut Context<'_>) -> bool {
    let Wanted {
        name: _,
        identity,
        selector,
        addresses,
        ports,
        mode,
        udp,
    } = old;
    let same = identity == &new.identity
        && selector == &new.selector
        // A pod's are what proved it; what is enrolled was proven.
        && (addresses == &new.addresses || matches!(selector, Selector::Pod(_)))
        && ports == &new.ports
        && udp == &new.udp;
    if !same || *mode == new.mode {
        return same;
    }
    let Some(active) = entry.active() else {
        return true;
    };
    match cx.kernel.set_mode(active.id, new.mode) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(workload = %new.name, error = chain(&error), "the guard's mode was not changed");
            false
        }
    }
}
