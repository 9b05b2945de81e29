//! Putting a node together, in order: the one place that knows all of its parts. What fails here leaves nothing behind;
//! what is pinned in the kernel stays as it was.

use std::sync::Arc;
use std::time::Duration;

use mesh_kernel::Kernel;
use tokio::sync::mpsc;

use super::config::Source;
use super::flows::Flows;
use super::identities::Identities;
use super::metrics::{self, Metrics};
use super::node::end::Ending;
use super::node::{Node, Parts};
use super::options::Options;
use super::run_dir::RunDir;
use super::supervise::chain;
use super::view::View;
use super::{AgentError, health, preflight, uninstall};
use crate::api::objects::Problem;
use crate::api::server;
use crate::memory;

/// For an answer on the socket to reach whoever asked, before the process is gone.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs a node from its first step to its last.
pub(crate) async fn run(options: Options) -> Result<(), AgentError> {
    let missing = preflight::missing();
    if !missing.is_empty() {
        return Err(AgentError::Missing { missing });
    }
    let cgroup2 = preflight::cgroup2_mount().ok_or(AgentError::NoCgroup)?;
    let mut run_dir = RunDir::take(&options.run_dir)?;
    let (source, name, configuration) = Source::open(&options)?;
    tracing::info!(node = name, file = %options.file.display(), "read the configuration");
    let identities = Identities::open(
        &configuration.identity_directory,
        &configuration.trust_domain,
        configuration.certificate_lifetime,
    )?;

    let flows = Arc::new(Flows::new(&name));
    let metrics = Arc::new(Metrics::new(&name));
    let (commands, asked) = mpsc::channel(4);
    let view = Arc::new(View::new(&name, &options.file, flows, commands));
    serve(&options, &view, &metrics).await?;

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
        options,
        name,
        run_dir,
        cgroup2,
        kernel,
        identities,
        configuration,
        view,
        metrics,
    };
    let (node, ending) = Node::live(parts, source, asked).await?;
    finish(node, ending).await
}

/// Everything that people can ask: the socket, metrics and health. They answer from the first moment, truthfully.
async fn serve(
    options: &Options,
    view: &Arc<View>,
    metrics: &Arc<Metrics>,
) -> Result<(), AgentError> {
    let path = options.run_dir.join(crate::api::SOCKET_NAME);
    let socket = server::listen(&path).map_err(|source| AgentError::Socket { path, source })?;
    let figures = metrics::listen(options.metrics_listen, "metrics").await?;
    let answers = metrics::listen(options.health_listen, "health").await?;
    tokio::spawn(watched(
        "the node API",
        server::serve(socket, Arc::clone(view)),
    ));
    tokio::spawn(watched(
        "metrics",
        metrics::serve(figures, Arc::clone(metrics), Arc::clone(view)),
    ));
    tokio::spawn(watched("health", health::serve(answers, Arc::clone(view))));
    Ok(())
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

/// The last step: nothing more, or everything.
async fn finish(node: Node, ending: Ending) -> Result<(), AgentError> {
    let Some(answer) = ending.uninstall else {
        tracing::info!("ended; capture stays in the kernel until the next agent");
        return Ok(());
    };
    let Node {
        options,
        run_dir,
        kernel,
        tunnel_port,
        ..
    } = node;
    drop(kernel);
    let generation = u64::from(run_dir.state().generation);
    uninstall::end_workers(&options.mesh_cgroup, Duration::ZERO);
    let removed = mesh_kernel::uninstall(&kernel_options(&options, tunnel_port, generation));
    let outcome = removed.map_err(AgentError::from).and_then(|removed| {
        run_dir.remove()?;
        Ok(uninstall::words(&removed))
    });
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
    outcome.map(drop)
}
