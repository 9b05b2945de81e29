//! Taking everything away without an agent.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_kernel::Removed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cni_install::Installer;
use super::host::Host;
use super::run_dir::{Plugin, RunDir};
use super::{AgentError, preflight};

/// How long workers may take to drain.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where an agent kept its things; what is not known is taken from what the last one remembered.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) run_dir: PathBuf,
    pub(crate) bpffs: PathBuf,
    pub(crate) cgroup_root: Option<PathBuf>,
    pub(crate) mesh_cgroup: Option<PathBuf>,
}

/// Removes what earlier agents left. Gives what was done, in words.
pub(crate) fn offline(places: &Places) -> Result<Vec<String>, AgentError> {
    if !preflight::is_root() {
        return Err(AgentError::NotRoot);
    }
    // With the lock: an agent that starts at this moment must not find half of its things gone.
    let run_dir = RunDir::take(&places.run_dir)?;
    let remembered = run_dir.state().clone();
    let mount = preflight::cgroup2_mount();
    let capture_root = places
        .cgroup_root
        .clone()
        .or(remembered.cgroup_root)
        .or_else(|| mount.clone())
        .ok_or(AgentError::NoCgroup)?;
    let mesh_cgroup = places
        .mesh_cgroup
        .clone()
        .or(remembered.mesh_cgroup)
        .or_else(|| preflight::own_cgroup(mount.as_deref()?).map(|own| own.join("warren")))
        .ok_or(AgentError::NoCgroup)?;
    end_workers(&mesh_cgroup, PATIENCE);
    let removed = mesh_kernel::uninstall(&mesh_kernel::Options {
        pins: remembered.bpffs.unwrap_or_else(|| places.bpffs.clone()),
        capture_root,
        mesh_cgroup,
        tunnel_port: mesh_common::TUNNEL_PORT,
        generation: u64::from(remembered.generation),
    })?;
    let mut words = words(&removed);
    if let Some(plugin) = remembered.plugin {
        words.extend(plugin_away(&Host::behind(Path::new("/proc")), &plugin)?);
    }
    run_dir.remove()?;
    Ok(words)
}

/// Takes the CNI plugin away. Gives what was done, in words.
pub(crate) fn plugin_away(host: &Host, plugin: &Plugin) -> Result<Vec<String>, AgentError> {
    let Plugin {
        bin_dir,
        conf_dir,
        state_dir,
        run_dir: _,
    } = plugin;
    let installer = Installer {
        program: PathBuf::new(),
        bin_dir: host.path(bin_dir),
        conf_dir: host.path(conf_dir),
        state_dir: host.path(state_dir),
        told: Default::default(),
    };
    let words = installer.restore()?;
    // What was written down for the plugin says nothing without it.
    for name in [crate::cni::namespaces::FILE, super::control::WORLD] {
        let path = installer.state_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot be removed");
            }
            _ => {}
        }
    }
    Ok(words)
}

/// What was removed, for people.
pub(crate) fn words(removed: &Removed) -> Vec<String> {
    if removed.nothing() {
        return vec!["Nothing of Warren was here.".to_owned()];
    }
    let mut words = vec![format!(
        "Removed {} programs, {} maps, {} cgroups; put {} workloads back as they were.",
        removed.links, removed.maps, removed.cgroups, removed.workloads
    )];
    words.extend(removed.left.iter().map(|left| format!("Left: {left}")));
    words
}

/// The processes in a mesh's worker cgroups, but for one generation's.
pub(crate) fn workers(mesh_cgroup: &Path, except: Option<&Path>) -> Vec<Pid> {
    let Ok(folders) = std::fs::read_dir(mesh_cgroup) else {
        return Vec::new();
    };
    folders
        .flatten()
        .map(|folder| folder.path())
        .filter(|path| Some(path.as_path()) != except)
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("worker-"))
        })
        .filter_map(|path| std::fs::read_to_string(path.join("cgroup.procs")).ok())
        .flat_map(|procs| {
            let pids = procs.lines().filter_map(|line| line.parse::<i32>().ok());
            // 0 stands for a process outside our pid namespace: not ours to end.
            pids.filter(|pid| *pid > 0)
                .map(Pid::from_raw)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Asks every worker to end, and ends those that do not.
pub(crate) fn end_workers(mesh_cgroup: &Path, patience: Duration) {
    let deadline = Instant::now() + patience;
    signal(&workers(mesh_cgroup, None), Signal::SIGTERM);
    while !workers(mesh_cgroup, None).is_empty() {
        if Instant::now() >= deadline {
            signal(&workers(mesh_cgroup, None), Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(100));
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to processes that may be gone already.
pub(crate) fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        if let Err(error) = kill(*pid, signal)
            && error != nix::Error::ESRCH
        {
            tracing::warn!(%pid, %signal, %error, "a worker cannot be signalled");
        }
    }
}
