//! Controllers and nodes as the tests and the benchmark want them.

mod pki;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_control::facts::{Fact, FactChange, FactKey, MeshSpec, NamespaceSpec};
use mesh_control::objects::WorkloadSpec;
use mesh_core::identity::SpiffeId;
use mesh_core::workload::Name;
use mesh_distribution::gatekeeper::{Enrolled, Enrolment, Found, Gatekeeper, Pod, Refusal};
use mesh_distribution::hub::Hub;
use mesh_distribution::node::{Known, Link, Options, Subscription, TlsConnect};
use mesh_distribution::question::{Answer, Answers, Question};
use mesh_distribution::server::{Limits, Peer, Serving, Tally, serve};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

pub(crate) use pki::Pki;

pub(crate) const NAME: &str = "warren-controller";

/// Grants what the test says.
pub(crate) struct Gate;

impl Gatekeeper for Gate {
    async fn enrol(&self, enrolment: Enrolment) -> Result<Enrolled, Refusal> {
        match enrolment.token.as_str() {
            "good" => Ok(Enrolled {
                chain: vec![enrolment.request, enrolment.node.into()],
                roots: "roots".to_owned(),
                lifetime: Duration::from_secs(3600),
            }),
            "later" => Err(Refusal::not_now("the token cannot be reviewed now")),
            _ => Err(Refusal::denied("the token is not good")),
        }
    }

    async fn sign(
        &self,
        node: &str,
        identity: &SpiffeId,
        request: &[u8],
    ) -> Result<Vec<Vec<u8>>, Refusal> {
        if identity.namespace() == node {
            Ok(vec![request.to_vec(), identity.to_string().into()])
        } else {
            Err(Refusal::denied(format!(
                "{identity} does not run on {node}"
            )))
        }
    }

    async fn find_pod(&self, node: &str, pod: &Pod) -> Result<Found, Refusal> {
        match pod.name.as_str() {
            "meshed" => {
                let Fact::Workload(spec) = workload(&pod.namespace, &pod.name, node) else {
                    return Err(Refusal::denied("not a workload"));
                };
                Ok(Found::Meshed(Box::new(spec)))
            }
            "host" => Ok(Found::NotMeshed("it uses the node's network".to_owned())),
            "broken" => Err(Refusal::not_now("the cluster does not answer")),
            _ => Ok(Found::Unknown),
        }
    }
}

/// A controller that runs.
pub(crate) struct Controller {
    pub(crate) hub: Hub,
    pub(crate) address: SocketAddr,
    pub(crate) tally: Arc<Tally>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Controller {
    pub(crate) async fn start(pki: &Pki, hub: Hub) -> Self {
        Self::start_with(pki, hub, Limits::default()).await
    }

    pub(crate) async fn start_with(pki: &Pki, hub: Hub, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let tally = Arc::new(Tally::default());
        let (_tls, tls) = watch::channel(pki.server());
        let serving = Serving {
            listener,
            tls,
            identify: pki.identify(),
            hub: hub.clone(),
            gatekeeper: Arc::new(Gate),
            limits,
            tally: tally.clone(),
        };
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(serving, async move {
            stopped.await.expect("a controller is stopped, not dropped");
        }));
        Self {
            hub,
            address,
            tally,
            stop,
            serving,
        }
    }

    /// Stops it as a rolling update does, and waits until it has.
    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.serving.await.expect("it ends well");
    }

    pub(crate) async fn wait_for_nodes(&self, count: usize) {
        eventually("nodes follow", || self.hub.counts().nodes == count).await;
    }

    pub(crate) async fn wait_until_told(&self) {
        eventually("everybody is told", || self.hub.counts().behind == 0).await;
    }
}

/// How a node is started.
pub(crate) struct NodeOptions {
    pub(crate) cache: Option<PathBuf>,
    pub(crate) answers: Arc<dyn Answers>,
    pub(crate) version: &'static str,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            cache: None,
            answers: Arc::new(|question: Question| async move {
                Answer::whole(200, "text/plain", question.path)
            }),
            version: "1.0.0",
        }
    }
}

pub(crate) fn connect(target: SocketAddr, tls: Arc<ClientConfig>) -> TlsConnect<Arc<ClientConfig>> {
    TlsConnect {
        target: target.to_string(),
        name: ServerName::try_from(NAME).expect("a name"),
        tls,
    }
}

/// A node that follows the controller at an address.
pub(crate) fn node(
    pki: &Pki,
    name: &str,
    target: SocketAddr,
    options: NodeOptions,
) -> Subscription {
    let NodeOptions {
        cache,
        answers,
        version,
    } = options;
    Subscription::start(Options {
        node: name.to_owned(),
        version: version.to_owned(),
        connect: Arc::new(connect(target, pki.client(Peer::Node(name.to_owned())))),
        cache,
        answers,
    })
}

/// What a node knows, once it is as wanted.
pub(crate) async fn known(
    node: &Subscription,
    what: &str,
    wanted: impl Fn(&Known) -> bool,
) -> Known {
    let mut known = node.known();
    let waited = tokio::time::timeout(PATIENCE, known.wait_for(&wanted)).await;
    match waited {
        Ok(known) => known.expect("it goes on").clone(),
        Err(_late) => panic!(
            "not within {PATIENCE:?}: {what}; known: {:?}",
            node.known().borrow()
        ),
    }
}

pub(crate) fn is_current(known: &Known) -> bool {
    matches!(known.link, Link::Current { .. })
}

pub(crate) fn is_broken(known: &Known) -> bool {
    matches!(known.link, Link::Broken { .. })
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    if waited.await.is_err() {
        panic!("not within {PATIENCE:?}: {what}");
    }
}

pub(crate) fn workload(namespace: &str, name: &str, node: &str) -> Fact {
    labelled(namespace, name, node, "1")
}

pub(crate) fn labelled(namespace: &str, name: &str, node: &str, version: &str) -> Fact {
    Fact::Workload(WorkloadSpec {
        name: Name::new(namespace, name),
        service_account: "default".to_owned(),
        node: Some(node.to_owned()),
        addresses: Vec::new(),
        labels: BTreeMap::from([("version".to_owned(), version.to_owned())]),
        ports: Vec::new(),
        select: None,
        udp: false,
    })
}

pub(crate) fn namespace(name: &str, reach: Option<&[&str]>) -> Fact {
    Fact::Namespace(NamespaceSpec {
        name: name.to_owned(),
        meshed: true,
        pods_opt_in: false,
        reach: reach.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
    })
}

pub(crate) fn set(facts: impl IntoIterator<Item = Fact>) -> FactChange {
    FactChange {
        set: facts.into_iter().collect(),
        removed: Vec::new(),
    }
}

pub(crate) fn remove(keys: impl IntoIterator<Item = FactKey>) -> FactChange {
    FactChange {
        set: Vec::new(),
        removed: keys.into_iter().collect(),
    }
}

/// A hub that is ready and knows these facts.
pub(crate) fn hub(facts: impl IntoIterator<Item = Fact>) -> Hub {
    let hub = Hub::new();
    hub.publish(set([Fact::Mesh(MeshSpec::default())]));
    hub.publish(set(facts));
    hub.mark_synced();
    hub
}

/// Whether a node holds exactly what the hub has for it.
pub(crate) fn holds_its_view(known: &Known, hub: &Hub, node: &str) -> bool {
    let view = hub.view(node);
    known.facts.len() == view.len() && known.facts.iter().eq(view.iter())
}
