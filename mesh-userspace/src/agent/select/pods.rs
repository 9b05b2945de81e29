//! Pods of Kubernetes: from a UID to the network namespace of its containers.
//!
//! A pod is found in two ways. Its runtime announces it through the CNI plugin, before its first process runs: then UID,
//! namespace and addresses come from the runtime. Or it runs already: then its processes are found by the UID in their
//! cgroup's path, which kubelet chooses and no container can leave. Either way three things must agree: the UID, a network
//! namespace that is not the node's, and an address of the pod in it.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::processes::Process;
use super::{Found, Mark, NotFound, mark};
use crate::agent::host::Host;

/// Folders below a pod's cgroup that are looked into: containers, and what init systems make in them.
const DEPTH: u32 = 3;

/// Pods that are in none of the known places are looked for among all processes at most so often.
const SCAN: Duration = Duration::from_secs(1);

/// A pod that its runtime announced.
#[derive(Debug)]
pub(crate) struct Announced {
    /// The runtime's id of its sandbox.
    pub(crate) container_id: String,
    /// Its network namespace.
    pub(crate) namespace: OwnedFd,
    /// The name that the runtime has given that.
    pub(crate) path: PathBuf,
    /// The addresses that its network gave it.
    pub(crate) addresses: Vec<IpAddr>,
}

/// What is known about pods.
#[derive(Debug)]
pub(super) struct Pods {
    host: Host,
    cgroup2: PathBuf,
    announced: HashMap<String, Announced>,
    /// Namespaces that their runtime is taking down; a process may be in one for a little longer.
    ended: HashMap<String, Mark>,
    /// Folders in which pods' cgroups were found.
    parents: BTreeSet<PathBuf>,
    scanned_at: Option<Instant>,
}

impl Pods {
    pub(super) fn new(host: Host, cgroup2: &Path) -> Self {
        Self {
            host,
            cgroup2: cgroup2.to_owned(),
            announced: HashMap::new(),
            ended: HashMap::new(),
            parents: BTreeSet::new(),
            scanned_at: None,
        }
    }

    /// A runtime announces a pod.
    pub(super) fn announce(&mut self, uid: &str, pod: Announced) {
        self.ended.remove(uid);
        self.announced.insert(uid.to_owned(), pod);
    }

    /// A pod that was announced without a UID has this one.
    pub(super) fn rename(&mut self, from: &str, uid: &str) {
        if from != uid
            && let Some(pod) = self.announced.remove(from)
        {
            self.announce(uid, pod);
        }
    }

    /// A runtime takes a pod down: the sandbox of this id, or whichever it has. Gives the namespace that ends.
    pub(super) fn end(
        &mut self,
        uid: &str,
        container_id: &str,
        namespace: Option<Mark>,
    ) -> Option<Mark> {
        let announced = self.announced.get(uid);
        let known = announced
            .filter(|pod| pod.container_id == container_id)
            .and_then(|pod| mark(&pod.namespace).ok());
        let ended = known.or(namespace)?;
        if known.is_some() {
            self.announced.remove(uid);
        }
        self.ended.insert(uid.to_owned(), ended);
        Some(ended)
    }

    /// Forgets those that nobody speaks of any more.
    pub(super) fn retain(&mut self, known: impl Fn(&str) -> bool) {
        self.announced.retain(|uid, _| known(uid));
        self.ended.retain(|uid, _| known(uid));
    }

    /// Finds a pod. `known` is the namespace that it was found in before: then only whether it is still there is asked.
    pub(super) fn find(
        &mut self,
        uid: &str,
        addresses: &[IpAddr],
        known: Option<Mark>,
        processes: &mut dyn FnMut() -> io::Result<Vec<Process>>,
    ) -> Result<(Found, Mark), NotFound> {
        if let Some(found) = self.find_announced(uid, addresses, known)? {
            return Ok(found);
        }
        let pids = self.processes_of(uid, processes)?;
        let mut namespaces: Vec<(OwnedFd, Mark)> = Vec::new();
        for pid in pids {
            let path = self.host.proc().join(pid.to_string()).join("ns/net");
            // The process may have ended since.
            let Ok(namespace) = mesh_kernel::namespace::open(&path) else {
                continue;
            };
            let mark = mark(&namespace).map_err(|source| NotFound::Unreadable { path, source })?;
            if !namespaces.iter().any(|(_, seen)| *seen == mark)
                && self.ended.get(uid) != Some(&mark)
            {
                namespaces.push((namespace, mark));
            }
        }
        if let Some(index) = namespaces.iter().position(|(_, mark)| Some(*mark) == known) {
            let (namespace, mark) = namespaces.swap_remove(index);
            return Ok((Found::NetworkNamespace(namespace), mark));
        }
        choose(uid, addresses, namespaces)
    }

    /// One that was announced, as long as the runtime keeps its namespace.
    fn find_announced(
        &mut self,
        uid: &str,
        addresses: &[IpAddr],
        known: Option<Mark>,
    ) -> Result<Option<(Found, Mark)>, NotFound> {
        let Some(pod) = self.announced.get(uid) else {
            return Ok(None);
        };
        let unreadable = |source| NotFound::Unreadable {
            path: pod.path.clone(),
            source,
        };
        let mark = mark(&pod.namespace).map_err(unreadable)?;
        let named = self
            .host
            .open(&pod.path)
            .and_then(|file| super::mark(&file));
        if !named.is_ok_and(|named| named == mark) {
            // It is gone, or it can only be seen through its processes from now on.
            self.announced.remove(uid);
            return Ok(None);
        }
        let namespace = pod.namespace.try_clone().map_err(unreadable)?;
        if known != Some(mark) {
            // What the runtime says now is newer than what the API server knew when it last told.
            let expected = match pod.addresses.as_slice() {
                [] => addresses,
                told => told,
            };
            check(uid, &namespace, expected)?;
        }
        Ok(Some((Found::NetworkNamespace(namespace), mark)))
    }

    /// The processes of a pod: by its cgroup where pods' cgroups are known to be, else among all.
    fn processes_of(
        &mut self,
        uid: &str,
        processes: &mut dyn FnMut() -> io::Result<Vec<Process>>,
    ) -> Result<Vec<u32>, NotFound> {
        let folders = self.parents.iter().filter_map(|parent| {
            let names = folder_names(parent, uid);
            names
                .map(|name| parent.join(name))
                .find(|path| path.is_dir())
        });
        let mut pids: Vec<u32> = folders
            .flat_map(|folder| processes_below(&folder, DEPTH))
            .collect();
        pids.sort_unstable();
        if !pids.is_empty() {
            return Ok(pids);
        }
        if self.scanned_at.is_some_and(|at| at.elapsed() < SCAN) && !self.parents.is_empty() {
            return Err(NotFound::NoPod {
                uid: uid.to_owned(),
            });
        }
        let all = processes().map_err(|source| NotFound::Unreadable {
            path: self.host.proc().to_owned(),
            source,
        })?;
        self.scanned_at = Some(Instant::now());
        for process in &all {
            if let Some(parent) = parent_of_pods(&process.cgroup) {
                let parent = self.cgroup2.join(parent.trim_start_matches('/'));
                // Below another cgroup namespace the path is none in our hierarchy; then pods are found by the scan alone.
                if parent.is_dir() {
                    self.parents.insert(parent);
                }
            }
        }
        let of_pod = all.iter().filter(|process| is_of_pod(&process.cgroup, uid));
        let pids: Vec<u32> = of_pod.map(|process| process.pid).collect();
        match pids.is_empty() {
            true => Err(NotFound::NoPod {
                uid: uid.to_owned(),
            }),
            false => Ok(pids),
        }
    }
}

/// The pod's namespace among those of its processes. A container with the right to can make further ones, but none that is
/// connected to the node.
fn choose(
    uid: &str,
    addresses: &[IpAddr],
    namespaces: Vec<(OwnedFd, Mark)>,
) -> Result<(Found, Mark), NotFound> {
    if addresses.is_empty() && !namespaces.is_empty() {
        return Err(NotFound::NoAddress {
            uid: uid.to_owned(),
        });
    }
    let mut why = NotFound::NoPod {
        uid: uid.to_owned(),
    };
    let mut fitting = Vec::new();
    for (namespace, mark) in namespaces {
        match check(uid, &namespace, addresses) {
            Ok(()) => fitting.push((namespace, mark)),
            Err(error) => why = error,
        }
    }
    if fitting.len() > 1 {
        let connected = fitting.iter().position(|(namespace, _)| {
            mesh_kernel::namespace::is_connected(namespace.as_fd()).unwrap_or(false)
        });
        fitting.swap(0, connected.unwrap_or(0));
    }
    let (namespace, mark) = fitting.into_iter().next().ok_or(why)?;
    Ok((Found::NetworkNamespace(namespace), mark))
}

/// Whether a namespace can be this pod's: it is not the node's, and has an address of the pod, where one is known.
fn check(uid: &str, namespace: &OwnedFd, expected: &[IpAddr]) -> Result<(), NotFound> {
    let unreadable = |source| NotFound::Unreadable {
        path: PathBuf::from(format!("the network namespace of pod {uid}")),
        source,
    };
    if mesh_kernel::namespace::is_own(namespace.as_fd()).map_err(unreadable)? {
        return Err(NotFound::HostNetwork {
            uid: uid.to_owned(),
        });
    }
    let found = mesh_kernel::namespace::addresses_of(namespace.as_fd()).map_err(unreadable)?;
    match expected.is_empty() || expected.iter().any(|address| found.contains(address)) {
        true => Ok(()),
        false => Err(NotFound::OtherAddress {
            uid: uid.to_owned(),
            expected: list(expected),
            found: list(&found),
        }),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let words: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    match words.is_empty() {
        true => "none".to_owned(),
        false => words.join(", "),
    }
}

/// The processes in a cgroup and below it.
fn processes_below(folder: &Path, depth: u32) -> Vec<u32> {
    let own = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process outside of our process namespace.
    let own = own
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid != 0);
    let mut pids: Vec<u32> = own.collect();
    if depth > 0
        && let Ok(entries) = fs::read_dir(folder)
    {
        let folders = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        pids.extend(folders.flat_map(|folder| processes_below(&folder.path(), depth - 1)));
    }
    pids
}

/// How kubelet names a pod's cgroup in a folder: `pod<uid>` itself, and by systemd's rules `<parent>-pod<uid>.slice` with
/// the parent's name and `_` for `-`.
fn folder_names(parent: &Path, uid: &str) -> impl Iterator<Item = String> {
    let slice = parent.file_name().and_then(|name| {
        let stem = name.to_str()?.strip_suffix(".slice")?;
        Some(format!("{stem}-pod{}.slice", uid.replace('-', "_")))
    });
    [Some(format!("pod{uid}")), slice].into_iter().flatten()
}

/// The UID of a pod in a part of a cgroup's path, as systemd writes it.
fn uid_in(part: &str) -> Option<&str> {
    let uid = match part.strip_suffix(".slice") {
        Some(stem) => stem.rsplit_once("-pod")?.1,
        None => part.strip_prefix("pod")?,
    };
    // What could be one: kubelet's own are UUIDs, or their digits alone for pods from files.
    let is_uid = uid.len() >= 32
        && uid
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
    is_uid.then_some(uid)
}

/// Whether a cgroup's path is one of a pod's containers.
fn is_of_pod(path: &str, uid: &str) -> bool {
    let same = |found: &str| {
        found.len() == uid.len()
            && found
                .bytes()
                .zip(uid.bytes())
                .all(|(a, b)| a == b || a == b'_' && b == b'-')
    };
    path.split('/').filter_map(uid_in).any(same)
}

/// The folder of a pod's cgroup, where a path is one of a pod's containers.
fn parent_of_pods(path: &str) -> Option<&str> {
    let mut end = 0;
    for part in path.split('/') {
        if uid_in(part).is_some() {
            return Some(&path[..end]);
        }
        end += part.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests;
