//! `warren-sweep [--check]`: finds what stories left behind (namespaces, cgroups with their processes, BPF file systems,
//! files) and removes it. What belongs to a story that still runs is left alone.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use mesh_tests::host::leak;

#[derive(Parser)]
#[command(name = "warren-sweep", about = "Remove what stories left behind")]
struct Arguments {
    /// Only look; exit code 1 when something is there.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<ExitCode> {
    let Arguments { check } = Arguments::parse();
    let mut left = false;
    for leftover in leak::find(leak::PREFIX)? {
        if leftover.is_in_use() {
            continue;
        }
        left = true;
        eprintln!("left behind: {leftover:?}");
        if !check {
            leftover.remove()?;
        }
    }
    Ok(if check && left {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
