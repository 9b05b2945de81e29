//! From a selector in the configuration to the thing itself: a network namespace or a cgroup.
//!
//! Containers are found by their processes' cgroups, whose paths carry the container's id in every runtime; no runtime is
//! asked. A name is looked for there too, for systemd-nspawn, LXC and compose-like managers that put it into the path.
//! Pods of Kubernetes have rules of their own: [`pods`].

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::fstat;

use super::host::Host;
use pods::{Announced, Pods};
use processes::Process;

pub(crate) mod pods;
mod processes;

/// How a workload of this node is found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Selector {
    /// The path of a network namespace.
    NetworkNamespace(PathBuf),
    /// The id, its beginning, or the name of a container.
    Container(String),
    /// A process whose namespace it is.
    Pid(u32),
    /// A cgroup: a path below the cgroup2 mount, or in the file system.
    Cgroup(PathBuf),
    /// The UID of a pod.
    Pod(String),
}

impl Selector {
    /// A container as the configuration names it. A bare process id is understood too: it is what `lxc-info`,
    /// `machinectl` and every runtime's inspection print.
    pub(crate) fn container(name: String) -> Self {
        match name.parse::<u32>() {
            // The largest process id of Linux has seven digits; the shortest container id that is looked for has more.
            Ok(pid) if name.len() < SHORTEST_ID => Self::Pid(pid),
            _ => Self::Container(name),
        }
    }
}

/// What a selector found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A network namespace.
    NetworkNamespace(OwnedFd),
    /// A cgroup, by its path in the file system.
    Cgroup(PathBuf),
}

/// Tells one namespace or cgroup from another that later has the same path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Mark {
    device: u64,
    inode: u64,
}

/// Why nothing was found. It may be there later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFound {
    #[error("the network namespace {} is not there yet", path.display())]
    NoNamespace { path: PathBuf },
    #[error("{} is not a network namespace; give a path such as /run/netns/NAME", path.display())]
    NotANamespace { path: PathBuf },
    #[error("no process runs in a container {name:?}")]
    NoContainer { name: String },
    #[error("{name:?} is the beginning of several containers' ids: {candidates}; give more of it")]
    Ambiguous { name: String, candidates: String },
    #[error("there is no process {pid}")]
    NoProcess { pid: u32 },
    #[error("no process runs in the pod (UID {uid})")]
    NoPod { uid: String },
    #[error(
        "the API server does not know an address of the pod (UID {uid}) yet, so that its network namespace cannot be proven"
    )]
    NoAddress { uid: String },
    #[error("the pod (UID {uid}) should have {expected}, but its network namespace has {found}")]
    OtherAddress {
        uid: String,
        expected: String,
        found: String,
    },
    #[error(
        "the pod (UID {uid}) is in the node's own network (hostNetwork), which cannot be meshed"
    )]
    HostNetwork { uid: String },
    #[error("the cgroup {} is not there yet", path.display())]
    NoCgroup { path: PathBuf },
    #[error("cannot look into {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

/// Finds what selectors mean. Between two calls of [`Self::look_anew`] the node's processes are read once.
#[derive(Debug)]
pub(crate) struct Finder {
    host: Host,
    /// Cgroups are looked for below it.
    cgroup2: PathBuf,
    pods: Pods,
    processes: Option<Vec<Process>>,
}

impl Finder {
    pub(crate) fn new(host: Host, cgroup2: &Path) -> Self {
        Self {
            pods: Pods::new(host.clone(), cgroup2),
            cgroup2: cgroup2.to_owned(),
            processes: None,
            host,
        }
    }

    /// What was seen of processes is old.
    pub(crate) fn look_anew(&mut self) {
        self.processes = None;
    }

    /// Finds what is selected. A pod is proven by one of its addresses; `known` is what was found and proven before.
    pub(crate) fn find(
        &mut self,
        selector: &Selector,
        addresses: &[IpAddr],
        known: Option<Mark>,
    ) -> Result<(Found, Mark), NotFound> {
        match selector {
            Selector::NetworkNamespace(path) => {
                namespace(path, || NotFound::NoNamespace { path: path.clone() })
            }
            Selector::Pid(pid) => of_process(*pid),
            Selector::Container(name) => {
                let pid = container(name, self.processes()?)?;
                // The process may have ended since; the next look finds another.
                of_process(pid).map_err(|_gone| NotFound::NoContainer { name: name.clone() })
            }
            Selector::Cgroup(path) => cgroup(path, &self.cgroup2),
            Selector::Pod(uid) => {
                let Self {
                    host,
                    pods,
                    processes,
                    ..
                } = self;
                pods.find(uid, addresses, known, &mut || {
                    read(host, processes).cloned()
                })
            }
        }
    }

    /// A runtime announces a pod.
    pub(crate) fn announce_pod(&mut self, uid: &str, pod: Announced) {
        self.pods.announce(uid, pod);
    }

    /// The UID of a pod that was announced without one.
    pub(crate) fn rename_pod(&mut self, from: &str, uid: &str) {
        self.pods.rename(from, uid);
    }

    /// A runtime takes a pod down. Gives the namespace that ends, where one is known.
    pub(crate) fn end_pod(
        &mut self,
        uid: &str,
        container_id: &str,
        namespace: Option<Mark>,
    ) -> Option<Mark> {
        self.pods.end(uid, container_id, namespace)
    }

    /// Forgets pods that nobody knows any more.
    pub(crate) fn retain_pods(&mut self, known: impl Fn(&str) -> bool) {
        self.pods.retain(known);
    }

    fn processes(&mut self) -> Result<&[Process], NotFound> {
        let Self {
            host, processes, ..
        } = self;
        read(host, processes)
            .map(Vec::as_slice)
            .map_err(|source| NotFound::Unreadable {
                path: self.host.proc().to_owned(),
                source,
            })
    }
}

fn read<'a>(host: &Host, seen: &'a mut Option<Vec<Process>>) -> io::Result<&'a Vec<Process>> {
    match seen {
        Some(processes) => Ok(processes),
        None => Ok(seen.insert(processes::list(host.proc())?)),
    }
}

fn of_process(pid: u32) -> Result<(Found, Mark), NotFound> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    namespace(&path, || NotFound::NoProcess { pid })
}

fn namespace(path: &Path, absent: impl FnOnce() -> NotFound) -> Result<(Found, Mark), NotFound> {
    let unreadable = |source| NotFound::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = match mesh_kernel::namespace::open(path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Err(absent());
        }
        Err(error) => return Err(unreadable(error)),
    };
    // A name that `ip netns add` has made but not mounted yet is an ordinary file.
    let kind = nix::sys::statfs::fstatfs(&file).map_err(|error| unreadable(error.into()))?;
    if kind.filesystem_type() != nix::sys::statfs::NSFS_MAGIC {
        return Err(NotFound::NotANamespace {
            path: path.to_owned(),
        });
    }
    let mark = mark(&file).map_err(unreadable)?;
    Ok((Found::NetworkNamespace(file), mark))
}

fn cgroup(path: &Path, cgroup2: &Path) -> Result<(Found, Mark), NotFound> {
    // A path as systemd writes it, or as the file system has it.
    let path = match path.starts_with(cgroup2) {
        true => path.to_owned(),
        false => cgroup2.join(path.strip_prefix("/").unwrap_or(path)),
    };
    match fs::File::open(&path) {
        Ok(file) => {
            let mark = mark(&file).map_err(|source| NotFound::Unreadable {
                path: path.clone(),
                source,
            })?;
            Ok((Found::Cgroup(path), mark))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NotFound::NoCgroup { path }),
        Err(source) => Err(NotFound::Unreadable { path, source }),
    }
}

/// The mark of an open namespace or cgroup.
pub(crate) fn mark(file: &impl AsFd) -> io::Result<Mark> {
    let stat = fstat(file)?;
    Ok(Mark {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// Shortest beginning of a container id that is looked for: what people copy from a listing has twelve digits.
const SHORTEST_ID: usize = 8;

/// A process of the container, the one with the lowest id, which is the container's first.
fn container(name: &str, processes: &[Process]) -> Result<u32, NotFound> {
    let mut found: Vec<(String, u32)> = Vec::new();
    for Process { pid, cgroup } in processes {
        if let Some(id) = containing(cgroup, name)
            && !found.iter().any(|(known, _)| *known == id)
        {
            found.push((id, *pid));
        }
    }
    match found.as_slice() {
        [] => Err(NotFound::NoContainer {
            name: name.to_owned(),
        }),
        [(_, pid)] => Ok(*pid),
        several => Err(NotFound::Ambiguous {
            name: name.to_owned(),
            candidates: several
                .iter()
                .map(|(id, _)| id.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// The container of a cgroup path that `name` means. Runtimes write `docker-<id>.scope`, `cri-containerd-<id>.scope`,
/// `crio-<id>.scope`, `libpod-<id>.scope`, `/docker/<id>`, `/kubepods/…/<id>`, `machine-<name>.scope`, `/lxc/<name>`.
fn containing(path: &str, name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    for part in path.split('/').rev() {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.rsplit_once('-').map_or(part, |(_, id)| id);
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id && name.len() >= SHORTEST_ID && id.starts_with(name) {
            return Some(id.to_owned());
        }
        let named = ["machine-", "lxc.payload.", "docker-", "libpod-"]
            .iter()
            .filter_map(|prefix| part.strip_prefix(prefix));
        if named.chain([part]).any(|part| part == name) {
            return Some(name.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_every_runtime_are_found_by_their_cgroup() {
        let id = "3f".repeat(32);
        let check = |path: String, name: &str, found: bool| {
            assert_eq!(containing(&path, name).is_some(), found, "{name} in {path}");
        };
        check(format!("/system.slice/docker-{id}.scope"), &id[..12], true);
        check(format!("/system.slice/docker-{id}.scope/init"), &id, true);
        check(format!("/docker/{id}"), &id[..12], true);
        check(
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            &id[..12],
            true,
        );
        check(
            format!("/machine.slice/libpod-{id}.scope/container"),
            &id[..12],
            true,
        );
        check("/machine.slice/machine-web.scope".to_owned(), "web", true);
        check("/lxc.payload.web".to_owned(), "web", true);
        check("/lxc/web/init".to_owned(), "web", true);
        check(format!("/docker/{id}"), &id[..7], false);
        check(format!("/docker/{id}"), "", false);
        check("/system.slice/web.service".to_owned(), "web", false);
        check("/".to_owned(), "web", false);
    }

    fn find(selector: &Selector) -> Result<(Found, Mark), NotFound> {
        Finder::new(Host::own(), Path::new("/")).find(selector, &[], None)
    }

    #[test]
    fn our_own_namespace_is_found_by_pid_and_path() {
        let pid = std::process::id();
        let (_, by_pid) = find(&Selector::Pid(pid)).expect("we run");
        let path = PathBuf::from("/proc/self/ns/net");
        let (_, by_path) = find(&Selector::NetworkNamespace(path)).expect("we run");
        assert_eq!(by_pid, by_path);
    }

    #[test]
    fn an_ordinary_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let selector = Selector::NetworkNamespace(file.path().to_owned());
        let error = find(&selector).expect_err("a file");
        assert!(matches!(error, NotFound::NotANamespace { .. }), "{error}");
    }
}
