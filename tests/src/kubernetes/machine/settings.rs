//! The files that make a bare Debian a node: names, container runtime, network plugin, kubelet.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::super::images::PAUSE;
use super::super::layout::{DNS_SERVICE, Node, pki_folder};

/// Where a node keeps its certificate and kubeconfigs.
pub(super) const KUBERNETES: &str = "/etc/kubernetes";

/// Where network plugins are configured, and where they are.
const CNI_CONFIGURATION: &str = "/etc/cni/net.d";
const CNI_PROGRAMS: &str = "/usr/lib/cni";

/// Writes them below the folder that is to become `/`.
pub(super) fn write(node: Node, root: &Path) -> Result<()> {
    let name = node.name();
    copy_papers(&name, &root.join(&KUBERNETES[1..]))?;
    for (place, text) in [
        ("/etc/hostname", format!("{name}\n")),
        (
            "/etc/hosts",
            format!("127.0.0.1 localhost\n{} {name}\n", node.address()),
        ),
        ("/etc/machine-id", format!("{:032x}\n", node.0)),
        ("/etc/containerd/config.toml", containerd()),
        (
            &format!("{CNI_CONFIGURATION}/10-pods.conflist"),
            network(node),
        ),
        (&format!("{KUBERNETES}/kubelet.yaml"), kubelet(&name)),
    ] {
        put(root, place, &text)?;
    }
    // The overlay's lower half may have a link there, into a folder that is not.
    let resolver = root.join("etc/resolv.conf");
    match fs::remove_file(&resolver) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("remove the node's resolv.conf")
        }
        _ => put(root, "/etc/resolv.conf", "nameserver 127.0.0.1\n"),
    }
}

fn put(root: &Path, place: &str, text: &str) -> Result<()> {
    let path = root.join(place.trim_start_matches('/'));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Only this node's own.
fn copy_papers(name: &str, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for user in [name, "kube-proxy"] {
        for end in ["crt", "key", "kubeconfig"] {
            copy(&format!("{user}.{end}"), to)?;
        }
    }
    copy("ca.crt", to)
}

fn copy(file: &str, to: &Path) -> Result<()> {
    let from = pki_folder().join(file);
    fs::copy(&from, to.join(file))
        .map(drop)
        .with_context(|| format!("copy {}", from.display()))
}

fn containerd() -> String {
    format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE nobody's score may be lowered.
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{CNI_CONFIGURATION}"
"#
    )
}

fn network(node: Node) -> String {
    let subnet = node.pods();
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {{
      "type": "ptp",
      "ipMasq": false,
      "mtu": 1400,
      "ipam": {{
        "type": "host-local",
        "ranges": [[{{"subnet": "{subnet}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}]
      }}
    }},
    {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
  ]
}}
"#
    )
}

fn kubelet(name: &str) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {KUBERNETES}/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {KUBERNETES}/{name}.crt
tlsPrivateKeyFile: {KUBERNETES}/{name}.key
cgroupDriver: cgroupfs
clusterDomain: cluster.local
clusterDNS: [{DNS_SERVICE}]
resolvConf: /etc/resolv.conf
failSwapOn: false
enforceNodeAllocatable: [pods]
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
syncFrequency: 10s
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_of_pods_is_valid() {
        let list: serde_json::Value = serde_json::from_str(&network(Node(2))).unwrap();
        assert_eq!(
            list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.244.2.0/24"
        );
    }
}
