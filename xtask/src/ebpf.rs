//! Builds the eBPF object, `target/bpf/warren.bpf.o`, from `mesh-ebpf` and `mesh-common`, and installs what that needs.
//!
//! Two toolchains can do it. Debian's `rustc-web` ships a prebuilt `core` for the BPF target, so it needs neither nightly
//! nor `build-std`; everywhere else a rustup nightly with `rust-src` compiles `core` on the way. Either way `bpf-linker`
//! must be built against the LLVM major version of that very compiler, since the two exchange bitcode.
//!
//! It must not know what is in the programs: the loader (`mesh-kernel`) embeds the object as it is.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const BPF_LINKER_VERSION: &str = "0.13.0";
/// What `Cargo.toml` of `mesh-ebpf` calls its binary.
const BINARY: &str = "warren";
/// What the build reads; a change in any of them is what makes a rebuild necessary.
const SOURCES: &[&str] = &[
    "mesh-ebpf/Cargo.toml",
    "mesh-ebpf/Cargo.lock",
    "mesh-ebpf/src",
    "mesh-common/Cargo.toml",
    "mesh-common/src",
];
/// Compiles the `aya-log` lines of the programs in, when set to anything but the empty string.
const LOG_VARIABLE: &str = "WARREN_BPF_LOG";

/// Builds the object if its sources changed since the last time, and returns where it is.
pub(crate) fn build(workspace: &Path) -> Result<PathBuf> {
    let folder = workspace.join("target/bpf");
    let object = folder.join("warren.bpf.o");
    let stamp = folder.join("warren.bpf.stamp");

    let log = env::var_os(LOG_VARIABLE).is_some_and(|value| !value.is_empty());
    let wanted = fingerprint(workspace, log)?;
    if object.exists() && fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(object);
    }

    let toolchain = Toolchain::find_or_install()?;
    let linker = Linker::find_or_install(toolchain.llvm_major()?)?;
    let built = compile(workspace, &toolchain, &linker, log)?;

    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    replace_if_different(&built, &object)?;
    fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
    Ok(object)
}

/// Lints the programs, with and without their log lines. Clippy runs for this machine: the toolchain that can target
/// BPF may have none, and the code is the same.
pub(crate) fn lint(workspace: &Path) -> Result<()> {
    for features in ["", "log"] {
        run(host_cargo(workspace, "clippy")
            .args(["--lib", "--bins", "--features", features])
            .args(["--", "--deny", "warnings"]))?;
    }
    run(host_cargo(workspace, "clippy").args(["--lib", "--tests", "--", "--deny", "warnings"]))
}

/// Tests what the programs decide, on this machine: reading headers, verdicts. Needs neither root nor the BPF target.
/// The command is given, not run: whoever runs it counts.
pub(crate) fn test(workspace: &Path) -> Command {
    let mut cargo = host_cargo(workspace, "test");
    cargo.arg("--lib");
    cargo
}

/// A cargo for this machine in the workspace of the programs, with a target folder of its own.
fn host_cargo(workspace: &Path, command: &str) -> Command {
    let mut cargo = clean(Command::new("cargo"));
    cargo
        .args([command, "--manifest-path"])
        .arg(workspace.join("mesh-ebpf/Cargo.toml"))
        .env("CARGO_TARGET_DIR", workspace.join("target/ebpf-host"));
    cargo
}

/// A hash of the sources' contents and of the options. Contents rather than times: a fresh checkout or a branch
/// switched back and forth changes times, and a new object makes everything that embeds it build again.
fn fingerprint(workspace: &Path, log: bool) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect_files(&workspace.join(source), &mut files)?;
    }
    files.sort();

    let mut hasher = DefaultHasher::new();
    (BPF_LINKER_VERSION, log).hash(&mut hasher);
    for file in files {
        file.strip_prefix(workspace)
            .unwrap_or(&file)
            .hash(&mut hasher);
        fs::read(&file)
            .with_context(|| format!("read {}", file.display()))?
            .hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn collect_files(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        // The lock file does not exist before the first build.
        if path.exists() {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
        let entry = entry.with_context(|| format!("list {}", path.display()))?;
        collect_files(&entry.path(), files)?;
    }
    Ok(())
}

/// Leaves an equal object alone, so that cargo does not rebuild what embeds it.
fn replace_if_different(built: &Path, object: &Path) -> Result<()> {
    let new = fs::read(built).with_context(|| format!("read {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let half = object.with_extension("o.new");
    fs::write(&half, new).with_context(|| format!("write {}", half.display()))?;
    fs::rename(&half, object)
        .with_context(|| format!("rename {} to {}", half.display(), object.display()))
}

/// The compiler that can target BPF.
enum Toolchain {
    /// Debian's `rustc-web` and `cargo-web`, with `core` prebuilt for BPF.
    Prebuilt,
    /// rustup's nightly with `rust-src`: builds `core` itself.
    Nightly,
}

impl Toolchain {
    fn find_or_install() -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        for install in [Self::install_prebuilt, Self::install_nightly] {
            match install() {
                Ok(()) => {
                    if let Some(installed) = Self::find() {
                        return Ok(installed);
                    }
                }
                Err(error) => say(&format!("that did not work: {error:#}")),
            }
        }
        bail!(
            "no Rust toolchain here can compile for eBPF. Install one of these, then run this again:\n  \
             rustup toolchain install nightly --component rust-src\n  \
             apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf   (Debian 12 and later, as root)"
        )
    }

    fn find() -> Option<Self> {
        [Self::Prebuilt, Self::Nightly]
            .into_iter()
            .find(|candidate| match candidate {
                Self::Prebuilt => has_prebuilt_core(),
                Self::Nightly => has_rust_src(),
            })
    }

    fn install_prebuilt() -> Result<()> {
        apt_get_install(&["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"])
    }

    fn install_nightly() -> Result<()> {
        say("installing the nightly Rust toolchain with rust-src (rustup)");
        run(clean(Command::new("rustup")).args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]))
    }

    fn rustc(&self) -> Command {
        match self {
            Self::Prebuilt => clean(Command::new("/usr/bin/rustc")),
            Self::Nightly => {
                let mut rustup = clean(Command::new("rustup"));
                rustup.args(["run", "nightly", "rustc"]);
                rustup
            }
        }
    }

    /// A `cargo build` for BPF, without the arguments that both toolchains share.
    fn cargo(&self) -> Command {
        match self {
            Self::Prebuilt => {
                let mut cargo = clean(Command::new("/usr/bin/cargo"));
                // aya-ebpf and the programs use inline assembly, which is a nightly feature for the BPF target. Naming
                // the crates, rather than "1", lets this stable compiler accept it in them alone.
                cargo
                    .arg("build")
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "aya_ebpf,warren");
                cargo
            }
            Self::Nightly => {
                let mut rustup = clean(Command::new("rustup"));
                rustup.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
                rustup
            }
        }
    }

    fn llvm_major(&self) -> Result<u32> {
        let version = output(self.rustc().arg("-vV"))?;
        version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .and_then(|version| version.split('.').next())
            .and_then(|major| major.trim().parse().ok())
            .with_context(|| {
                format!("find the LLVM version in the answer of `rustc -vV`:\n{version}")
            })
    }
}

fn has_prebuilt_core() -> bool {
    let Ok(folder) = output(Toolchain::Prebuilt.rustc().args([
        "--print",
        "target-libdir",
        "--target",
        target(),
    ])) else {
        return false;
    };
    let Ok(entries) = fs::read_dir(folder.trim()) else {
        return false;
    };
    let core = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libcore-");
    Path::new("/usr/bin/cargo").exists() && entries.flatten().any(core)
}

fn has_rust_src() -> bool {
    output(Toolchain::Nightly.rustc().args(["--print", "sysroot"])).is_ok_and(|root| {
        Path::new(root.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
    })
}

/// The BPF target with this machine's byte order: maps are shared with user space as plain bytes.
const fn target() -> &'static str {
    if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    }
}

/// Where `bpf-linker` is.
struct Linker {
    folder: PathBuf,
}

impl Linker {
    fn find_or_install(llvm: u32) -> Result<Self> {
        let tools = tools_folder()?;
        let ours = Self {
            folder: tools.join("bin"),
        };
        if ours.folder.join("bpf-linker").exists() && was_built_for(&tools, llvm) {
            return Ok(ours);
        }
        Self::install(&tools, llvm)?;
        Ok(ours)
    }

    fn install(tools: &Path, llvm: u32) -> Result<()> {
        ensure!(
            (21..=23).contains(&llvm),
            "the compiler uses LLVM {llvm}, but bpf-linker {BPF_LINKER_VERSION} supports 21 to 23: \
             choose another toolchain, or raise BPF_LINKER_VERSION in xtask/src/ebpf.rs"
        );
        let prefix = llvm_prefix(llvm)?;
        say(&format!(
            "installing bpf-linker {BPF_LINKER_VERSION} for LLVM {llvm} into {} (about a minute)",
            tools.display()
        ));
        run(clean(Command::new("cargo"))
            .args(["install", "bpf-linker", "--locked", "--force"])
            .args(["--version", BPF_LINKER_VERSION])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{llvm}"),
            ])
            .arg("--root")
            .arg(tools)
            .env("LLVM_PREFIX", &prefix)
            .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix))
    }
}

/// The cache of tools that chores install, shared by every checkout of this user.
fn tools_folder() -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context(
            "neither XDG_CACHE_HOME nor HOME is set: there is no folder for tools; set one of them",
        )?;
    Ok(cache.join("warren/tools"))
}

/// cargo keeps the features of what it installed; they name the LLVM version.
fn was_built_for(tools: &Path, llvm: u32) -> bool {
    fs::read_to_string(tools.join(".crates2.json")).is_ok_and(|installed| {
        installed.contains(&format!("bpf-linker {BPF_LINKER_VERSION} "))
            && installed.contains(&format!("\"llvm-{llvm}\""))
    })
}

/// Where LLVM's development files are, installing Debian's package if they are not there.
fn llvm_prefix(llvm: u32) -> Result<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if !prefix.join("include/llvm-c").is_dir() {
        apt_get_install(&[&format!("llvm-{llvm}-dev")]).with_context(|| {
            format!("bpf-linker needs the development files of LLVM {llvm}; install them so that {} exists", prefix.display())
        })?;
    }
    Ok(prefix)
}

fn compile(workspace: &Path, toolchain: &Toolchain, linker: &Linker, log: bool) -> Result<PathBuf> {
    say("building the eBPF programs");
    let target_folder = workspace.join("target/ebpf");
    let path = env::join_paths(
        std::iter::once(linker.folder.clone())
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )
    .context("put bpf-linker on PATH")?;

    let mut cargo = toolchain.cargo();
    cargo
        .args([
            "--release",
            "--quiet",
            "--target",
            target(),
            "--bin",
            BINARY,
            "--manifest-path",
        ])
        .arg(workspace.join("mesh-ebpf/Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target_folder)
        // Debug information is what BTF is made from; --btf makes the linker write it.
        .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf")
        .env("PATH", path);
    if log {
        cargo.args(["--features", "log"]);
    }
    run(&mut cargo)?;
    Ok(target_folder.join(target()).join("release").join(BINARY))
}

fn apt_get_install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    ensure!(
        Path::new("/usr/bin/apt-get").exists() && nix::unistd::geteuid().is_root(),
        "{list} can be installed here by root only, with the system's package manager"
    );
    say(&format!("installing {list} (apt-get)"));
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    if run(&mut install).is_ok() {
        return Ok(());
    }
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(&mut install)
        .with_context(|| format!("install {list}; as root, run: apt-get install {list}"))
}

/// The outer cargo and rustup leave variables behind that would choose *their* toolchain and flags for the inner build.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let keep = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO"];
        let text = name.to_string_lossy();
        let inherited = (text.starts_with("CARGO")
            && !text.starts_with("CARGO_REGISTR")
            && !text.starts_with("CARGO_SOURCE"))
            || text.starts_with("RUSTC")
            || text == "RUSTFLAGS"
            || text == "RUSTUP_TOOLCHAIN";
        if inherited && !keep.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).with_context(|| format!("read the answer of {command:?}"))
}

fn say(message: &str) {
    eprintln!("xtask: {message}");
}
