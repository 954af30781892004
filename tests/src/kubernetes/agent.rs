//! The node agent: what the kubelet does, with network namespaces for pods and processes of this machine for
//! containers. It registers its node, takes the pods the scheduler bound to it, runs and probes them, reports their
//! status, and honours their deletion with its grace period.

use std::collections::{BTreeMap, BTreeSet};
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

use super::api::ask;
use super::podnet::PodNetwork;
use super::{Api, ApiError, Node};
use crate::netns::Namespace;

pub(crate) use image::Images;

use pod::Told;
use sandbox::Shell;

mod action;
mod container;
mod image;
mod pod;
mod probe;
mod publish;
mod sandbox;
mod status;
mod volumes;

/// How long the controllers may take to give a node its pod CIDRs.
const PATIENCE: Duration = Duration::from_secs(30);
/// The lease of a node is renewed this often, as the kubelet does.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A watch is looked at this often, to see whether the agent is to end.
const LOOK: Duration = Duration::from_millis(200);
/// The content type of patches of nodes.
const MERGE: &str = "application/merge-patch+json";
/// The API server is asked again after this when it did not answer.
const AGAIN: Duration = Duration::from_millis(300);

/// Where a pod runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    shell: Shell,
}

impl Place {
    /// Its network namespace; with the host's network its node's.
    pub(crate) fn namespace(&self) -> &str {
        &self.shell.namespace
    }

    /// A command as the pod's first container would run it.
    pub(crate) fn command(&self, words: &[String]) -> Command {
        self.shell.command(words)
    }
}

/// The agent of one node. Dropping it ends every pod of it.
#[derive(Debug)]
pub(crate) struct Agent {
    shared: Arc<Shared>,
    heart: tokio::task::JoinHandle<()>,
    thread: Option<JoinHandle<()>>,
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
    /// By namespace and name; with the uid of the pod that has the name now.
    places: Mutex<BTreeMap<String, (String, Place)>>,
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
    let path = Api::path("v1", "Node", None, &node.name);
    api.merge(&format!("{path}/status"), &node_status(&node.name, &[node.v4.into(), node.v6.into()]))?;
    // The controllers take the taint of a new node away within five seconds; pods need not wait for that.
    api.merge(&path, &json!({"spec": {"taints": null}})).map(drop)
}

/// A merge patch of the status: the node is Ready.
fn node_status(name: &str, addresses: &[IpAddr]) -> Value {
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
    json!({"status": status})
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
        let heart = api.spawn(heartbeat(api.client(), shared.name.clone(), shared.addresses.clone()));
        let following = Arc::clone(&shared);
        let thread = thread::Builder::new().name("agent".to_owned()).spawn(move || follow(&following))?;
        Ok(Self { shared, heart, thread: Some(thread) })
    }

    /// Where this pod runs, if it runs here.
    pub(crate) fn place(&self, namespace: &str, name: &str) -> Option<Place> {
        self.shared.places().get(&format!("{namespace}/{name}")).map(|(_, place)| place.clone())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.heart.abort();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, BTreeMap<String, (String, Place)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, pod: &Value, place: Place) {
        self.places().insert(key(pod), (uid(pod), place));
    }

    fn forget(&self, pod: &Value) {
        // Another pod may have its name by now.
        self.places().retain(|_, (owner, _)| *owner != uid(pod));
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

/// Renews the node's lease and its Ready condition, for ever.
async fn heartbeat(client: kube::Client, name: String, addresses: Vec<IpAddr>) {
    let lease = Api::path("coordination.k8s.io/v1", "Lease", Some("kube-node-lease"), &name);
    let leases = Api::path("coordination.k8s.io/v1", "Lease", Some("kube-node-lease"), "");
    let status = format!("{}/status", Api::path("v1", "Node", None, &name));
    loop {
        let renewal = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": status::precise_now()},
        });
        // An API server that is away is waited for; the grace period of a node is minutes.
        let renewed =
            ask(&client, "PATCH", &lease, Some(MERGE), Some(&json!({"spec": renewal["spec"]}))).await;
        if renewed.is_err_and(|error| error.is_missing()) {
            let _ = ask(&client, "POST", &leases, None, Some(&renewal)).await;
        }
        let _ = ask(&client, "PATCH", &status, Some(MERGE), Some(&node_status(&name, &addresses))).await;
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Pods whose objects are there, by uid: also those whose thread has ended, so that none begins a second time.
#[derive(Default)]
struct Pods {
    known: BTreeMap<String, Life>,
    /// Without an object, and about to end.
    going: Vec<Life>,
}

struct Life {
    tell: Sender<Told>,
    thread: JoinHandle<()>,
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
    pods.end();
}

fn follow_once(shared: &Arc<Shared>, selector: &str, pods: &mut Pods) -> Result<(), ApiError> {
    let list = shared.api.get(&format!("/api/v1/pods?{selector}"))?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    pods.only(&items.iter().map(uid).collect());
    for pod in items {
        pods.changed(shared, pod);
    }
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
    let watch = shared.api.watch("/api/v1/pods", &format!("{selector}&resourceVersion={version}"))?;
    while !shared.stops() {
        let Some((what, pod)) = watch.next(LOOK)? else { continue };
        if what == "DELETED" {
            pods.gone(&uid(&pod));
        } else {
            pods.changed(shared, pod);
        }
    }
    Ok(())
}

impl Pods {
    fn changed(&mut self, shared: &Arc<Shared>, pod: Value) {
        let uid = uid(&pod);
        if let Some(life) = self.known.get(&uid) {
            // A thread that ended needs to know nothing more.
            let _ = life.tell.send(Told::Changed(Box::new(pod)));
            return;
        }
        let (tell, told) = mpsc::channel();
        let (shared, own) = (Arc::clone(shared), tell.clone());
        let life = move || pod::look_after(shared, pod, own, &told);
        if let Ok(thread) = thread::Builder::new().name("pod".into()).spawn(life) {
            self.known.insert(uid, Life { tell, thread });
        }
    }

    fn gone(&mut self, uid: &str) {
        self.going.retain(|life| !life.thread.is_finished());
        if let Some(life) = self.known.remove(uid) {
            let _ = life.tell.send(Told::Gone);
            self.going.push(life);
        }
    }

    /// All others are gone.
    fn only(&mut self, there: &BTreeSet<String>) {
        let gone: Vec<String> = self.known.keys().filter(|uid| !there.contains(*uid)).cloned().collect();
        gone.iter().for_each(|uid| self.gone(uid));
    }

    /// Ends every pod, beside each other.
    fn end(self) {
        let lives = self.known.into_values().chain(self.going);
        let lives: Vec<Life> = lives.inspect(|life| drop(life.tell.send(Told::End))).collect();
        for life in lives {
            // A panic there has been printed.
            let _ = life.thread.join();
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

/// Routes to another node's pods.
///
/// # Errors
/// `ip` refuses them.
pub(crate) fn route(from: &Namespace, ranges: &[String; 2], via: &Node) -> io::Result<()> {
    let [v4, v6] = ranges;
    from.ip(&format!("route replace {v4} via {}", via.v4))?;
    from.ip(&format!("route replace {v6} via {}", via.v6)).map(drop)
}
