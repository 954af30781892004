//! What the loop owns: the objects, the compiler, the plane, and what it can say about them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dataplane::plane::{FlowRow, Plane, PlaneError};
use dataplane::service::{Backend, BuildError, Frontend, Policy, Service, Snapshot, Sticky, World};
use dataplane::stats::Counter;
use dataplane::verdict::DropReason;

use crate::compile::Compiler;
use crate::config::Config;
use crate::desired::Desired;
use crate::model::{ObjectKey, Problem};
use crate::node::Surroundings;
use crate::run::fabric::Parts;
use crate::run::troubles::{ByObject, Troubles};
use crate::socket::wire::{
    self, Answer, Counters, Endpoint, Flow, Flows, Query, ServicePort, Services, Status,
};
use crate::source::{Event, Kind};

/// The world as objects, as compiled, and as served.
#[derive(Debug)]
pub struct State {
    device: String,
    node: String,
    workers: usize,
    plane: Plane,
    desired: Desired,
    compiler: Compiler,
    parts: Parts,
    /// What keeps the first world back, by object.
    waits: ByObject,
    world: Option<Arc<World>>,
    troubles: Troubles,
    retired: usize,
    connected: bool,
    /// How often that ended.
    source_lost: u64,
    source: String,
    ready: bool,
    stopping: bool,
}

impl State {
    /// Nothing known yet; the plane serves known flows only.
    #[must_use]
    pub fn new(config: &Config, plane: Plane) -> Self {
        let mut state = Self {
            device: config.device.clone(),
            node: config.node_name.clone(),
            workers: config.workers,
            plane,
            desired: Desired::new(&config.node_name),
            compiler: Compiler::new(config.fabric()),
            parts: Parts::new(config),
            waits: ByObject::new(),
            world: None,
            troubles: Troubles::default(),
            retired: 0,
            connected: false,
            source_lost: 0,
            source: "nothing heard yet".to_owned(),
            ready: false,
            stopping: false,
        };
        state.weave();
        state
    }

    /// Takes one event of the source.
    pub fn apply(&mut self, event: Event) {
        if let Event::Health { connected, detail } = &event {
            self.hear(*connected, detail);
        }
        let bears_on_fabric = matches!(
            event,
            Event::Node(_)
                | Event::ServiceCidr(_)
                | Event::ServiceCidrGone(_)
                | Event::Done(Kind::Node | Kind::ServiceCidr)
        );
        self.desired.apply(event);
        if bears_on_fabric {
            self.weave();
        }
    }

    /// This host is now so.
    pub fn surround(&mut self, here: Surroundings) {
        self.parts.surround(here);
        self.weave();
    }

    /// Brings the fabric up to date with everything it is made of.
    fn weave(&mut self) {
        self.compiler.set_fabric(self.parts.fabric(&self.desired));
        let waits = self.parts.waits_for(self.desired.node()).filter(|_| self.world.is_none());
        self.waits = waits.into_iter().map(|problem| (problem.object.clone(), vec![problem])).collect();
    }

    fn hear(&mut self, connected: bool, detail: &str) {
        if (self.connected, self.source.as_str()) == (connected, detail) {
            return;
        }
        match (connected, self.world.is_some()) {
            (true, _) => tracing::info!(source = detail, "in touch with the source"),
            (false, true) => {
                tracing::warn!(reason = detail, "out of touch with the source: serving what was last known");
            }
            (false, false) => {
                tracing::warn!(
                    reason = detail,
                    "source not reached yet: known flows are served, new ones wait"
                );
            }
        }
        self.source_lost += u64::from(self.connected && !connected);
        self.connected = connected;
        detail.clone_into(&mut self.source);
    }

    /// There is something to publish: every kind was listed once, and something changed since the last time.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let compiler = &self.compiler;
        let news = self.world.is_none()
            || self.desired.is_dirty()
            || compiler.has_new_fabric()
            || compiler.starts_over();
        self.desired.ready() && self.waits.is_empty() && news
    }

    /// The Service CIDRs there are now, for routes.
    #[must_use]
    pub fn service_cidrs(&self) -> BTreeSet<(IpAddr, u8)> {
        self.parts.service_cidrs(&self.desired)
    }

    /// Every address some Service is to be reached at, for routes.
    #[must_use]
    pub fn frontends(&self) -> &BTreeSet<IpAddr> {
        self.compiler.frontends()
    }

    /// Something was published.
    #[must_use]
    pub fn has_world(&self) -> bool {
        self.world.is_some()
    }

    /// Compiles what changed and gives it to the workers. False when nothing came of it.
    ///
    /// # Errors
    /// The objects make no valid snapshot: the last one goes on.
    pub fn publish(&mut self) -> Result<bool, BuildError> {
        let Self { plane, compiler, desired, .. } = self;
        let Some(world) = compiler.compile(desired, &mut || plane.advance_purge_epoch())? else {
            return Ok(false);
        };
        self.plane.publish(Arc::clone(&world));
        self.world = Some(world);
        self.collect();
        Ok(true)
    }

    /// Drops replaced worlds nobody reads any more; how many are left.
    pub fn collect(&mut self) -> usize {
        self.retired = self.plane.collect();
        self.retired
    }

    /// Tells the log what is newly wrong, and what is no longer.
    pub fn tell_troubles(&mut self) {
        self.troubles.update([self.desired.problems(), self.compiler.problems(), &self.waits]).log();
    }

    /// The objects.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The first snapshot is out and its routes are in place.
    pub fn set_ready(&mut self) {
        self.ready = true;
        let services = self.snapshot().map_or(0, Snapshot::service_count);
        tracing::info!(service_ports = services, "ready");
    }

    /// It was said before that new flows are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// A stop was asked for: not ready any more, though everything is still served.
    pub fn set_stopping(&mut self) {
        self.stopping = true;
        self.ready = false;
    }

    /// What the workers leave to this thread; once a second.
    pub fn keep_house(&mut self) {
        self.plane.keep_house();
    }

    /// A worker that ended.
    #[must_use]
    pub fn failed(&self) -> Option<PlaneError> {
        self.plane.failed()
    }

    /// Stops the workers.
    ///
    /// # Errors
    /// One did not stop in time, or had ended before.
    pub fn stop(self, deadline: Duration) -> Result<(), PlaneError> {
        self.plane.stop(deadline)
    }

    /// Answers a question of the control socket.
    #[must_use]
    pub fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Flows { service, limit } => Answer::Flows(self.flows(service.as_deref(), *limit)),
            Query::Services => Answer::Services(self.services()),
            Query::Counters => Answer::Counters(self.counters()),
            Query::Status => Answer::Status(self.status()),
        }
    }

    fn snapshot(&self) -> Option<&Snapshot> {
        match self.world.as_deref() {
            Some(World::Ready(snapshot)) => Some(snapshot),
            Some(World::NotReady) | None => None,
        }
    }

    fn flows(&self, asked: Option<&str>, limit: usize) -> Flows {
        let snapshot = self.snapshot();
        let mut flows = Flows::default();
        self.plane.flows(&mut |row| {
            let service = snapshot.and_then(|snapshot| snapshot.service(row.service));
            let name = service.map_or("", |service| &*service.name);
            if asked.is_some_and(|asked| !wire::names(asked, name)) {
                return;
            }
            flows.matched += 1;
            if flows.flows.len() < limit {
                flows.flows.push(flow(&row, name));
            }
        });
        let [ipv4, ipv4_max, ipv6, ipv6_max] = self.plane.occupancy();
        flows.occupancy = wire::Occupancy { ipv4, ipv4_max, ipv6, ipv6_max };
        flows
    }

    fn services(&self) -> Services {
        let snapshot = self.snapshot();
        let ports = snapshot.into_iter().flat_map(Snapshot::services);
        let mut services: Vec<_> = ports.map(|service| self.service(service)).collect();
        services.sort_by(|a, b| (&a.name, &a.proto, a.cluster_ip).cmp(&(&b.name, &b.proto, b.cluster_ip)));
        Services { services, problems: self.troubles.all().map(trouble).collect(), status: self.status() }
    }

    fn service(&self, service: &Service) -> ServicePort {
        let targets = self.targets(&service.name);
        let endpoint = |(at, backend): (usize, &Backend)| {
            let within = |set: &[u32]| set.iter().any(|index| usize::try_from(*index) == Ok(at));
            let sets = [("cluster", within(&service.cluster)), ("local", within(&service.local))];
            Endpoint {
                address: SocketAddr::new(backend.addr, backend.port),
                target: targets.iter().find(|(addr, _)| *addr == backend.addr).map(|(_, pod)| pod.clone()),
                local: backend.local,
                sets: sets.iter().filter(|(_, is)| *is).map(|(set, _)| (*set).to_owned()).collect(),
            }
        };
        ServicePort {
            name: service.name.to_string(),
            proto: service.port.proto.to_string(),
            cluster_ip: service.cluster_ip,
            port: service.port.port,
            frontends: service.frontends.iter().map(frontend).collect(),
            node_port: service.node_port,
            internal_traffic_policy: policy(service.internal),
            external_traffic_policy: service.is_external().then(|| policy(service.external)),
            affinity_seconds: service.affinity.as_ref().map(Sticky::seconds),
            endpoints: service.backends.iter().enumerate().map(endpoint).collect(),
        }
    }

    /// The pods behind a Service's addresses, by the Service port's name.
    fn targets(&self, name: &str) -> Vec<(IpAddr, String)> {
        let Some((namespace, rest)) = name.split_once('/') else { return Vec::new() };
        let name = rest.split_once(':').map_or(rest, |(name, _)| name);
        let key = ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() };
        let endpoints = self.desired.slices(&key).flat_map(|slice| &slice.endpoints);
        endpoints.filter_map(|endpoint| Some((endpoint.addr, endpoint.target.clone()?))).collect()
    }

    fn counters(&self) -> Counters {
        let totals = self.plane.totals();
        let workers = Counter::ALL.iter().map(|c| (c.label().to_owned(), totals.get(*c)));
        let drops = DropReason::ALL.iter().map(|reason| (reason.label().to_owned(), totals.drops(*reason)));
        Counters {
            counters: workers.chain([("source_lost".to_owned(), self.source_lost)]).collect(),
            drops: drops.filter(|(_, n)| *n > 0).collect(),
        }
    }

    fn status(&self) -> Status {
        let [remembered, remembered_max] = self.plane.affinity();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.device.clone(),
            node: self.node.clone(),
            ready: self.ready,
            stopping: self.stopping,
            generation: self.snapshot().map_or(0, Snapshot::generation),
            retired: self.retired,
            workers: self.workers,
            remembered,
            remembered_max,
            connected: self.connected,
            source: self.source.clone(),
        }
    }
}

fn policy(policy: Policy) -> String {
    match policy {
        Policy::Cluster => "Cluster".to_owned(),
        Policy::Local => "Local".to_owned(),
    }
}

fn frontend(frontend: &Frontend) -> wire::Frontend {
    wire::Frontend { address: frontend.addr, kind: frontend.kind.label().to_owned() }
}

fn flow(row: &FlowRow, service: &str) -> Flow {
    Flow {
        proto: row.forward.proto.to_string(),
        client: SocketAddr::new(row.forward.src, row.forward.sport),
        vip: SocketAddr::new(row.forward.dst, row.forward.dport),
        endpoint: SocketAddr::new(row.reply.src, row.reply.sport),
        snat: SocketAddr::new(row.reply.dst, row.reply.dport),
        state: row.state.to_owned(),
        packets: row.packets,
        bytes: row.bytes,
        idle: row.idle,
        expires: row.expires,
        service: service.to_owned(),
    }
}

fn trouble(problem: &Problem) -> wire::Trouble {
    wire::Trouble {
        object: problem.object.clone(),
        field: problem.field.clone(),
        what: problem.what.clone(),
        remedy: problem.remedy.clone(),
    }
}
