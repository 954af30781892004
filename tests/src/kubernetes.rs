//! A Kubernetes cluster on one machine: the real etcd, API server, controller manager, scheduler, kubectl and CoreDNS,
//! with network namespaces for nodes and pods, and a node agent of ours in the kubelet's place. The nodes run either
//! `tunway run` or the real kube-proxy: the same scenarios judge both.
//!
//! ```text
//! hub   192.168.77.1  fd00:77::1     etcd, API server, controller manager, scheduler; the switch of the link
//! n1    192.168.77.2  fd00:77::2     pods by routed veth: a /24 of 10.244.0.0/16, a /64 of fd00:244::/56
//! n2    192.168.77.3  fd00:77::3     pods on a bridge
//! out   198.51.100.x  fd00:51::x     clients off the cluster, each its own namespace behind the hub
//! Services 10.96.0.0/16, fd00:96::/112; the API server is 10.96.0.1, kube-dns 10.96.0.10
//! ```

pub(crate) mod agent;
pub mod api;
pub mod certs;
pub mod cluster;
pub mod components;
pub mod control_plane;
pub mod kubectl;
pub mod outside;
pub mod podnet;
pub mod process;
pub mod proxy;
pub mod site;
mod sweep;

pub use api::{Api, ApiError};
pub use cluster::{Cluster, Node, Options, PodNet, Proxy};
pub use outside::Outside;
pub use site::{Output, Pod, Site};
pub use sweep::folder;
