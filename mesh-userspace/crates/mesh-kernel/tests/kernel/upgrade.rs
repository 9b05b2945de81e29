//! A new agent takes over from an old one, and the watchdog from accidents.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_kernel::{Kernel, Listener, ListenerKind, Part};

use crate::node::{SERVICE, isolated, listener};

/// A proxy that answers every captured connection, until dropped.
pub(crate) struct Answering {
    stop: Arc<AtomicBool>,
    pub(crate) answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the proxy panicked");
        }
    }
}

/// Answers whatever arrives at a listener.
pub(crate) fn answer(listener: &Listener) -> Result<Answering> {
    let listening = std::net::TcpListener::from(listener.socket.try_clone()?);
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            match listening.accept() {
                Ok((mut stream, _)) => {
                    let _sent = stream.write_all(b"hello");
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    });
    Ok(Answering {
        stop,
        answered,
        thread: Some(thread),
    })
}

#[test]
fn a_new_agent_adopts_everything_without_a_pause() {
    isolated(
        "upgrade::a_new_agent_adopts_everything_without_a_pause",
        |node| {
            let mut first = node.open()?;
            let old = node.enrol(&mut first, 0)?;
            let old_proxy = answer(listener(&old, ListenerKind::Outbound, false)?)?;
            let mut client = node.start(0, &format!("loop {SERVICE}"))?;
            client.says()?;
            std::thread::sleep(Duration::from_millis(100));

            node.options.generation = 2;
            let mut second = node.open()?;
            ensure!(first.is_superseded() && !second.is_superseded());
            ensure!(
                first.verify().is_empty(),
                "the old agent leaves the new one's programs alone"
            );
            first.maintain()?;
            let target = node.pods[0].target()?;
            ensure!(second.known_id(&target)? == Some(old.id));
            ensure!(second.known() == [old.id]);
            drop(first);
            std::thread::sleep(Duration::from_millis(100));
            let new = second.enrol(node.request(0)?)?;
            ensure!(new.adopted && new.addresses == old.addresses);
            let new_proxy = answer(listener(&new, ListenerKind::Outbound, false)?)?;
            let before = old_proxy.answered.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(100));
            ensure!(
                old_proxy.answered.load(Ordering::Relaxed) > before,
                "not yet switched"
            );
            ensure!(new_proxy.answered.load(Ordering::Relaxed) == 0);
            second.activate(new.id)?;
            std::thread::sleep(Duration::from_millis(200));
            ensure!(new_proxy.answered.load(Ordering::Relaxed) > 0, "switched");
            client.go_on()?;
            let said = client.says()?;
            ensure!(said.ends_with(" 0"), "{said}");
            second.maintain()?;
            let faults = second.verify();
            ensure!(faults.is_empty(), "{faults:?}");
            second.unenrol(new.id)?;
            second.release(new.id)?;
            Ok(())
        },
    );
}

#[test]
fn pins_of_another_layout_are_replaced_closed() {
    isolated(
        "upgrade::pins_of_another_layout_are_replaced_closed",
        |node| {
            let mut first = node.open()?;
            node.enrol(&mut first, 0)?;
            drop(first);
            std::fs::rename(node.options.pins.join("v1"), node.options.pins.join("v0"))?;
            let mut second = node.open()?;
            ensure!(!node.options.pins.join("v0").exists());
            let known = second.known();
            ensure!(known.len() == 1, "{known:?}");
            // The new maps know nothing of the workload, so its guard lets nothing out towards anybody.
            let mut server = node.start(1, "serve [::]:8080")?;
            server.says()?;
            let mut client = node.start(0, &format!("dial {}:8080", node.pods[1].addresses[0]))?;
            ensure!(client.says()?.starts_with("failed TimedOut"));
            let prepared = node.enrol(&mut second, 0)?;
            let proxy = answer(listener(&prepared, ListenerKind::Outbound, false)?)?;
            let mut client = node.start(0, &format!("dial {SERVICE}"))?;
            ensure!(client.says()?.ends_with(SERVICE));
            drop(proxy);
            Ok(())
        },
    );
}

/// Detaches a program the way somebody else would: through its pin.
fn detach(kernel_pins: &std::path::Path, pin: &str) -> Result<()> {
    let path = kernel_pins.join("v1/links").join(pin);
    crate::node::run(&format!("bpftool link detach pinned {}", path.display()))?;
    Ok(())
}

fn repair_all(kernel: &mut Kernel) -> Result<()> {
    for fault in kernel.verify() {
        kernel.repair(&fault).with_context(|| fault.to_string())?;
    }
    let faults = kernel.verify();
    ensure!(faults.is_empty(), "{faults:?}");
    Ok(())
}

#[test]
fn the_watchdog_notices_and_repairs() {
    isolated("upgrade::the_watchdog_notices_and_repairs", |node| {
        let mut kernel = node.open()?;
        node.enrol(&mut kernel, 0)?;
        ensure!(kernel.verify().is_empty(), "{:?}", kernel.verify());
        let pins = node.options.pins.clone();
        let links = pins.join("v1/links");
        let names: Vec<String> = std::fs::read_dir(&links)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        ensure!(names.len() == 9, "{names:?}");
        for name in &names {
            detach(&pins, name)?;
            let faults = kernel.verify();
            ensure!(
                faults
                    .iter()
                    .any(|fault| fault.part == Part::Link(name.clone())),
                "{name}: {faults:?}"
            );
            repair_all(&mut kernel).with_context(|| name.clone())?;
        }
        // Pins removed by hand: nothing is detached, and they come back.
        for name in &names {
            std::fs::remove_file(links.join(name))?;
        }
        repair_all(&mut kernel)?;
        ensure!(names.iter().all(|name| links.join(name).exists()));
        // A workload with NET_ADMIN takes away what is within its reach.
        let pod = &node.pods[0];
        pod.run("ip rule del pref 150")?;
        pod.run("ip -6 route flush table 15008")?;
        pod.run("sysctl -qw net.ipv4.tcp_fwmark_accept=0")?;
        let faults = kernel.verify();
        ensure!(faults.iter().any(|fault| fault.part == Part::Delivery));
        ensure!(faults.iter().any(|fault| fault.part == Part::Sysctls));
        repair_all(&mut kernel)?;
        let proxy = answer(listener(
            &mesh_kernel::Prepared {
                listeners: kernel.listeners(mesh_core::workload::WorkloadId(1))?,
                id: mesh_core::workload::WorkloadId(1),
                host: false,
                adopted: false,
                addresses: Vec::new(),
                guard: mesh_kernel::GuardPlacement::None,
            },
            ListenerKind::Outbound,
            false,
        )?)?;
        let mut client = node.start(0, &format!("dial {SERVICE}"))?;
        ensure!(client.says()?.ends_with(SERVICE));
        drop(proxy);
        Ok(())
    });
}
