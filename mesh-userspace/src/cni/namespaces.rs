//! Which namespaces are in the mesh, written down by the agent for when none answers. Twice: in the run directory, and in
//! the state directory, which is still there after a reboot, before the agent is.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file's name in either directory.
pub(crate) const FILE: &str = "namespaces.json";

/// The form of the file.
const VERSION: u32 = 1;

/// Everything that is written down. A namespace that is not in it is not in the mesh.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Namespaces {
    version: u32,
    namespaces: BTreeMap<String, Entry>,
}

/// One namespace.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Entry {
    /// Its pods are in the mesh, but for those that opt out.
    pub(crate) meshed: bool,
    /// Some of its pods are, by their own label.
    pub(crate) pods_opt_in: bool,
}

/// What is written down about a namespace.
#[derive(Debug, PartialEq)]
pub(crate) enum Membership {
    /// Its pods are in the mesh, or some may be.
    Meshed,
    /// None of its pods is.
    Outside,
    /// What is written down cannot be read.
    Unknown(String),
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meshed => f.write_str("its namespace is in the mesh"),
            Self::Outside => f.write_str("its namespace is not in the mesh"),
            Self::Unknown(why) => write!(
                f,
                "it is not known whether its namespace is in the mesh ({why})"
            ),
        }
    }
}

impl Namespaces {
    /// Those with pods in the mesh.
    pub(crate) fn new(entries: impl IntoIterator<Item = (String, Entry)>) -> Self {
        Self {
            version: VERSION,
            namespaces: entries
                .into_iter()
                .filter(|(_, entry)| entry.meshed || entry.pods_opt_in)
                .collect(),
        }
    }

    /// What is written down about a namespace.
    pub(crate) fn of(&self, namespace: &str) -> Membership {
        match self.namespaces.get(namespace) {
            Some(
                Entry { meshed: true, .. }
                | Entry {
                    pods_opt_in: true, ..
                },
            ) => Membership::Meshed,
            _ => Membership::Outside,
        }
    }

    /// Writes it down, whole or not at all.
    ///
    /// # Errors
    /// The operating system's answer.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let new = folder.join(format!("{FILE}.new"));
        fs::write(&new, text)?;
        fs::rename(&new, folder.join(FILE))
    }
}

/// Looks a namespace up in the first of these folders in which anything is written down. Where nothing is, no agent has
/// ever served this node, and nobody is in the mesh.
pub(crate) fn look_up(folders: &[PathBuf], namespace: &str) -> Membership {
    for folder in folders {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Membership::Unknown(format!("{}: {error}", path.display())),
        };
        return match serde_json::from_slice::<Namespaces>(&text) {
            Ok(namespaces) if namespaces.version == VERSION => namespaces.of(namespace),
            Ok(Namespaces { version, .. }) => Membership::Unknown(format!(
                "{} has the form {version}, this plugin reads {VERSION}",
                path.display()
            )),
            Err(error) => Membership::Unknown(format!("{}: {error}", path.display())),
        };
    }
    Membership::Outside
}
