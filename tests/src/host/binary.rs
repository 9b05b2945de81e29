//! Where the binaries are: the product's, and this package's own helpers.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// The product: `WARREN_BIN`, else the debug build next to this test.
pub fn warren() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WARREN_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("WARREN_BIN names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    beside("warren")
        .context("build it with `cargo build --package mesh-userspace`, or name it in WARREN_BIN")
}

/// A helper of this package, e.g. `warren-probe`.
pub fn helper(name: &str) -> Result<PathBuf> {
    beside(name).context("build it with `cargo build --package mesh-tests --bins`")
}

/// Test binaries are in `<profile>/deps`, all others in `<profile>`.
fn beside(name: &str) -> Result<PathBuf> {
    let here = env::current_exe().context("find this program's own path")?;
    for folder in here.ancestors().skip(1).take(2) {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("{name} is not near {}", here.display())
}
