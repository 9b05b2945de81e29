//! The JSON Schema in deploy/ is the one that the binary prints.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{run, workspace};

/// Where editors find it.
const SCHEMA: &str = "deploy/warren.schema.json";

pub(super) fn check() -> Result<()> {
    let warren = workspace::build_warren(false)?;
    let generated = run::read(Command::new(&warren).args(["config", "schema"]))?;
    let kept = fs::read_to_string(workspace::root().join(SCHEMA)).with_context(|| {
        format!("read {SCHEMA}; write it with `warren config schema > {SCHEMA}`")
    })?;
    if kept.trim_end() != generated.trim_end() {
        bail!(
            "{SCHEMA} is not what `warren config schema` prints; write it again with `warren config schema > {SCHEMA}`"
        );
    }
    Ok(())
}
