//! A real relational database in a place. Every client connection gets a process of its own there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use super::Cluster;
use super::place::{NOBODY, Place};
use crate::eventually::until;
use crate::host::process::Process;

/// The port that it listens on.
pub const PORT: u16 = 5_432;

/// The user that may do everything, and its database.
pub const USER: &str = "warren";

/// One of its programs. Debian keeps them out of the search path, in a folder per version.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| {
        anyhow!("PostgreSQL's {name} is not in /usr/lib/postgresql; `cargo xtask deps` installs it")
    })
}

/// Starts PostgreSQL with an empty database, that trusts whoever reaches it; comes back when it answers.
pub fn start(cluster: &Cluster, place: &Place) -> Result<Process> {
    let folder = cluster.folder_of(place, "postgresql")?;
    let data = folder.join("data");
    let run = |name: &str| -> Result<_> {
        Ok(place
            .program(&program(name)?.to_string_lossy())
            .user(NOBODY)
            .log(&folder.join(format!("{name}.log"))))
    };
    let made = run("initdb")?
        .args([
            "--username",
            USER,
            "--auth",
            "trust",
            "--no-sync",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
        ])
        .args(["--pgdata".as_ref(), data.as_path()])
        .start()?
        .wait(Duration::from_secs(60))?;
    if !made.success() {
        let log = fs::read_to_string(folder.join("initdb.log")).unwrap_or_default();
        return Err(anyhow!("initdb failed: {log}"));
    }
    let access = data.join("pg_hba.conf");
    fs::write(&access, "host all all all trust\nlocal all all trust\n")
        .with_context(|| format!("write {}", access.display()))?;
    let process = run("postgres")?
        .args(["-D".as_ref(), data.as_path()])
        .args(["-p", &PORT.to_string(), "-c", "listen_addresses=*"])
        .args(["-c", &setting("unix_socket_directories", &folder)])
        // A crash of this machine is not what is tested.
        .args(["-c", "fsync=off"])
        .start()?;
    until("PostgreSQL answers", Duration::from_secs(30), || {
        let ready = place
            .program(&program("pg_isready")?.to_string_lossy())
            .args(["--quiet", "--host"])
            .args([&folder])
            .output()?;
        Ok(ready.0.success())
    })?;
    Ok(process)
}

fn setting(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
