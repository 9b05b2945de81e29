//! Putting a controller together, in order: the one place that knows all of its parts. It is torn down in the opposite
//! order, nodes first: they move to another controller while this one still answers.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mesh_control::facts::MeshSpec;
use mesh_core::identity::TrustDomain;
use mesh_core::policy::MtlsMode;
use mesh_distribution::hub::Hub;
use mesh_distribution::relay::Fleet;
use mesh_distribution::server::{self, Limits, Serving, Tally};
use mesh_identity::tls::{self, Caller};
use mesh_kubernetes::status::Acknowledged;
use mesh_kubernetes::view::View;
use mesh_kubernetes::{Client, authority_secret, client, lease, names, source, status};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::answers::{self, Answers};
use super::gatekeeper::Gate;
use super::health::{self, Health};
use super::keys::{self, Keeper, Keys};
use super::knowledge::Knowledge;
use super::lead::{Failing, Writer};
use super::listen::listen;
use super::metrics::{self, Sources};
use super::tell::{self, Told};
use super::{ControllerError, api, replicas};
use crate::cli::args::{ControllerArgs, DefaultMtls};

/// Workloads' certificates are not shorter than this: at half of it they are renewed.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// How often is looked whether kinds of object have appeared that were not there.
const DISCOVER: Duration = Duration::from_secs(30);

/// Updates that may wait for the hub, which takes each in no time.
const UPDATES: usize = 64;

/// After the nodes have gone, for the Lease to be given back.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where it listens.
struct Listeners {
    nodes: TcpListener,
    api: TcpListener,
    metrics: TcpListener,
}

/// What most parts need.
struct Parts {
    name: String,
    args: ControllerArgs,
    client: Client,
    keys: Arc<Keys>,
    view: View,
    hub: Hub,
    fleet: Fleet,
    tally: Arc<Tally>,
    told: Arc<Told>,
    health: Arc<Health>,
    stopping: watch::Receiver<bool>,
}

/// Runs a controller from its first step to its last.
pub(super) async fn run(
    args: ControllerArgs,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
) -> Result<(), ControllerError> {
    let mesh = mesh_spec(&args)?;
    let name = args.pod_name.clone().unwrap_or_else(host_name);
    let mut ending = pin!(ending()?);
    let listeners = Listeners {
        nodes: listen(args.distribution_listen, "nodes").await?,
        api: listen(args.api_listen, "the API server").await?,
        metrics: listen(args.metrics_listen, "metrics").await?,
    };
    let client = client::from_kubeconfig(kubeconfig.as_deref(), context.as_deref()).await?;
    let view = View::new(source::Settings {
        system_namespace: args.namespace.clone(),
        mesh: mesh.clone(),
        discover_every: DISCOVER,
    });
    let hub = Hub::new();
    let (stop, stopping) = watch::channel(false);
    let health = Arc::new(Health {
        hub: hub.clone(),
        view: view.clone(),
        stopping: stopping.clone(),
    });
    // From the first moment: an API server that does not answer is waited for, and that is no reason to be restarted.
    let listener = listen(args.health_listen, "health").await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(watched(
        "health",
        health::serve(listener, Arc::clone(&health)),
    ));
    let (keys, keeper) = tokio::select! {
        opened = keys::open(&client, &args.namespace, &mesh.trust_domain) => opened?,
        () = &mut ending => return Ok(()),
    };
    tracing::info!(
        name,
        identity = %keys.identity,
        signer = keys.registrar.authority().signer().name(),
        "the controller starts"
    );
    let parts = Parts {
        name,
        args,
        client,
        keys,
        view,
        fleet: Fleet::new(hub.clone()),
        hub,
        tally: Arc::default(),
        told: Arc::default(),
        health,
        stopping,
    };
    live(parts, keeper, listeners, tasks, stop, ending).await;
    Ok(())
}

fn mesh_spec(args: &ControllerArgs) -> Result<MeshSpec, ControllerError> {
    let trust_domain =
        TrustDomain::new(&args.trust_domain).map_err(|source| ControllerError::TrustDomain {
            text: args.trust_domain.clone(),
            source,
        })?;
    if args.certificate_lifetime < SHORTEST_LIFETIME {
        return Err(ControllerError::Lifetime);
    }
    Ok(MeshSpec {
        trust_domain,
        drain: args.drain,
        certificate_lifetime: args.certificate_lifetime,
        default_mtls: match args.mtls {
            DefaultMtls::Permissive => MtlsMode::Permissive,
            DefaultMtls::Strict => MtlsMode::Strict,
        },
        ..MeshSpec::default()
    })
}

fn host_name() -> String {
    let name = nix::sys::utsname::uname().map(|system| system.nodename().to_owned());
    name.map_or_else(
        |_| names::CONTROLLER.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Done when somebody wants the controller to end.
fn ending() -> Result<impl Future<Output = ()>, ControllerError> {
    let failed = |source| ControllerError::System {
        step: "cannot wait for signals",
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Everything at once, until the end.
async fn live(
    parts: Parts,
    keeper: Keeper,
    listeners: Listeners,
    mut tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    ending: impl Future<Output = ()>,
) {
    observe(&parts, keeper, &mut tasks);
    let lease = lead(&parts, &mut tasks);
    let answers = answer(&parts, &listeners, &mut tasks);
    let Listeners {
        nodes,
        api,
        metrics,
    } = listeners;
    let sources = Sources {
        answers: Arc::clone(&answers),
        tally: Arc::clone(&parts.tally),
        holding: lease.holding.clone(),
    };
    tasks.spawn(watched("metrics", metrics::serve(metrics, sources)));
    let questions = tokio::spawn(api::serve::serve(
        api,
        parts.keys.for_api(),
        api::routes::router(answers),
        parts.stopping.clone(),
    ));
    let serving = serving(&parts, nodes);
    let mut stopping = parts.stopping.clone();
    let until = async move {
        // Also when the sender is gone: then it is over anyway.
        stopping.wait_for(|stopping| *stopping).await.ok();
    };
    let nodes = tokio::spawn(server::serve(serving, until));

    ending.await;
    tracing::info!("ending: nodes move to another controller");
    stop.send_replace(true);
    for served in [nodes, questions] {
        if let Err(error) = served.await {
            tracing::error!(%error, "a server has failed");
        }
    }
    // Whoever writes ends with these; then the Lease is given back.
    drop(tasks);
    drop(lease.holding);
    if tokio::time::timeout(LAST_WORDS, lease.task).await.is_err() {
        tracing::warn!("the Lease could not be given back; another controller has it in 15 s");
    }
    tracing::info!("ended");
}

/// Watches the cluster, and tells the hub.
fn observe(parts: &Parts, keeper: Keeper, tasks: &mut JoinSet<()>) {
    let (sender, updates) = mpsc::channel(UPDATES);
    tasks.spawn(source::run(
        parts.client.clone(),
        parts.view.clone(),
        sender,
    ));
    tasks.spawn(tell::run(
        parts.hub.clone(),
        Arc::clone(&parts.told),
        updates,
    ));
    let (latest, secret) = watch::channel(None);
    // What is held now is not news; only a change is.
    let namespace = parts.args.namespace.clone();
    tasks.spawn(authority_secret::follow_secret(
        parts.client.clone(),
        namespace,
        latest,
    ));
    tasks.spawn(keeper.run(Arc::clone(&parts.keys), parts.hub.clone(), secret));
}

/// The Lease, and whether it is ours.
struct Leading {
    holding: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// Asks for the Lease, and starts whatever writes while it is held.
fn lead(parts: &Parts, tasks: &mut JoinSet<()>) -> Leading {
    let namespace = &parts.args.namespace;
    let settings = lease::Settings::new(namespace.clone(), names::CONTROLLER, parts.name.clone());
    let (held, holding) = watch::channel(false);
    let task = tokio::spawn(lease::run(parts.client.clone(), settings, held));
    let (acknowledged, known) = watch::channel(Acknowledged::default());
    tasks.spawn(status::run(
        parts.client.clone(),
        parts.view.clone(),
        holding.clone(),
        known,
    ));
    tasks.spawn(tell::acknowledge(
        parts.hub.clone(),
        parts.fleet.clone(),
        Arc::clone(&parts.told),
        holding.clone(),
        acknowledged,
    ));
    let writer = Writer {
        client: parts.client.clone(),
        namespace: namespace.clone(),
        keys: Arc::clone(&parts.keys),
        view: parts.view.clone(),
        fleet: parts.fleet.clone(),
        holding: holding.clone(),
        failing: Failing::default(),
    };
    tasks.spawn(writer.run());
    Leading { holding, task }
}

/// What people's questions are answered of.
fn answer(parts: &Parts, listeners: &Listeners, tasks: &mut JoinSet<()>) -> Arc<Answers> {
    let (found, others) = watch::channel(BTreeSet::new());
    let port = listeners.nodes.local_addr().map_or(0, |at| at.port());
    tasks.spawn(replicas::follow(
        parts.client.clone(),
        parts.args.namespace.clone(),
        port,
        Arc::clone(&parts.keys),
        parts.fleet.clone(),
        found,
    ));
    Arc::new(Answers {
        name: parts.name.clone(),
        namespace: parts.args.namespace.clone(),
        started_at: Timestamp::now(),
        client: parts.client.clone(),
        keys: Arc::clone(&parts.keys),
        view: parts.view.clone(),
        fleet: parts.fleet.clone(),
        others,
        knowledge: Knowledge::new(parts.hub.clone()),
        told: Arc::clone(&parts.told),
        health: Arc::clone(&parts.health),
        refused: answers::Refused::default(),
        streams: answers::streams(),
    })
}

/// How nodes are served.
fn serving(parts: &Parts, listener: TcpListener) -> Serving<Gate> {
    let identity = parts.keys.identity.clone();
    Serving {
        listener,
        tls: parts.keys.for_nodes(),
        identify: Arc::new(move |chain| {
            let presented = tls::presented(chain, &identity).map_err(|error| error.to_string())?;
            Ok(server::Identified {
                peer: match presented.caller {
                    Caller::Node(node) => server::Peer::Node(node.name().to_owned()),
                    Caller::Replica => server::Peer::Controller,
                },
                until: presented.until,
            })
        }),
        hub: parts.hub.clone(),
        gatekeeper: Arc::new(Gate::new(
            parts.client.clone(),
            Arc::clone(&parts.keys),
            parts.view.clone(),
            &parts.args.namespace,
            parts.args.certificate_lifetime,
        )),
        limits: Limits::default(),
        tally: Arc::clone(&parts.tally),
    }
}

async fn watched(what: &'static str, serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "{what} is not served any more");
    }
}
