//! Removes everything that Warren left in the kernel, without a running agent and without loading anything.

use std::fs;
use std::io;
use std::path::Path;

use mesh_core::workload::WorkloadId;

use crate::cgroup;
use crate::enrol::close_delivery;
use crate::error::KernelError;
use crate::link::Link;
use crate::load;
use crate::namespace::{self, Place};
use crate::pin::{self, Pins};
use crate::register::{self, Key};
use crate::types::{Options, Removed};

/// Detaches every program, puts every workload's namespace back, removes pins, maps, cgroups and our bpffs mount. Safe to
/// call again, and where nothing is. Stop the agent and its workers first.
///
/// # Errors
/// Only when the folder of pins cannot be removed; everything else that could not be removed is named in
/// [`Removed::left`].
pub fn uninstall(options: &Options) -> Result<Removed, KernelError> {
    let mut removed = Removed::default();
    for pins in Pins::existing(&options.pins) {
        // Captures first, guards last: while something is captured, it is also held back.
        let mut names = Pins::names(&pins.links());
        names.sort_by_key(|name| rank(name));
        for name in names {
            match Link::open(&pins, &name) {
                Ok(link) => count(&mut removed.links, &mut removed.left, &name, link.remove()),
                Err(error) => removed.left.push(format!("program {name}: {error}")),
            }
        }
        for (id, memory) in register::read(&pins) {
            let result = put_back(id, memory.key, memory.sysctls.as_ref())
                .and_then(|()| register::forget(&pins, id));
            count(
                &mut removed.workloads,
                &mut removed.left,
                &format!("workload {id}"),
                result,
            );
        }
        removed.maps += load::remove_maps(&pins);
        if let Err(error) = pins.remove_folders() {
            removed
                .left
                .push(format!("{}: {error}", pins.folder().display()));
        }
    }
    leave_and_remove_cgroups(&options.mesh_cgroup, &mut removed);
    pin::remove_root(&options.pins).map_err(|source| KernelError::File {
        operation: "remove",
        path: options.pins.clone(),
        source,
    })?;
    Ok(removed)
}

fn rank(name: &str) -> u8 {
    use mesh_common::names::program;
    match name.split('-').next() {
        Some(program::CONNECT4 | program::CONNECT6) => 0,
        Some(program::GUARD) => 2,
        _ => 1,
    }
}

fn count(counter: &mut usize, left: &mut Vec<String>, name: &str, result: Result<(), KernelError>) {
    match result {
        Ok(()) => *counter += 1,
        Err(error) => left.push(match std::error::Error::source(&error) {
            Some(source) => format!("{name}: {error}: {source}"),
            None => format!("{name}: {error}"),
        }),
    }
}

fn put_back(
    id: WorkloadId,
    key: Key,
    saved: Option<&crate::sysctls::Saved>,
) -> Result<(), KernelError> {
    let Key::Namespace(cookie) = key else {
        return Ok(());
    };
    let Some(namespace) = namespace::find(cookie) else {
        return Ok(());
    };
    close_delivery(&Place::Namespace(namespace), saved)
        .map_err(|source| crate::enrol::step_failed(id, "put back the namespace", source))
}

/// Removes the mesh's cgroups; this process leaves them first, if it is in one.
fn leave_and_remove_cgroups(mesh: &Path, removed: &mut Removed) {
    if !mesh.is_dir() {
        return;
    }
    // Not by the path in /proc/self/cgroup: in a container that begins wherever the container's hierarchy does.
    let inside = cgroup::children(mesh)
        .iter()
        .any(|path| cgroup::has_process(path, std::process::id()));
    if let Some(parent) = mesh.parent().filter(|_| inside)
        && let Err(error) = cgroup::join(parent)
    {
        removed.left.push(format!("{}: {error}", mesh.display()));
    }
    for path in cgroup::children(mesh).into_iter().chain([mesh.to_owned()]) {
        match remove_cgroup(&path) {
            Ok(()) => removed.cgroups += 1,
            Err(error) => removed.left.push(format!("{}: {error}", path.display())),
        }
    }
}

/// A cgroup stays busy for a moment after its last process left.
fn remove_cgroup(path: &Path) -> io::Result<()> {
    const ATTEMPTS: u32 = 20;
    for _ in 1..ATTEMPTS {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            other => return other,
        }
    }
    fs::remove_dir(path)
}
