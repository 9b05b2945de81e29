//! The run directory: one agent at a time, and the few numbers that outlive it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::AgentError;

const LOCK: &str = "lock";
const STATE: &str = "state.json";

/// The run directory, held by this process alone.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    state: State,
    _lock: Flock<File>,
}

/// What is kept from one agent to the next.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct State {
    /// The last generation of agent or worker that was used: record ids and cgroups carry it.
    pub(crate) generation: u32,
    /// Where the mesh's processes live, for an uninstall without an agent.
    pub(crate) mesh_cgroup: Option<PathBuf>,
    /// Where dials are captured, likewise.
    pub(crate) cgroup_root: Option<PathBuf>,
    /// Where the pins are, likewise.
    pub(crate) bpffs: Option<PathBuf>,
    /// Where the CNI plugin is, likewise, on a node of a cluster.
    pub(crate) plugin: Option<Plugin>,
}

/// Where the CNI plugin is, by the paths of the node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plugin {
    pub(crate) bin_dir: PathBuf,
    pub(crate) conf_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
}

impl RunDir {
    /// Takes the directory, made when it is not there.
    pub(crate) fn take(path: &Path) -> Result<Self, AgentError> {
        let failed = |source| AgentError::RunDir {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(failed)?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(
                |(_, error)| match error {
                    nix::Error::EWOULDBLOCK => AgentError::Running {
                        path: path.to_owned(),
                    },
                    error => failed(error.into()),
                },
            )?;
        Ok(Self {
            path: path.to_owned(),
            state: read(path),
            _lock: lock,
        })
    }

    /// Whether no agent has it. One that looks does not take it.
    pub(crate) fn is_free(path: &Path) -> bool {
        let Ok(file) = File::open(path.join(LOCK)) else {
            return false;
        };
        Flock::lock(file, FlockArg::LockSharedNonblock).is_ok()
    }

    /// The state as it is.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// A generation that nobody had before.
    pub(crate) fn next_generation(&mut self) -> Result<u32, AgentError> {
        // 31 bits: the highest bit of a record's id marks kernel drops.
        self.state.generation = match self.state.generation {
            0x7fff_ffff => 1,
            generation => generation + 1,
        };
        self.write()?;
        Ok(self.state.generation)
    }

    /// Remembers where things are.
    pub(crate) fn remember(
        &mut self,
        mesh_cgroup: &Path,
        cgroup_root: &Path,
        bpffs: &Path,
    ) -> Result<(), AgentError> {
        self.state.mesh_cgroup = Some(mesh_cgroup.to_owned());
        self.state.cgroup_root = Some(cgroup_root.to_owned());
        self.state.bpffs = Some(bpffs.to_owned());
        self.write()
    }

    /// Remembers where the CNI plugin is.
    pub(crate) fn remember_plugin(&mut self, plugin: Plugin) -> Result<(), AgentError> {
        self.state.plugin = Some(plugin);
        self.write()
    }

    /// Removes everything of ours from it, and itself when nothing else is in it.
    pub(crate) fn remove(self) -> Result<(), AgentError> {
        let (namespaces, identities) =
            (crate::cni::namespaces::FILE, super::identities::kept::FILE);
        for name in [STATE, crate::api::SOCKET_NAME, namespaces, identities, LOCK] {
            remove_file(&self.path.join(name))?;
        }
        match fs::remove_dir(&self.path) {
            Err(error)
                if !matches!(
                    error.kind(),
                    // In a container it is a mount, and stays.
                    io::ErrorKind::DirectoryNotEmpty
                        | io::ErrorKind::NotFound
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::ResourceBusy
                ) =>
            {
                Err(AgentError::RunDir {
                    path: self.path,
                    source: error,
                })
            }
            _ => Ok(()),
        }
    }

    fn write(&self) -> Result<(), AgentError> {
        let failed = |source| AgentError::RunDir {
            path: self.path.clone(),
            source,
        };
        let text = serde_json::to_vec(&self.state).map_err(|error| failed(error.into()))?;
        let new = self.path.join("state.json.new");
        fs::write(&new, text).map_err(failed)?;
        fs::rename(&new, self.path.join(STATE)).map_err(failed)
    }
}

/// The state in a run directory. One that cannot be read is like none: the numbers begin again.
fn read(path: &Path) -> State {
    let text = match fs::read(path.join(STATE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return State::default(),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the last agent's state cannot be read");
            return State::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "the last agent's state is damaged; beginning anew");
        State::default()
    })
}

fn remove_file(path: &Path) -> Result<(), AgentError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(AgentError::RunDir {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_at_a_time_and_generations_grow_across_agents() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run");
        let mut first = RunDir::take(&path).expect("free");
        assert_eq!(first.next_generation().expect("written"), 1);
        let second = RunDir::take(&path).expect_err("taken");
        assert!(
            second.to_string().contains("another agent runs with"),
            "{second}"
        );
        drop(first);
        let mut next = RunDir::take(&path).expect("free again");
        assert_eq!(next.next_generation().expect("written"), 2);
        next.remove().expect("removed");
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_state_is_like_none() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(STATE), "{").expect("written");
        let mut run_dir = RunDir::take(folder.path()).expect("free");
        assert_eq!(run_dir.next_generation().expect("written"), 1);
    }
}
