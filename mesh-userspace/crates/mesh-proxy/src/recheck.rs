//! A changed world, or changed identities, against the connections that live: those that would not be allowed now are
//! cut, with what no longer allows them. The questions are the same ones that allowed them in the first place.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_core::outcome::Reason;
use mesh_core::policy::Permit;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Name;
use mesh_identity::svid;

use crate::configs::IdentitySet;
use crate::context::Context;
use crate::record::Live;
use crate::served::Served;
use crate::tunnel::{Peer, PeerChain};

/// What a connection stands on.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// Nothing was decided yet, or nothing that could change.
    Undecided,
    /// A tunnel to a peer.
    Outbound {
        /// The workload that dialled.
        source: Arc<Served>,
        /// The workload that it reached.
        destination: Name,
        /// The peer.
        peer: Proof,
    },
    /// A delivery.
    Inbound {
        /// The workload that it was delivered to.
        destination: Arc<Served>,
        /// What allowed it.
        permit: Permit,
        /// The peer; `None` when it came in clear, or from the workload itself.
        peer: Option<Proof>,
    },
}

/// A peer's identity, and what proved it.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    /// The identity.
    pub(crate) identity: SpiffeId,
    /// What proved it.
    pub(crate) chain: Arc<PeerChain>,
}

impl Proof {
    /// Of the peer that opened a tunnel.
    pub(crate) fn of(peer: &Peer) -> Self {
        Self {
            identity: peer.identity.clone(),
            chain: Arc::clone(&peer.chain),
        }
    }
}

/// Why a connection is cut.
#[derive(Debug, Eq, PartialEq)]
struct Cut {
    reason: Reason,
    rule: Option<String>,
    detail: Option<String>,
}

/// Re-checks all connections of a thread, and its tunnels.
pub(crate) fn all(cx: &Context) {
    let (world, identities) = (cx.world(), cx.identities());
    let mut check = Check::new(&world, &identities);
    for live in cx.connections.all() {
        check.cut(&live);
    }
    cx.pool.cut(
        |key, chain| {
            let own_gone = !identities.has(&key.own) && serves(cx, key.source, &key.own);
            own_gone || !check.trusts(chain)
        },
        Reason::IdentityRevoked,
    );
    cx.server
        .cut(|peer| !check.trusts(&peer.chain), Reason::IdentityRevoked);
    // What a renewed certificate was made for: new streams use it, and old tunnels end with their last stream.
    let earlier = cx.tunnels_made_with.replace(Arc::clone(&identities));
    cx.pool.retire(|key| identities.renews(&earlier, &key.own));
    // The same for what peers were shown: they must not go on trusting a certificate, or a root, that is on its way out.
    cx.server
        .drain(|peer| identities.renews(&earlier, &peer.server));
    cx.balancer.borrow_mut().forget_absent(&world);
}

/// Re-checks one connection that was allowed by an older world or by older identities, while it was being made.
pub(crate) fn one(cx: &Context, live: &Rc<Live>) {
    let (world, identities) = (cx.world(), cx.identities());
    Check::new(&world, &identities).cut(live);
}

fn serves(cx: &Context, id: mesh_core::workload::WorkloadId, identity: &SpiffeId) -> bool {
    let served = cx.shared.served.load();
    served
        .by_id
        .get(&id)
        .is_some_and(|served| !served.leaving.has_begun() && served.local.identity == *identity)
}

/// One pass over connections.
struct Check<'a> {
    world: &'a Snapshot,
    identities: &'a IdentitySet,
    /// Verifying a chain costs a tenth of a millisecond, and tunnels have many streams: each chain once.
    trusted: HashMap<*const PeerChain, bool>,
}

impl<'a> Check<'a> {
    fn new(world: &'a Snapshot, identities: &'a IdentitySet) -> Self {
        Self {
            world,
            identities,
            trusted: HashMap::new(),
        }
    }

    fn cut(&mut self, live: &Rc<Live>) {
        let cut = self.stands(&live.standing()).err();
        if let Some(Cut {
            reason,
            rule,
            detail,
        }) = cut
        {
            live.cut(reason, rule, detail);
        }
    }

    fn stands(&mut self, standing: &Standing) -> Result<(), Cut> {
        match standing {
            Standing::Undecided => Ok(()),
            Standing::Outbound {
                source,
                destination,
                peer,
            } => {
                self.own_identity_stands(source)?;
                self.destination_is(destination, peer)?;
                self.peer_stands(peer)
            }
            Standing::Inbound {
                destination,
                permit,
                peer,
            } => {
                // Connections of a workload that leaves the mesh go on: leaving breaks nothing.
                let leaves = destination.leaving.has_begun()
                    || self.world.workload(&destination.local.name).is_none();
                if !leaves {
                    permit.recheck(self.world).map_err(|denied| Cut {
                        reason: Reason::PolicyRevoked,
                        rule: Some(denied.rule),
                        detail: None,
                    })?;
                }
                peer.as_ref().map_or(Ok(()), |peer| self.peer_stands(peer))
            }
        }
    }

    fn own_identity_stands(&self, source: &Served) -> Result<(), Cut> {
        if source.leaving.has_begun() || self.identities.has(&source.local.identity) {
            return Ok(());
        }
        Err(revoked(format!(
            "the certificate of {} was withdrawn",
            source.local.identity
        )))
    }

    fn destination_is(&self, destination: &Name, peer: &Proof) -> Result<(), Cut> {
        match self.world.workload(destination) {
            Some(workload) if workload.identity != peer.identity => Err(revoked(format!(
                "workload {destination} is {} now, no longer {}",
                workload.identity, peer.identity
            ))),
            _ => Ok(()),
        }
    }

    fn peer_stands(&mut self, peer: &Proof) -> Result<(), Cut> {
        if self.trusts(&peer.chain) {
            return Ok(());
        }
        Err(revoked(format!(
            "the root that signed the certificate of {} is no longer trusted",
            peer.identity
        )))
    }

    fn trusts(&mut self, chain: &Arc<PeerChain>) -> bool {
        let identities = self.identities;
        *self
            .trusted
            .entry(Arc::as_ptr(chain))
            .or_insert_with(|| trusts(identities, chain))
    }
}

/// Whether a peer's chain leads to a root that is trusted. Asked as of the time when it was verified: a certificate that
/// has expired since does not end a connection, a root that is no longer trusted does. Without any roots nothing is
/// trusted.
pub(crate) fn trusts(identities: &IdentitySet, chain: &PeerChain) -> bool {
    identities
        .bundle()
        .is_some_and(|bundle| svid::verify(bundle, &chain.certificates, chain.verified_at).is_ok())
}

fn revoked(detail: String) -> Cut {
    Cut {
        reason: Reason::IdentityRevoked,
        rule: None,
        detail: Some(detail),
    }
}
