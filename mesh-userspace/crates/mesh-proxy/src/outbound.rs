//! The story of a connection that an application of this node makes.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::addr::{AppAddr, ClientAddr};
use mesh_core::outcome::Reason;
use mesh_core::record::{Direction, Record, Transport};
use mesh_core::route::{Decision, ServiceRoute, decide};
use mesh_core::workload::{Name, Workload};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::carry::{self, Basis, Carriage, Held, Load};
use crate::context::{CONNECT_TIME, Context};
use crate::deliver::{DialError, deliver, dial};
use crate::listen::Accepted;
use crate::recheck::{Proof, Standing};
use crate::record::{Ended, Recorder};
use crate::reset::ResetOnDrop;
use crate::served::Served;
use crate::{identify, inbound, origin};

mod join;

/// One connection of an application, from accept to close.
pub(crate) async fn serve(cx: Rc<Context>, accepted: Accepted) {
    // One world per connection: every decision below sees the same one.
    let basis = Basis::now(&cx);
    let record = cx.record(Direction::Outbound, &basis.world);
    let open = cx.open(Direction::Outbound);
    let told = Story {
        cx: &cx,
        basis: &basis,
        served: accepted.share.served(),
        client: accepted.client,
        record: &record,
        deadline: Instant::now() + CONNECT_TIME,
        waited: Cell::default(),
        recovered: Instant::now(),
    }
    .tell(ResetOnDrop::new(accepted.connection))
    .await;
    match told {
        Ok(taken) => {
            let held = Held {
                _share: accepted.share,
                _open: open,
                _load: Some(taken.load),
            };
            carry::begin(&cx, &basis, record, taken.carriage, taken.standing, held);
        }
        Err(ended) => record.close(ended),
    }
}

/// What every step of the story needs.
struct Story<'a> {
    cx: &'a Rc<Context>,
    basis: &'a Basis,
    served: &'a Arc<Served>,
    client: ClientAddr,
    record: &'a Recorder,
    deadline: Instant,
    /// Between the application's `connect()` and `recovered`.
    waited: Cell<Duration>,
    recovered: Instant,
}

/// An attempt at one place failed.
struct Failed {
    reason: Reason,
    detail: String,
    /// Whether another place may be tried: the application's connection is whole, and no other application has seen any
    /// of its bytes.
    app: Option<(ResetOnDrop, Vec<u8>)>,
}

/// The other application took the connection.
struct Taken {
    carriage: Carriage,
    standing: Standing,
    load: Load,
}

/// What became of an attempt.
type Attempt = Result<Taken, Failed>;

impl Story<'_> {
    async fn tell(&self, app: ResetOnDrop) -> Result<Taken, Ended> {
        self.fill(|record| {
            record.client = Some(self.client);
            record.source.workload = Some(self.served.local.name.clone());
            record.source.identity = Some(self.served.local.identity.clone());
        });
        let Some(connection) = app.get() else {
            return Err(Ended::before(Reason::Fault, ""));
        };
        let dialled =
            match origin::recover(&*self.cx.shared.kernel, connection, self.served.local.id) {
                Ok(dialled) => dialled,
                Err(error) => {
                    return Err(Ended::before(Reason::NoOriginalDestination, words(&error)));
                }
            };
        // The application's connect() has returned already; what it waits for counts from there.
        self.waited.set(dialled.age());
        self.fill(|record| {
            record.original_destination = Some(dialled.destination);
            record.process = Some(dialled.process);
        });
        let source = match identify::local(&self.basis.world, &self.served.local) {
            Ok(source) => source,
            Err(error) => return Err(Ended::before(Reason::Fault, error.to_string())),
        };
        let destination = AppAddr(dialled.destination.0);
        let attempt = match decide(&self.basis.world, source, dialled.destination) {
            Decision::Service(route) => self.service(&route, app).await,
            Decision::Workload(workload) => {
                self.workload(&workload, destination, destination, None, (app, Vec::new()))
                    .await
            }
            Decision::Outside => self.outside(destination, (app, Vec::new())).await,
            Decision::Refuse { reason, detail } => return Err(Ended::before(reason, detail)),
        };
        // What was not taken by anybody is dropped here, and so reset.
        attempt.map_err(|failed| self.explain(failed))
    }

    /// The address of a service: an endpoint by weight and load, another one while that is safe.
    async fn service(&self, route: &ServiceRoute, app: ResetOnDrop) -> Attempt {
        self.fill(|record| {
            record.service = Some(route.service.name.clone());
            record.route = route.describe_rule();
        });
        let service = Some(&route.service.name);
        let (mut app, mut tried, mut last) = ((app, Vec::new()), Vec::new(), None);
        loop {
            let chosen = self.cx.balancer.borrow_mut().choose(
                route,
                &tried,
                self.cx.now(),
                &mut rand::random::<u64>,
            );
            let Ok(choice) = chosen else {
                return Err(last.unwrap_or_else(|| Failed {
                    reason: Reason::NothingHealthy,
                    detail: format!("service {} has no endpoint to go to", route.service.name),
                    app: None,
                }));
            };
            let endpoint = AppAddr(choice.address);
            self.fill(|record| record.backend = Some(choice.backend.clone()));
            let attempt = match &choice.endpoint.workload {
                Some(workload) => {
                    let beside = self.beside_client(workload, choice.address);
                    self.workload(workload, beside, endpoint, service, app)
                        .await
                }
                None => self.outside(endpoint, app).await,
            };
            match attempt {
                Err(Failed {
                    reason,
                    detail,
                    app: Some(returned),
                }) if another_may_help(reason) && Instant::now() < self.deadline => {
                    let now = self.cx.now();
                    self.cx.balancer.borrow_mut().failed(choice.address, now);
                    last = Some(Failed {
                        reason,
                        detail,
                        app: None,
                    });
                    tried.push(choice);
                    app = returned;
                }
                result => return result,
            }
        }
    }

    /// The workload's address of the client's family, if it has one: only there can the application see the client.
    fn beside_client(&self, workload: &Workload, chosen: SocketAddr) -> AppAddr {
        let ipv6 = self.client.0.ip().to_canonical().is_ipv6();
        let address = workload
            .addresses
            .iter()
            .find(|address| address.is_ipv6() == ipv6)
            .filter(|_| chosen.is_ipv6() != ipv6)
            .map_or_else(|| chosen.ip(), |address| *address);
        AppAddr(SocketAddr::new(address, chosen.port()))
    }

    /// A workload of the mesh: through a tunnel, unless it is the dialling workload itself. The balancer counts it under
    /// the address `counted`.
    async fn workload(
        &self,
        workload: &Workload,
        endpoint: AppAddr,
        counted: AppAddr,
        service: Option<&Name>,
        app: (ResetOnDrop, Vec<u8>),
    ) -> Attempt {
        self.fill(|record| {
            record.destination.workload = Some(workload.name.clone());
            record.destination.identity = Some(workload.identity.clone());
            record.endpoint = Some(endpoint);
        });
        if workload.name == self.served.local.name {
            return self.itself(workload, endpoint, app).await;
        }
        self.fill(|record| record.transport = Transport::MutualTls);
        let opened = self.join(workload, endpoint, service, app).await?;
        self.connected(|record| record.tls = Some(opened.tls.clone()));
        let peer = Proof {
            identity: opened.peer,
            chain: opened.chain,
        };
        let standing = Standing::Outbound {
            source: Arc::clone(self.served),
            destination: workload.name.clone(),
            peer,
        };
        Ok(Taken {
            carriage: Carriage::Stream(opened.stream),
            standing,
            load: Load::begin(self.cx, counted.0, opened.answered_in),
        })
    }

    /// The workload dialled itself: authorised as itself, and delivered without leaving the node.
    async fn itself(
        &self,
        workload: &Workload,
        endpoint: AppAddr,
        app: (ResetOnDrop, Vec<u8>),
    ) -> Attempt {
        self.fill(|record| record.transport = Transport::Itself);
        let permit =
            match inbound::authorize_itself(&self.basis.world, workload, self.client, endpoint) {
                Ok(permit) => permit,
                Err(denied) => return Err(failed(denied.reason, denied.rule)),
            };
        self.fill(|record| record.rule = Some(permit.rule().to_owned()));
        let began = Instant::now();
        let server = deliver(&permit, self.served, self.client, self.deadline).await;
        let standing = Standing::Inbound {
            destination: Arc::clone(self.served),
            permit,
            peer: None,
        };
        self.plainly((server, began), app, endpoint, standing).await
    }

    /// Not of the mesh: in clear, as without one.
    async fn outside(&self, destination: AppAddr, app: (ResetOnDrop, Vec<u8>)) -> Attempt {
        if self.served.owns(destination.0.ip()) {
            // It would come back to one of our own listeners, for ever.
            let detail = format!("{destination} is the workload's own, and not of the mesh");
            return Err(failed(Reason::WrongDestination, detail));
        }
        self.fill(|record| {
            record.transport = Transport::Plaintext;
            record.endpoint = Some(destination);
        });
        let began = Instant::now();
        let server = dial(self.served, destination.0, self.deadline).await;
        self.plainly((server, began), app, destination, Standing::Undecided)
            .await
    }

    async fn plainly(
        &self,
        (server, began): (Result<TcpStream, DialError>, Instant),
        (mut app, kept): (ResetOnDrop, Vec<u8>),
        endpoint: AppAddr,
        standing: Standing,
    ) -> Attempt {
        let server = match server {
            Ok(server) => server,
            Err(error) => {
                return Err(Failed {
                    reason: error.reason(),
                    detail: error.to_string(),
                    app: Some((app, kept)),
                });
            }
        };
        let Some(client) = app.take() else {
            return Err(failed(Reason::Fault, String::new()));
        };
        self.connected(|_| {});
        Ok(Taken {
            carriage: Carriage::Plain {
                client,
                server,
                kept,
            },
            standing,
            load: Load::begin(self.cx, endpoint.0, began.elapsed()),
        })
    }

    /// A peer that denies says which rule does; it belongs where people look for rules.
    fn explain(&self, failed: Failed) -> Ended {
        let denied = matches!(failed.reason, Reason::PolicyDenied | Reason::NoRuleAllows);
        if denied && !failed.detail.is_empty() {
            self.fill(|record| record.rule = Some(failed.detail));
            return Ended::before(failed.reason, "");
        }
        Ended::before(failed.reason, failed.detail)
    }

    fn fill(&self, fill: impl FnOnce(&mut Record)) {
        self.record.fill(fill);
    }

    /// The destination application took the connection.
    fn connected(&self, fill: impl FnOnce(&mut Record)) {
        let since = self.waited.get() + self.recovered.elapsed();
        let connect_us = u64::try_from(since.as_micros()).ok();
        self.fill(|record| {
            record.connect_us = connect_us;
            fill(record);
        });
    }
}

/// Whether a failure is the endpoint's rather than the connection's.
fn another_may_help(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectionRefused
            | Reason::Unreachable
            | Reason::PeerIdentity
            | Reason::PeerProtocol
            | Reason::TunnelLost
            | Reason::WrongDestination
            | Reason::Overloaded
            | Reason::Drained
            | Reason::Fault
    )
}

fn failed(reason: Reason, detail: String) -> Failed {
    Failed {
        reason,
        detail,
        app: None,
    }
}

/// An error with its causes, on one line.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
