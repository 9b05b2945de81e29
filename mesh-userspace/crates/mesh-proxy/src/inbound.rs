//! The story of a connection that arrives in a tunnel: who is the peer, whom does it mean, may it, deliver.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use mesh_core::addr::{AppAddr, ClientAddr, canonical};
use mesh_core::outcome::Reason;
use mesh_core::policy::{Caller, Denied, Permit, authorize};
use mesh_core::record::{Direction, Transport};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Workload;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::carry::{self, Basis, Carriage, Held};
use crate::context::{CONNECT_TIME, Context};
use crate::deliver::deliver;
use crate::recheck::{self, Proof, Standing};
use crate::record::{Ended, Recorder};
use crate::served::{Served, Share};
use crate::tunnel::{Accepted, Inbound, Peer};
use crate::wire::{Open, Refusal, RefusalCode};

/// The streams of one tunnel.
pub(crate) struct Tunnel {
    cx: Rc<Context>,
    at: At,
    /// Whether the peer's chain leads to a trusted root, and by which generation of identities that was found: a tunnel
    /// outlives the roots that it was made under.
    trusted: Cell<Option<(u64, bool)>>,
    /// The generation of identities from which the peer was shown a certificate, until a stream has compared it.
    shown: Cell<Option<u64>>,
}

/// Whose listener a tunnel came to.
#[derive(Clone, Debug)]
pub(crate) enum At {
    /// A workload's own.
    Workload(Arc<Served>),
    /// The node's, for all host services: the certificate that the peer asked for says which.
    Host,
}

/// A stream that was allowed and delivered.
struct Admitted {
    app: TcpStream,
    share: Share,
    standing: Standing,
}

impl Tunnel {
    /// The story of a tunnel that was accepted at one of our listeners, with a certificate of this generation.
    pub(crate) fn new(cx: &Rc<Context>, at: At, generation: u64) -> Rc<Self> {
        Rc::new(Self {
            cx: Rc::clone(cx),
            at,
            trusted: Cell::new(None),
            shown: Cell::new(Some(generation)),
        })
    }

    /// A certificate that was renewed while hands were shaken: the tunnel was not in the list when the others were asked
    /// to end, so it is asked now.
    fn renewed(&self, peer: &Rc<Peer>, basis: &Basis) {
        if self
            .shown
            .take()
            .is_some_and(|shown| shown != basis.identities.generation)
        {
            self.cx
                .server
                .drain(|other| std::ptr::eq(other, Rc::as_ptr(peer)));
        }
    }
}

impl Inbound for Tunnel {
    /// One connection, from OPEN to close.
    async fn open(&self, peer: &Rc<Peer>, open: Open) -> Result<Accepted, Refusal> {
        let basis = Basis::now(&self.cx);
        self.renewed(peer, &basis);
        let record = self.cx.record(Direction::Inbound, &basis.world);
        // This future is dropped when the client goes before the application has answered.
        record.unless_closed(Reason::ClientReset);
        match self.admit(peer, &open, &basis, &record).await {
            Ok(admitted) => {
                let cx = Rc::clone(&self.cx);
                Ok(Accepted {
                    app: admitted.app,
                    on_open: Box::new(move |stream| {
                        record.unless_closed(Reason::Fault);
                        let held = Held {
                            _share: admitted.share,
                            _open: cx.open(Direction::Inbound),
                            _load: None,
                        };
                        let carriage = Carriage::Stream(stream);
                        carry::begin(&cx, &basis, record, carriage, admitted.standing, held);
                    }),
                })
            }
            Err(ended) => {
                let refusal = Refusal {
                    code: code(ended.reason),
                    detail: ended.detail.clone().unwrap_or_default(),
                };
                record.close(ended);
                Err(refusal)
            }
        }
    }
}

impl Tunnel {
    async fn admit(
        &self,
        peer: &Rc<Peer>,
        open: &Open,
        basis: &Basis,
        record: &Recorder,
    ) -> Result<Admitted, Ended> {
        let world = &*basis.world;
        let client = believable_client(world, peer, open.client);
        record.fill(|record| {
            record.transport = Transport::MutualTls;
            record.tls = Some(peer.tls.clone());
            record.client = Some(client);
            record.source.identity = Some(peer.identity.clone());
            record.source.workload = workload_of(world, peer, client).map(|w| w.name.clone());
            record.original_destination = Some(mesh_core::addr::OrigDst(open.destination.0));
            record.service = open.service.clone();
        });
        if !self.trusts(peer, basis) {
            let detail = "the root that signed the peer's certificate is no longer trusted";
            return Err(Ended::before(Reason::PeerIdentity, detail));
        }
        let destination = AppAddr(canonical(open.destination.0));
        let (served, workload) = self.destination(world, peer, destination)?;
        record.fill(|record| {
            record.endpoint = Some(destination);
            record.destination.workload = Some(workload.name.clone());
            record.destination.identity = Some(workload.identity.clone());
        });
        let caller = Caller::Authenticated {
            identity: &peer.identity,
            address: client.0.ip(),
        };
        let permit = authorize(world, caller, workload, destination)
            .map_err(|denied| refused(record, denied))?;
        note(record, &permit);
        let share = served
            .connection()
            .map_err(|full| Ended::before(Reason::Overloaded, full.to_string()))?;
        let deadline = Instant::now() + CONNECT_TIME;
        let app = deliver(&permit, &served, client, deadline)
            .await
            .map_err(|error| Ended::before(error.reason(), error.to_string()))?;
        let connect_us = u64::try_from(record.age().as_micros()).ok();
        record.fill(|record| record.connect_us = connect_us);
        Ok(Admitted {
            app,
            share,
            standing: Standing::Inbound {
                destination: served,
                permit,
                peer: Some(Proof::of(peer)),
            },
        })
    }

    /// The workload that the stream means: one of ours, and the one whose certificate the peer was shown. A peer that was
    /// told to reach one workload must not reach another one through its tunnel.
    fn destination<'a>(
        &self,
        world: &'a Snapshot,
        peer: &Peer,
        destination: AppAddr,
    ) -> Result<(Arc<Served>, &'a Arc<Workload>), Ended> {
        let wrong = |what: &str| {
            let detail = format!("{destination} is {what}");
            Ended::before(Reason::WrongDestination, detail)
        };
        let workload = world
            .workload_at(destination.0)
            .ok_or_else(|| wrong("not the address of a workload of the mesh"))?;
        let served = match &self.at {
            At::Workload(served) => Arc::clone(served),
            At::Host => self
                .cx
                .shared
                .served
                .load()
                .by_name
                .get(&workload.name)
                .filter(|served| served.local.host)
                .cloned()
                .ok_or_else(|| wrong("not the address of a host service of this node"))?,
        };
        let same = served.local.name == workload.name && served.owns(destination.0.ip());
        if !same {
            return Err(wrong("not an address of the workload at this tunnel's end"));
        }
        if workload.identity != served.local.identity || workload.identity != peer.server {
            return Err(wrong(
                "of a workload with another identity than the one presented",
            ));
        }
        Ok((served, workload))
    }

    fn trusts(&self, peer: &Peer, basis: &Basis) -> bool {
        let generation = basis.identities.generation;
        if let Some((checked, trusted)) = self.trusted.get()
            && checked == generation
        {
            return trusted;
        }
        let trusted = recheck::trusts(&basis.identities, &peer.chain);
        self.trusted.set(Some((generation, trusted)));
        trusted
    }
}

/// A workload that dials itself does not leave the node: the kernel vouches for it.
pub(crate) fn authorize_itself(
    world: &Snapshot,
    workload: &Workload,
    client: ClientAddr,
    destination: AppAddr,
) -> Result<Permit, Denied> {
    let caller = Caller::Authenticated {
        identity: &workload.identity,
        address: client.0.ip(),
    };
    authorize(world, caller, workload, destination)
}

/// The client's address is what the peer says. It is believed where it fits the peer's identity; otherwise the tunnel's
/// own address is the truth that we know.
fn believable_client(world: &Snapshot, peer: &Peer, claimed: ClientAddr) -> ClientAddr {
    let claimed = ClientAddr(canonical(claimed.0));
    let tunnel = canonical(peer.address);
    let fits = claimed.0.ip() == tunnel.ip()
        || world
            .workload_at(claimed.0)
            .is_some_and(|workload| workload.identity == peer.identity);
    if fits { claimed } else { ClientAddr(tunnel) }
}

fn workload_of<'a>(
    world: &'a Snapshot,
    peer: &Peer,
    client: ClientAddr,
) -> Option<&'a Arc<Workload>> {
    world
        .workload_at(client.0)
        .filter(|workload| workload.identity == peer.identity)
}

/// Writes down what allowed a connection.
pub(crate) fn note(record: &Recorder, permit: &Permit) {
    record.fill(|record| {
        record.rule = Some(permit.rule().to_owned());
        record.detail = permit
            .would_deny()
            .map(|rule| format!("dry run: {rule} would deny it"));
    });
}

/// Writes down what denied a connection. The rule is also the refusal's detail, so that both ends can explain it.
pub(crate) fn refused(record: &Recorder, denied: Denied) -> Ended {
    let ended = Ended::before(denied.reason, denied.rule.clone());
    record.fill(|record| record.rule = Some(denied.rule));
    ended
}

fn code(reason: Reason) -> RefusalCode {
    match reason {
        Reason::ConnectionRefused => RefusalCode::ConnectionRefused,
        Reason::Unreachable => RefusalCode::Unreachable,
        Reason::PolicyDenied | Reason::PeerIdentity => RefusalCode::PolicyDenied,
        Reason::NoRuleAllows => RefusalCode::NoRuleAllows,
        Reason::WrongDestination => RefusalCode::WrongDestination,
        Reason::Overloaded => RefusalCode::Overloaded,
        Reason::Drained => RefusalCode::Draining,
        _ => RefusalCode::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> Snapshot {
        let workload = |name: &str, address: &str| {
            Arc::new(Workload {
                name: mesh_core::workload::Name::new("shop", name),
                identity: format!("spiffe://demo.warren/ns/shop/sa/{name}")
                    .parse()
                    .unwrap(),
                node: "a".to_owned(),
                addresses: vec![address.parse::<std::net::IpAddr>().unwrap()],
                labels: Default::default(),
                ports: Vec::new(),
            })
        };
        Snapshot::new(mesh_core::snapshot::World {
            workloads: vec![workload("client", "10.1.0.2"), workload("web", "10.2.0.2")],
            ..Default::default()
        })
    }

    #[test]
    fn a_client_address_is_believed_only_where_it_fits_the_identity() {
        let peer = |address: &str| Peer {
            identity: "spiffe://demo.warren/ns/shop/sa/client".parse().unwrap(),
            address: address.parse().unwrap(),
            server: "spiffe://demo.warren/ns/shop/sa/web".parse().unwrap(),
            tls: String::new(),
            chain: Arc::new(crate::tunnel::PeerChain {
                certificates: Vec::new(),
                verified_at: rustls::pki_types::UnixTime::now(),
            }),
        };
        let believe = |tunnel: &str, claimed: &str| {
            believable_client(
                &world(),
                &peer(tunnel),
                ClientAddr(claimed.parse().unwrap()),
            )
            .to_string()
        };
        assert_eq!(believe("10.1.0.2:900", "10.1.0.2:4000"), "10.1.0.2:4000");
        assert_eq!(
            believe("[::ffff:10.1.0.2]:900", "10.1.0.2:4000"),
            "10.1.0.2:4000"
        );
        // Behind an address translation, the world knows the client.
        assert_eq!(believe("192.0.2.1:900", "10.1.0.2:4000"), "10.1.0.2:4000");
        // Somebody else's address.
        assert_eq!(believe("10.1.0.2:900", "10.2.0.2:4000"), "10.1.0.2:900");
        assert_eq!(believe("192.0.2.1:900", "10.9.9.9:4000"), "192.0.2.1:900");
    }
}
