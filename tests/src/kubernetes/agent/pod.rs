//! The life of one pod on its node, from its binding to its end: a thread of its own looks after it.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::action::Target;
use super::container::{self, Container, Restart, Starting};
use super::publish::Publisher;
use super::sandbox::{Sandbox, Shell};
use super::status::{Report, Transitions, lacks_ours};
use super::{Place, Shared};
use crate::kubernetes::Api;

/// A pod is looked after at least this often.
const TICK: Duration = Duration::from_millis(100);
/// What a pod needs of the kernel and did not get is asked for again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// What a pod's thread is told.
#[derive(Debug)]
pub(super) enum Told {
    /// The object changed.
    Changed(Box<Value>),
    /// The object is gone.
    Gone,
    /// The agent ends: the pod's processes do, its object stays.
    End,
    /// A probe found something out.
    Look,
    /// What a container had to do before its end is done.
    Hooked(String),
}

/// A pod.
#[derive(Debug)]
struct Pod {
    shared: Arc<Shared>,
    object: Value,
    folder: PathBuf,
    tell: Sender<Told>,
    publisher: Publisher,
    transitions: Transitions,
    // Containers end before the namespace they run in.
    init: Vec<Container>,
    containers: Vec<Container>,
    sandbox: Option<Sandbox>,
    /// Init containers that have not had their turn.
    pending: VecDeque<Value>,
    /// The others had theirs.
    started: bool,
    begun: SystemTime,
    phase: &'static str,
    ending: Option<Ending>,
    /// It has no network yet.
    begin_at: Option<SystemTime>,
}

/// A pod that was deleted.
#[derive(Debug)]
struct Ending {
    /// What is left of it then is killed.
    kill_at: SystemTime,
    grace: Duration,
    /// Containers that know.
    told: BTreeSet<String>,
}

/// Looks after a pod until it is gone.
pub(super) fn look_after(shared: Arc<Shared>, object: Value, tell: Sender<Told>, told: &Receiver<Told>) {
    let mut pod = Pod::new(shared, object.clone(), tell);
    pod.changed(object);
    pod.begin();
    while !pod.tick() {
        match told.recv_timeout(TICK) {
            Ok(Told::Changed(object)) => pod.changed(*object),
            Ok(Told::Gone | Told::End) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(Told::Hooked(name)) => pod.container(&name).into_iter().for_each(Container::stop),
            Ok(Told::Look) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
    // Nobody is to find it while it goes.
    pod.shared.forget(&pod.object);
}

impl Pod {
    fn new(shared: Arc<Shared>, object: Value, tell: Sender<Told>) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
        let path = Api::path("v1", "Pod", Some(&namespace), &name);
        let publisher = Publisher::start(&shared.api, &path, &uid);
        let folder = shared.folder.join("pods").join(format!("{namespace}_{name}_{uid}"));
        Self {
            shared,
            object,
            folder,
            tell,
            publisher,
            transitions: Transitions::default(),
            init: Vec::new(),
            containers: Vec::new(),
            sandbox: None,
            pending: VecDeque::new(),
            started: false,
            begun: SystemTime::now(),
            phase: "Pending",
            ending: None,
            begin_at: None,
        }
    }

    /// Gives it a network and starts what comes first.
    fn begin(&mut self) {
        self.begin_at = None;
        // Deleted, or ended by somebody, before it ran: nothing is started to be ended.
        if self.ending.is_some() || self.is_over() {
            return;
        }
        if self.object["spec"]["hostNetwork"] != true {
            match Sandbox::make(&self.shared, &self.object) {
                Ok(sandbox) => self.sandbox = Some(sandbox),
                Err(error) => {
                    // Said where a person looks first; the pod stays Pending.
                    let name = &self.object["metadata"]["name"];
                    println!("{}: no network for pod {name}: {error}", self.shared.name);
                    self.begin_at = Some(SystemTime::now() + AGAIN);
                    return;
                }
            }
        }
        let list = |field: &str| self.object["spec"][field].as_array().cloned().unwrap_or_default();
        self.pending = list("initContainers").into();
        self.containers = list("containers").iter().map(|spec| self.make(spec)).collect();
        if let Some(first) = self.containers.first() {
            let shell = first.target().shell.clone();
            let applets = self.shared.images.applets(&self.object["spec"]["containers"][0]);
            self.shared.remember(&self.object, Place { shell: Shell { applets, ..shell } });
        }
        self.advance();
    }

    fn make(&self, spec: &Value) -> Container {
        let addresses = self.addresses();
        let environment = container::environment(spec, &self.object, &addresses, &self.shared.addresses);
        let namespace = self.sandbox.as_ref().map_or(&*self.shared.namespace, |own| own.namespace.name());
        let shell = Shell {
            namespace: namespace.to_owned(),
            hostname: self.object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            environment,
            applets: None,
        };
        let address = addresses.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
        let target = Target { node: self.shared.namespace.clone(), shell, address };
        Container::new(spec, container::folder(&self.folder, spec), target)
    }

    /// Starts what has its turn: init containers one after another, a sidecar as soon as it runs; then all others.
    fn advance(&mut self) {
        while !self.started && self.ending.is_none() {
            let goes_on = self
                .init
                .last()
                .is_none_or(|last| last.exit_code() == Some(0) || (last.is_sidecar() && last.is_running()));
            if !goes_on {
                return;
            }
            let next = self.pending.pop_front();
            if let Some(spec) = &next {
                let container = self.make(spec);
                self.init.push(container);
            }
            self.started = next.is_none();
            let how =
                Starting { shared: &self.shared, pod: &self.object, folder: &self.folder, tell: &self.tell };
            match &next {
                Some(_) => self.init.last_mut().into_iter().for_each(|container| container.start(&how)),
                None => self.containers.iter_mut().for_each(|container| container.start(&how)),
            }
        }
    }

    fn changed(&mut self, object: Value) {
        self.object = object;
        let phase = self.object["status"]["phase"].as_str();
        let over = ["Failed", "Succeeded"].into_iter().find(|over| phase == Some(over));
        if let Some(phase) = over.filter(|_| !self.is_over()) {
            // Somebody else ended it, an eviction: its containers go.
            self.phase = phase;
            self.kill();
        }
        if lacks_ours(&self.object) {
            self.publisher.forget();
        }
        if self.object["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        let seconds = self.object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(30);
        let (now, grace) = (SystemTime::now(), Duration::from_secs(seconds));
        match &mut self.ending {
            // Deleted again, with less patience.
            Some(ending) if grace < ending.grace => {
                ending.grace = grace;
                ending.kill_at = ending.kill_at.min(now + grace);
            }
            Some(_) => {}
            None => self.ending = Some(Ending { kill_at: now + grace, grace, told: BTreeSet::new() }),
        }
    }

    /// Looks after everything; true when the pod is over and its object is to go.
    fn tick(&mut self) -> bool {
        let now = SystemTime::now();
        if self.begin_at.is_some_and(|at| now >= at) {
            self.begin();
        }
        self.press(now);
        if self.watch_containers(now) {
            self.advance();
            self.conclude();
        }
        self.report();
        if self.ending.is_none() || self.all().any(Container::is_running) {
            return false;
        }
        self.shared.forget(&self.object);
        self.init.clear();
        self.containers.clear();
        self.sandbox = None;
        self.publisher.over();
        true
    }

    /// Has the containers of a deleted pod end, sidecars after the others; kills them when the time is over.
    fn press(&mut self, now: SystemTime) {
        let Some(ending) = &mut self.ending else { return };
        if now >= ending.kill_at {
            return self.kill();
        }
        let others = self.containers.iter().any(Container::is_running);
        let turn = if others { &self.containers } else { &self.init };
        for container in turn.iter().filter(|container| container.is_running()) {
            if !ending.told.insert(container.name().to_owned()) {
                continue;
            }
            let Some((action, target)) = container.pre_stop() else {
                container.stop();
                continue;
            };
            let left = ending.kill_at.duration_since(now).unwrap_or_default();
            let (tell, name) = (self.tell.clone(), container.name().to_owned());
            let hook = move || {
                action.perform(&target, left);
                // Nobody listens: the pod is gone already.
                let _ = tell.send(Told::Hooked(name));
            };
            if thread::Builder::new().name("hook".to_owned()).spawn(hook).is_err() {
                container.stop();
            }
        }
    }

    /// True when something changed that others wait for.
    fn watch_containers(&mut self, now: SystemTime) -> bool {
        // What was deleted, or is over, is not started again.
        let last = self.ending.is_some() || self.is_over();
        let own = match self.object["spec"]["restartPolicy"].as_str() {
            _ if last => Restart::Never,
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            Some(_) | None => Restart::Always,
        };
        let how =
            Starting { shared: &self.shared, pod: &self.object, folder: &self.folder, tell: &self.tell };
        let how = (!last).then_some(&how);
        let mut changed = false;
        for container in &mut self.init {
            let policy = match own {
                _ if container.is_sidecar() && !last => Restart::Always,
                // It is done when it succeeds.
                Restart::Always | Restart::OnFailure => Restart::OnFailure,
                Restart::Never => Restart::Never,
            };
            changed |= container.tick(how, policy, now);
        }
        if self.started {
            for container in &mut self.containers {
                changed |= container.tick(how, own, now);
            }
        }
        changed
    }

    /// All containers ended for good: so did the pod.
    fn conclude(&mut self) {
        if self.ending.is_some() || self.is_over() {
            return;
        }
        let failed =
            self.init.iter().any(|one| !one.is_sidecar() && one.exit_code().is_some_and(|code| code != 0));
        let codes: Option<Vec<i32>> = self.containers.iter().map(Container::exit_code).collect();
        self.phase = match codes {
            _ if failed => "Failed",
            Some(codes) if codes.iter().all(|code| *code == 0) => "Succeeded",
            Some(_) => "Failed",
            None => return,
        };
        self.kill();
    }

    fn report(&mut self) {
        if self.is_over() && self.containers.is_empty() {
            return;
        }
        if self.phase == "Pending" && self.started && self.containers.iter().all(Container::has_run) {
            self.phase = "Running";
        }
        let addresses = self.addresses();
        let report = Report {
            pod: &self.object,
            phase: self.phase,
            addresses: &addresses,
            node: &self.shared.addresses,
            initialized: self.started,
            init: &self.init,
            containers: &self.containers,
            started: self.begun,
        };
        let patch = report.patch(&mut self.transitions);
        self.publisher.status(patch);
    }

    fn kill(&mut self) {
        self.containers.iter_mut().chain(&mut self.init).for_each(Container::kill);
    }

    fn all(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().chain(&self.init)
    }

    fn container(&self, name: &str) -> Option<&Container> {
        self.all().find(|container| container.name() == name)
    }

    fn is_over(&self) -> bool {
        ["Failed", "Succeeded"].contains(&self.phase)
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
