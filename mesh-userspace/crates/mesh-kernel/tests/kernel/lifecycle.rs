//! Nothing is half done, and nothing is left behind.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_core::workload::WorkloadId;
use mesh_kernel::{Kernel, KernelError, ListenerKind};

use crate::node::{Node, SERVICE, isolated, listener, run};

/// The pins of a node and what they hold, by id.
fn pinned(pins: &Path) -> Result<(BTreeSet<String>, Vec<u64>)> {
    let mut names = BTreeSet::new();
    let mut programs = Vec::new();
    for entry in std::fs::read_dir(pins.join("v1/links"))? {
        let path = entry?.path();
        let shown = run(&format!("bpftool link show pinned {}", path.display()))?;
        let program = shown
            .split_whitespace()
            .skip_while(|word| *word != "prog")
            .nth(1)
            .context("a program id")?;
        programs.push(program.parse()?);
        names.insert(
            path.file_name()
                .context("a name")?
                .to_string_lossy()
                .into_owned(),
        );
    }
    for entry in std::fs::read_dir(pins.join("v1/workloads"))? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok((names, programs))
}

fn map_entries(pins: &Path) -> Result<Vec<String>> {
    ["ENROLLED", "INBOUND", "GUARDED", "ESTABLISHED", "LISTENERS"]
        .iter()
        .map(|name| {
            let path = pins.join("v1/maps").join(name);
            let shown = run(&format!("bpftool map dump pinned {}", path.display()))?;
            Ok(format!("{name}: {shown}"))
        })
        .collect()
}

#[test]
fn leaving_leaves_nothing() {
    isolated("lifecycle::leaving_leaves_nothing", |node| {
        let mut kernel = node.open()?;
        let before = (
            node.pods[0].state()?,
            pinned(&node.options.pins)?.0,
            map_entries(&node.options.pins)?,
        );
        let prepared = node.enrol(&mut kernel, 0)?;
        ensure!(
            node.pods[0].state()? != before.0,
            "the test sees what enrolment does"
        );
        ensure!(kernel.vanished().is_empty());
        kernel.unenrol(prepared.id)?;
        kernel.release(prepared.id)?;
        let after = (
            node.pods[0].state()?,
            pinned(&node.options.pins)?.0,
            map_entries(&node.options.pins)?,
        );
        ensure!(before == after, "{before:#?}\n{after:#?}");
        ensure!(kernel.known().is_empty());
        // Again, now as an uninstall of a node whose agent is dead.
        node.enrol(&mut kernel, 0)?;
        drop((kernel, prepared));
        let (_, programs) = pinned(&node.options.pins)?;
        let removed = mesh_kernel::uninstall(&node.options)?;
        ensure!(removed.left.is_empty(), "{removed:?}");
        ensure!(
            removed.links == 9 && removed.maps == 15 && removed.workloads == 1,
            "{removed:?}"
        );
        ensure!(node.pods[0].state()? == before.0);
        ensure!(!node.options.mesh_cgroup.exists());
        for program in programs {
            // Programs are freed a grace period after their last user.
            crate::node::eventually("the program is gone", || {
                Ok(run(&format!("bpftool prog show id {program}")).is_err())
            })?;
        }
        ensure!(mesh_kernel::uninstall(&node.options)?.nothing());
        Ok(())
    });
}

#[test]
fn every_failing_step_is_taken_back() {
    isolated("lifecycle::every_failing_step_is_taken_back", |node| {
        let mut kernel = node.open()?;
        let look = |node: &Node| -> Result<_> {
            Ok((
                node.pods[0].state()?,
                pinned(&node.options.pins)?.0,
                map_entries(&node.options.pins)?,
            ))
        };
        let before = look(node)?;
        for step in Kernel::STEPS {
            kernel.fail_at(step);
            let error = kernel
                .enrol(node.request(0)?)
                .err()
                .with_context(|| format!("step {step} did not fail"))?;
            ensure!(error.to_string().contains(step), "{step}: {error}");
            let after = look(node)?;
            ensure!(before == after, "{step}\n{before:#?}\n{after:#?}");
            ensure!(kernel.known().is_empty());
        }
        // A workload that is captured goes on being captured when a second enrolment fails.
        let prepared = node.enrol(&mut kernel, 0)?;
        let before = look(node)?;
        for step in Kernel::STEPS {
            kernel.fail_at(step);
            ensure!(kernel.enrol(node.request(0)?).is_err(), "{step}");
            ensure!(before == look(node)?, "{step}");
        }
        let proxy = crate::upgrade::answer(listener(&prepared, ListenerKind::Outbound, false)?)?;
        let mut client = node.start(0, &format!("dial {SERVICE}"))?;
        ensure!(client.says()?.ends_with(SERVICE));
        drop(proxy);
        Ok(())
    });
}

#[test]
fn what_cannot_be_enrolled_is_refused_in_words() {
    isolated(
        "lifecycle::what_cannot_be_enrolled_is_refused_in_words",
        |node| {
            let mut kernel = node.open()?;
            let id = WorkloadId(1);
            // The node's own namespace.
            let mut request = node.request(0)?;
            let own = std::fs::File::open("/proc/self/ns/net")?;
            request.target = mesh_kernel::Target::NetworkNamespace(own.into());
            ensure!(matches!(
                kernel.enrol(request),
                Err(KernelError::NodeNamespace { .. })
            ));
            // Something that is no namespace.
            let mut request = node.request(0)?;
            request.target =
                mesh_kernel::Target::NetworkNamespace(std::fs::File::open("/dev/null")?.into());
            ensure!(matches!(
                kernel.enrol(request),
                Err(KernelError::Namespace { .. })
            ));
            // Loopback down.
            node.pods[0].run("ip link set lo down")?;
            ensure!(matches!(
                kernel.enrol(node.request(0)?),
                Err(KernelError::LoopbackDown { .. })
            ));
            node.pods[0].run("ip link set lo up")?;
            // A way out that could not be guarded.
            node.pods[0].run("ip link add link eth0 name inner type macvlan")?;
            node.pods[0].run("ip link add nested type veth peer name inside")?;
            let allowed = kernel.enrol(node.request(0)?)?;
            kernel.release(allowed.id)?;
            run(&format!(
                "ip link add link wk1 name mv0 netns {} type macvlan",
                node.pods[0].pid()
            ))?;
            ensure!(matches!(
                kernel.enrol(node.request(0)?),
                Err(KernelError::NoHostEnd { .. })
            ));
            node.pods[0].run("ip link del mv0")?;
            // Numbers.
            let prepared = node.enrol(&mut kernel, 0)?;
            let mut request = node.request(0)?;
            request.id = WorkloadId(77);
            ensure!(matches!(
                kernel.enrol(request),
                Err(KernelError::OtherId { known, .. }) if known == id
            ));
            let mut request = node.request(1)?;
            request.id = id;
            ensure!(matches!(
                kernel.enrol(request),
                Err(KernelError::IdTaken { .. })
            ));
            ensure!(matches!(
                kernel.activate(WorkloadId(5)),
                Err(KernelError::Unknown { .. })
            ));
            // A pod that is gone.
            ensure!(kernel.vanished().is_empty());
            drop(prepared);
            Ok(())
        },
    );
}

#[test]
fn dead_generations_lose_their_trust() {
    isolated("lifecycle::dead_generations_lose_their_trust", |node| {
        let mut kernel = node.open()?;
        let trusted = || -> Result<usize> {
            let path = node.options.pins.join("v1/maps/MESH_CGROUPS");
            let dump = run(&format!("bpftool -j map dump pinned {}", path.display()))?;
            Ok(dump.matches("\"formatted\"").count())
        };
        let older = kernel.worker_cgroup(7)?;
        let worker = crate::application::Application::start(&older, "serve 127.0.0.1:9")?;
        crate::node::eventually("the worker is in its cgroup", || {
            Ok(kernel.worker_cgroups() == [(7, older.clone())])
        })?;
        let newer = kernel.worker_cgroup(8)?;
        ensure!(trusted()? == 3);
        kernel.maintain()?;
        ensure!(older.exists() && newer.exists() && trusted()? == 3);
        drop(worker);
        crate::node::eventually("the older generation is forgotten", || {
            kernel.maintain()?;
            Ok(!older.exists() && trusted()? == 2)
        })?;
        ensure!(newer.exists(), "a worker is about to move in");
        Ok(())
    });
}

#[test]
fn a_pod_that_is_gone_is_noticed() {
    isolated("lifecycle::a_pod_that_is_gone_is_noticed", |node| {
        let mut kernel = node.open()?;
        let prepared = node.enrol(&mut kernel, 0)?;
        ensure!(kernel.vanished().is_empty());
        // While it lives nobody else may have its addresses.
        node.pods[1].run(&format!(
            "ip addr add {}/32 dev eth0",
            node.pods[0].addresses[0]
        ))?;
        ensure!(matches!(
            kernel.enrol(node.request(1)?),
            Err(KernelError::AddressTaken { other, .. }) if other == prepared.id
        ));
        node.pods[0].kill()?;
        ensure!(kernel.vanished() == [prepared.id]);
        let successor = kernel.enrol(node.request(1)?)?;
        kernel.release(successor.id)?;
        kernel.unenrol(prepared.id)?;
        kernel.release(prepared.id)?;
        ensure!(kernel.known().is_empty() && pinned(&node.options.pins)?.0.len() == 7);
        Ok(())
    });
}

#[test]
fn everything_that_is_needed_is_found_here() {
    let features = mesh_kernel::probe();
    let missing = features.missing();
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(features.0.len() > 10);
    assert!(
        features.0.iter().all(|feature| feature.present),
        "{features:#?}"
    );
}
