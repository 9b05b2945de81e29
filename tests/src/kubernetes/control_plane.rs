//! etcd, API server, controller manager and scheduler, in a network namespace and a cgroup of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::build::tail;
use super::cache::Cache;
use super::daemon::Daemon;
use super::dns;
use super::kubectl::Kubectl;
use super::layout::{API_SERVER, CONTROL, PODS, SERVICES, control_folder, pki_folder};
use super::machine;
use super::pki::{FRONT_PROXY, KUBELET_CLIENT};
use crate::eventually::eventually_every;
use crate::host::command::run;
use crate::host::{binary, cgroup};

/// The API server migrates its storage and makes its own objects before it is ready: 4 s, on a busy machine several times
/// that.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks, each of which is a run of kubectl.
const INTERVAL: Duration = Duration::from_millis(250);

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// What the API server and the nodes may do that is not granted from the beginning.
const ROLES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: wk-kube-proxy}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:node-proxier}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: system:kube-proxy}]
";

struct ControlPlane<'a> {
    cache: &'a Cache,
    folder: PathBuf,
    pki: PathBuf,
    cgroup: PathBuf,
}

/// Starts it; comes back when the API server is ready.
pub(super) fn start(cache: &Cache, kubectl: &Kubectl) -> Result<()> {
    let control_plane = ControlPlane {
        cache,
        folder: control_folder(),
        pki: pki_folder(),
        cgroup: cgroup::mount_point()?.join(CONTROL),
    };
    for folder in [&control_plane.folder, &control_plane.cgroup] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    control_plane.start_etcd()?;
    let mut api_server = control_plane.start_api_server()?;
    control_plane.wait_ready(&mut api_server, kubectl)?;
    kubectl.apply(ROLES)?;
    kubectl.apply(&dns::manifest())?;
    let helper = binary::helper(machine::HELPER)?;
    control_plane.run(&helper, "dns", &["dns".to_owned()])?;
    control_plane.start_client("kube-controller-manager", "controller-manager", |pki| {
        let file = |name: &str| pki.join(name).display().to_string();
        vec![
            format!(
                "--service-account-private-key-file={}",
                file("service-accounts.key")
            ),
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--cluster-signing-cert-file={}", file("ca.crt")),
            format!("--cluster-signing-key-file={}", file("ca.key")),
            format!("--cluster-cidr={PODS}"),
            "--use-service-account-credentials=true".to_owned(),
            "--allocate-node-cidrs=false".to_owned(),
            // A node that died is noticed within the deadline of a story.
            "--node-monitor-period=2s".to_owned(),
            "--node-monitor-grace-period=20s".to_owned(),
        ]
    })?;
    control_plane.start_client("kube-scheduler", "scheduler", |_pki| Vec::new())
}

impl ControlPlane<'_> {
    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn run(&self, program: &Path, name: &str, arguments: &[String]) -> Result<Child> {
        Daemon::new(program, &self.log(name))
            .args(arguments)
            .start_in(CONTROL, &self.cgroup)
    }

    fn start_etcd(&self) -> Result<()> {
        let mut arguments: Vec<String> = [
            ("data-dir", self.folder.join("etcd").display().to_string()),
            ("listen-client-urls", ETCD.to_owned()),
            ("advertise-client-urls", ETCD.to_owned()),
            ("listen-peer-urls", ETCD_PEER.to_owned()),
            ("initial-advertise-peer-urls", ETCD_PEER.to_owned()),
            ("initial-cluster", format!("default={ETCD_PEER}")),
        ]
        .iter()
        .map(|(name, value)| format!("--{name}={value}"))
        .collect();
        // Nobody needs this cluster after a loss of power, and waiting for the disk is most of what etcd does.
        const NO_SYNC: &str = "--unsafe-no-fsync";
        if run("etcd", &["--help"])?.contains(NO_SYNC) {
            arguments.push(NO_SYNC.to_owned());
        }
        self.run(Path::new("etcd"), "etcd", &arguments).map(drop)
    }

    fn start_api_server(&self) -> Result<Child> {
        let file = |name: &str| self.pki.join(name).display().to_string();
        let issuer = "https://kubernetes.default.svc".to_owned();
        let arguments: Vec<String> = [
            ("etcd-servers", ETCD.to_owned()),
            ("bind-address", API_SERVER.ip().to_string()),
            ("advertise-address", API_SERVER.ip().to_string()),
            ("secure-port", API_SERVER.port().to_string()),
            ("endpoint-reconciler-type", "master-count".to_owned()),
            ("service-cluster-ip-range", SERVICES.to_owned()),
            ("allow-privileged", "true".to_owned()),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("profiling", "false".to_owned()),
            // A third of what an idle API server does, and of no use to so few clients.
            ("feature-gates", "APIPriorityAndFairness=false".to_owned()),
            ("tls-cert-file", file("apiserver.crt")),
            ("tls-private-key-file", file("apiserver.key")),
            ("client-ca-file", file("ca.crt")),
            ("service-account-issuer", issuer.clone()),
            ("api-audiences", issuer),
            ("service-account-key-file", file("service-accounts.pub")),
            (
                "service-account-signing-key-file",
                file("service-accounts.key"),
            ),
            (
                "kubelet-client-certificate",
                file(&format!("{KUBELET_CLIENT}.crt")),
            ),
            ("kubelet-client-key", file(&format!("{KUBELET_CLIENT}.key"))),
            ("kubelet-certificate-authority", file("ca.crt")),
            ("kubelet-preferred-address-types", "InternalIP".to_owned()),
            // Aggregated APIs: who the API server is to them, and that it asks their pods, since there is no kube-proxy
            // here that would know the addresses of services.
            ("requestheader-client-ca-file", file("ca.crt")),
            ("requestheader-allowed-names", FRONT_PROXY.to_owned()),
            ("requestheader-username-headers", "X-Remote-User".to_owned()),
            ("requestheader-group-headers", "X-Remote-Group".to_owned()),
            (
                "requestheader-extra-headers-prefix",
                "X-Remote-Extra-".to_owned(),
            ),
            (
                "proxy-client-cert-file",
                file(&format!("{FRONT_PROXY}.crt")),
            ),
            ("proxy-client-key-file", file(&format!("{FRONT_PROXY}.key"))),
            ("enable-aggregator-routing", "true".to_owned()),
        ]
        .iter()
        .map(|(name, value)| format!("--{name}={value}"))
        .collect();
        self.run(
            &self.cache.component("kube-apiserver"),
            "kube-apiserver",
            &arguments,
        )
    }

    fn start_client(
        &self,
        component: &str,
        user: &str,
        more: impl FnOnce(&Path) -> Vec<String>,
    ) -> Result<()> {
        let kubeconfig = self.pki.join(format!("{user}.kubeconfig"));
        let kubeconfig = kubeconfig.display();
        let mut arguments = vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
        ];
        arguments.extend(more(&self.pki));
        self.run(&self.cache.component(component), component, &arguments)
            .map(drop)
    }

    fn wait_ready(&self, api_server: &mut Child, kubectl: &Kubectl) -> Result<()> {
        let ended = eventually_every(INTERVAL, "the API server is ready", PATIENCE, || {
            if let Some(status) = api_server.try_wait()? {
                return Ok(Some(Some(status)));
            }
            let answer = kubectl.run(&["get", "--raw", "/readyz", "--request-timeout=2s"])?;
            Ok((answer == "ok").then_some(None))
        });
        let log = || tail(&self.log("kube-apiserver"));
        match ended.with_context(log)? {
            Some(status) => bail!("the API server ended: {status}; {}", log()),
            None => Ok(()),
        }
    }
}
