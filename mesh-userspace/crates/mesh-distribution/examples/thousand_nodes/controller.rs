//! The process that is measured: one hub and server, a size at a time.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_control::facts::{Fact, FactChange, MeshSpec};
use mesh_distribution::hub::Hub;
use mesh_distribution::server::{Limits, Peer};

use crate::cluster::{PODS_OF_ONE, Size, node_name};
use crate::measure::{cpu, memory, quantile};
use crate::nodes::Handover;
use crate::support::{Controller, Pki};

/// What was measured at one size.
pub(crate) struct Figures {
    size: Size,
    facts: usize,
    told: u64,
    told_mib: f64,
    /// Until every node knows everything.
    first: Duration,
    first_cpu: Duration,
    memory_empty: f64,
    memory: f64,
    /// The part of a processor that is used while nothing changes.
    idle: f64,
    one_pod: Change,
    everybody: Change,
}

/// Changes, one after the other, each until the last node that needs it has acknowledged it.
struct Change {
    audience: f64,
    median: Duration,
    p99: Duration,
    cpu: Duration,
}

pub(crate) fn measure(size: Size, changes: usize, deadline: Instant) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match tokio::time::timeout_at(deadline.into(), measured(size, changes)).await {
            Ok(figures) => figures,
            Err(_late) => bail!("the time is over, and {size:?} is not measured"),
        }
    })
}

async fn measured(size: Size, changes: usize) -> Result<Figures> {
    let memory_empty = memory()?;
    let pki = Pki::new();
    let hub = Hub::new();
    let change = FactChange {
        set: size.facts(),
        removed: Vec::new(),
    };
    hub.publish(change);
    hub.mark_synced();
    // All nodes of this machine have one address.
    let limits = Limits {
        unidentified: 1024,
        unidentified_of_one: 1024,
        ..Limits::default()
    };
    let controller = Controller::start_with(&pki, hub.clone(), limits).await;
    let handover = Handover {
        root: pki.root(),
        nodes: (0..size.nodes)
            .map(|number| pki.certificate(Peer::Node(node_name(number))))
            .collect(),
    };
    let (began, cpu_before) = (Instant::now(), cpu()?);
    let mut nodes = Nodes::start(&controller.address.to_string(), &handover)?;
    while hub.counts().nodes < size.nodes || hub.counts().behind > 0 {
        nodes.are_there()?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (first, first_cpu) = (began.elapsed(), cpu()? - cpu_before);
    let counts = hub.counts();

    let namespaces = size.pods / PODS_OF_ONE;
    let idle = idle().await?;
    let one_pod = changed(&hub, idle, changes, |number| {
        size.pod(number * 31 % namespaces, number % PODS_OF_ONE, number + 1)
    })
    .await?;
    let everybody = changed(&hub, idle, changes / 10, |number| {
        Fact::Mesh(MeshSpec {
            drain: Duration::from_secs(60 + number as u64),
            ..MeshSpec::default()
        })
    })
    .await?;
    let memory = memory()?;
    drop(nodes);
    controller.stop().await;
    Ok(Figures {
        size,
        facts: counts.facts,
        told: counts.told,
        told_mib: counts.told_bytes as f64 / f64::from(1 << 20),
        first,
        first_cpu,
        memory_empty,
        memory,
        idle,
        one_pod,
        everybody,
    })
}

/// How long it takes, and then what it costs. The cost is measured without looking: to see whether everybody knows costs
/// as much as there are nodes.
async fn changed(
    hub: &Hub,
    idle: f64,
    changes: usize,
    fact: impl Fn(usize) -> Fact,
) -> Result<Change> {
    let publish = |number| {
        hub.publish(FactChange {
            set: vec![fact(number)],
            removed: Vec::new(),
        });
    };
    let mut took = Vec::with_capacity(changes);
    for number in 0..changes {
        let began = Instant::now();
        publish(number);
        while hub.counts().behind > 0 {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        took.push(began.elapsed());
    }
    took.sort_unstable();
    let median = quantile(&took, 0.5);

    let (told, cpu_before, began) = (hub.counts().told, cpu()?, Instant::now());
    for number in 0..changes {
        publish(changes + number);
        tokio::time::sleep(median).await;
    }
    while hub.counts().behind > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let idle = began.elapsed().mul_f64(idle);
    let used = (cpu()? - cpu_before).saturating_sub(idle);
    Ok(Change {
        audience: (hub.counts().told - told) as f64 / changes as f64,
        median,
        p99: quantile(&took, 0.99),
        cpu: used / u32::try_from(changes)?,
    })
}

/// The part of a processor that is used while nothing changes.
async fn idle() -> Result<f64> {
    let (cpu_before, began) = (cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok((cpu()? - cpu_before).as_secs_f64() / began.elapsed().as_secs_f64())
}

/// The process with the nodes.
struct Nodes(Child);

impl Nodes {
    fn start(target: &str, handover: &Handover) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let child = Command::new(own)
            .args(["nodes", target])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start the nodes")?;
        let mut nodes = Self(child);
        let bytes = handover.write();
        let input = nodes.0.stdin.as_mut().context("there is no input")?;
        input.write_all(&(bytes.len() as u64).to_be_bytes())?;
        input.write_all(&bytes)?;
        input.flush()?;
        Ok(nodes)
    }

    fn are_there(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the nodes ended: {status}"),
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // They end by themselves when their input does; killing is quicker.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("cannot end the nodes: {error}");
        }
    }
}

impl Figures {
    pub(crate) const HEADER: &'static str = "\
nodes |  pods  | told facts |  MiB   | all know | CPU of it | memory MiB | idle CPU % | one pod: nodes | median ms | p99 ms | CPU ms | \
everybody: median ms | p99 ms | CPU ms";

    pub(crate) fn row(&self) -> String {
        let Self {
            size,
            facts: _,
            told,
            told_mib,
            first,
            first_cpu,
            memory_empty: _,
            memory,
            idle,
            one_pod,
            everybody,
        } = self;
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        format!(
            "{:5} | {:6} | {told:10} | {told_mib:6.1} | {:6.2} s | {:7.2} s | {memory:10.1} | {:10.2} | {:14.1} | {:9.2} | {:6.2} | {:6.3} | \
             {:20.2} | {:6.2} | {:6.3}",
            size.nodes,
            size.pods,
            first.as_secs_f64(),
            first_cpu.as_secs_f64(),
            idle * 100.0,
            one_pod.audience,
            ms(one_pod.median),
            ms(one_pod.p99),
            ms(one_pod.cpu),
            ms(everybody.median),
            ms(everybody.p99),
            ms(everybody.cpu),
        )
    }

    pub(crate) fn json(&self) -> String {
        let change = |change: &Change| {
            let Change {
                audience,
                median,
                p99,
                cpu,
            } = change;
            serde_json::json!({
                "nodes": audience,
                "medianSeconds": median.as_secs_f64(),
                "p99Seconds": p99.as_secs_f64(),
                "cpuSeconds": cpu.as_secs_f64(),
            })
        };
        serde_json::json!({
            "release": !cfg!(debug_assertions),
            "nodes": self.size.nodes,
            "pods": self.size.pods,
            "facts": self.facts,
            "toldFacts": self.told,
            "toldMiB": self.told_mib,
            "allKnowSeconds": self.first.as_secs_f64(),
            "allKnowCpuSeconds": self.first_cpu.as_secs_f64(),
            "memoryBeforeMiB": self.memory_empty,
            "memoryMiB": self.memory,
            "idleCpu": self.idle,
            "onePod": change(&self.one_pod),
            "everybody": change(&self.everybody),
        })
        .to_string()
    }
}
