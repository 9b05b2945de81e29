//! Putting a node together, in order: the one place that knows all of its parts. What fails here leaves nothing behind;
//! what is pinned in the kernel stays as it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::identity::SpiffeId;
use mesh_kernel::Kernel;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::cni_install::{self, Installer};
use super::config::Configuration;
use super::control::{self, Control};
use super::flows::Flows;
use super::handover::{self, Next};
use super::identities::{Identities, Local, Remote};
use super::metrics::{self, Metrics};
use super::node::end::Ending;
use super::node::{Inputs, Node, Parts, Signals};
use super::options::{Cluster, From, Options};
use super::run_dir::{Plugin, RunDir};
use super::source::{Source, file};
use super::supervise::chain;
use super::view::{Command, View};
use super::{AgentError, health, preflight, uninstall};
use crate::api::objects::Problem;
use crate::api::server;
use crate::memory;

/// For an answer on the socket to reach whoever asked, before the process is gone.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long an address may still be the agent's before this one.
const LISTEN_WITHIN: Duration = Duration::from_secs(10);

/// How long a node is not taken from the agent that has it while certificates are awaited.
const WARM_UP: Duration = Duration::from_secs(10);

/// What becomes of the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum After {
    /// It ends.
    End,
    /// It begins anew.
    Again,
}

/// Runs a node from its first step to its last.
pub(super) async fn run(options: Options) -> Result<After, AgentError> {
    let missing = preflight::missing();
    if !missing.is_empty() {
        return Err(AgentError::Missing { missing });
    }
    let signals = Signals::new()?;
    match options.from.clone() {
        From::File { file, name } => of_file(options, &file, name, signals).await,
        From::Cluster(cluster) => of_cluster(options, &cluster, signals).await,
    }
}

/// A node by a configuration file.
async fn of_file(
    options: Options,
    file: &Path,
    name: Option<String>,
    signals: Signals,
) -> Result<After, AgentError> {
    let run_dir = RunDir::take(&options.run_dir)?;
    let (source, name, configuration) = file::Watched::open(file, name)?;
    tracing::info!(node = name, file = %file.display(), "read the configuration");
    let identities = Local::open(
        &configuration.identity_directory,
        &configuration.trust_domain,
        configuration.certificate_lifetime,
    )?;
    let mut seen = Seen::new(&options, &name);
    seen.serve(&options).await?;
    let (_nobody, controller) = mpsc::channel(1);
    let prepared = Prepared {
        run_dir,
        name,
        configuration,
        identities: Identities::Local(Box::new(identities)),
        source: Source::File(source),
        cluster: None,
        controller,
        signals,
    };
    live(options, prepared, seen).await
}

/// A node of a cluster.
async fn of_cluster(
    options: Options,
    cluster: &Cluster,
    mut signals: Signals,
) -> Result<After, AgentError> {
    if !options.host.shares_its_network() {
        return Err(AgentError::OtherNetwork);
    }
    let mut seen = Seen::new(&options, &cluster.node);
    // Where no other agent is, people can ask from the first moment; else that one answers until this one takes over.
    let early = match RunDir::take(&options.run_dir) {
        Ok(run_dir) => {
            seen.serve(&options).await?;
            Some(run_dir)
        }
        Err(AgentError::Running { .. }) => None,
        Err(error) => return Err(error),
    };
    let announced = match early {
        Some(_) => None,
        None => handover::announce(&options.run_dir),
    };
    let prepared = tokio::select! {
        prepared = prepare(&options, cluster, &seen, early.is_some()) => prepared?,
        _ = signals.next(options.on_stop) => return Ok(After::End),
    };
    let mut run_dir = match early {
        Some(run_dir) => run_dir,
        None => {
            let run_dir = tokio::select! {
                taken = handover::take(&options.run_dir) => taken?,
                _ = signals.next(options.on_stop) => return Ok(After::End),
            };
            drop(announced);
            seen.serve(&options).await?;
            run_dir
        }
    };
    let (plugin, installer) = plugin(&options, cluster);
    run_dir.remember_plugin(plugin)?;
    let (installed, in_place) = watch::channel(Default::default());
    seen.tasks
        .spawn(cni_install::watch::keep(installer, installed));
    let Linked {
        configuration,
        identities,
        source,
        control,
        controller,
    } = prepared;
    let prepared = Prepared {
        run_dir,
        name: cluster.node.clone(),
        configuration,
        identities,
        source,
        cluster: Some((control, in_place)),
        controller,
        signals,
    };
    live(options, prepared, seen).await
}

/// What the link to the controller has brought.
struct Linked {
    configuration: Configuration,
    identities: Identities,
    source: Source,
    control: Control,
    controller: mpsc::Receiver<control::Event>,
}

/// Follows the controller, and has certificates for what runs here before the node is taken from another agent.
async fn prepare(
    options: &Options,
    cluster: &Cluster,
    seen: &Seen,
    alone: bool,
) -> Result<Linked, AgentError> {
    let (control, mut controller) = control::begin(cluster, Arc::clone(&seen.view))?;
    let (source, configuration) = control.first_world().await;
    let mut identities = Identities::Remote(Remote::new(
        control.bundle(),
        configuration.certificate_lifetime,
        &options.run_dir,
    ));
    let begun = Instant::now();
    let wanted: BTreeSet<SpiffeId> = configuration
        .wanted
        .iter()
        .map(|wanted| wanted.identity.clone())
        .collect();
    identities.want(wanted.clone(), configuration.certificate_lifetime);
    while !alone && !identities.hold_all(&wanted) && begun.elapsed() < WARM_UP {
        identities.ask(&control);
        let tick = Duration::from_millis(100);
        match tokio::time::timeout(tick, controller.recv()).await {
            Ok(Some(control::Event::Signed(signed))) => identities.signed(signed),
            Ok(Some(control::Event::Trust(bundle))) => identities.trust(bundle),
            Ok(Some(control::Event::Online)) => identities.retry(),
            // Nobody has asked about a pod yet.
            Ok(Some(control::Event::Found { .. }) | None) | Err(_) => {}
        }
    }
    Ok(Linked {
        configuration,
        identities,
        source: Source::Controller(source),
        control,
        controller,
    })
}

/// Where the CNI plugin goes: by the node's paths, and by ours.
fn plugin(options: &Options, cluster: &Cluster) -> (Plugin, Installer) {
    let on_the_node = |folder: &Path| options.host.path_on_it(folder);
    let plugin = Plugin {
        bin_dir: on_the_node(&cluster.cni_bin_dir),
        conf_dir: on_the_node(&cluster.cni_conf_dir),
        state_dir: on_the_node(&cluster.state_dir),
        run_dir: on_the_node(&options.run_dir),
    };
    let installer = Installer {
        program: "/proc/self/exe".into(),
        bin_dir: cluster.cni_bin_dir.clone(),
        conf_dir: cluster.cni_conf_dir.clone(),
        state_dir: cluster.state_dir.clone(),
        told: cni_install::Told {
            run_dir: plugin.run_dir.clone(),
            state_dir: plugin.state_dir.clone(),
        },
    };
    (plugin, installer)
}

/// Everything that a node begins with, but for the kernel half.
struct Prepared {
    run_dir: RunDir,
    name: String,
    configuration: Configuration,
    identities: Identities,
    source: Source,
    cluster: Option<(Control, watch::Receiver<cni_install::watch::InPlace>)>,
    controller: mpsc::Receiver<control::Event>,
    signals: Signals,
}

async fn live(options: Options, prepared: Prepared, seen: Seen) -> Result<After, AgentError> {
    let Prepared {
        mut run_dir,
        name,
        configuration,
        identities,
        source,
        cluster,
        controller,
        signals,
    } = prepared;
    let Seen {
        view,
        metrics,
        asked,
        tasks,
    } = seen;
    run_dir.remember(&options.mesh_cgroup, &options.cgroup_root, &options.bpffs)?;
    let generation = u64::from(run_dir.next_generation()?);
    let kernel = Kernel::open(&kernel_options(
        &options,
        configuration.tunnel_port,
        generation,
    ))?;
    // The types of the whole kernel were read for it.
    memory::give_back();
    let parts = Parts {
        host: options.host.clone(),
        cgroup2: options.cgroup2.clone(),
        options,
        name,
        run_dir,
        kernel,
        identities,
        configuration,
        view,
        metrics,
        cluster,
    };
    let inputs = Inputs {
        source,
        commands: asked,
        controller,
        signals,
    };
    let (node, ending) = Box::pin(Node::live(parts, inputs)).await?;
    finish(node, ending, tasks).await
}

/// Everything that people can ask: the socket, metrics and health.
struct Seen {
    view: Arc<View>,
    metrics: Arc<Metrics>,
    asked: mpsc::Receiver<Command>,
    /// Ended with it.
    tasks: JoinSet<()>,
}

impl Seen {
    fn new(options: &Options, name: &str) -> Self {
        // Room for every pod of a node that starts.
        let (commands, asked) = mpsc::channel(64);
        let flows = Arc::new(Flows::new(name));
        Self {
            view: Arc::new(View::new(name, &options.source(), flows, commands)),
            metrics: Arc::new(Metrics::new(name)),
            asked,
            tasks: JoinSet::new(),
        }
    }

    /// Answers from now on, truthfully.
    async fn serve(&mut self, options: &Options) -> Result<(), AgentError> {
        let (view, metrics) = (&self.view, &self.metrics);
        let path = options.run_dir.join(crate::api::SOCKET_NAME);
        let socket = server::listen(&path).map_err(|source| AgentError::Socket { path, source })?;
        let figures = listen(options, options.metrics_listen, "metrics").await?;
        let answers = listen(options, options.health_listen, "health").await?;
        let pod = options.cluster().and_then(|cluster| cluster.pod.clone());
        self.tasks.spawn(watched(
            "the node API",
            server::serve(socket, Arc::clone(view)),
        ));
        self.tasks.spawn(watched(
            "metrics",
            metrics::serve(figures, Arc::clone(metrics), Arc::clone(view)),
        ));
        self.tasks.spawn(watched(
            "health",
            health::serve(answers, Arc::clone(view), pod),
        ));
        Ok(())
    }
}

/// Listens. In a cluster the agent before this one may just be leaving the address.
async fn listen(
    options: &Options,
    address: std::net::SocketAddr,
    purpose: &'static str,
) -> Result<tokio::net::TcpListener, AgentError> {
    let begun = Instant::now();
    loop {
        match metrics::listen(address, purpose).await {
            Err(AgentError::Listen { source, .. })
                if source.kind() == std::io::ErrorKind::AddrInUse
                    && options.cluster().is_some()
                    && begun.elapsed() < LISTEN_WITHIN =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

async fn watched(what: &str, serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "{what} is not served any more");
    }
}

fn kernel_options(options: &Options, tunnel_port: u16, generation: u64) -> mesh_kernel::Options {
    mesh_kernel::Options {
        pins: options.bpffs.clone(),
        capture_root: options.cgroup_root.clone(),
        mesh_cgroup: options.mesh_cgroup.clone(),
        tunnel_port,
        generation,
    }
}

/// The last step: nothing more, or everything, or room for the next agent.
async fn finish(node: Node, ending: Ending, tasks: JoinSet<()>) -> Result<After, AgentError> {
    let Ending {
        uninstall,
        successor,
        ..
    } = ending;
    if let Some(successor) = successor {
        let run_dir = node.options.run_dir.clone();
        drop(node);
        // The node is free; an error says that nobody wants it any more.
        successor.send(Ok(())).unwrap_or_default();
        tokio::time::sleep(LAST_WORDS / 4).await;
        drop(tasks);
        return Ok(match handover::stand_by(&run_dir).await? {
            Next::End => After::End,
            Next::Begin => After::Again,
        });
    }
    let Some(answer) = uninstall else {
        tracing::info!("ended; capture stays in the kernel until the next agent");
        return Ok(After::End);
    };
    let outcome = take_away(node);
    let said = match &outcome {
        Ok(words) => Ok(words.clone()),
        Err(error) => Err(Problem::new(format!(
            "not everything could be removed: {}; run it again",
            chain(error)
        ))),
    };
    if answer.send(said).is_ok() {
        tokio::time::sleep(LAST_WORDS).await;
    }
    outcome.map(|_| After::End)
}

/// Removes every trace. Gives what was done, in words.
fn take_away(mut node: Node) -> Result<Vec<String>, AgentError> {
    node.keep_plugin_no_longer();
    let Node {
        options,
        run_dir,
        kernel,
        tunnel_port,
        ..
    } = node;
    drop(kernel);
    let mut words = Vec::new();
    // First, so that nobody waits for an agent that is gone.
    if let Some(plugin) = &run_dir.state().plugin {
        words.extend(uninstall::plugin_away(&options.host, plugin)?);
    }
    let generation = u64::from(run_dir.state().generation);
    uninstall::end_workers(&options.mesh_cgroup, Duration::ZERO);
    let removed = mesh_kernel::uninstall(&kernel_options(&options, tunnel_port, generation))?;
    words.splice(0..0, uninstall::words(&removed));
    run_dir.remove()?;
    Ok(words)
}
