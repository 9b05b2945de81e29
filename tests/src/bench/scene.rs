//! Where it happens: the simulated cluster with two pairs of pods, one in the mesh and one not, alike in everything else.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use serde_json::json;

use super::load;
use crate::cluster::node::Node;
use crate::cluster::place::Place;
use crate::cluster::{Cluster, service_addresses};
use crate::eventually::until;
use crate::host::process::Process;

/// Where nginx listens.
pub const HTTP_PORT: u16 = 8080;
/// Where the sink of bulk transfers listens.
pub const BULK_PORT: u16 = 8081;
/// The small document: what a request costs should not be what its body costs.
pub const SMALL: &str = "/";
/// The file.
pub const FILE: &str = "/file";
/// Its size.
pub const FILE_BYTES: usize = 10 * 1024 * 1024;

/// The services' ports.
const WEB: u16 = 80;
const BULK: u16 = 81;

/// Two nodes, two pairs of pods, the servers in them.
pub struct Scene {
    /// The pair in the mesh, and its nodes; nothing when Warren is not measured.
    pub meshed: Option<Meshed>,
    /// The pair that is not: for the direct way and for the peers.
    pub plain: Pair,
    _servers: Vec<Process>,
}

/// The pair in the mesh.
pub struct Meshed {
    /// Its pods.
    pub pods: Pair,
    /// The client's node and the server's.
    pub nodes: [Arc<Node>; 2],
    /// The service in front of nginx.
    pub http: SocketAddr,
    /// The service in front of the sink.
    pub bulk: SocketAddr,
}

/// Two pods on different nodes.
pub struct Pair {
    /// Load comes from here.
    pub client: Place,
    /// Load goes here.
    pub server: Place,
}

impl Scene {
    /// Builds it. With `mesh`, agents are started and the meshed pair enrolled; returns when both are ready.
    pub fn build(cluster: &mut Cluster, mesh: bool) -> Result<Self> {
        let (a, b) = cluster.two_nodes()?;
        // No program of the plain pair is in a captured cgroup: no hook of Warren's runs for the direct way and the peers.
        let outside = |place: Place| -> Result<Place> {
            let cgroup = Arc::new(cluster.outside().child(place.name())?);
            Ok(place.in_cgroup(cgroup))
        };
        let plain = Pair {
            client: outside(a.pod("plain-client")?)?,
            server: outside(b.pod("plain-server")?)?,
        };
        let mut servers = plain.serve(cluster.folder())?;
        let meshed = if mesh {
            let pods = Pair {
                client: a.pod("client")?,
                server: b.pod("server")?,
            };
            servers.extend(pods.serve(cluster.folder())?);
            Some(enrol(cluster, pods, [a, b])?)
        } else {
            None
        };
        Ok(Self {
            meshed,
            plain,
            _servers: servers,
        })
    }
}

/// The mesh does here what it does everywhere: a service is balanced, a policy names the caller.
fn enrol(cluster: &mut Cluster, pods: Pair, nodes: [Arc<Node>; 2]) -> Result<Meshed> {
    let (web, bulk) = (service_addresses(1), service_addresses(2));
    cluster
        .configuration()
        .service("web", web, (WEB, HTTP_PORT), &[&pods.server])
        .service("bulk", bulk, (BULK, BULK_PORT), &[&pods.server])
        .policy(
            "callers",
            json!({"workload": pods.server.name()}),
            json!([{
                "name": "client-only",
                "action": "allow",
                "from": [{"serviceAccount": format!("shop/{}", pods.client.name())}],
                "to": [{"ports": [HTTP_PORT, BULK_PORT]}],
            }]),
        );
    cluster.start(&[&pods.client, &pods.server])?;
    Ok(Meshed {
        pods,
        nodes,
        http: SocketAddr::new(web[0], WEB),
        bulk: SocketAddr::new(bulk[0], BULK),
    })
}

impl Pair {
    /// nginx and the sink in the server's pod; returns when both listen. Sets what many connections need.
    fn serve(&self, folder: &Path) -> Result<Vec<Process>> {
        for place in [&self.client, &self.server] {
            // New connections at full speed use up the default 28,000 ports, since each stays reserved for a minute.
            place
                .namespace()
                .sysctl("net/ipv4/ip_local_port_range", "18000 65535")?;
            place.namespace().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
            place.namespace().sysctl("net/core/somaxconn", "4096")?;
        }
        let folder = folder.join(self.server.name());
        let nginx = self
            .server
            .program("nginx")
            .args(["-p".as_ref(), folder.as_os_str()])
            .args(["-c".as_ref(), write_nginx(&folder)?.as_os_str()])
            .log(&folder.join("nginx.log"))
            .start()?;
        let sink = load::program(&self.server)?
            .args(["drink", "--port", &BULK_PORT.to_string()])
            .log(&folder.join("sink.log"))
            .start()?;
        let namespace = self.server.namespace();
        until("nginx answers", Duration::from_secs(10), || {
            let (code, _) = namespace.http_get(self.server.at(HTTP_PORT), SMALL)?;
            Ok(code == 200)
        })
        .with_context(|| fs::read_to_string(folder.join("nginx.log")).unwrap_or_default())?;
        Ok(vec![nginx, sink])
    }
}

fn write_nginx(folder: &Path) -> Result<std::path::PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(folder.join("file"), vec![b'w'; FILE_BYTES]).context("write the file")?;
    let file = folder.join("nginx.conf");
    let text = format!(
        "user root;\ndaemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nodelay on;\n  keepalive_timeout 1h;\n  \
         keepalive_requests 1000000000;\n  default_type text/plain;\n  \
         client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  \
         fastcgi_temp_path {folder}/fastcgi;\n  uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n  \
         server {{\n    listen {HTTP_PORT} backlog=4096;\n    \
         location = {SMALL} {{ return 200 'a small document, as many answers of a service are\\n'; }}\n    \
         location = {FILE} {{ root {folder}; }}\n  }}\n}}\n",
        folder = folder.display(),
    );
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

/// Confines this process, and all that it starts, to one core. Without a wish, the last one.
pub fn pin(core: Option<usize>) -> Result<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let core = core.unwrap_or(cores - 1);
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("core {core}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("run on core {core}"))?;
    Ok(core)
}

/// Thousands of connections are thousands of descriptors, in proxies and servers alike.
pub fn allow_descriptors(count: u64) -> Result<()> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of descriptors")?;
    if soft >= count {
        return Ok(());
    }
    if hard < count && setrlimit(Resource::RLIMIT_NOFILE, count, count).is_err() {
        bail!(
            "{count} descriptors are needed, {hard} allowed; raise the limit with `ulimit -Hn {count}`"
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, count, hard.max(count))
        .context("raise the limit of descriptors")
}
