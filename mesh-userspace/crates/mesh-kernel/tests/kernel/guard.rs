//! What does not leave a workload, and why.

use anyhow::{Result, ensure};
use mesh_core::workload::WorkloadId;
use mesh_kernel::{GuardMode, Kernel, Reason};

use crate::node::{Node, counter, eventually, isolated};

const ID: WorkloadId = WorkloadId(1);

fn counted(kernel: &Kernel, reason: Reason) -> Result<()> {
    eventually(reason.label(), || Ok(counter(kernel, ID, reason) > 0))
}

#[test]
fn past_the_capture_nothing_leaves() {
    isolated("guard::past_the_capture_nothing_leaves", |node| {
        let mut kernel = node.open()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut events = runtime.block_on(async { kernel.events() })?;
        node.enrol(&mut kernel, 0)?;
        let peer = node.pods[1].addresses;
        let mut server = node.start(1, "serve [::]:8080")?;
        server.says()?;
        // A process outside the captured cgroups.
        for dialled in [format!("{}:8080", peer[0]), format!("[{}]:8080", peer[1])] {
            let mut rogue = node.pods[0].start(&node.elsewhere, &format!("dial {dialled}"))?;
            ensure!(rogue.says()?.starts_with("failed TimedOut"));
        }
        counted(&kernel, Reason::UncapturedTcp)?;
        // A raw socket with another's address.
        let mut rogue = node.start(0, &format!("spoof 10.77.9.9 {}:8080", peer[0]))?;
        ensure!(rogue.says()? == "sent");
        counted(&kernel, Reason::SpoofedSource)?;
        // And it is told, in words.
        let drops = runtime.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(2), events.next()).await
        })??;
        let first = &drops[0];
        ensure!(first.reason == Reason::UncapturedTcp && first.workload == Some(ID));
        ensure!(first.destination.ip() == peer[0] && first.protocol == 6);
        ensure!(
            first
                .source
                .is_some_and(|source| source.ip() == node.pods[0].addresses[0])
        );
        ensure!(first.at.elapsed()? < std::time::Duration::from_secs(60));
        // Permissive lets it pass, and counts it.
        kernel.set_mode(ID, GuardMode::Permissive)?;
        let mut rogue = node.pods[0].start(&node.elsewhere, &format!("dial {}:8080", peer[0]))?;
        ensure!(rogue.says()?.starts_with("connected"));
        counted(&kernel, Reason::UncapturedTcpPermitted)
    });
}

#[test]
fn older_connections_live_and_new_ones_wait_for_activation() {
    isolated(
        "guard::older_connections_live_and_new_ones_wait_for_activation",
        |node| {
            let mut kernel = node.open()?;
            let peer = node.pods[1].addresses;
            let mut server = node.start(1, "serve [::]:8080")?;
            server.says()?;
            let mut older = [
                node.start(0, &format!("keep {}:8080", peer[0]))?,
                node.start(0, &format!("keep [{}]:8080", peer[1]))?,
            ];
            for each in &mut older {
                each.says()?;
            }
            let mut alive = || -> Result<()> {
                for each in &mut older {
                    each.go_on()?;
                    let said = each.says()?;
                    ensure!(said == "alive", "{said}");
                }
                Ok(())
            };
            let prepared = kernel.enrol(node.request(0)?)?;
            alive()?;
            let mut early = node.start(0, &format!("dial {}:8080", peer[0]))?;
            ensure!(early.says()?.starts_with("failed TimedOut"));
            counted(&kernel, Reason::GuardClosed)?;
            kernel.activate(prepared.id)?;
            alive()?;
            kernel.maintain()?;
            alive()?;
            counted(&kernel, Reason::Established)?;
            drop(older);
            kernel.maintain()?;
            kernel.unenrol(prepared.id)?;
            // Left to itself it is as without a mesh.
            let mut free = node.start(0, &format!("dial {}:8080", peer[0]))?;
            ensure!(free.says()?.starts_with("connected"));
            kernel.release(prepared.id)?;
            Ok(())
        },
    );
}

#[test]
fn dials_survive_enrolment_and_un_enrolment() {
    isolated(
        "guard::dials_survive_enrolment_and_un_enrolment",
        |node: &mut Node| {
            let mut kernel = node.open()?;
            let mut server = node.start(1, "serve [::]:8080")?;
            server.says()?;
            let peer = node.pods[1].addresses[0];
            // The proxy's side of the captured ones: answers whatever comes.
            let mut client = node.start(0, &format!("loop {peer}:8080"))?;
            client.says()?;
            std::thread::sleep(std::time::Duration::from_millis(100));
            let prepared = kernel.enrol(node.request(0)?)?;
            let outbound =
                crate::node::listener(&prepared, mesh_kernel::ListenerKind::Outbound, false)?;
            let answering = crate::upgrade::answer(outbound)?;
            kernel.activate(prepared.id)?;
            // A dial that met the closed guard is sent again by TCP after a second.
            std::thread::sleep(std::time::Duration::from_millis(1_500));
            // Leaving is as quiet: dials go straight to the server again.
            let captured = answering
                .answered
                .load(std::sync::atomic::Ordering::Relaxed);
            ensure!(captured > 0);
            kernel.unenrol(prepared.id)?;
            std::thread::sleep(std::time::Duration::from_millis(300));
            client.go_on()?;
            let said = client.says()?;
            drop(answering);
            ensure!(said.ends_with(" 0"), "{said}");
            Ok(())
        },
    );
}
