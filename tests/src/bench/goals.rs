//! Where Warren wants to be against a pair of Envoy sidecars, in the same run.

use serde::Serialize;

use super::contender::Variant;
use super::measure::Measure;
use super::memory::Profile;
use super::rounds::Measured;

/// How far a ratio or a figure may go.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// A goal and what came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Goal {
    /// What is compared.
    pub name: String,
    /// Warren's figure.
    pub warren: f64,
    /// Envoy's; absent where the goal is absolute.
    pub envoy: Option<f64>,
    /// Warren's divided by Envoy's, or Warren's alone.
    pub value: f64,
    /// Where it should be.
    pub bound: Bound,
    /// Whether it is.
    pub reached: bool,
}

/// Goals of requests, by connections: figure, whether the direct way is taken off, bound.
const REQUESTS: &[(u32, &str, bool, Bound)] = &[
    (1, "p50 µs", true, Bound::AtMost(0.65)),
    (1, "CPU s/100k", false, Bound::AtMost(0.65)),
    (16, "CPU s/100k", false, Bound::AtMost(0.45)),
    (64, "CPU s/100k", false, Bound::AtMost(0.45)),
    (64, "p99 µs", false, Bound::AtMost(0.25)),
    (64, "requests/s", false, Bound::AtLeast(1.6)),
];

/// The worker's memory before the first connection, in KiB.
const IDLE_WORKER: f64 = 12.0 * 1024.0;
/// The agent's.
const IDLE_AGENT: f64 = 20.0 * 1024.0;

/// All goals that this run has figures for.
pub fn judge(measured: &[Measured], memory: &[Profile]) -> Vec<Goal> {
    let find = |wanted| measured.iter().find(|measured| measured.measure == wanted);
    let mut goals = Vec::new();
    for (connections, figure, added, bound) in REQUESTS {
        let measure = find(Measure::Requests(*connections));
        goals.extend(measure.and_then(|measure| compare(measure, figure, *added, *bound)));
    }
    for (measure, figure, bound) in [
        (
            Measure::NewConnections,
            "connections/s",
            Bound::AtLeast(6.0),
        ),
        (Measure::Bulk(1), "Gbit/s", Bound::AtLeast(1.0)),
        (Measure::Bulk(1), "CPU s/GB", Bound::AtMost(1.0)),
    ] {
        goals.extend(find(measure).and_then(|measure| compare(measure, figure, false, bound)));
    }
    goals.extend(judge_memory(memory));
    goals
}

fn compare(measured: &Measured, figure: &str, added: bool, bound: Bound) -> Option<Goal> {
    let direct = if added {
        measured.median(Variant::Direct, figure)?
    } else {
        0.0
    };
    let warren = measured.median(Variant::Warren, figure)? - direct;
    let envoy = measured.median(Variant::Envoy, figure)? - direct;
    let what = if added {
        format!("added {figure}")
    } else {
        figure.to_owned()
    };
    Some(Goal::relative(
        format!("{}: {what}", measured.measure),
        warren,
        envoy,
        bound,
    ))
}

fn judge_memory(memory: &[Profile]) -> Vec<Goal> {
    let of = |variant| memory.iter().find(|profile| profile.variant == variant);
    let Some(warren) = of(Variant::Warren) else {
        return Vec::new();
    };
    let worker = warren.idle.client.max(warren.idle.server) as f64;
    let agent = warren.idle.agents as f64 / 2.0;
    let mut goals = Vec::new();
    if let Some(envoy) = of(Variant::Envoy) {
        let envoy = envoy.idle.client.max(envoy.idle.server) as f64;
        let bound = Bound::AtMost(0.2);
        goals.push(Goal::relative(
            "memory idle, KiB per proxy".to_owned(),
            worker,
            envoy,
            bound,
        ));
    }
    goals.extend(warren.per_connection().map(|cost| {
        Goal::absolute(
            "memory, KiB per idle connection and proxy",
            cost,
            Bound::AtMost(6.0),
        )
    }));
    goals.extend(warren.kept().map(|share| {
        Goal::absolute(
            "memory, share kept after the connections closed",
            share,
            Bound::AtMost(0.1),
        )
    }));
    goals.push(Goal::absolute(
        "idle worker, KiB",
        worker,
        Bound::AtMost(IDLE_WORKER),
    ));
    goals.push(Goal::absolute(
        "idle agent, KiB",
        agent,
        Bound::AtMost(IDLE_AGENT),
    ));
    goals
}

impl Goal {
    fn relative(name: String, warren: f64, envoy: f64, bound: Bound) -> Self {
        let value = warren / envoy;
        Self {
            name,
            warren,
            envoy: Some(envoy),
            value,
            bound,
            reached: bound.holds(value),
        }
    }

    fn absolute(name: &str, value: f64, bound: Bound) -> Self {
        let name = name.to_owned();
        Self {
            name,
            warren: value,
            envoy: None,
            value,
            bound,
            reached: bound.holds(value),
        }
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}
