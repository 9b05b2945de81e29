//! One writer at a time: a Lease (coordination.k8s.io/v1), as Kubernetes' own controllers use it. Clocks of different
//! machines are not compared: a lease has run out when it was not seen to change for its duration, by one's own clock.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Which Lease, and how it is held.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are: the pod's name.
    pub holder: String,
    /// How long it is ours after the last renewal. Others take it after that.
    pub duration: Duration,
    /// How often it is renewed, and asked for.
    pub renew_every: Duration,
}

impl Settings {
    /// 15 s, renewed every 4 s.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        holder: impl Into<String>,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            holder: holder.into(),
            duration: Duration::from_secs(15),
            renew_every: Duration::from_secs(4),
        }
    }
}

/// Asks for the Lease and renews it, until every receiver of `held` is gone; then gives it back. `held` is false well before
/// anybody else could have it: writers look at it before every write.
pub async fn run(client: Client, settings: Settings, held: watch::Sender<bool>) {
    let mut candidate = Candidate {
        leases: Api::namespaced(client, &settings.namespace),
        memory: Memory {
            settings,
            seen: None,
        },
        renewed: None,
    };
    loop {
        let pause = candidate.round(&held).await;
        tokio::select! {
            () = sleep(pause) => {}
            () = held.closed() => break,
        }
    }
    candidate.give_back().await;
}

/// Who holds a Lease; `None`: nobody does.
///
/// # Errors
/// It cannot be read.
pub async fn holder(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<String>, kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let spec = leases.get_opt(name).await?.and_then(|lease| lease.spec);
    Ok(spec
        .and_then(|spec| spec.holder_identity)
        .filter(|holder| !holder.is_empty()))
}

struct Candidate {
    leases: Api<Lease>,
    memory: Memory,
    /// When we sent the last renewal that succeeded.
    renewed: Option<Instant>,
}

/// What a candidate remembers, and what it makes of what it finds.
struct Memory {
    settings: Settings,
    /// The lease as it was seen last, and since when it is as it is.
    seen: Option<(Lease, Instant)>,
}

/// What a look at the lease comes to.
#[derive(Debug, Eq, PartialEq)]
enum Turn {
    /// There is none.
    Create,
    /// It is ours already.
    Renew,
    /// It has run out, or was given back.
    Take,
    /// It is somebody else's.
    Wait,
}

impl Memory {
    /// What is to be done about the lease as it was found.
    fn look(&mut self, found: Option<Lease>, now: Instant) -> Turn {
        let Some(found) = found else {
            self.seen = None;
            return Turn::Create;
        };
        let since = match &self.seen {
            Some((seen, since)) if seen.spec == found.spec => *since,
            _ => now,
        };
        let spec = found.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let duration = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let duration = duration.map_or(self.settings.duration, Duration::from_secs);
        self.seen = Some((found, since));
        if holder == self.settings.holder {
            Turn::Renew
        } else if holder.is_empty() || now.duration_since(since) >= duration {
            Turn::Take
        } else {
            Turn::Wait
        }
    }

    /// The lease as it is when it is ours.
    fn ours(&self, found: Option<&Lease>, now: Timestamp) -> Lease {
        let old = found
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let is_renewal = old.holder_identity.as_deref() == Some(self.settings.holder.as_str());
        let metadata = match found {
            Some(lease) => lease.metadata.clone(),
            None => ObjectMeta {
                name: Some(self.settings.name.clone()),
                namespace: Some(self.settings.namespace.clone()),
                ..ObjectMeta::default()
            },
        };
        let transitions = old.lease_transitions.unwrap_or_default();
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.settings.holder.clone()),
                lease_duration_seconds: i32::try_from(self.settings.duration.as_secs()).ok(),
                acquire_time: if is_renewal {
                    old.acquire_time
                } else {
                    Some(MicroTime(now))
                },
                renew_time: Some(MicroTime(now)),
                lease_transitions: Some(if is_renewal || found.is_none() {
                    transitions
                } else {
                    transitions.saturating_add(1)
                }),
                ..LeaseSpec::default()
            }),
        }
    }
}

impl Candidate {
    /// One look at the lease; how long to wait for the next one.
    async fn round(&mut self, held: &watch::Sender<bool>) -> Duration {
        let renew_every = self.memory.settings.renew_every;
        // An answer that comes later than this would come too late.
        let asked = timeout(renew_every, self.ask()).await;
        match asked {
            Ok(Ok(is_ours)) => self.set(held, is_ours),
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = self.memory.settings.name, "the lease cannot be renewed");
                self.expire(held);
            }
            Err(_elapsed) => {
                tracing::warn!(
                    lease = self.memory.settings.name,
                    "the API server does not answer"
                );
                self.expire(held);
            }
        }
        // Those who wait come at different times.
        let spread = renew_every.mul_f64(0.25 * fraction(&self.memory.settings.holder));
        if *held.borrow() {
            renew_every
        } else {
            renew_every + spread
        }
    }

    /// Whether the lease is ours now.
    async fn ask(&mut self) -> Result<bool, kube::Error> {
        let sent = Instant::now();
        let found = self.leases.get_opt(&self.memory.settings.name).await?;
        let turn = self.memory.look(found, sent);
        let now = Timestamp::now();
        let params = PostParams::default();
        let written = match (turn, &self.memory.seen) {
            (Turn::Wait, _) => return Ok(false),
            (Turn::Create, _) => {
                self.leases
                    .create(&params, &self.memory.ours(None, now))
                    .await
            }
            (Turn::Renew | Turn::Take, seen) => {
                let ours = self.memory.ours(seen.as_ref().map(|(lease, _)| lease), now);
                self.leases
                    .replace(&self.memory.settings.name, &params, &ours)
                    .await
            }
        };
        match written {
            Ok(lease) => {
                self.memory.seen = Some((lease, Instant::now()));
                self.renewed = Some(sent);
                Ok(true)
            }
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn set(&mut self, held: &watch::Sender<bool>, is_ours: bool) {
        if !is_ours {
            self.renewed = None;
        }
        let name = &self.memory.settings.name;
        held.send_if_modified(|held| {
            let changes = *held != is_ours;
            if changes && is_ours {
                tracing::info!(lease = name, "this replica writes from now on");
            } else if changes {
                tracing::info!(lease = name, "another replica writes from now on");
            }
            *held = is_ours;
            changes
        });
    }

    /// Without a renewal, it is ours for two thirds of its duration: whoever takes it then is later than our last write.
    fn expire(&mut self, held: &watch::Sender<bool>) {
        let until = self
            .renewed
            .map(|renewed| renewed + self.memory.settings.duration * 2 / 3);
        // The next look comes after `renew_every`, and may take as long again.
        let next = Instant::now() + self.memory.settings.renew_every;
        if until.is_none_or(|until| until <= next) {
            self.set(held, false);
        }
    }

    /// So that nobody has to wait for it to run out.
    async fn give_back(&mut self) {
        if self.renewed.is_none() {
            return;
        }
        let Some((lease, _)) = &self.memory.seen else {
            return;
        };
        let mut free = lease.clone();
        if let Some(spec) = &mut free.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let params = PostParams::default();
        let given = self
            .leases
            .replace(&self.memory.settings.name, &params, &free);
        match timeout(self.memory.settings.renew_every, given).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = self.memory.settings.name, "the lease is not given back; it runs out");
            }
            Err(_elapsed) => {
                tracing::warn!(
                    lease = self.memory.settings.name,
                    "the lease is not given back; it runs out"
                );
            }
        }
    }
}

/// A number from 0 to 1 that differs from name to name.
fn fraction(name: &str) -> f64 {
    let sum = name.bytes().fold(7_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    f64::from(sum % 1000) / 1000.0
}

#[cfg(test)]
mod tests;
