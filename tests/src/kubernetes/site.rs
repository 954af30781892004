//! One scenario's corner of the cluster: a Kubernetes namespace, its pods, and what runs inside them.

use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::agent::Place;
use super::api::Kind;
use super::{Api, ApiError, Cluster, process};
use crate::netns;

/// How long a pod may take to run, and a namespace to be usable.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

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
    name: String,
}

/// A pod to be made. Its program is the agnhost stand-in unless `extra` says otherwise.
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
    /// Whatever else: merged into the Pod object (readiness probes, named ports, grace period). Lists are replaced,
    /// but for `spec.containers`, whose first element is merged into the one container.
    pub extra: Value,
}

impl Pod {
    /// The object, in this namespace, for this node.
    #[must_use]
    pub fn object(&self, namespace: &str, node: Option<&str>) -> Value {
        let labels: serde_json::Map<String, Value> =
            self.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let default = ["netexec", "--http-port=80", "--udp-port=80"].map(str::to_owned);
        let args = if self.args.is_empty() { default.as_slice() } else { self.args.as_slice() };
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": namespace, "labels": labels},
            "spec": {
                "hostNetwork": self.host_network, "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "agnhost", "image": "registry.k8s.io/e2e-test-images/agnhost:2.53", "args": args}],
            },
        });
        if let Some(node) = node {
            // The scheduler binds it: what a node name in the object would bypass.
            object["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        }
        merge(&mut object, &self.extra);
        object
    }
}

/// RFC 7396, but that the first container is merged into the first container.
fn merge(into: &mut Value, patch: &Value) {
    let (Some(object), Some(fields)) = (into.as_object_mut(), patch.as_object()) else {
        if !patch.is_null() {
            *into = patch.clone();
        }
        return;
    };
    for (field, value) in fields {
        let old = object.entry(field.clone()).or_insert(Value::Null);
        match (field.as_str(), old.as_array_mut(), value.as_array()) {
            ("containers", Some(old), Some(new)) => {
                for (index, container) in new.iter().enumerate() {
                    match old.get_mut(index) {
                        Some(known) => merge(known, container),
                        None => old.push(container.clone()),
                    }
                }
            }
            _ if value.is_null() => drop(object.remove(field)),
            _ => merge(old, value),
        }
    }
}

impl<'a> Site<'a> {
    /// Makes the namespace and waits until pods can be made in it.
    pub(super) fn open(cluster: &'a Cluster, name: &str) -> io::Result<Self> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        cluster.api().create(&object).map_err(io::Error::other)?;
        let site = Self { cluster, name: name.to_owned() };
        site.wait(&format!("namespace {name} has its service account"), PATIENCE, || {
            Ok(site.get("ServiceAccount", "default").map_err(io::Error::other)?.is_some())
        })?;
        Ok(site)
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// The namespace's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The API.
    #[must_use]
    pub fn api(&self) -> &Api {
        self.cluster.api()
    }

    /// Creates an object in this namespace (`metadata.namespace` is set; without `apiVersion`, the one tests use).
    ///
    /// # Errors
    /// What the API server says.
    pub fn create(&self, mut object: Value) -> Result<Value, ApiError> {
        object["metadata"]["namespace"] = self.name.as_str().into();
        if object["apiVersion"].is_null() {
            let kind = object["kind"].as_str().unwrap_or_default();
            object["apiVersion"] = known(kind)?.api_version.into();
        }
        self.api().create(&object)
    }

    /// Reads one; `None` when there is none. `kind` as in `Service`, `Pod`, `EndpointSlice`, `Deployment`.
    ///
    /// # Errors
    /// What the API server says.
    pub fn get(&self, kind: &str, name: &str) -> Result<Option<Value>, ApiError> {
        match self.api().get(&self.path(kind, name)?) {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A JSON merge patch. A `kind/status` patches the status.
    ///
    /// # Errors
    /// What the API server says.
    pub fn merge(&self, kind: &str, name: &str, patch: Value) -> Result<Value, ApiError> {
        let (kind, sub) =
            kind.split_once('/').map_or((kind, String::new()), |(kind, sub)| (kind, format!("/{sub}")));
        self.api().merge(&format!("{}{sub}", self.path(kind, name)?), &patch)
    }

    /// Deletes one; with `grace`, that grace period in seconds. Gone already is no error.
    ///
    /// # Errors
    /// What the API server says.
    pub fn delete(&self, kind: &str, name: &str, grace: Option<u32>) -> Result<(), ApiError> {
        let query = grace.map(|grace| format!("?gracePeriodSeconds={grace}")).unwrap_or_default();
        self.api().delete(&format!("{}{query}", self.path(kind, name)?))
    }

    /// Objects of a kind with this label selector (empty: all).
    ///
    /// # Errors
    /// What the API server says.
    pub fn list(&self, kind: &str, selector: &str) -> Result<Vec<Value>, ApiError> {
        let selector = selector.replace('=', "%3D").replace(',', "%2C").replace('!', "%21");
        let query = if selector.is_empty() { selector } else { format!("?labelSelector={selector}") };
        let list = self.api().get(&format!("{}{query}", self.path(kind, "")?))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Creates a pod and waits until it runs and has its addresses (not until it is Ready).
    ///
    /// # Errors
    /// What the API server says, or that it does not run after a minute, with its status.
    pub fn pod(&self, pod: Pod) -> io::Result<()> {
        let node = pod.node.map(|index| self.node(index)).transpose()?;
        self.create(pod.object(&self.name, node.map(|node| node.name.as_str()))).map_err(io::Error::other)?;
        self.wait_running(&pod.name, PATIENCE)
    }

    /// Waits until the pod runs and has its addresses.
    ///
    /// # Errors
    /// It does not within `limit`: with its status.
    pub fn wait_running(&self, pod: &str, limit: Duration) -> io::Result<()> {
        self.wait_pod(pod, "runs", limit, |status| {
            status["phase"] == "Running" && status["podIPs"].as_array().is_some_and(|ips| !ips.is_empty())
        })
    }

    /// Waits until the pod is Ready.
    ///
    /// # Errors
    /// It is not within `limit`: with its status.
    pub fn wait_ready(&self, pod: &str, limit: Duration) -> io::Result<()> {
        self.wait_pod(pod, "is Ready", limit, |status| {
            let conditions = status["conditions"].as_array();
            conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
        })
    }

    fn wait_pod(
        &self,
        pod: &str,
        what: &str,
        limit: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> io::Result<()> {
        let mut last = Value::Null;
        let waited = self.wait(&format!("pod {}/{pod} {what}", self.name), limit, || {
            last = self.get("Pod", pod).map_err(io::Error::other)?.unwrap_or_default()["status"].take();
            Ok(fits(&last))
        });
        waited.map_err(|error| io::Error::other(format!("{error}; its status: {last}")))
    }

    /// The pod's addresses, IPv4 first.
    ///
    /// # Errors
    /// It has none, or the API server does not answer.
    pub fn addresses(&self, pod: &str) -> io::Result<Vec<IpAddr>> {
        let object = self.existing("Pod", pod)?;
        let ips = object["status"]["podIPs"].as_array().cloned().unwrap_or_default();
        parsed(ips.iter().map(|ip| &ip["ip"]), || format!("pod {}/{pod}", self.name))
    }

    /// The ClusterIPs of a Service, in the order of `spec.clusterIPs`.
    ///
    /// # Errors
    /// It has none, or the API server does not answer.
    pub fn cluster_ips(&self, service: &str) -> io::Result<Vec<IpAddr>> {
        let object = self.existing("Service", service)?;
        let ips = object["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
        parsed(ips.iter(), || format!("Service {}/{service}", self.name))
    }

    /// Runs `f` on a thread inside the pod's network namespace: sockets it opens are the pod's.
    ///
    /// # Errors
    /// The pod does not run.
    pub fn inside<R: Send>(&self, pod: &str, f: impl FnOnce() -> R + Send) -> io::Result<R> {
        netns::enter(self.place(pod)?.namespace(), f)
    }

    /// Runs a command inside the pod, as its first container would: with its name servers, its environment, and the
    /// programs of its image where that is busybox. Stopped after `limit`.
    ///
    /// # Errors
    /// The pod does not run, or the command cannot be started.
    pub fn exec(&self, pod: &str, words: &[&str], limit: Duration) -> io::Result<Output> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        process::run(&mut self.place(pod)?.command(&words), "", limit)
    }

    /// Runs `f` on a thread inside the namespace of node `index`, as a process of the host.
    ///
    /// # Errors
    /// There is no such node.
    pub fn on_node<R: Send>(&self, index: usize, f: impl FnOnce() -> R + Send) -> io::Result<R> {
        self.node(index)?.namespace.enter(f)
    }

    /// The name of the network namespace a pod of this site runs in.
    ///
    /// # Errors
    /// It does not run.
    pub fn namespace_of(&self, pod: &str) -> io::Result<String> {
        Ok(self.place(pod)?.namespace().to_owned())
    }

    fn place(&self, pod: &str) -> io::Result<Place> {
        let place = self.cluster.place(&self.name, pod);
        place.ok_or_else(|| io::Error::other(format!("pod {}/{pod} does not run", self.name)))
    }

    fn node(&self, index: usize) -> io::Result<&'a super::Node> {
        self.cluster.nodes().get(index).ok_or_else(|| io::Error::other(format!("there is no node {index}")))
    }

    fn existing(&self, kind: &str, name: &str) -> io::Result<Value> {
        let found = self.get(kind, name).map_err(io::Error::other)?;
        found.ok_or_else(|| io::Error::other(format!("there is no {kind} {}/{name}", self.name)))
    }

    fn path(&self, kind: &str, name: &str) -> Result<String, ApiError> {
        let kind = known(kind)?;
        Ok(kind.path(
            kind.api_version,
            Some(&self.name).filter(|_| kind.namespaced).map(String::as_str),
            name,
        ))
    }

    fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut() -> io::Result<bool>,
    ) -> io::Result<()> {
        let begun = SystemTime::now();
        while !holds()? {
            if begun.elapsed().unwrap_or_default() > limit {
                return Err(io::Error::other(format!("{what}: not within {limit:?}")));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        // The cluster may be gone with its API server: then everything in it is.
        let _ = self.api().delete(&Api::path("v1", "Namespace", None, &self.name));
    }
}

fn known(kind: &str) -> Result<Kind, ApiError> {
    Kind::named(kind).ok_or_else(|| ApiError {
        code: 0,
        message: format!("no kind {kind} in tests/src/kubernetes/api/kinds.rs"),
    })
}

fn parsed<'v>(texts: impl Iterator<Item = &'v Value>, whose: impl Fn() -> String) -> io::Result<Vec<IpAddr>> {
    let all: Option<Vec<IpAddr>> = texts.map(|text| text.as_str()?.parse().ok()).collect();
    all.filter(|all| !all.is_empty()).ok_or_else(|| io::Error::other(format!("{} has no addresses", whose())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_are_merged_into_the_one_container() {
        let pod = Pod {
            name: "p".into(),
            labels: vec![("app".into(), "web".into())],
            extra: json!({
                "spec": {"terminationGracePeriodSeconds": 9, "nodeSelector": null,
                    "containers": [{"ports": [{"name": "web"}]}, {"name": "second"}]},
            }),
            ..Pod::default()
        };
        let object = pod.object("shop", Some("n1"));
        let containers = object["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 2);
        assert_eq!(containers[0]["name"], "agnhost");
        assert_eq!(containers[0]["ports"][0]["name"], "web");
        assert_eq!(containers[0]["args"][0], "netexec");
        assert_eq!(object["spec"]["terminationGracePeriodSeconds"], 9);
        assert_eq!(object["spec"].get("nodeSelector"), None);
        assert_eq!(object["metadata"]["labels"]["app"], "web");
        let bound = Pod { name: "p".into(), ..Pod::default() }.object("shop", Some("n1"));
        assert_eq!(bound["spec"]["nodeSelector"]["kubernetes.io/hostname"], "n1");
    }
}
