//! The life of one pod on its node, from its binding to its end: a thread of its own looks after it.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::container::{self, Container, Restart};
use super::probe::Target;
use super::status::Report;
use super::{Place, Shared};
use crate::kubernetes::podnet::Addresses;
use crate::kubernetes::{Api, process};
use crate::netns::Namespace;

/// A pod is looked after at least this often.
const TICK: Duration = Duration::from_millis(100);
/// A status the API server did not take is sent again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// What a pod's thread is told.
#[derive(Debug)]
pub(super) enum Told {
    /// The object changed.
    Changed(Box<Value>),
    /// The object is gone.
    Gone,
}

/// The pod's network namespace, its addresses and its name servers. All of it goes when it is dropped.
#[derive(Debug)]
struct Sandbox {
    shared: Arc<Shared>,
    namespace: Namespace,
    addresses: Addresses,
    resolver: PathBuf,
}

/// A pod.
#[derive(Debug)]
pub(super) struct Pod {
    shared: Arc<Shared>,
    object: Value,
    path: String,
    folder: PathBuf,
    // Containers end before the namespace they run in.
    init: Vec<Container>,
    containers: Vec<Container>,
    sandbox: Option<Sandbox>,
    /// Init containers that have not had their turn.
    pending: VecDeque<Value>,
    started: SystemTime,
    phase: &'static str,
    ending: Option<Ending>,
    /// The status is to be sent, not before then.
    report_at: Option<SystemTime>,
}

/// A pod that was deleted: when what is left of it is killed.
#[derive(Clone, Copy, Debug)]
struct Ending {
    kill_at: SystemTime,
    /// SIGTERM waits for a preStop hook.
    term_at: Option<SystemTime>,
}

/// Looks after a pod until it is gone.
pub(super) fn look_after(shared: Arc<Shared>, object: Value, told: &Receiver<Told>) {
    let mut pod = Pod::new(shared, object);
    pod.begin();
    loop {
        match told.recv_timeout(TICK) {
            Ok(Told::Changed(object)) => pod.changed(*object),
            Ok(Told::Gone) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if pod.tick() {
            break;
        }
    }
    pod.shared.forget(&pod.object);
}

impl Pod {
    fn new(shared: Arc<Shared>, object: Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let path = Api::path("v1", "Pod", Some(&text("namespace")), &text("name"));
        let folder = shared.folder.join("pods").join(format!("{}_{}", text("namespace"), text("name")));
        Self {
            shared,
            object,
            path,
            folder,
            init: Vec::new(),
            containers: Vec::new(),
            sandbox: None,
            pending: VecDeque::new(),
            started: SystemTime::now(),
            phase: "Pending",
            ending: None,
            report_at: None,
        }
    }

    fn begin(&mut self) {
        if self.is_deleted() {
            // It was deleted before it ran: nothing has to end.
            self.changed(self.object.clone());
            return;
        }
        let host = self.object["spec"]["hostNetwork"] == true;
        let made = if host { Ok(None) } else { Sandbox::make(&self.shared, &self.object).map(Some) };
        match made {
            Ok(sandbox) => self.sandbox = sandbox,
            // Said where a person looks first; the pod stays Pending.
            Err(error) => return println!("{}: no network for pod {}: {error}", self.shared.name, self.path),
        }
        self.shared.remember(&self.object, Place { namespace: self.namespace().to_owned() });
        let list = |field: &str| self.object["spec"][field].as_array().cloned().unwrap_or_default();
        self.pending = list("initContainers").into();
        self.containers = list("containers").iter().map(|spec| self.container(spec)).collect();
        self.report_at = Some(SystemTime::now());
        self.advance();
    }

    fn container(&self, spec: &Value) -> Container {
        let addresses: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        let environment = container::environment(spec, &self.object, &addresses);
        Container::new(spec, container::folder(&self.folder, spec), environment)
    }

    /// Starts what has its turn: init containers one after another, a sidecar as soon as it runs; then all others.
    fn advance(&mut self) {
        while self.phase == "Pending" {
            let goes_on =
                self.init.last().is_none_or(|last| last.exit_code() == Some(0) || self.last_is_sidecar());
            if !goes_on {
                return;
            }
            let namespace = self.namespace().to_owned();
            if let Some(spec) = self.pending.pop_front() {
                let mut next = self.container(&spec);
                next.start(&self.shared.images, &namespace);
                self.init.push(next);
            } else {
                for container in &mut self.containers {
                    container.start(&self.shared.images, &namespace);
                }
                if self.containers.iter().any(Container::is_running) {
                    self.phase = "Running";
                }
                self.report_at = Some(SystemTime::now());
                return;
            }
        }
    }

    fn last_is_sidecar(&self) -> bool {
        let specs = self.object["spec"]["initContainers"].as_array();
        let last = self.init.len().checked_sub(1).and_then(|index| specs?.get(index));
        last.is_some_and(Container::is_sidecar) && self.init.last().is_some_and(Container::is_running)
    }

    fn changed(&mut self, object: Value) {
        let others =
            object["status"]["phase"].as_str().is_some_and(|phase| ["Failed", "Succeeded"].contains(&phase));
        self.object = object;
        if others && !self.is_over() {
            // Somebody else ended it, an eviction: its containers go, its status is theirs.
            self.phase = "Failed";
            self.kill();
            self.report_at = None;
        } else if !self.object["spec"]["readinessGates"].is_null() {
            self.report_at = Some(SystemTime::now());
        }
        if self.is_deleted() && self.ending.is_none() {
            self.end();
        }
    }

    /// SIGTERM, after the hook if there is one; what is left at the end of the grace period is killed.
    fn end(&mut self) {
        let grace = self.object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(30);
        let now = SystemTime::now();
        let mut term_at = now;
        for container in &self.containers {
            let hook = container.pre_stop();
            if let Some(words) = hook["exec"]["command"].as_array() {
                let mut command = super::inside(self.namespace(), &super::words(words));
                let _ = process::run(&mut command, "", Duration::from_secs(grace));
            }
            let sleep = Duration::from_secs(hook["sleep"]["seconds"].as_u64().unwrap_or(0));
            term_at = term_at.max(now + sleep);
        }
        self.ending = Some(Ending { kill_at: now + Duration::from_secs(grace), term_at: Some(term_at) });
    }

    /// True when the pod is over and gone.
    fn tick(&mut self) -> bool {
        let now = SystemTime::now();
        if let Some(ending) = &mut self.ending {
            if ending.term_at.is_some_and(|at| now >= at) {
                ending.term_at = None;
                self.containers.iter().chain(&self.init).for_each(|one| one.signal(Signal::SIGTERM));
            }
            let kill = now >= ending.kill_at;
            if kill {
                self.kill();
            }
        }
        self.watch_containers(now);
        if self.ending.is_some_and(|ending| ending.term_at.is_none())
            && !self.containers.iter().chain(&self.init).any(Container::is_running)
        {
            return self.leave();
        }
        if self.report_at.is_some_and(|at| now >= at) {
            self.report();
        }
        false
    }

    fn watch_containers(&mut self, now: SystemTime) {
        let restart = match self.object["spec"]["restartPolicy"].as_str() {
            // What was deleted is not started again.
            _ if self.ending.is_some() || self.is_over() => Restart::Never,
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            Some(_) | None => Restart::Always,
        };
        let pod = self.namespace().to_owned();
        let address = self.addresses().first().copied().unwrap_or(IpAddr::V4([127, 0, 0, 1].into()));
        let target = Target { node: &self.shared.namespace, pod: &pod, address };
        let sidecars = self.object["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
        let mut changed = false;
        for (container, spec) in self.init.iter_mut().zip(&sidecars) {
            let own = if Container::is_sidecar(spec) { restart } else { Restart::Never };
            changed |= container.tick(&self.shared.images, &target, own, now);
        }
        if self.phase != "Pending" {
            for container in &mut self.containers {
                changed |= container.tick(&self.shared.images, &target, restart, now);
            }
        }
        if changed {
            self.advance();
            self.conclude();
            self.report_at = Some(now);
        }
    }

    /// All containers ended for good: so did the pod.
    fn conclude(&mut self) {
        if self.phase != "Running" || self.ending.is_some() {
            return;
        }
        let codes: Option<Vec<i32>> = self.containers.iter().map(Container::exit_code).collect();
        if let Some(codes) = codes {
            self.phase = if codes.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" };
            self.init.iter_mut().for_each(Container::kill);
        }
    }

    fn report(&mut self) {
        let name = self.object["metadata"]["name"].as_str().unwrap_or_default();
        let addresses = self.addresses();
        let report = Report {
            pod: &self.object,
            phase: self.phase,
            addresses: &addresses,
            node: &self.shared.addresses,
            initialized: self.pending.is_empty() && self.phase != "Pending",
            init: &self.init,
            containers: &self.containers,
            started: self.started,
        };
        let patch = report.patch(name);
        self.report_at = match self.shared.api.merge(&format!("{}/status", self.path), &patch) {
            Ok(object) => {
                // What this patch said is known when the next one is made.
                if let Some(status) = object.get("status") {
                    self.object["status"] = status.clone();
                }
                None
            }
            Err(error) if error.is_missing() => None,
            Err(_) => Some(SystemTime::now() + AGAIN),
        };
    }

    /// Tells the API server that nothing is left; true when it took it.
    fn leave(&mut self) -> bool {
        self.report();
        self.init.clear();
        self.containers.clear();
        self.sandbox = None;
        let done = self.shared.api.delete(&format!("{}?gracePeriodSeconds=0", self.path)).is_ok();
        if !done {
            self.report_at = None;
        }
        done
    }

    fn kill(&mut self) {
        self.containers.iter_mut().chain(&mut self.init).for_each(Container::kill);
    }

    fn is_deleted(&self) -> bool {
        !self.object["metadata"]["deletionTimestamp"].is_null()
    }

    fn is_over(&self) -> bool {
        ["Failed", "Succeeded"].contains(&self.phase)
    }

    fn namespace(&self) -> &str {
        self.sandbox.as_ref().map_or(&self.shared.namespace, |sandbox| sandbox.namespace.name())
    }

    /// In the order of the status: IPv4 first. None before there is a network.
    fn addresses(&self) -> Vec<IpAddr> {
        match &self.sandbox {
            Some(sandbox) => sandbox.addresses.both().into(),
            None if self.object["spec"]["hostNetwork"] == true => self.shared.addresses.clone(),
            None => Vec::new(),
        }
    }
}

impl Sandbox {
    fn make(shared: &Arc<Shared>, pod: &Value) -> io::Result<Self> {
        let namespace = Namespace::new("pod")?;
        let addresses = shared.network.take()?;
        let resolver = PathBuf::from(format!("/etc/netns/{}", namespace.name()));
        // Made before anything can fail, so that its drop gives all of it back.
        let sandbox = Self { shared: Arc::clone(shared), namespace, addresses, resolver };
        fs::create_dir_all(&sandbox.resolver)?;
        fs::write(sandbox.resolver.join("resolv.conf"), resolv_conf(pod))?;
        shared.network.attach(&sandbox.namespace, addresses)?;
        Ok(sandbox)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.network.give_back(self.addresses);
        let _ = fs::remove_dir_all(&self.resolver);
    }
}

/// As the kubelet writes it for `dnsPolicy: ClusterFirst`.
fn resolv_conf(pod: &Value) -> String {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("default");
    let server = crate::kubernetes::cluster::KUBE_DNS[0];
    format!(
        "nameserver {server}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    )
}
