//! The node agent: what the kubelet does, with network namespaces for pods and processes of this machine for
//! containers. It registers its node, takes the pods the scheduler bound to it, runs and probes them, reports their
//! status, and honours their deletion with its grace period.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::podnet::PodNetwork;
use super::{Api, ApiError, Node};
use crate::netns::Namespace;

pub(crate) use image::Images;

use pod::Told;

mod container;
mod image;
mod pod;
mod probe;
mod status;

/// How long the controllers may take to give a node its pod CIDRs.
const PATIENCE: Duration = Duration::from_secs(30);
/// The lease of a node is renewed this often, as the kubelet does.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A watch is looked at this often, to see whether the agent is to end.
const LOOK: Duration = Duration::from_millis(200);
/// The API server is asked again after this when it did not answer.
const AGAIN: Duration = Duration::from_millis(300);

/// Where a pod runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its network namespace; with the host's network its node's.
    pub(crate) namespace: String,
}

/// The agent of one node. Dropping it ends every pod of it.
#[derive(Debug)]
pub(crate) struct Agent {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of an agent share.
#[derive(Debug)]
struct Shared {
    api: Api,
    /// The node's name, its namespace, its addresses: IPv4 first.
    name: String,
    namespace: String,
    addresses: Vec<IpAddr>,
    network: PodNetwork,
    images: Images,
    folder: PathBuf,
    stop: AtomicBool,
    places: Mutex<BTreeMap<String, Place>>,
}

/// Registers a node: it is Ready, and its pod CIDRs are asked for.
///
/// # Errors
/// The API server refuses it.
pub(crate) fn register(api: &Api, node: &Node, zone: &str) -> Result<(), ApiError> {
    let labels = json!({"kubernetes.io/hostname": node.name, "topology.kubernetes.io/zone": zone, "kubernetes.io/os": "linux"});
    let object =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}});
    api.create(&object)?;
    report_node(api, &node.name, &[node.v4.into(), node.v6.into()])?;
    // The controllers take the taint of a new node away within five seconds; pods need not wait for that.
    api.merge(&Api::path("v1", "Node", None, &node.name), &json!({"spec": {"taints": null}})).map(drop)
}

fn report_node(api: &Api, name: &str, addresses: &[IpAddr]) -> Result<(), ApiError> {
    let now = status::stamp(SystemTime::now());
    let room = json!({"cpu": "64", "memory": "64Gi", "pods": "240"});
    let internal = addresses.iter().map(|address| json!({"type": "InternalIP", "address": address}));
    let addresses: Vec<Value> = internal.chain([json!({"type": "Hostname", "address": name})]).collect();
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the node agent runs",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    let status = json!({
        "addresses": addresses, "capacity": room, "allocatable": room, "conditions": [ready],
        "nodeInfo": {"kubeletVersion": "v1.36.0", "operatingSystem": "linux", "architecture": std::env::consts::ARCH,
            "bootID": "", "containerRuntimeVersion": "tunway://1", "kernelVersion": "", "machineID": "",
            "osImage": "network namespace", "systemUUID": "", "kubeProxyVersion": ""},
    });
    api.merge(&format!("{}/status", Api::path("v1", "Node", None, name)), &json!({"status": status}))
        .map(drop)
}

/// The pod CIDRs the controllers gave a registered node.
///
/// # Errors
/// They did not within half a minute.
pub(crate) fn pod_cidrs(api: &Api, name: &str) -> io::Result<Vec<String>> {
    let begun = SystemTime::now();
    loop {
        let node = api.get(&Api::path("v1", "Node", None, name)).map_err(io::Error::other)?;
        let cidrs = node["spec"]["podCIDRs"].as_array().map(|cidrs| words(cidrs)).unwrap_or_default();
        if cidrs.len() == 2 {
            return Ok(cidrs);
        }
        if begun.elapsed().unwrap_or_default() > PATIENCE {
            return Err(io::Error::other(format!(
                "node {name} has no pod CIDRs after {PATIENCE:?}: {cidrs:?}"
            )));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

impl Agent {
    /// Takes on a registered node with its pods' network; logs go to `folder`.
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn start(
        api: &Api,
        node: &Node,
        network: PodNetwork,
        images: Images,
        folder: PathBuf,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            api: api.clone(),
            name: node.name.clone(),
            namespace: node.namespace.name().to_owned(),
            addresses: vec![node.v4.into(), node.v6.into()],
            network,
            images,
            folder,
            stop: AtomicBool::new(false),
            places: Mutex::default(),
        });
        let spawn = |name: &str, work: fn(&Arc<Shared>)| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(name.to_owned()).spawn(move || work(&shared))
        };
        let threads = vec![spawn("heartbeat", heartbeat)?, spawn("agent", follow)?];
        Ok(Self { shared, threads })
    }

    /// Where this pod runs, if it runs here.
    pub(crate) fn place(&self, namespace: &str, name: &str) -> Option<Place> {
        self.shared.places().get(&format!("{namespace}/{name}")).cloned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, BTreeMap<String, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, pod: &Value, place: Place) {
        self.places().insert(key(pod), place);
    }

    fn forget(&self, pod: &Value) {
        self.places().remove(&key(pod));
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pause(&self, long: Duration) {
        let begun = SystemTime::now();
        while !self.stops() && begun.elapsed().unwrap_or_default() < long {
            thread::sleep(LOOK.min(long));
        }
    }
}

/// Renews the node's lease and its Ready condition.
fn heartbeat(shared: &Arc<Shared>) {
    let lease = Api::path("coordination.k8s.io/v1", "Lease", Some("kube-node-lease"), &shared.name);
    while !shared.stops() {
        let renewal = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": shared.name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": shared.name, "leaseDurationSeconds": 40, "renewTime": status::precise_now()},
        });
        let renewed = match shared.api.merge(&lease, &json!({"spec": renewal["spec"]})) {
            Err(error) if error.is_missing() => shared.api.create(&renewal),
            other => other,
        };
        // An API server that is away is waited for; the grace period of a node is minutes.
        let _ = renewed
            .and_then(|_| report_node(&shared.api, &shared.name, &shared.addresses).map(|()| Value::Null));
        shared.pause(HEARTBEAT);
    }
}

/// Pods that are looked after: by uid.
#[derive(Default)]
struct Pods {
    known: BTreeMap<String, (Sender<Told>, JoinHandle<()>)>,
}

/// Lists and watches the node's pods until the agent ends.
fn follow(shared: &Arc<Shared>) {
    let mut pods = Pods::default();
    let selector = format!("fieldSelector=spec.nodeName%3D{}", shared.name);
    while !shared.stops() {
        if follow_once(shared, &selector, &mut pods).is_err() {
            shared.pause(AGAIN);
        }
    }
    // Every pod's thread ends when nobody can tell it anything any more.
    let threads: Vec<JoinHandle<()>> = pods.known.into_values().map(|(_, thread)| thread).collect();
    for thread in threads {
        let _ = thread.join();
    }
}

fn follow_once(shared: &Arc<Shared>, selector: &str, pods: &mut Pods) -> Result<(), ApiError> {
    let list = shared.api.get(&format!("/api/v1/pods?{selector}"))?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let there: Vec<String> = items.iter().map(uid).collect();
    pods.known.retain(|uid, (tell, _)| there.contains(uid) || tell.send(Told::Gone).is_err());
    for pod in items {
        pods.changed(shared, pod);
    }
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
    let watch = shared.api.watch("/api/v1/pods", &format!("{selector}&resourceVersion={version}"))?;
    while !shared.stops() {
        let Some((what, pod)) = watch.next(LOOK)? else { continue };
        if what == "DELETED" {
            pods.gone(&pod);
        } else {
            pods.changed(shared, pod);
        }
    }
    Ok(())
}

impl Pods {
    fn changed(&mut self, shared: &Arc<Shared>, pod: Value) {
        self.known.retain(|_, (_, thread)| !thread.is_finished());
        let uid = uid(&pod);
        if let Some((tell, _)) = self.known.get(&uid) {
            // A thread that just ended has told the API server so.
            let _ = tell.send(Told::Changed(Box::new(pod)));
            return;
        }
        if pod["status"]["phase"].as_str().is_some_and(|phase| ["Failed", "Succeeded"].contains(&phase))
            && pod["metadata"]["deletionTimestamp"].is_null()
        {
            return;
        }
        let (tell, told) = mpsc::channel();
        let shared = Arc::clone(shared);
        let life =
            thread::Builder::new().name("pod".into()).spawn(move || pod::look_after(shared, pod, &told));
        if let Ok(thread) = life {
            self.known.insert(uid, (tell, thread));
        }
    }

    fn gone(&mut self, pod: &Value) {
        if let Some((tell, _)) = self.known.get(&uid(pod)) {
            let _ = tell.send(Told::Gone);
        }
    }
}

fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn key(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

/// Strings of a JSON array.
fn words(array: &[Value]) -> Vec<String> {
    array.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

/// A command inside a namespace, with its name servers.
pub(crate) fn inside(namespace: &str, words: &[String]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).args(words);
    command
}

/// Routes to another node's pods.
///
/// # Errors
/// `ip` refuses them.
pub(crate) fn route(from: &Namespace, ranges: &[String; 2], via: &Node) -> io::Result<()> {
    let [v4, v6] = ranges;
    from.ip(&format!("route replace {v4} via {}", via.v4))?;
    from.ip(&format!("route replace {v6} via {}", via.v6)).map(drop)
}
