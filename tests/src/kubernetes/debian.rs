//! What the machine's own package manager knows: the mirror that it uses, and a configuration beside its own with which
//! sources of another release can be fetched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::host::command::run;

/// Signs every release of Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirror that this machine's package lists come from, e.g. `http://mirror.example/debian`.
pub fn mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = debian(&release)?;
    let targets = run(
        "apt-get",
        &[
            "indextargets",
            "--format",
            "$(RELEASE) $(COMPONENT) $(CREATED_BY) $(REPO_URI)",
        ],
    )?;
    of_release(&targets, codename).ok_or_else(|| {
        anyhow!("none of apt's sources has the component main of {codename}; `apt-get update` reads them")
    })
}

/// The code name of the release, if it is one of Debian.
fn debian(release: &str) -> Result<&str> {
    let value = |name: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    match (value("ID"), value("VERSION_CODENAME")) {
        (Some("debian"), Some(codename)) => Ok(codename),
        (system, _) => bail!(
            "the cluster is made of Debian's packages, and this is {}",
            system.unwrap_or("an unknown system")
        ),
    }
}

fn of_release(targets: &str, codename: &str) -> Option<String> {
    targets
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [release, component, kind, mirror] = words[..] else {
                return None;
            };
            ((release, component, kind) == (codename, "main", "Packages"))
                .then(|| mirror.trim_end_matches('/').to_owned())
        })
        .next()
}

/// A package configuration of its own, for source packages of one release. The machine's is not changed.
pub(super) struct Sources {
    folder: PathBuf,
}

impl Sources {
    /// Reads the lists of a release into a folder.
    pub(super) fn read(folder: &Path, mirror: &str, release: &str) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is not there; the package debian-archive-keyring has it"
        );
        let sources = Self {
            folder: folder.to_owned(),
        };
        for folder in [sources.lists().join("partial"), sources.archives()] {
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let list = sources.list();
        fs::write(
            &list,
            format!("deb-src [signed-by={KEYRING}] {mirror} {release} main\n"),
        )
        .with_context(|| format!("write {}", list.display()))?;
        sources.apt_get(folder, &["-q", "update"])?;
        Ok(sources)
    }

    /// Fetches and unpacks a source package; gives its folder.
    pub(super) fn fetch(&self, package: &str, into: &Path) -> Result<PathBuf> {
        self.apt_get(into, &["-q", "source", package])?;
        fs::read_dir(into)
            .with_context(|| format!("read {}", into.display()))?
            .flatten()
            .find(|entry| {
                let name = entry.file_name();
                let is_package = name.to_string_lossy().starts_with(&format!("{package}-"));
                is_package && entry.file_type().is_ok_and(|kind| kind.is_dir())
            })
            .map(|entry| entry.path())
            .ok_or_else(|| {
                anyhow!(
                    "apt-get source {package} left no folder in {}",
                    into.display()
                )
            })
    }

    fn apt_get(&self, folder: &Path, arguments: &[&str]) -> Result<()> {
        let output = Command::new("apt-get")
            .current_dir(folder)
            .arg(format!("-oDir::Etc::sourcelist={}", self.list().display()))
            .arg("-oDir::Etc::sourceparts=/dev/null")
            .arg(format!("-oDir::State::Lists={}", self.lists().display()))
            .arg(format!("-oDir::Cache={}", self.archives().display()))
            // The user that apt otherwise drops to cannot read our folder.
            .arg("-oAPT::Sandbox::User=root")
            .args(arguments)
            .output()
            .context("start apt-get")?;
        ensure!(
            output.status.success(),
            "`apt-get {}` failed: {}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn list(&self) -> PathBuf {
        self.folder.join("source.list")
    }

    fn lists(&self) -> PathBuf {
        self.folder.join("lists")
    }

    fn archives(&self) -> PathBuf {
        self.folder.join("archives")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_release() {
        let targets = "bookworm-security main Packages http://mirror/debian-security/\n\
                       bookworm main Translations http://mirror/wrong/\n\
                       bookworm main Packages http://mirror/debian/\n";
        let mirror = of_release(targets, "bookworm");
        assert_eq!(mirror.as_deref(), Some("http://mirror/debian"));
        assert_eq!(of_release(targets, "trixie"), None);
    }

    #[test]
    fn other_systems_are_named() {
        assert_eq!(
            debian("ID=debian\nVERSION_CODENAME=\"trixie\"\n").unwrap(),
            "trixie"
        );
        let error = debian("NAME=x\nID=fedora\n").unwrap_err().to_string();
        assert!(error.contains("fedora"), "{error}");
    }
}
