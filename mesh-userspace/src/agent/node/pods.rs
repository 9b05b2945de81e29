//! Pods that a container runtime announces through the CNI plugin: answered when the mesh is enforced for them, or when it
//! is known that they have nothing to do with it.
//!
//! ```text
//!  announced ──► Asking ──────────► Enrolling ───────────────► Settling ──► enforced
//!      │          │  the controller   the certificate is there,   the worker has
//!      │          │  knows it         the workload enrolled, the  applied all of it
//!      │          └──► not meshed     world tells of it
//!      └── the world tells of it ────►┘                   … or too late: the runtime tries again
//! ```

use std::time::{Duration, Instant};

use mesh_control::objects::WorkloadSpec;
use mesh_core::workload::Name;
use tokio::sync::oneshot;

use super::Node;
use crate::agent::control::{Found, Pod};
use crate::agent::enrol::pods::Standing;
use crate::agent::metrics::Metrics;
use crate::agent::select::pods::Announced;
use crate::agent::select::{Mark, Selector, mark};
use crate::api::objects::Problem;
use crate::cni::namespaces::Membership;
use crate::cni::wire::{PodAnswer, PodRequest};

/// The runtime waits for somewhat longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// For a pod of a namespace that is not in the mesh: whether it is itself, by a label of its own, only the controller
/// knows, and the whole node must not wait for that.
const PATIENCE_OUTSIDE: Duration = Duration::from_secs(3);

/// Between two questions about a pod that the controller does not know yet.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// Who waits for an answer.
pub(crate) type Answer = oneshot::Sender<Result<PodAnswer, Problem>>;

/// The pods that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pods: Vec<Waiting>,
    last_ticket: u64,
}

#[derive(Debug)]
struct Waiting {
    /// By which answers of the controller are told apart.
    ticket: u64,
    name: Name,
    uid: String,
    /// Its network namespace, or why it cannot be used.
    namespace: Result<Mark, String>,
    since: Instant,
    stage: Stage,
    answer: Option<Answer>,
}

#[derive(Debug)]
enum Stage {
    /// The controller is asked; `again`: it is to be asked again then, because of what it said.
    Asking {
        again: Option<Instant>,
        why: String,
    },
    Enrolling,
    /// Everything is told to the worker with this generation of the world.
    Settling {
        generation: u64,
    },
}

impl Waiting {
    fn answer(&mut self, metrics: &Metrics, answer: Result<PodAnswer, Problem>) {
        if let Some(waiting) = self.answer.take() {
            metrics.pod_announced(match &answer {
                Ok(PodAnswer::Enforced) => "enforced",
                Ok(PodAnswer::NotMeshed { .. }) => "not_meshed",
                Err(_) => "refused",
            });
            // The runtime may have given up.
            waiting.send(answer).unwrap_or_default();
        }
    }

    fn is_over(&self) -> bool {
        self.answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Node {
    /// A runtime announces a pod.
    pub(super) fn pod_added(&mut self, request: PodRequest, answer: Answer) {
        let PodRequest {
            container_id,
            namespace,
            name,
            uid,
            netns,
            interface: _,
            addresses,
        } = request;
        let name = Name { namespace, name };
        let mut waiting = Waiting {
            ticket: self.state.pending.ticket(),
            name,
            uid,
            namespace: Err(String::new()),
            since: Instant::now(),
            stage: Stage::Asking {
                again: None,
                why: String::new(),
            },
            answer: Some(answer),
        };
        if self.state.ending.is_some() || self.state.opening.is_some() {
            waiting.answer(
                &self.metrics,
                Err(Problem::new("the agent is ending; try again in a moment")),
            );
            return;
        }
        if waiting.uid.is_empty() {
            // Runtimes of before 2021 do not tell it. The world does, unless the pod has a namesake of before.
            waiting.uid = self.uid_of(&waiting.name).unwrap_or_default();
        }
        let opened = self.host.open(&netns);
        waiting.namespace = match opened.and_then(|file| Ok((mark(&file)?, file))) {
            Ok((mark, namespace)) => {
                let pod = Announced {
                    container_id,
                    namespace,
                    path: netns,
                    addresses,
                };
                self.finder.announce_pod(&waiting.uid, pod);
                Ok(mark)
            }
            // That matters only if it is of the mesh.
            Err(error) => Err(format!(
                "its network namespace {} cannot be opened: {error}",
                netns.display()
            )),
        };
        if self.names(&waiting.name, &waiting.uid) {
            waiting.stage = Stage::Enrolling;
            self.look_for(&waiting.name);
        } else {
            self.ask_about(&mut waiting);
        }
        self.state.pending.pods.push(waiting);
        self.tend_pods(Instant::now());
    }

    /// A runtime takes a pod down.
    pub(super) fn pod_removed(&mut self, request: &PodRequest) {
        let PodRequest {
            container_id,
            uid,
            netns,
            ..
        } = request;
        let namespace = self.host.open(netns).and_then(|file| mark(&file)).ok();
        if let Some(ended) = self.finder.end_pod(uid, container_id, namespace) {
            self.enrolling(|enrolments, cx| enrolments.namespace_ends(ended, cx));
            self.show_enrolments();
        }
    }

    /// Whether a pod is as the runtime believes it to be.
    pub(super) fn pod_checked(&self, request: &PodRequest) -> Result<PodAnswer, Problem> {
        let name = Name {
            namespace: request.namespace.clone(),
            name: request.name.clone(),
        };
        let namespace = self.host.open(&request.netns);
        let namespace = namespace.and_then(|file| mark(&file)).ok();
        let enrolments = &self.state.enrolments;
        match enrolments.standing(&name, &request.uid, namespace) {
            Standing::Enforced => Ok(PodAnswer::Enforced),
            Standing::NotYet(why) => Err(Problem::new(why)),
            Standing::Unknown => Ok(PodAnswer::NotMeshed {
                why: "nobody wants it in the mesh".to_owned(),
            }),
        }
    }

    /// What the controller says about a pod.
    pub(super) fn pod_found(&mut self, ticket: u64, found: Result<Found, String>) {
        let mut pods = self.state.pending.take();
        if let Some(waiting) = pods.iter_mut().find(|waiting| waiting.ticket == ticket) {
            match found {
                Ok(Found::Meshed(spec)) => self.pod_is_meshed(waiting, &spec),
                Ok(Found::NotMeshed(why)) => {
                    waiting.answer(&self.metrics, Ok(PodAnswer::NotMeshed { why }))
                }
                Ok(Found::Unknown) => waiting.ask_again("the controller does not know it yet"),
                Err(why) => waiting.ask_again(&why),
            }
        }
        self.state.pending.pods = pods;
        self.tend_pods(Instant::now());
    }

    fn pod_is_meshed(&mut self, waiting: &mut Waiting, spec: &WorkloadSpec) {
        let Some(wanted) = self.configuration.wanted_pod(spec) else {
            waiting.ask_again("what the controller says about it is not understood");
            return;
        };
        if let Selector::Pod(uid) = &wanted.selector {
            self.finder.rename_pod(&waiting.uid, uid);
            waiting.uid.clone_from(uid);
        }
        waiting.stage = Stage::Enrolling;
        let now = Instant::now();
        self.enrolling(|enrolments, cx| enrolments.announce_pod(wanted, now, cx));
        self.tend_identities();
        self.advance(now);
    }

    /// Goes on with every pod that somebody waits for, as far as can be.
    pub(super) fn tend_pods(&mut self, now: Instant) {
        let mut pods = self.state.pending.take();
        for waiting in &mut pods {
            self.tend_pod(waiting, now);
        }
        pods.retain(|waiting| !waiting.is_over());
        self.state.pending.pods = pods;
    }

    fn tend_pod(&mut self, waiting: &mut Waiting, now: Instant) {
        if let Stage::Asking { again, .. } = waiting.stage {
            if self.names(&waiting.name, &waiting.uid) {
                // The world was faster than the answer.
                waiting.stage = Stage::Enrolling;
                self.look_for(&waiting.name);
            } else if again.is_some_and(|at| at <= now) {
                self.ask_about(waiting);
            }
        }
        if matches!(waiting.stage, Stage::Enrolling) && self.is_enforced(waiting) {
            waiting.stage = Stage::Settling {
                generation: self.settle_world(),
            };
        }
        if let Stage::Settling { generation } = waiting.stage
            && self.view.state().configuration.applied_generation >= generation
        {
            let name = &waiting.name;
            let took = now.duration_since(waiting.since);
            tracing::info!(workload = %name, ?took, "enforced, before its first process");
            waiting.answer(&self.metrics, Ok(PodAnswer::Enforced));
            return;
        }
        let outside = self.membership(&waiting.name) == Membership::Outside;
        let patience = match (&waiting.stage, outside) {
            // Nobody answers, and nobody is about to.
            (Stage::Asking { again: Some(_), .. }, true) if !self.configuration.current => {
                Duration::ZERO
            }
            (Stage::Asking { .. }, true) => PATIENCE_OUTSIDE,
            (Stage::Enrolling, _) if waiting.namespace.is_err() => Duration::ZERO,
            _ => PATIENCE,
        };
        if now.duration_since(waiting.since) < patience {
            return;
        }
        waiting.answer(
            &self.metrics,
            match (&waiting.stage, outside) {
                (Stage::Asking { why, .. }, true) => Ok(PodAnswer::NotMeshed {
                    why: format!("its namespace is not in the mesh, and {why}"),
                }),
                _ => Err(Problem::new(self.why_not_yet(waiting))),
            },
        );
    }

    /// Enrols a pod as soon as can be, also where it is enrolled with the namespace of a sandbox that it had before.
    fn look_for(&mut self, name: &Name) {
        self.enrolling(|enrolments, cx| enrolments.check_pod(name, cx));
        self.state.enrolments.hurry(name);
        self.advance(Instant::now());
    }

    fn ask_about(&self, waiting: &mut Waiting) {
        let pod = Pod {
            namespace: waiting.name.namespace.clone(),
            name: waiting.name.name.clone(),
            uid: waiting.uid.clone(),
        };
        match &self.control {
            Some(control) => {
                waiting.stage = Stage::Asking {
                    again: None,
                    why: "the controller has not answered yet".to_owned(),
                };
                control.find_pod(waiting.ticket, pod);
            }
            // An agent with a configuration file: what the file does not name is not in the mesh.
            None => waiting.answer(
                &self.metrics,
                Ok(PodAnswer::NotMeshed {
                    why: "the agent's configuration file does not name it".to_owned(),
                }),
            ),
        }
    }

    /// Enrolled, and named by the world: then the world tells what it may dial, too.
    fn is_enforced(&self, waiting: &Waiting) -> bool {
        let Waiting {
            name,
            uid,
            namespace,
            ..
        } = waiting;
        self.standing(name, uid, namespace) == Standing::Enforced && self.names(name, uid)
    }

    /// A generation of the world after which the worker knows everything that it was told so far.
    fn settle_world(&mut self) -> u64 {
        if self.state.identities_told_at == Some(self.state.generation) {
            // Certificates are not acknowledged, but a world that comes behind them is.
            self.publish();
        }
        self.state.generation
    }

    /// Whether the configuration names a pod.
    fn names(&self, name: &Name, uid: &str) -> bool {
        self.uid_of(name).is_some_and(|found| found == uid)
    }

    fn uid_of(&self, name: &Name) -> Option<String> {
        let mut wanted = self.configuration.wanted.iter();
        wanted
            .find(|wanted| wanted.name == *name)
            .and_then(|wanted| match &wanted.selector {
                Selector::Pod(uid) => Some(uid.clone()),
                _ => None,
            })
    }

    fn membership(&self, name: &Name) -> Membership {
        self.configuration.namespaces.of(&name.namespace)
    }

    fn standing(&self, name: &Name, uid: &str, namespace: &Result<Mark, String>) -> Standing {
        match namespace {
            Ok(mark) => self.state.enrolments.standing(name, uid, Some(*mark)),
            Err(why) => Standing::NotYet(why.clone()),
        }
    }

    fn why_not_yet(&self, waiting: &Waiting) -> String {
        let Waiting {
            name,
            uid,
            namespace,
            stage,
            ..
        } = waiting;
        match stage {
            Stage::Asking { why, .. } => {
                format!("pod {name} is of a namespace in the mesh, and {why}")
            }
            Stage::Settling { .. } => format!("the proxy has not taken over pod {name} yet"),
            Stage::Enrolling => match self.standing(name, uid, namespace) {
                Standing::NotYet(why) => format!("pod {name} is not in the mesh yet: {why}"),
                Standing::Enforced => {
                    format!("the controller has not told what pod {name} may reach yet")
                }
                Standing::Unknown => format!("pod {name} is not wanted in the mesh any more"),
            },
        }
    }
}

impl Waiting {
    fn ask_again(&mut self, why: &str) {
        self.stage = Stage::Asking {
            again: Some(Instant::now() + ASK_AGAIN),
            why: why.to_owned(),
        };
    }
}

impl Pending {
    /// Whether somebody waits for a pod of this UID.
    pub(super) fn knows_pod(&self, uid: &str) -> bool {
        self.pods.iter().any(|waiting| waiting.uid == uid)
    }

    fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    fn take(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.pods)
    }
}
