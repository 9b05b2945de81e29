//! Writes the definitions of our kinds of object to a folder: `cargo run -p mesh-kubernetes --example crds -- deploy/crds`.

use std::path::PathBuf;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("deploy/crds"), PathBuf::from);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    for (name, text) in mesh_kubernetes::crds::manifests()? {
        let file = folder.join(name);
        std::fs::write(&file, text)
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(())
}
