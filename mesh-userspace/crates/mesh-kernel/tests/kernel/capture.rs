//! What an enrolled workload dials, and what arrives for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use mesh_core::workload::WorkloadId;
use mesh_kernel::{Class, EnrolRequest, GuardMode, ListenerKind, Purpose, Reason, Target, Udp};
use socket2::Socket;

use crate::application::Application;
use crate::node::{
    SERVICE, SERVICE6, TUNNEL_PORT, accept, counter, destination, eventually, isolated, listener,
    origin,
};

#[test]
fn every_family_of_dial_reaches_the_proxy_with_its_origin() {
    isolated(
        "capture::every_family_of_dial_reaches_the_proxy_with_its_origin",
        |node| {
            let mut kernel = node.open()?;
            let prepared = node.enrol(&mut kernel, 0)?;
            let peer = node.pods[1].addresses;
            let mapped = format!("[::ffff:{}]:80", peer[0]);
            for (dialled, seen, ipv6) in [
                (SERVICE.to_owned(), SERVICE.to_owned(), false),
                (SERVICE6.to_owned(), SERVICE6.to_owned(), true),
                (
                    format!("{}:8080", peer[0]),
                    format!("{}:8080", peer[0]),
                    false,
                ),
                (
                    format!("[{}]:8080", peer[1]),
                    format!("[{}]:8080", peer[1]),
                    true,
                ),
                (mapped.clone(), mapped, false),
            ] {
                let mut client = node.start(0, &format!("dial {dialled}"))?;
                let mut accepted =
                    accept(listener(&prepared, ListenerKind::Outbound, ipv6)?).context(dialled)?;
                let origin = origin(&accepted)?;
                let seen: SocketAddr = seen.parse()?;
                let plain = SocketAddr::new(seen.ip().to_canonical(), seen.port());
                ensure!(destination(&origin) == plain, "{origin:?} for {seen}");
                ensure!(origin.workload == 1 && origin.pid != 0 && origin.netns != 0);
                accepted.write_all(b"hello")?;
                drop(accepted);
                let said = client.says()?;
                ensure!(said.ends_with(&format!(" {seen}")), "{said}");
                ensure!(client.says()? == "got hello");
            }
            ensure!(counter(&kernel, WorkloadId(1), Reason::Captured) == 5);
            // Without a proxy and without its duplicates a dial is refused at once (fail closed).
            drop((prepared, kernel));
            let mut client = node.start(0, &format!("dial {SERVICE}"))?;
            let said = client.says()?;
            ensure!(said.starts_with("failed ConnectionRefused"), "{said}");
            Ok(())
        },
    );
}

#[test]
fn what_is_outside_the_mesh_is_left_alone() {
    isolated("capture::what_is_outside_the_mesh_is_left_alone", |node| {
        let mut kernel = node.open()?;
        node.enrol(&mut kernel, 0)?;
        let mut server =
            crate::application::Application::start(&node.applications, "serve 10.77.1.1:7070")?;
        server.says()?;
        let mut client = node.start(0, "dial 10.77.1.1:7070")?;
        ensure!(client.says()?.starts_with("connected 10.77.1.2:"));
        ensure!(counter(&kernel, WorkloadId(1), Reason::Bypassed) == 1);
        Ok(())
    });
}

#[test]
fn destinations_change_class_and_go() {
    isolated("capture::destinations_change_class_and_go", |node| {
        let mut kernel = node.open()?;
        let prepared = node.enrol(&mut kernel, 0)?;
        let mut server =
            crate::application::Application::start(&node.applications, "serve 10.77.1.1:7070")?;
        server.says()?;
        let dial = "dial 10.77.1.1:7070";
        let network: ipnet::IpNet = "10.77.1.0/29".parse()?;
        kernel.set_destinations(&[(network, Class::Deny)].into())?;
        let said = node.start(0, dial)?.says()?;
        ensure!(said.starts_with("failed ConnectionRefused"), "{said}");
        ensure!(counter(&kernel, WorkloadId(1), Reason::DestinationDenied) == 1);
        // The longest prefix decides.
        kernel.set_destinations(
            &[
                (network, Class::Deny),
                ("10.77.1.1/32".parse()?, Class::Capture),
            ]
            .into(),
        )?;
        let mut client = node.start(0, dial)?;
        accept(listener(&prepared, ListenerKind::Outbound, false)?)?;
        ensure!(client.says()?.ends_with(" 10.77.1.1:7070"));
        kernel.set_destinations(&std::collections::BTreeMap::new())?;
        let mut client = node.start(0, dial)?;
        ensure!(client.says()?.starts_with("connected"));
        ensure!(counter(&kernel, WorkloadId(1), Reason::Bypassed) == 1);
        Ok(())
    });
}

#[test]
fn arrivals_are_given_to_the_tunnel_and_plaintext_listeners() {
    isolated(
        "capture::arrivals_are_given_to_the_tunnel_and_plaintext_listeners",
        |node| {
            let mut kernel = node.open()?;
            let prepared = node.enrol(&mut kernel, 1)?;
            for (port, kind) in [
                (TUNNEL_PORT, ListenerKind::Tunnel),
                (8080, ListenerKind::Plaintext),
            ] {
                for address in node.pods[1].addresses {
                    let asked = SocketAddr::new(address, port);
                    let mut client = node.start(0, &format!("dial {asked}"))?;
                    let mut accepted = accept(listener(&prepared, kind, address.is_ipv6())?)?;
                    ensure!(
                        accepted.local_addr()? == asked,
                        "the accepted socket's address"
                    );
                    let own = node.pods[0].addresses;
                    ensure!(own.contains(&accepted.peer_addr()?.ip()));
                    accepted.write_all(b"proxied")?;
                    drop(accepted);
                    client.says()?;
                    ensure!(client.says()? == "got proxied");
                }
            }
            let id = WorkloadId(2);
            ensure!(counter(&kernel, id, Reason::InboundTunnel) == 2);
            ensure!(counter(&kernel, id, Reason::InboundPlaintext) == 2);
            // Without a proxy and without its duplicates nothing answers (fail closed), and the application least of all.
            drop((prepared, kernel));
            let mut server = node.start(1, "serve 0.0.0.0:8080")?;
            server.says()?;
            let mut client = node.start(0, &format!("dial {}:8080", node.pods[1].addresses[0]))?;
            ensure!(client.says()?.starts_with("failed TimedOut"));
            Ok(())
        },
    );
}

#[test]
fn what_kubelet_dials_reaches_the_application_itself() {
    isolated(
        "capture::what_kubelet_dials_reaches_the_application_itself",
        |node| {
            let mut kernel = node.open()?;
            let prepared = node.enrol(&mut kernel, 1)?;
            let mut server = node.start(1, "serve 0.0.0.0:8080")?;
            server.says()?;
            let probe = format!("dial {}:8080", node.pods[1].addresses[0]);
            let ask = |cgroup: &std::path::Path| Application::start(cgroup, &probe);

            // From the node, but nobody was said to be kubelet.
            let mut other = ask(&node.elsewhere)?;
            let mut accepted = accept(listener(&prepared, ListenerKind::Plaintext, false)?)?;
            accepted.write_all(b"proxied")?;
            drop(accepted);
            other.says()?;
            ensure!(other.says()? == "got proxied");

            kernel.set_kubelet(Some(&node.elsewhere))?;
            let mut kubelet = ask(&node.elsewhere)?;
            kubelet.says()?;
            ensure!(
                kernel
                    .set_kubelet(Some(std::path::Path::new("/tmp")))
                    .is_err()
            );
            ensure!(counter(&kernel, WorkloadId(2), Reason::InboundKubelet) == 1);
            drop(kubelet);

            // What it was told outlives the agent; and it is that cgroup, not the whole node.
            drop(kernel);
            let mut kernel = node.open()?;
            let mut kubelet = ask(&node.elsewhere)?;
            kubelet.says()?;
            ensure!(counter(&kernel, WorkloadId(2), Reason::InboundKubelet) == 2);
            kernel.set_kubelet(None)?;
            let mut nobody = ask(&node.elsewhere)?;
            nobody.says()?;
            ensure!(counter(&kernel, WorkloadId(2), Reason::InboundKubelet) == 2);
            ensure!(counter(&kernel, WorkloadId(2), Reason::InboundPlaintext) == 2);
            Ok(())
        },
    );
}

fn connect_as(socket: OwnedFd, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::from(socket);
    socket.set_nonblocking(false)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), std::time::Duration::from_secs(2))?;
    Ok(socket.into())
}

#[test]
fn a_delivery_carries_the_clients_address() {
    isolated("capture::a_delivery_carries_the_clients_address", |node| {
        let mut kernel = node.open()?;
        node.enrol(&mut kernel, 1)?;
        let mut server = node.start(1, "serve [::]:8080")?;
        server.says()?;
        for (address, client) in node.pods[1]
            .addresses
            .into_iter()
            .zip(["192.0.2.7", "2001:db8::7"])
        {
            let sockets = kernel.sockets(WorkloadId(2), Purpose::Deliver, address.is_ipv6(), 2)?;
            ensure!(sockets.len() == 2);
            let client: std::net::IpAddr = client.parse()?;
            for socket in sockets {
                let mut stream = connect_as(
                    socket,
                    SocketAddr::new(client, 0),
                    SocketAddr::new(address, 8080),
                )?;
                let mut greeting = [0; 64];
                let length = stream.read(&mut greeting)?;
                ensure!(greeting[..length] == *client.to_string().as_bytes());
                stream.write_all(b"?")?;
                ensure!(stream.read(&mut greeting)? == 4, "the way back");
            }
        }
        // A dial of the proxy's own is not captured, and the guard lets it out.
        let mut outside =
            crate::application::Application::start(&node.elsewhere, "serve 10.77.1.1:7070")?;
        outside.says()?;
        let dial = kernel
            .sockets(WorkloadId(2), Purpose::Dial, false, 1)?
            .remove(0);
        let socket = Socket::from(dial);
        ensure!(socket.nonblocking()?);
        socket.set_nonblocking(false)?;
        socket.connect(&"10.77.1.1:7070".parse::<SocketAddr>()?.into())?;
        Ok(())
    });
}

#[test]
fn a_host_service_is_captured_by_its_cgroup() {
    isolated(
        "capture::a_host_service_is_captured_by_its_cgroup",
        |node| {
            let mut kernel = node.open()?;
            let cgroup = node.applications.join("service");
            std::fs::create_dir(&cgroup)?;
            let address = "10.77.1.1".parse()?;
            let id = WorkloadId(9);
            let request = |ports| EnrolRequest {
                id,
                target: Target::Cgroup {
                    path: cgroup.clone(),
                    addresses: vec![address],
                    ports,
                },
                mode: GuardMode::Strict,
                udp: Udp::Allow,
            };
            let prepared = kernel.enrol(request(vec![7070]))?;
            kernel.activate(id)?;
            // Its dials.
            let mut client =
                crate::application::Application::start(&cgroup, &format!("dial {SERVICE}"))?;
            let accepted = accept(listener(&prepared, ListenerKind::Outbound, false)?)?;
            ensure!(destination(&origin(&accepted)?) == SERVICE.parse()?);
            ensure!(origin(&accepted)?.workload == 9);
            drop(accepted);
            ensure!(client.says()?.ends_with(SERVICE));
            drop(client);
            // What arrives at its port, and only at that.
            let mut client = node.start(0, "dial 10.77.1.1:7070")?;
            accept(listener(&prepared, ListenerKind::Plaintext, false)?)?.write_all(b"proxied")?;
            client.says()?;
            ensure!(client.says()? == "got proxied");
            let mut other = node.start(0, "dial 10.77.1.1:7071")?;
            ensure!(other.says()?.starts_with("failed ConnectionRefused"));
            // The node's tunnel listeners take tunnels for all host services.
            let tunnels = kernel.host_listeners()?;
            let mut client = node.start(0, &format!("dial 10.77.1.1:{TUNNEL_PORT}"))?;
            accept(
                tunnels
                    .iter()
                    .find(|each| !each.ipv6)
                    .context("a listener")?,
            )?;
            client.says()?;
            kernel.unenrol(id)?;
            kernel.release(id)?;
            eventually("the service's cgroup can go", || {
                Ok(std::fs::remove_dir(&cgroup).is_ok())
            })?;
            Ok(())
        },
    );
}
