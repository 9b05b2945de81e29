//! The components, built from Debian's source package `kubernetes`: the complete tree of upstream's 1.20.2 with everything
//! that it depends on, for the Go that Debian has. Later packages leave the dependencies out.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::cache::remove;
use super::debian::{self, Sources};

/// Of what [`make`] makes.
pub(super) const VERSION: &str = "1.20.2-2";

/// The last release of Debian whose source package is complete.
const RELEASE: &str = "bookworm";

/// What is built, from `cmd/`.
const COMPONENTS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

/// Fetches, builds, and leaves the programs in a folder.
pub(super) fn make(into: &Path, cache: &Path) -> Result<()> {
    let work = cache.join("build");
    remove(&work)?;
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let sources = Sources::read(&work, &debian::mirror()?, RELEASE)?;
    let tree = sources.fetch("kubernetes", &work)?;
    mend(&tree)?;
    compile(&tree, &work)?;
    for name in COMPONENTS {
        let (built, to) = (tree.join("_output/bin").join(name), into.join(name));
        fs::copy(&built, &to)
            .with_context(|| format!("copy {} to {}", built.display(), to.display()))?;
    }
    remove(&work)
}

/// The tree's copy of `reflect2` calls an internal function of Go that has had another argument since Go 1.18: built with a
/// later one, every JSON of a map writes somewhere into memory, and the API server dies of it now and then (upstream:
/// modern-go/reflect2 issue 26). The changes are those of its next release: the caller makes the iterator, in full size.
fn mend(tree: &Path) -> Result<()> {
    let changes = [
        (
            "unsafe_link.go",
            "func mapiterinit(rtype unsafe.Pointer, m unsafe.Pointer) *hiter",
            "func mapiterinit(rtype unsafe.Pointer, m unsafe.Pointer, it *hiter)",
        ),
        (
            "unsafe_link.go",
            "\t// rest fields are ignored\n",
            "\trest  [6]unsafe.Pointer\n\tend   [4]uintptr\n",
        ),
        (
            "unsafe_map.go",
            "\treturn &UnsafeMapIterator{\n\t\thiter:      mapiterinit(type2.rtype, *(*unsafe.Pointer)(obj)),\n",
            "\tit := &hiter{}\n\tmapiterinit(type2.rtype, *(*unsafe.Pointer)(obj), it)\n\treturn &UnsafeMapIterator{\n\t\thiter:      it,\n",
        ),
    ];
    for (name, old, new) in changes {
        let file = tree.join("vendor/github.com/modern-go/reflect2").join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        ensure!(
            text.matches(old).count() == 1,
            "{} is not as it was when this was written: mend it otherwise",
            file.display()
        );
        fs::write(&file, text.replace(old, new))
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Upstream's own build, which generates code first. Nothing is fetched: what it depends on is in the tree.
fn compile(tree: &Path, work: &Path) -> Result<()> {
    // The build wants to be in a GOPATH under the project's name.
    let place = tree.join(".go/src/k8s.io");
    fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
    symlink("../../..", place.join("kubernetes")).context("link the tree into its GOPATH")?;

    let what: Vec<String> = COMPONENTS
        .iter()
        .map(|name| format!("cmd/{name}"))
        .collect();
    let log = work.join("build.log");
    let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let status = Command::new("nice")
        .args(["make", &format!("WHAT={}", what.join(" "))])
        .current_dir(tree)
        .env("HOME", work)
        .env("GOPATH", tree.join(".go"))
        .env("GOCACHE", work.join("gocache"))
        .env("GOFLAGS", "-mod=vendor")
        .env("GOPROXY", "off")
        .env("CGO_ENABLED", "0")
        .env("KUBE_GIT_VERSION", "v1.20.2")
        .env("KUBE_GIT_MAJOR", "1")
        .env("KUBE_GIT_MINOR", "20")
        .env("KUBE_GIT_COMMIT", "debian")
        .env("KUBE_GIT_TREE_STATE", "clean")
        .stdout(output.try_clone().context("share the log")?)
        .stderr(output)
        .status()
        .context("start make")?;
    if !status.success() {
        bail!("the build failed: {status}; {}", tail(&log));
    }
    Ok(())
}

/// The last lines of a log, and where the rest is.
pub(super) fn tail(log: &PathBuf) -> String {
    const LINES: usize = 20;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!("the end of {}:\n{}", log.display(), last.join("\n"))
}
