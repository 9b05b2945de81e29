//! The cluster's network: a bridge in the control plane's namespace, nodes plugged into it, and a route to every node's
//! pods, as a cloud's network would have.

use std::fs::{self, File};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::layout::{API_SERVER, BRIDGE, CONTROL, Node, SERVICES};
use crate::host::command::{run, run_with_input};
use crate::host::namespace::FOLDER;

/// Makes the control plane's namespace with the bridge.
pub(super) fn create() -> Result<()> {
    let address = API_SERVER.ip();
    run("ip", &["netns", "add", CONTROL])?;
    ip(
        CONTROL,
        &format!(
            "link set lo up
link add {BRIDGE} type bridge
link set {BRIDGE} up
addr add {address}/24 dev {BRIDGE}
route add {SERVICES} dev lo"
        ),
    )?;
    // Nodes use it as their gateway.
    set_in(CONTROL, "net/ipv4/ip_forward", "1")
}

/// Makes a node's namespace, plugs it in, and tells everybody where its pods are.
pub(super) fn attach(node: Node, nodes: u8) -> Result<()> {
    let (name, namespace, address) = (node.name(), node.namespace(), node.address());
    run("ip", &["netns", "add", &namespace])?;
    ip(
        CONTROL,
        &format!(
            "link add {name} type veth peer name eth0 netns {namespace}
link set {name} master {BRIDGE} up
route replace {} via {address}",
            node.pods()
        ),
    )?;
    let mut commands = format!(
        "link set lo up
addr add {address}/24 dev eth0
link set eth0 up
route add default via {}\n",
        API_SERVER.ip()
    );
    for other in Node::first(nodes).filter(|other| *other != node) {
        commands += &format!("route add {} via {}\n", other.pods(), other.address());
    }
    ip(&namespace, &commands)
}

/// Unplugs a node at once: the kernel removes a namespace, and the interfaces in it, when it finds the time.
pub(super) fn detach(node: Node) -> Result<()> {
    let name = node.name();
    let plugged = std::path::Path::new(FOLDER).join(CONTROL).exists()
        && run("ip", &["-n", CONTROL, "link", "show", &name]).is_ok();
    if plugged {
        run("ip", &["-n", CONTROL, "link", "delete", &name])?;
    }
    Ok(())
}

/// Removes a namespace, if it is there; the interfaces in it go with it.
pub(super) fn remove(namespace: &str) -> Result<()> {
    if !std::path::Path::new(FOLDER).join(namespace).exists() {
        return Ok(());
    }
    run("ip", &["netns", "delete", namespace]).map(drop)
}

/// Runs commands of `ip`, one per line, in a namespace.
fn ip(namespace: &str, commands: &str) -> Result<()> {
    run_with_input("ip", &["-n", namespace, "-batch", "-"], commands).map(drop)
}

/// Does something on a thread in a namespace; the thread ends with it.
pub(super) fn enter<T: Send>(
    namespace: &str,
    action: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let path = format!("{FOLDER}/{namespace}");
    let file = File::open(&path).with_context(|| format!("open {path}"))?;
    thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {path}"))?;
                action()
            })
            .join()
            .map_err(|_panic| anyhow!("a thread inside {path} panicked"))?
    })
}

fn set_in(namespace: &str, setting: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{setting}");
    enter(namespace, || {
        fs::write(&path, value).with_context(|| format!("write {value} to {path} in {namespace}"))
    })
}
