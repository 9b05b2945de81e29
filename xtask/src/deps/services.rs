//! Packages bring services that Debian starts at once and at every boot. The stories start their own, in places of their
//! own, so nothing of the sort may run on the machine just because tests were run on it. Services that were there before
//! are left alone.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run;

/// While this file is there and says 101, packages start nothing (Debian policy, `invoke-rc.d`).
const POLICY: &str = "usr/sbin/policy-rc.d";

/// PostgreSQL makes a database at its installation, unless this says otherwise.
const CLUSTER: &str = "etc/postgresql-common/createcluster.d/warren-deps.conf";

/// By this an interrupted run's files are known as ours.
const MARK: &str = "# Left by an interrupted `cargo xtask deps`; may be removed.";

/// Where units and boot scripts are.
const UNITS: [&str; 2] = ["lib/systemd/system", "usr/lib/systemd/system"];
const SCRIPTS: &str = "etc/init.d";

/// Holds services back while packages are installed; lets go when dropped.
pub(super) struct Held {
    root: PathBuf,
    made: Vec<PathBuf>,
    units: BTreeSet<String>,
    scripts: BTreeSet<String>,
}

impl Held {
    /// Holds the services of packages to come, below the root folder of a system.
    pub(super) fn back(root: &Path) -> Result<Self> {
        let mut held = Self {
            root: root.to_owned(),
            made: Vec::new(),
            units: units(root),
            scripts: names(&root.join(SCRIPTS)),
        };
        held.write(POLICY, &format!("#!/bin/sh\n{MARK}\nexit 101\n"), 0o755)?;
        held.write(
            CLUSTER,
            &format!("{MARK}\ncreate_main_cluster = false\n"),
            0o644,
        )?;
        Ok(held)
    }

    /// Writes a file, unless somebody else has one there.
    fn write(&mut self, name: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.root.join(name);
        let foreign = match fs::read_to_string(&path) {
            Ok(present) => !present.contains(MARK),
            Err(error) => error.kind() != ErrorKind::NotFound,
        };
        if foreign {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        self.made.push(path.clone());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("make {} executable", path.display()))
    }

    /// Units and boot scripts that came since.
    fn came(&self) -> (Vec<String>, Vec<String>) {
        let new = |now: BTreeSet<String>, before| now.difference(before).cloned().collect();
        (
            new(units(&self.root), &self.units),
            new(names(&self.root.join(SCRIPTS)), &self.scripts),
        )
    }

    /// What came is not started at boot either.
    pub(super) fn disable(self) -> Result<()> {
        let (units, scripts) = self.came();
        // Templates are not started by themselves.
        for unit in units.iter().filter(|unit| !unit.contains('@')) {
            eprintln!("deps: {unit} came with it: not started, and not to be started at boot");
            if run::is_installed("systemctl") {
                run::step(Command::new("systemctl").args(["--quiet", "disable", unit]))?;
            }
        }
        for script in &scripts {
            if run::is_installed("update-rc.d") {
                run::step(Command::new("update-rc.d").args([script.as_str(), "disable"]))?;
            }
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for path in &self.made {
            if let Err(error) = fs::remove_file(path) {
                eprintln!("deps: remove {} by hand: {error}", path.display());
            }
        }
    }
}

fn units(root: &Path) -> BTreeSet<String> {
    UNITS
        .iter()
        .flat_map(|folder| names(&root.join(folder)))
        .filter(|name| name.ends_with(".service") || name.ends_with(".timer"))
        .collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty root folder of its own.
    fn root(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(root.join(UNITS[0])).unwrap();
        fs::create_dir_all(root.join("usr/sbin")).unwrap();
        root
    }

    #[test]
    fn nothing_starts_while_it_is_held() {
        let root = root("held");
        fs::write(root.join(UNITS[0]).join("before.service"), "").unwrap();
        let held = Held::back(&root).unwrap();
        let policy = root.join(POLICY);
        let status = Command::new(&policy)
            .args(["nginx", "start"])
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(101));
        fs::write(root.join(UNITS[0]).join("nginx.service"), "").unwrap();
        assert_eq!(held.came().0, ["nginx.service"]);
        drop(held);
        assert!(!policy.exists() && !root.join(CLUSTER).exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_somebody_else_has_there_stays() {
        let root = root("foreign");
        let policy = root.join(POLICY);
        fs::write(&policy, "#!/bin/sh\nexit 104\n").unwrap();
        drop(Held::back(&root).unwrap());
        assert!(fs::read_to_string(&policy).unwrap().contains("104"));
        // But for what an interrupted run of ours left.
        fs::write(&policy, format!("#!/bin/sh\n{MARK}\nexit 101\n")).unwrap();
        drop(Held::back(&root).unwrap());
        assert!(!policy.exists());
        fs::remove_dir_all(root).unwrap();
    }
}
