//! Puts the eBPF object where `object.rs` embeds it from.
//!
//! The object is made by `cargo xtask ebpf`. Without it the crate still builds, with an empty placeholder, so that people
//! who work on other parts need no eBPF toolchain; loading then says what to do.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=WARREN_BPF_OBJECT");
    let variable = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .ok_or_else(|| io::Error::other(format!("cargo did not set {name}")))
    };
    let object = env::var_os("WARREN_BPF_OBJECT").map_or_else(
        || Ok(variable("CARGO_MANIFEST_DIR")?.join("../../../target/bpf/warren.bpf.o")),
        |path| io::Result::Ok(PathBuf::from(path)),
    )?;
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", object.display()),
            ));
        }
    };
    fs::write(variable("OUT_DIR")?.join("warren.bpf.o"), bytes)
}
