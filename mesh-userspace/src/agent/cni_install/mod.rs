//! The CNI plugin on the node: its program in the runtime's folder, its entry in the network configuration that the runtime
//! uses. Put there, put back where another writer replaced it, and taken away with the original as it was.
//!
//! The configuration belongs to somebody else. So [`conflist`] changes nothing but our entry; the original is kept in the
//! state directory; and what somebody changed since is theirs: then only our entry goes. [`watch`] looks after it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use conflist::{Conflist, wrap};
pub(crate) use files::Stamp;

mod conflist;
mod files;
pub(crate) mod watch;

/// The folder, in the state directory, of what is kept.
const BACKUP: &str = "cni";

/// What is kept, by file.
const RECORDS: &str = "records.json";

/// Where the plugin goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Installer {
    /// The program that becomes the plugin.
    pub(crate) program: PathBuf,
    /// Where the runtime looks for plugins.
    pub(crate) bin_dir: PathBuf,
    /// Where it looks for network configurations.
    pub(crate) conf_dir: PathBuf,
    /// What is kept between agents, also when the machine restarts.
    pub(crate) state_dir: PathBuf,
    pub(crate) told: Told,
}

/// What the plugin is told: it runs on the node, so that these are paths there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    /// Where the agent's socket is.
    pub(crate) run_dir: PathBuf,
    /// What is still there after a restart of the machine.
    pub(crate) state_dir: PathBuf,
}

/// Why the plugin is not in place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error(
        "there is no network configuration in {} yet; the cluster's network plugin writes it",
        folder.display()
    )]
    NoConfiguration { folder: PathBuf },
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What was done to a file that is somebody else's.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// The file that was there before; ours has another name where that was no list.
    original_name: String,
    /// Its content.
    original: String,
    /// What we made of it.
    written: String,
}

/// What was done, by the name of the file that carries our entry.
type Records = BTreeMap<String, Record>;

/// One at a time works on these files: a look that has begun before must not put back what is being taken away.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Installer {
    /// Puts everything in place that is not. Gives the name of the network configuration that carries our entry. `seen` is
    /// how the program looked when it was last compared.
    pub(crate) fn ensure(&self, seen: &mut Option<Stamp>) -> Result<String, InstallError> {
        let plugin = self.bin_dir.join(crate::cni::PLUGIN);
        if seen.is_none() || *seen != Stamp::of(&plugin) {
            let copied = files::copy_program(&self.program, &plugin)
                .map_err(failed("put the CNI plugin at", &plugin))?;
            *seen = Stamp::of(&plugin);
            if copied {
                tracing::info!(path = %plugin.display(), "put the CNI plugin in place");
            }
        }
        let entry = self.entry();
        let mut records = self.records();
        let (name, text) = self.used()?;
        let carrier = match Conflist::read(&text) {
            Ok(list) if list.entry() == Some(&entry) => name.clone(),
            Ok(list) => {
                // Of another release of ours, or none.
                let original = list.without();
                let written = match Conflist::read(&original) {
                    Ok(list) => list.with(&entry),
                    Err(_) => text.clone(),
                };
                let original = match records.get(&name) {
                    Some(record) if list.entry().is_some() && record.written == text => {
                        record.original.clone()
                    }
                    _ => original,
                };
                let record = Record {
                    original_name: name.clone(),
                    original,
                    written,
                };
                self.carry(&name, record, &mut records)?;
                name.clone()
            }
            // The runtime would use it, so it is a single plugin's.
            Err(_) => self.replace_single(&name, &text, &entry, &mut records)?,
        };
        self.clear_others(&carrier, &mut records)?;
        Ok(carrier)
    }

    /// A single plugin's configuration: a list with it takes its place.
    fn replace_single(
        &self,
        name: &str,
        text: &str,
        entry: &str,
        records: &mut Records,
    ) -> Result<String, InstallError> {
        let path = self.conf_dir.join(name);
        let written = wrap(text, entry).map_err(|error| InstallError::File {
            operation: "read",
            path: path.clone(),
            source: io::Error::other(error),
        })?;
        // It sorts right behind the original, so that another file does not take its place when that is gone.
        let list = format!("{name}.conflist");
        let record = Record {
            original_name: name.to_owned(),
            original: text.to_owned(),
            written,
        };
        self.carry(&list, record, records)?;
        files::remove(&path).map_err(failed("replace", &path))?;
        Ok(list)
    }

    /// Writes a file with our entry; first what is needed to take it back.
    fn carry(&self, name: &str, record: Record, records: &mut Records) -> Result<(), InstallError> {
        let path = self.conf_dir.join(name);
        let like = self.conf_dir.join(&record.original_name);
        let written = record.written.clone();
        records.insert(name.to_owned(), record);
        self.remember(records)?;
        files::write(&path, written.as_bytes(), &like)
            .map_err(failed("write the network configuration", &path))?;
        tracing::info!(path = %path.display(), "chained the CNI plugin");
        Ok(())
    }

    /// Another file is used now: those before go back to what they were.
    fn clear_others(&self, carrier: &str, records: &mut Records) -> Result<(), InstallError> {
        let others: Vec<String> = records
            .keys()
            .filter(|name| *name != carrier)
            .cloned()
            .collect();
        for name in &others {
            if let Some(record) = records.get(name) {
                self.put_back(name, record)?;
            }
            records.remove(name);
        }
        match others.is_empty() {
            true => Ok(()),
            false => self.remember(records),
        }
    }

    /// Takes everything away. Gives what was done, in words.
    pub(crate) fn restore(&self) -> Result<Vec<String>, InstallError> {
        let _turn = turn();
        let mut words = Vec::new();
        for (name, record) in &self.records() {
            words.extend(self.put_back(name, record)?);
        }
        // What no record tells of: the state directory was lost, or somebody copied a file of ours.
        for name in self.names() {
            let path = self.conf_dir.join(&name);
            let Ok(Some(text)) = files::read(&path) else {
                continue;
            };
            if let Ok(list) = Conflist::read(&text)
                && list.entry().is_some()
            {
                words.extend(self.take_entry_out(&path, &list)?);
            }
        }
        let plugin = self.bin_dir.join(crate::cni::PLUGIN);
        if plugin.exists() {
            files::remove(&plugin).map_err(failed("remove", &plugin))?;
            words.push(format!("Removed {}.", plugin.display()));
        }
        let backup = self.backup();
        match fs::remove_dir_all(&backup) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &backup)(error));
            }
            _ => {}
        }
        Ok(words)
    }

    fn put_back(&self, name: &str, record: &Record) -> Result<Option<String>, InstallError> {
        let path = self.conf_dir.join(name);
        let Some(text) = files::read(&path).map_err(failed("read", &path))? else {
            return Ok(None);
        };
        if text != record.written {
            return match Conflist::read(&text) {
                Ok(list) if list.entry().is_some() => self.take_entry_out(&path, &list),
                // Somebody made it anew, without our entry.
                _ => Ok(None),
            };
        }
        let original = self.conf_dir.join(&record.original_name);
        // Another writer may have put its own back beside ours: that one is newer than what we kept.
        if original == path || !original.exists() {
            files::write(&original, record.original.as_bytes(), &path)
                .map_err(failed("put back", &original))?;
        }
        if original != path {
            files::remove(&path).map_err(failed("remove", &path))?;
        }
        Ok(Some(format!("Put {} back as it was.", original.display())))
    }

    fn take_entry_out(
        &self,
        path: &Path,
        list: &Conflist<'_>,
    ) -> Result<Option<String>, InstallError> {
        files::write(path, list.without().as_bytes(), path).map_err(failed("write", path))?;
        Ok(Some(format!(
            "Took the CNI plugin out of {}, which somebody else has changed since.",
            path.display()
        )))
    }

    /// The network configuration that the runtime uses: the first by name that it can read. Gives its name and content.
    fn used(&self) -> Result<(String, String), InstallError> {
        for name in self.names() {
            let path = self.conf_dir.join(&name);
            // One that is gone at this moment is another writer's; the watch sees what takes its place.
            let Ok(Some(text)) = files::read(&path) else {
                continue;
            };
            let usable = match name.ends_with(".conflist") {
                true => Conflist::read(&text).map(drop),
                false => wrap(&text, "{}").map(drop),
            };
            match usable {
                Ok(()) => return Ok((name, text)),
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "no runtime would use it");
                }
            }
        }
        Err(InstallError::NoConfiguration {
            folder: self.conf_dir.clone(),
        })
    }

    /// Names of network configurations, in the order in which a runtime takes them.
    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.conf_dir) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| {
                let kind = Path::new(name).extension();
                kind.is_some_and(|kind| kind == "conf" || kind == "conflist" || kind == "json")
            })
            .collect();
        names.sort_unstable();
        names
    }

    /// Our entry.
    fn entry(&self) -> String {
        serde_json::json!({
            "type": crate::cni::PLUGIN,
            "runDir": self.told.run_dir,
            "stateDir": self.told.state_dir,
        })
        .to_string()
    }

    fn backup(&self) -> PathBuf {
        self.state_dir.join(BACKUP)
    }

    /// What was done. Where it cannot be read, only our entry can be taken out of what is there.
    fn records(&self) -> Records {
        let path = self.backup().join(RECORDS);
        let read = files::read(&path).and_then(|text| match text {
            Some(text) => serde_json::from_str(&text).map_err(io::Error::from),
            None => Ok(Records::new()),
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "what the network configuration was before us is not known any more");
            Records::new()
        })
    }

    fn remember(&self, records: &Records) -> Result<(), InstallError> {
        let folder = self.backup();
        let path = folder.join(RECORDS);
        fs::create_dir_all(&folder)
            .and_then(|()| {
                let text = serde_json::to_vec_pretty(records)?;
                files::write(&path, &text, &path)
            })
            .map_err(failed("keep the original network configuration in", &path))
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> InstallError + use<> {
    let path = path.to_owned();
    move |source| InstallError::File {
        operation,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests;
