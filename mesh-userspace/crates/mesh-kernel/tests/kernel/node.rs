//! A node of its own for each test: namespaces, pods with veth pairs, cgroups, a bpffs folder; and proof that nothing of
//! it stays.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use mesh_common::origin::Origin;
use mesh_core::workload::WorkloadId;
use mesh_kernel::{
    Class, EnrolRequest, GuardMode, Kernel, Listener, ListenerKind, Options, Prepared, Reason,
    Target, Udp,
};
use nix::sched::{CloneFlags, setns};

use crate::application::Application;

const INSIDE: &str = "WK_INSIDE";
/// The mesh's tunnel port in these tests.
pub(crate) const TUNNEL_PORT: u16 = 15008;
/// An address that exists nowhere: a service.
pub(crate) const SERVICE: &str = "10.200.0.9:80";
/// The same, IPv6.
pub(crate) const SERVICE6: &str = "[fd00::9]:80";

/// Runs a test as a process of its own, in its own mount and network namespaces.
pub(crate) fn isolated(name: &str, body: fn(&mut Node) -> Result<()>) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root: it makes namespaces, cgroups and eBPF programs"
    );
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        inside(body).unwrap_or_else(|error| panic!("{error:?}"));
        return;
    }
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private"])
        .arg(std::env::current_exe().expect("this binary"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("unshare(1)");
    assert!(
        output.status.success(),
        "{name}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "no test is called {name}"
    );
}

fn inside(body: fn(&mut Node) -> Result<()>) -> Result<()> {
    let mut node = Node::new()?;
    let result = body(&mut node);
    let clean = node.clean_up();
    result.and(clean)
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < Duration::from_secs(5), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs a command and gives what it prints.
pub(crate) fn run(command: &str) -> Result<String> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().context("no command")?)
        .args(words)
        .output()
        .with_context(|| command.to_owned())?;
    ensure!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A pod: a namespace with a process in it and a veth pair to the node.
pub(crate) struct Pod {
    pause: Child,
    pub(crate) namespace: OwnedFd,
    /// `10.77.<n>.2` and `fd77:<n>::2`.
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) host_interface: String,
}

impl Pod {
    fn new(number: u8) -> Result<Self> {
        let pause = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()?;
        let own = fs::read_link("/proc/self/ns/net")?;
        let path = format!("/proc/{}/ns/net", pause.id());
        eventually("the pod has its namespace", || {
            Ok(fs::read_link(&path).is_ok_and(|link| link != own))
        })?;
        let namespace = File::open(&path)?.into();
        let host_interface = format!("wk{number}");
        let pod = Self {
            namespace,
            addresses: [
                format!("10.77.{number}.2").parse()?,
                format!("fd77:{number}::2").parse()?,
            ],
            host_interface,
            pause,
        };
        let (host, pid) = (&pod.host_interface, pod.pause.id());
        run(&format!(
            "ip link add {host} type veth peer name eth0 netns {pid}"
        ))?;
        run(&format!("ip addr add 10.77.{number}.1/24 dev {host}"))?;
        run(&format!(
            "ip -6 addr add fd77:{number}::1/64 dev {host} nodad"
        ))?;
        // Link-local addresses by hand: the kernel's own take a second to be checked, and nothing is forwarded before.
        run(&format!("ip link set {host} addrgenmode none"))?;
        run(&format!("ip -6 addr add fe80::1/64 dev {host} nodad"))?;
        run(&format!("ip link set {host} up"))?;
        pod.run("ip link set eth0 addrgenmode none")?;
        pod.run("ip -6 addr add fe80::2/64 dev eth0 nodad")?;
        pod.run("ip link set lo up")?;
        pod.run(&format!("ip addr add 10.77.{number}.2/24 dev eth0"))?;
        pod.run(&format!(
            "ip -6 addr add fd77:{number}::2/64 dev eth0 nodad"
        ))?;
        pod.run("ip link set eth0 up")?;
        pod.run(&format!("ip route add default via 10.77.{number}.1"))?;
        pod.run(&format!("ip -6 route add default via fd77:{number}::1"))?;
        Ok(pod)
    }

    /// Ends the pod's only process.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.pause.kill()?;
        self.pause.wait()?;
        Ok(())
    }

    /// The process that holds the namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.pause.id()
    }

    /// Does something inside.
    pub(crate) fn visit<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
                    work()
                })
                .join()
                .unwrap_or_else(|_| bail!("panicked inside the pod"))
        })
    }

    /// Runs a command inside.
    pub(crate) fn run(&self, command: &str) -> Result<String> {
        self.visit(|| run(command))
    }

    /// Starts an application inside.
    pub(crate) fn start(&self, cgroup: &Path, command: &str) -> Result<Application> {
        self.visit(|| Application::start(cgroup, command))
    }

    pub(crate) fn target(&self) -> Result<Target> {
        Ok(Target::NetworkNamespace(self.namespace.try_clone()?))
    }

    /// Everything in the namespace that enrolment touches.
    pub(crate) fn state(&self) -> Result<String> {
        let mut state = String::new();
        for command in [
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "tc qdisc show",
            "tc filter show dev eth0 ingress",
            "ip link show eth0",
            "bpftool net show",
            "sysctl net.ipv4.tcp_fwmark_accept net.ipv4.fwmark_reflect net.ipv6.fwmark_reflect",
        ] {
            state += &self.run(command)?;
        }
        // Routes of IPv6 carry ages and neighbours come and go.
        let stable = |line: &&str| !line.contains("expires") && !line.contains("multicast ff00");
        Ok(state.lines().filter(stable).collect::<Vec<_>>().join("\n"))
    }
}

/// A node with two pods.
pub(crate) struct Node {
    pub(crate) options: Options,
    pub(crate) pods: [Pod; 2],
    /// Where applications live, below the capture root.
    pub(crate) applications: PathBuf,
    /// A cgroup that the capture does not see.
    pub(crate) elsewhere: PathBuf,
    folder: PathBuf,
    root: PathBuf,
}

impl Node {
    fn new() -> Result<Self> {
        let own = format!("wk-{}", std::process::id());
        let root = mesh_kernel::cgroup::mount_point()
            .context("no cgroup v2 hierarchy is mounted")?
            .join(&own);
        let folder = std::env::temp_dir().join(&own);
        let capture_root = root.join("captured");
        let node = Self {
            options: Options {
                pins: folder.join("bpf"),
                mesh_cgroup: capture_root.join("mesh"),
                capture_root: capture_root.clone(),
                tunnel_port: TUNNEL_PORT,
                generation: 1,
            },
            applications: capture_root.join("applications"),
            elsewhere: root.join("elsewhere"),
            pods: {
                run("ip link set lo up")?;
                run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
                [Pod::new(1)?, Pod::new(2)?]
            },
            folder,
            root,
        };
        fs::create_dir_all(&node.folder)?;
        fs::create_dir_all(&node.applications)?;
        fs::create_dir_all(&node.elsewhere)?;
        Ok(node)
    }

    pub(crate) fn open(&self) -> Result<Kernel> {
        let mut kernel = Kernel::open(&self.options)?;
        kernel.set_destinations(&self.destinations()?)?;
        Ok(kernel)
    }

    fn destinations(&self) -> Result<BTreeMap<IpNet, Class>> {
        let services = [SERVICE, SERVICE6].into_iter().map(|service| {
            let address: SocketAddr = service.parse().expect("an address");
            address.ip()
        });
        Ok(self
            .pods
            .iter()
            .flat_map(|pod| pod.addresses)
            .chain(services)
            .map(|address| (IpNet::from(address), Class::Capture))
            .collect())
    }

    /// What enrolling a pod takes.
    pub(crate) fn request(&self, pod: usize) -> Result<EnrolRequest> {
        Ok(EnrolRequest {
            id: WorkloadId(pod as u32 + 1),
            target: self.pods[pod].target()?,
            mode: GuardMode::Strict,
            udp: Udp::Allow,
        })
    }

    /// Enrols a pod and activates it at once.
    pub(crate) fn enrol(&self, kernel: &mut Kernel, pod: usize) -> Result<Prepared> {
        let prepared = kernel.enrol(self.request(pod)?)?;
        kernel.activate(prepared.id)?;
        Ok(prepared)
    }

    /// Starts an ordinary application in a pod.
    pub(crate) fn start(&self, pod: usize, command: &str) -> Result<Application> {
        self.pods[pod].start(&self.applications, command)
    }

    /// Removes everything, and fails if something stays.
    fn clean_up(&mut self) -> Result<()> {
        mesh_kernel::uninstall(&self.options)?;
        ensure!(
            !self.options.pins.exists(),
            "the folder of pins is still there"
        );
        // `uninstall` leaves the process in the cgroup above the mesh's.
        fs::write(
            self.root.parent().context("a parent")?.join("cgroup.procs"),
            "0",
        )?;
        for pod in &mut self.pods {
            pod.kill()?;
        }
        for path in [
            &self.applications,
            &self.elsewhere,
            &self.options.capture_root,
            &self.root,
        ] {
            eventually(&format!("{} can be removed", path.display()), || {
                Ok(fs::remove_dir(path).is_ok())
            })?;
        }
        Ok(fs::remove_dir(&self.folder)?)
    }
}

/// One of the listeners of a workload.
pub(crate) fn listener(prepared: &Prepared, kind: ListenerKind, ipv6: bool) -> Result<&Listener> {
    prepared
        .listeners
        .iter()
        .find(|listener| listener.kind == kind && listener.ipv6 == ipv6)
        .context("no such listener")
}

/// Accepts, as a proxy would.
pub(crate) fn accept(listener: &Listener) -> Result<TcpStream> {
    let listening = std::net::TcpListener::from(listener.socket.try_clone()?);
    let mut stream = None;
    eventually("a connection arrives", || match listening.accept() {
        Ok((accepted, _)) => {
            accepted.set_nonblocking(false)?;
            stream = Some(accepted);
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    })?;
    stream.context("no connection")
}

/// The origin of an accepted connection.
pub(crate) fn origin(stream: &TcpStream) -> Result<Origin> {
    let mut bytes = [0_u8; size_of::<Origin>()];
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes, the size of `bytes`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_IP,
            mesh_common::SO_ORIGINAL_DST,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context("SO_ORIGINAL_DST");
    }
    ensure!(length as usize == bytes.len(), "{length} bytes");
    // SAFETY: `Origin` is 64 bytes of integers, every pattern is a value; the read allows for any alignment.
    Ok(unsafe { bytes.as_ptr().cast::<Origin>().read_unaligned() })
}

/// Where an origin says that the dial went.
pub(crate) fn destination(origin: &Origin) -> SocketAddr {
    SocketAddr::new(
        std::net::Ipv6Addr::from(origin.address).to_canonical(),
        u16::from_be(origin.port),
    )
}

/// A counter's value.
pub(crate) fn counter(kernel: &Kernel, workload: WorkloadId, reason: Reason) -> u64 {
    kernel
        .counters()
        .into_iter()
        .filter(|(id, found, _)| *id == workload && *found == reason)
        .map(|(_, _, count)| count)
        .sum()
}
