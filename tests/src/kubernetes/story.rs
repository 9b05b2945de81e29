//! What a story in a real cluster looks like: it has a namespace of its own, which goes with it, and ends in bounded time.
//!
//! ```ignore
//! #[test]
//! fn pods_reach_each_other() -> Result<()> {
//!     story("pods-reach-each-other", |told| {
//!         told.kubectl.apply(MANIFEST)?;
//!         told.kubectl.rolled_out("deployment/web", Duration::from_secs(60))?;
//!         ensure!(told.kubectl.exec("client", &["nc", "web", "80"])? == "hello");
//!         Ok(())
//!     })
//! }
//! ```

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use super::cache::Cache;
use super::cluster::{Cluster, Origin, down};
use super::kubectl::Kubectl;
use crate::host::requires::{Need, SKIP, met};

/// The longest that a story may take.
const LIMIT: Duration = Duration::from_secs(420);

/// Pods have half a minute, unless they ask for less, and an old kubelet looks once a minute.
const FAREWELL: Duration = Duration::from_secs(120);

/// What a story works with.
#[derive(Debug)]
pub struct Story<'a> {
    /// The cluster, which it may share with others that come before and after it.
    pub cluster: &'a Cluster,
    /// `kubectl` in the story's own namespace.
    pub kubectl: Kubectl,
    /// Those that it has made besides.
    others: RefCell<Vec<Kubectl>>,
}

impl Story<'_> {
    /// `kubectl` in a further namespace, which goes with the story, too.
    pub fn another_namespace(&self, name: &str, labels: &Value) -> Result<Kubectl> {
        let name = format!("{}-{name}", self.kubectl.namespace());
        let kubectl = self.cluster.kubectl();
        // Of a run that was interrupted.
        kubectl.delete(&["namespace", &name])?;
        let other = kubectl.create_namespace(&name, labels)?;
        self.others.borrow_mut().push(other.clone());
        Ok(other)
    }
}

/// Tells a story in the cluster that runs, or else in one of its own.
#[expect(
    clippy::print_stdout,
    reason = "the runner reads the mark from standard output"
)]
pub fn story(name: &str, tell: impl FnOnce(&Story<'_>) -> Result<()>) -> Result<()> {
    if !met(&[Need::Root, Need::CgroupTree, Need::Program("ip")]) {
        return Ok(());
    }
    if Cluster::running()?.is_none()
        && std::env::var_os("WARREN_KUBECONFIG").is_none()
        && let Err(error) = Cache::complete()
    {
        println!("{SKIP}{error:#}");
        return Ok(());
    }
    let cluster = Cluster::adopt_or_up().context("bring the cluster up")?;
    let told = in_namespace(&cluster, name, tell);
    let removed = cluster.remove().context("take the cluster down");
    told.and(removed)
}

fn in_namespace(
    cluster: &Cluster,
    name: &str,
    tell: impl FnOnce(&Story<'_>) -> Result<()>,
) -> Result<()> {
    let namespace = format!("story-{name}");
    let kubectl = cluster.kubectl();
    // Of a run that was interrupted.
    kubectl.delete(&["namespace", &namespace])?;
    let story = Story {
        cluster,
        kubectl: kubectl.create_namespace(&namespace, &json!({}))?,
        others: RefCell::default(),
    };
    // Ends with the sender, that is with the story.
    let (_running, ended) = channel::<()>();
    let origin = cluster.origin();
    thread::spawn(move || end_after(LIMIT, &ended, origin));

    let told = catch_unwind(AssertUnwindSafe(|| tell(&story)))
        .unwrap_or_else(|_panic| Err(anyhow!("the story panicked; the message is above")));
    if told.is_err() {
        eprintln!("{}\n{}", story.kubectl.describe_pods(), cluster.logs());
    }
    story
        .others
        .borrow()
        .iter()
        .chain([&story.kubectl])
        .map(leave)
        .fold(told, Result::and)
}

/// Everything goes in its own time, which is a minute where kubelet is old; no story waits for those before it, unless it
/// has to: [`nobody_leaves`].
fn leave(kubectl: &Kubectl) -> Result<()> {
    let namespace = kubectl.namespace();
    kubectl.run(&[
        "delete",
        "namespace",
        namespace,
        "--wait=false",
        "--ignore-not-found",
    ])?;
    // Now that nothing is made anew: most programs do not know that they are asked to end.
    let hurry = [
        "delete",
        "pods",
        "--all",
        "--grace-period=1",
        "--wait=false",
    ];
    kubectl.run(&hurry).map(drop)
}

/// Waits until no pod of an earlier story is left, for stories that look at everything on a node.
pub fn nobody_leaves(cluster: &Cluster) -> Result<()> {
    let everywhere = ["pods", "--all-namespaces"];
    cluster.kubectl().eventually(
        "the pods of earlier stories are gone",
        FAREWELL,
        &everywhere,
        |list| {
            let mut pods = list["items"].as_array()?.iter();
            pods.all(|pod| pod["metadata"]["deletionTimestamp"].is_null())
                .then_some(())
        },
    )
}

/// A story that hangs is ended; so is its cluster, if nobody else's.
fn end_after(limit: Duration, ended: &Receiver<()>, origin: Origin) {
    if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        eprintln!("the story took more than {} s; ending it", limit.as_secs());
        if origin == Origin::Own
            && let Err(error) = down()
        {
            eprintln!("{error:#}");
        }
        process::exit(101);
    }
}
