//! A real Kubernetes cluster on one machine: etcd, API server, controller manager, scheduler, and nodes with kubelet,
//! containerd, runc, CNI and kube-proxy, each node in namespaces of its own. No virtual machine, no container engine.
//!
//! Everything comes from Debian: the components are built from the source package `kubernetes` (1.20.2, the last that
//! carries its dependencies with it), the nodes' root file system is a `debootstrap`. That takes minutes, once; it is kept
//! in a cache.
//!
//! Reading order: [`cache`] (what is made once: [`build`], [`rootfs`], [`images`]), [`cluster`] (what is brought up from
//! it: [`network`], [`pki`], [`control_plane`], [`dns`], [`machine`]), then what stories work with: [`kubectl`], [`mesh`], [`shop`], [`load`],
//! [`traces`], [`thief`], [`story`]. All names of what is borrowed from the machine begin with [`layout::PREFIX`]; [`leak`] finds what is left.

pub mod build;
pub mod cache;
pub mod cluster;
pub mod control_plane;
pub mod daemon;
pub mod debian;
pub mod dns;
pub mod hierarchy;
pub mod images;
pub mod kubectl;
pub mod layout;
pub mod leak;
pub mod load;
pub mod machine;
pub mod manifests;
pub mod mesh;
pub mod network;
pub mod pki;
pub mod rootfs;
pub mod shop;
pub mod story;
pub mod thief;
pub mod traces;
