use std::os::unix::fs::symlink;

use super::super::processes;
use super::*;

const UID: &str = "1c2f0b9e-5f3c-4a55-9d3e-8f0d3a6d9b11";
const OTHER: &str = "1c2f0b9e-5f3c-4a55-9d3e-8f0d3a6d9b12";
const HASH: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn pods_are_known_by_their_cgroup_with_every_driver_and_runtime() {
    let container = "3f".repeat(32);
    let underscored = UID.replace('-', "_");
    for path in [
        format!("/kubepods/burstable/pod{UID}/{container}"),
        format!("/kubepods/pod{UID}/{container}"),
        format!("/k8s-node1/kubepods/besteffort/pod{UID}/{container}/init.scope"),
        format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice/cri-containerd-{container}.scope"
        ),
        format!("/kubepods.slice/kubepods-pod{underscored}.slice/crio-{container}.scope/container"),
        format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{underscored}.slice/x"),
        // Seen from another cgroup namespace.
        format!("/../../burstable/pod{UID}/{container}"),
        format!("/../kubepods-besteffort-pod{underscored}.slice/cri-containerd-{container}.scope"),
    ] {
        assert!(is_of_pod(&path, UID), "{path}");
        assert!(!is_of_pod(&path, OTHER), "{path}");
        assert!(!is_of_pod(&path, ""), "{path}");
    }
    assert!(is_of_pod(&format!("/kubepods/pod{HASH}/x"), HASH));
    for path in [
        "/".to_owned(),
        "/system.slice/kubelet.service".to_owned(),
        format!("/kubepods/burstable/{UID}"),
        format!("/kubepods/burstable/pod{UID}0/x"),
        format!("/machine.slice/podman-{UID}.scope"),
    ] {
        assert!(!is_of_pod(&path, UID), "{path}");
    }
}

#[test]
fn the_folder_of_pods_is_learned_from_one_of_them() {
    let underscored = UID.replace('-', "_");
    let check = |path: &str, parent: &str, name: &str| {
        assert_eq!(parent_of_pods(path), Some(format!("{parent}/").as_str()));
        let names: Vec<String> = folder_names(Path::new(parent), UID).collect();
        assert!(names.iter().any(|found| found == name), "{names:?}");
    };
    let name = format!("pod{UID}");
    check(
        &format!("/kubepods/burstable/{name}/x"),
        "/kubepods/burstable",
        &name,
    );
    let name = format!("kubepods-burstable-pod{underscored}.slice");
    let parent = "/kubepods.slice/kubepods-burstable.slice";
    check(&format!("{parent}/{name}/x"), parent, &name);
    assert_eq!(parent_of_pods("/kubepods/burstable/x"), None);
}

/// A node in files: processes with cgroups and namespaces. The namespace is our own, which is a real one, and the node's.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn proc(&self) -> PathBuf {
        self.folder.path().join("proc")
    }

    fn cgroup2(&self) -> PathBuf {
        self.folder.path().join("cgroup")
    }

    fn process(&self, pid: u32, cgroup: &str) {
        let own = self.proc().join(pid.to_string());
        fs::create_dir_all(own.join("ns")).expect("made");
        fs::write(
            own.join("cgroup"),
            format!("1:name=systemd:/\n0::{cgroup}\n"),
        )
        .expect("written");
        symlink("/proc/self/ns/net", own.join("ns/net")).expect("linked");
        let folder = self.cgroup2().join(cgroup.trim_start_matches('/'));
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("cgroup.procs"), format!("{pid}\n")).expect("written");
    }
}

#[test]
fn processes_are_scanned_for_the_first_pod_and_cgroups_read_for_the_others() {
    let scene = Scene::new();
    scene.process(10, "/system.slice/kubelet.service");
    scene.process(20, &format!("/kubepods/burstable/pod{UID}/pause"));
    scene.process(30, &format!("/kubepods/burstable/pod{OTHER}/pause"));
    let mut pods = Pods::new(Host::behind(&scene.proc()), &scene.cgroup2());
    let mut scans = 0;
    let mut scan = || {
        scans += 1;
        processes::list(&scene.proc())
    };
    assert_eq!(pods.processes_of(UID, &mut scan).expect("found"), [20]);
    assert_eq!(pods.processes_of(OTHER, &mut scan).expect("found"), [30]);
    let absent = OTHER.replace('b', "c");
    // One that is not there is not searched for again and again.
    for _ in 0..5 {
        assert!(pods.processes_of(&absent, &mut scan).is_err());
    }
    assert_eq!(scans, 1);
}

#[test]
fn a_pod_in_the_nodes_own_namespace_is_none_of_the_meshs() {
    let scene = Scene::new();
    scene.process(20, &format!("/kubepods/pod{UID}/x"));
    let mut pods = Pods::new(Host::behind(&scene.proc()), &scene.cgroup2());
    let mut scan = || processes::list(&scene.proc());
    let address = ["10.0.0.1".parse().expect("an address")];
    let error = pods
        .find(UID, &address, None, &mut scan)
        .expect_err("the node's");
    assert!(matches!(error, NotFound::HostNetwork { .. }), "{error}");
    // Without an address nothing shows that the namespace is this pod's.
    let error = pods
        .find(UID, &[], None, &mut scan)
        .expect_err("no address");
    assert!(matches!(error, NotFound::NoAddress { .. }), "{error}");
}

#[test]
fn a_namespace_that_its_runtime_takes_down_is_not_taken_again() {
    let scene = Scene::new();
    scene.process(20, &format!("/kubepods/pod{UID}/x"));
    let mut pods = Pods::new(Host::behind(&scene.proc()), &scene.cgroup2());
    let mut scan = || processes::list(&scene.proc());
    let own = mesh_kernel::namespace::open(Path::new("/proc/self/ns/net")).expect("ours");
    let mark = mark(&own).expect("ours");
    let (_, found) = pods.find(UID, &[], Some(mark), &mut scan).expect("known");
    assert_eq!(found, mark);
    assert_eq!(pods.end(UID, "sandbox", Some(mark)), Some(mark));
    let error = pods
        .find(UID, &[], Some(mark), &mut scan)
        .expect_err("ended");
    assert!(matches!(error, NotFound::NoPod { .. }), "{error}");
    pods.retain(|_| false);
    pods.find(UID, &[], Some(mark), &mut scan)
        .expect("a new life");
}

#[test]
fn an_announced_pod_is_there_while_its_runtime_keeps_its_namespace() {
    let scene = Scene::new();
    fs::create_dir_all(scene.proc()).expect("made");
    let mut pods = Pods::new(Host::behind(&scene.proc()), &scene.cgroup2());
    let mut scan = || processes::list(&scene.proc());
    let path = scene.folder.path().join("cni-1");
    symlink("/proc/self/ns/net", &path).expect("linked");
    let own = mesh_kernel::namespace::open(&path).expect("ours");
    let mark = mark(&own).expect("ours");
    pods.announce(
        UID,
        Announced {
            container_id: "a".to_owned(),
            namespace: own,
            path: path.clone(),
            addresses: Vec::new(),
        },
    );
    let (_, found) = pods
        .find(UID, &[], Some(mark), &mut scan)
        .expect("announced");
    assert_eq!(found, mark);
    // The node's own is refused from whoever announces it.
    let error = pods
        .find(UID, &[], None, &mut scan)
        .expect_err("the node's");
    assert!(matches!(error, NotFound::HostNetwork { .. }), "{error}");
    assert_eq!(pods.end(UID, "of another sandbox", None), None);
    fs::remove_file(&path).expect("removed");
    let error = pods
        .find(UID, &[], Some(mark), &mut scan)
        .expect_err("gone");
    assert!(matches!(error, NotFound::NoPod { .. }), "{error}");
}
