//! Which cgroup is kubelet's, so that its probes reach applications directly: what comes from there is the node itself, and
//! no pod can be in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_kernel::Kernel;

use super::host::Host;
use super::supervise::chain;

/// Programs that are kubelet, or have it inside: of Kubernetes itself, of MicroK8s, of k3s.
const NAMES: [&str; 5] = ["kubelet", "kubelite", "k3s-server", "k3s-agent", "k3s"];

/// How often kubelet is searched for where none is known: its probes fail under strict mutual TLS until it is found.
const SEARCH: Duration = Duration::from_secs(1);

/// Looks after it.
#[derive(Debug)]
pub(crate) struct Kubelet {
    host: Host,
    cgroup2: PathBuf,
    /// The process that was found.
    pid: Option<u32>,
    /// Its cgroup, as the kernel was told.
    told: Option<PathBuf>,
    searched_at: Option<Instant>,
}

impl Kubelet {
    pub(crate) fn new(host: Host, cgroup2: &Path) -> Self {
        Self {
            host,
            cgroup2: cgroup2.to_owned(),
            pid: None,
            told: None,
            searched_at: None,
        }
    }

    /// Looks whether it is still there, and tells the kernel of another one.
    pub(crate) fn look(&mut self, now: Instant, kernel: &mut Kernel) {
        let found = self.find(now);
        // Between the end of one and the start of the next, the last one's cgroup is as good as any.
        let Some(cgroup) = found else {
            return;
        };
        // Also when nothing seems to have changed: a cgroup of the same name may be a new one.
        match kernel.set_kubelet(Some(&cgroup)) {
            Ok(()) => {
                if self.told.as_ref() != Some(&cgroup) {
                    tracing::info!(pid = self.pid, cgroup = %cgroup.display(), "found kubelet");
                    self.told = Some(cgroup);
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "the kernel was not told which cgroup is kubelet's"
                );
            }
        }
    }

    /// What is to be said while none is known.
    pub(crate) fn missing(&self) -> Option<String> {
        self.told.is_none().then(|| {
            format!(
                "kubelet is not found among the processes ({}): its probes of workloads with strict mutual TLS fail",
                NAMES.join(", ")
            )
        })
    }

    fn find(&mut self, now: Instant) -> Option<PathBuf> {
        if let Some(cgroup) = self.pid.and_then(|pid| self.cgroup_of(pid)) {
            return Some(cgroup);
        }
        self.pid = None;
        if self
            .searched_at
            .is_some_and(|at| now.duration_since(at) < SEARCH)
        {
            return None;
        }
        self.searched_at = Some(now);
        let mut found: Vec<(usize, u32)> = fs::read_dir(self.host.proc())
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((self.rank(pid)?, pid)))
            .collect();
        found.sort_unstable();
        let (pid, cgroup) = found
            .into_iter()
            .find_map(|(_, pid)| Some((pid, self.cgroup_of(pid)?)))?;
        self.pid = Some(pid);
        Some(cgroup)
    }

    fn rank(&self, pid: u32) -> Option<usize> {
        let name = fs::read_to_string(self.host.proc().join(pid.to_string()).join("comm")).ok()?;
        NAMES.iter().position(|known| *known == name.trim_end())
    }

    /// The cgroup of a process that is kubelet. Whatever calls itself so in a pod is not.
    fn cgroup_of(&self, pid: u32) -> Option<PathBuf> {
        self.rank(pid)?;
        let process = self.host.proc().join(pid.to_string());
        let file = fs::read_to_string(process.join("cgroup")).ok()?;
        let path = file.lines().find_map(|line| line.strip_prefix("0::/"))?;
        if path.split('/').any(|part| part == "..") || is_of_pods(path) {
            return None;
        }
        Some(self.cgroup2.join(path))
    }
}

/// Whether a cgroup is below those that kubelet makes for pods.
fn is_of_pods(path: &str) -> bool {
    path.split('/')
        .any(|part| part == "kubepods" || part.ends_with("kubepods.slice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: u32, name: &str, cgroup: &str) {
        let folder = proc.join(pid.to_string());
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("comm"), format!("{name}\n")).expect("written");
        fs::write(folder.join("cgroup"), format!("3:cpu:/x\n0::{cgroup}\n")).expect("written");
    }

    #[test]
    fn kubelet_is_found_and_found_again_and_no_pod_is_taken_for_it() {
        let proc = tempfile::tempdir().expect("a folder");
        let mut kubelet = Kubelet::new(Host::behind(proc.path()), Path::new("/cg"));
        let mut now = Instant::now();
        process(proc.path(), 5, "kubelet", "/kubepods/burstable/pod1/x");
        process(
            proc.path(),
            6,
            "kubelet",
            "/kubelet.slice/kubelet-kubepods.slice/x",
        );
        process(proc.path(), 7, "kubelet", "/../elsewhere");
        process(
            proc.path(),
            8,
            "kubelet-exporter",
            "/system.slice/x.service",
        );
        assert_eq!(kubelet.find(now), None);
        assert!(kubelet.missing().is_some());

        process(proc.path(), 30, "k3s-server", "/system.slice/k3s.service");
        assert_eq!(kubelet.find(now), None, "not searched for at every look");
        now += SEARCH;
        let found = Some(PathBuf::from("/cg/system.slice/k3s.service"));
        assert_eq!(kubelet.find(now), found);
        // The one that was found stays, until it is gone.
        process(proc.path(), 20, "kubelet", "/system.slice/kubelet.service");
        assert_eq!(kubelet.find(now), found);
        fs::remove_dir_all(proc.path().join("30")).expect("removed");
        now += SEARCH;
        let found = Some(PathBuf::from("/cg/system.slice/kubelet.service"));
        assert_eq!(kubelet.find(now), found);
        // It moves, as when a service manager starts it anew elsewhere.
        process(proc.path(), 20, "kubelet", "/");
        assert_eq!(kubelet.find(now), Some(PathBuf::from("/cg/")));
    }
}
