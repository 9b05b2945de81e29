//! Where Helm and the schemas are: in the cache that `cargo xtask test` fills.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::kubernetes::cache::Cache;

/// The folder with the programs.
pub(super) struct Tools(PathBuf);

impl Tools {
    pub(super) fn locate() -> Result<Self> {
        let folder = Cache::locate()?.folder().join("tools");
        if !folder.join("helm").is_file() {
            bail!(
                "Helm is not in {}; `cargo xtask test delivery` fetches it",
                folder.display()
            );
        }
        Ok(Self(folder))
    }

    /// Helm's program.
    pub(super) fn program(&self) -> PathBuf {
        self.0.join("helm")
    }

    /// Helm, told to keep its hands off whatever the user has of it.
    pub(super) fn helm(&self) -> Command {
        let mut helm = Command::new(self.program());
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(variable, self.0.join("home"));
        }
        helm.env_remove("KUBECONFIG");
        helm
    }

    /// The validator.
    pub(super) fn validator(&self) -> Result<Command> {
        let mut paths = vec![self.0.join("python")];
        paths.extend(env::var_os("PYTHONPATH").iter().flat_map(env::split_paths));
        let mut python = Command::new("python3");
        python
            .env(
                "PYTHONPATH",
                env::join_paths(paths).context("name the validator's folder")?,
            )
            .args(["-m", "kubernetes_validate", "--strict", "--quiet"]);
        Ok(python)
    }
}
