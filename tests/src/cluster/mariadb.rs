//! A real database in a place. Its protocol begins with a greeting of the server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Cluster;
use super::place::{NOBODY, Place};
use crate::host::process::Process;

/// Who may ask, from anywhere, without a password; and the name of its own database.
pub const USER: &str = "shop";

/// MariaDB with an empty database, listening in a pod.
pub fn start(cluster: &Cluster, place: &Place) -> Result<Process> {
    let folder = cluster.folder_of(place, "mariadb")?;
    let (data, socket) = (folder.join("data"), folder.join("socket"));
    let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
    place
        .program("mariadb-install-db")
        .user(NOBODY)
        .args([
            "--no-defaults",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ])
        .args([option("datadir", &data)])
        .log(&folder.join("install.log"))
        .start()?
        .wait(Duration::from_secs(60))?;
    let users = folder.join("users.sql");
    fs::write(&users, format!("CREATE USER {USER}@'%';\nCREATE DATABASE {USER};\nGRANT ALL ON {USER}.* TO {USER}@'%';\n"))
        .with_context(|| format!("write {}", users.display()))?;
    place
        .program("mariadbd")
        .user(NOBODY)
        .args(["--no-defaults", "--port=3306", "--bind-address=*"])
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
