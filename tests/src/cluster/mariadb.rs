//! A real database in a place. Its protocol begins with a greeting of the server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Cluster;
use super::place::Place;
use crate::host::process::Process;

/// Who may ask, from anywhere, without a password.
pub const USER: &str = "shop";

/// MariaDB with an empty database, listening in a pod.
pub fn start(cluster: &Cluster, place: &Place) -> Result<Process> {
    let folder = cluster.folder().join("mariadb");
    let (data, socket) = (folder.join("data"), folder.join("socket"));
    fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
    let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
    place
        .program("mariadb-install-db")
        .args([
            "--no-defaults",
            "--user=root",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ])
        .args([option("datadir", &data)])
        .log(&folder.join("install.log"))
        .start()?
        .wait(Duration::from_secs(60))?;
    let users = folder.join("users.sql");
    fs::write(&users, format!("CREATE USER {USER}@'%';\n"))
        .with_context(|| format!("write {}", users.display()))?;
    place
        .program("mariadbd")
        .args([
            "--no-defaults",
            "--user=root",
            "--port=3306",
            "--bind-address=*",
        ])
        .args([
            "--skip-networking=0",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=16M",
        ])
        .args([option("datadir", &data), option("socket", &socket)])
        .args([
            option("pid-file", &folder.join("pid")),
            option("init-file", &users),
        ])
        .log(&folder.join("log"))
        .start()
}
