//! One scenario's corner of the cluster: a Kubernetes namespace, its pods, and what runs inside them.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::{Api, ApiError, Cluster};

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; 124 when it was stopped for taking too long.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A corner of the cluster. Dropping it deletes the Kubernetes namespace (without waiting).
#[derive(Debug)]
pub struct Site<'a> {
    cluster: &'a Cluster,
}

/// A pod to be made. Its program is the agnhost stand-in unless `image` says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Its name; also its host name.
    pub name: String,
    /// The index of its node; `None` leaves it to the scheduler.
    pub node: Option<usize>,
    /// `metadata.labels` as pairs.
    pub labels: Vec<(String, String)>,
    /// Arguments of agnhost; empty: `netexec --http-port=80 --udp-port=80`.
    pub args: Vec<String>,
    /// It lives in its node's namespace.
    pub host_network: bool,
    /// Whatever else: merged into the Pod object (readiness probes, named ports, grace period).
    pub extra: Value,
}

impl<'a> Site<'a> {
    /// Makes the namespace.
    pub(super) fn open(cluster: &'a Cluster, name: &str) -> io::Result<Self> {
        let _ = name;
        Ok(Self { cluster })
    }
}

impl Site<'_> {
    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        self.cluster
    }

    /// The namespace's name.
    #[must_use]
    pub fn name(&self) -> &str {
        todo!()
    }

    /// The API.
    #[must_use]
    pub fn api(&self) -> &Api {
        self.cluster.api()
    }

    /// Creates an object in this namespace (`metadata.namespace` is set).
    pub fn create(&self, object: Value) -> Result<Value, ApiError> {
        todo!("{object}")
    }

    /// Reads one; `None` when there is none. `kind` as in `Service`, `Pod`, `EndpointSlice`, `Deployment`.
    pub fn get(&self, kind: &str, name: &str) -> Result<Option<Value>, ApiError> {
        todo!("{kind} {name}")
    }

    /// A JSON merge patch.
    pub fn merge(&self, kind: &str, name: &str, patch: Value) -> Result<Value, ApiError> {
        todo!("{kind} {name} {patch}")
    }

    /// Deletes one; with `grace`, that grace period in seconds.
    pub fn delete(&self, kind: &str, name: &str, grace: Option<u32>) -> Result<(), ApiError> {
        todo!("{kind} {name} {grace:?}")
    }

    /// Objects of a kind with this label selector (empty: all).
    pub fn list(&self, kind: &str, selector: &str) -> Result<Vec<Value>, ApiError> {
        todo!("{kind} {selector}")
    }

    /// Creates a pod and waits until it runs and has its addresses (not until it is Ready).
    pub fn pod(&self, pod: Pod) -> io::Result<()> {
        todo!("{pod:?}")
    }

    /// Waits until the pod is Ready.
    pub fn wait_ready(&self, pod: &str, limit: Duration) -> io::Result<()> {
        todo!("{pod} {limit:?}")
    }

    /// The pod's addresses, IPv4 first.
    pub fn addresses(&self, pod: &str) -> io::Result<Vec<IpAddr>> {
        todo!("{pod}")
    }

    /// The ClusterIPs of a Service, in the order of `spec.clusterIPs`.
    pub fn cluster_ips(&self, service: &str) -> io::Result<Vec<IpAddr>> {
        todo!("{service}")
    }

    /// Runs `f` on a thread inside the pod's network namespace: sockets it opens are the pod's.
    pub fn inside<R: Send>(&self, pod: &str, f: impl FnOnce() -> R + Send) -> io::Result<R> {
        let _ = (pod, f);
        todo!()
    }

    /// Runs a command inside the pod, with its name servers; stopped after `limit`.
    pub fn exec(&self, pod: &str, words: &[&str], limit: Duration) -> io::Result<Output> {
        todo!("{pod} {words:?} {limit:?}")
    }

    /// Runs `f` on a thread inside the namespace of node `index`, as a process of the host.
    pub fn on_node<R: Send>(&self, index: usize, f: impl FnOnce() -> R + Send) -> io::Result<R> {
        let _ = (index, f);
        todo!()
    }
}
