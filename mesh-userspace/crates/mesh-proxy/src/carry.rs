//! From here on a connection is carried: it is reported while it lasts, re-checked when the world changes, and cut when
//! it must be. Both stories come through here, whatever carries their bytes.

use std::rc::Rc;
use std::sync::Arc;

use mesh_core::outcome::Reason;
use mesh_core::snapshot::Snapshot;

use crate::configs::IdentitySet;
use crate::context::Context;
use crate::recheck::{self, Standing};
use crate::record::{Carrier, Ended, Recorder};
use crate::tunnel::{StreamHandle, StreamReport};

impl Carrier for StreamHandle {
    fn bytes(&self) -> (u64, u64) {
        Self::bytes(self)
    }

    fn cut(&self, reason: Reason) {
        Self::cut(self, reason);
    }
}

impl From<StreamReport> for Ended {
    fn from(report: StreamReport) -> Self {
        Self {
            reason: report.reason,
            detail: report.detail,
            sent: report.sent,
            received: report.received,
        }
    }
}

/// What a story's decisions were made under: loaded once, at its beginning.
#[derive(Clone)]
pub(crate) struct Basis {
    pub(crate) world: Arc<Snapshot>,
    pub(crate) identities: Arc<IdentitySet>,
}

impl Basis {
    /// As it is now.
    pub(crate) fn now(cx: &Context) -> Self {
        Self {
            world: cx.world(),
            identities: cx.identities(),
        }
    }

    fn is_outdated(&self, cx: &Context) -> bool {
        !Arc::ptr_eq(&self.world, &cx.shared.world.load())
            || !Arc::ptr_eq(&self.identities, &cx.shared.identities.load())
    }
}

/// Hands a connection that was just taken to the list of live ones. A change that came while it was being made has
/// passed that list already, so it is caught up with here.
pub(crate) fn begin(
    cx: &Context,
    basis: &Basis,
    record: &Recorder,
    carrier: Rc<dyn Carrier>,
    standing: Standing,
) {
    record.carried(carrier, standing);
    if basis.is_outdated(cx) {
        recheck::one(cx, record.live());
    }
}
