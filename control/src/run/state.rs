//! What the loop owns: the objects, the compiler, the plane, and what it can say about them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::packet::tuple::Tuple;
use dataplane::plane::{Plane, PlaneError};
use dataplane::service::{BuildError, Snapshot, World};

use crate::compile::Compiler;
use crate::config::detect::DetectLocal;
use crate::config::{Config, ConfigError};
use crate::desired::Desired;
use crate::health::HealthPorts;
use crate::model::{Node, Problem};
use crate::node::{LocalFrontends, Surroundings, queue_drops, reserved_ports};
use crate::run::fabric::Parts;
use crate::run::kept::Kept;
use crate::run::news::News;
use crate::run::troubles::{ByObject, Troubles};
use crate::source::{Event, Kind};

mod answers;

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
    detect: DetectLocal,
    kept: Kept,
    /// What keeps the first world back, by object.
    waits: ByObject,
    /// What is wrong with the configuration file since it was last good.
    misconfigured: ByObject,
    /// Addresses and ranges that are not to lead here, because somebody else is there.
    left_out: ByObject,
    world: Option<Arc<World>>,
    /// What the device's statistics said when this run began: it outlives runs.
    drops_before: u64,
    troubles: Troubles,
    news: News,
    health: HealthPorts,
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
        let mut compiler = Compiler::new(config.fabric()).counting(Arc::clone(plane.loads()));
        compiler.set_rules(config.rules.clone());
        // What the source says of the Node comes on top; one that has none never does.
        let desired = Desired::on(Node { name: config.node_name.clone(), ..config.node.clone() });
        let mut state = Self {
            device: config.device.clone(),
            node: config.node_name.clone(),
            workers: config.workers,
            plane,
            desired,
            compiler,
            parts: Parts::new(config, reserved_ports()),
            detect: config.detect_local.clone(),
            kept: Kept::default(),
            waits: ByObject::new(),
            misconfigured: ByObject::new(),
            left_out: ByObject::new(),
            world: None,
            drops_before: queue_drops(&config.device).ok().flatten().unwrap_or_default(),
            troubles: Troubles::default(),
            news: News::default(),
            health: HealthPorts::default(),
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

    /// The values of a configuration that may change while a run goes on.
    pub fn configure(&mut self, config: &Config) {
        self.parts.configure(config);
        self.detect = config.detect_local.clone();
        self.compiler.set_rules(config.rules.clone());
        self.weave();
    }

    /// The configuration file is wrong in this; or nothing is wrong with it any more.
    pub fn blame_config(&mut self, error: Option<ConfigError>) {
        let problem = error.map(|ConfigError { field, what, remedy }| Problem {
            object: "Config".to_owned(),
            field,
            what: format!("{what}; the last good one goes on"),
            remedy,
        });
        self.misconfigured =
            problem.map(|problem| (problem.object.clone(), vec![problem])).into_iter().collect();
    }

    /// This host is now so. True when other Service CIDRs are to be routed for it.
    pub fn surround(&mut self, here: Surroundings) -> bool {
        let before = self.service_cidrs();
        self.parts.surround(here);
        self.weave();
        self.service_cidrs() != before
    }

    /// The source is reached at these addresses.
    pub fn spare(&mut self, servers: Vec<IpAddr>) {
        self.parts.spare(servers);
        self.weave();
    }

    /// Brings the fabric up to date with everything it is made of.
    fn weave(&mut self) {
        self.compiler.set_fabric(self.parts.fabric(&self.desired));
        self.left_out = self.parts.left_out(&self.desired);
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

    /// The addresses to route here, with every port. Where packets come by aliases these are the ClusterIPs: other
    /// addresses may be somebody's, who has the ports no Service has. Else they are those of all frontends, and of those
    /// that are kept.
    #[must_use]
    pub fn routed(&self) -> BTreeSet<IpAddr> {
        let all = self.frontends();
        if self.parts.by_alias() {
            return all.into_iter().filter(|addr| self.is_cluster_ip(*addr)).collect();
        }
        all.union(&self.kept.addresses()).copied().collect()
    }

    fn is_cluster_ip(&self, addr: IpAddr) -> bool {
        self.snapshot().is_some_and(|world| world.is_cluster_ip(addr))
    }

    /// Looks for frontends that are gone while flows of theirs are open: these are still led here. True if that has
    /// changed; then the fabric has, too.
    pub fn keep_open(&mut self) -> bool {
        let (local, addresses) = (self.local_frontends(), self.frontends());
        let Self { kept, plane, .. } = self;
        let flows = |each: &mut dyn FnMut(Tuple<IpAddr>)| plane.flows(&mut |row| each(row.forward));
        if !kept.look(&addresses, &local, flows) {
            return false;
        }
        self.parts.keep(self.kept.addresses());
        self.weave();
        true
    }

    /// Frontends are kept for open flows.
    #[must_use]
    pub fn keeps_open(&self) -> bool {
        !self.kept.flows().is_empty()
    }

    /// Every address some Service is to be reached at, for routes: but where the source itself is reached.
    #[must_use]
    pub fn frontends(&self) -> BTreeSet<IpAddr> {
        let all = self.compiler.frontends().iter().copied();
        all.filter(|addr| !self.parts.is_spared(*addr)).collect()
    }

    /// What is served port by port: node ports, frontends whose address this host has itself, and with aliases all that
    /// are no ClusterIP.
    #[must_use]
    pub fn local_frontends(&self) -> LocalFrontends {
        let node_addresses: BTreeSet<IpAddr> = self
            .snapshot()
            .map(|world| world.fabric().node_addresses.iter().copied().collect())
            .unwrap_or_default();
        let by_alias = self.parts.by_alias();
        let outer = self.frontends().into_iter().filter(|addr| by_alias && !self.is_cluster_ip(*addr));
        let own = self.parts.hosts().filter(|addr| self.compiler.frontends().contains(addr));
        let frontends =
            own.chain(outer).flat_map(|addr| self.compiler.frontends_at(addr).map(move |port| (addr, port)));
        LocalFrontends {
            node_addresses,
            node_ports: self.compiler.node_ports(),
            frontends: frontends.collect(),
            kept: self.kept.flows().clone(),
        }
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
        let touched = desired.dirty().clone();
        let Some(world) = compiler.compile(desired, &mut || plane.advance_purge_epoch())? else {
            return Ok(false);
        };
        self.plane.publish(Arc::clone(&world));
        if let World::Ready(world) = &*world
            && let Some(news) = self.news.of(&touched, |key| self.compiler.ports_of(key, world).collect())
        {
            tracing::info!(generation = world.generation(), "service ports: {news}");
        }
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
        let (waits, health) = (&self.waits, self.health.problems());
        let spared = self.parts.spared(&self.desired, self.compiler.frontends());
        let (config, left_out) = (&self.misconfigured, &self.left_out);
        let objects = [self.desired.problems(), self.compiler.problems()];
        let parts = objects.into_iter().chain([waits, health, config, left_out, &spared]);
        self.troubles.update(parts).log();
    }

    /// Answers load balancers at the ports they ask at, with what is served now.
    pub fn answer_health_checks(&mut self) {
        let Some(World::Ready(world)) = self.world.as_deref() else { return };
        let healthy = self.ready && !self.stopping;
        self.health.set(self.compiler.health(), &world.fabric().node_addresses, healthy);
    }

    /// The objects.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The first snapshot is out and its routes are in place.
    pub fn set_ready(&mut self) {
        self.ready = true;
        self.answer_health_checks();
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
        self.answer_health_checks();
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

    /// Packets the device's queue had no room for in this run. A device made anew counts from nothing again.
    fn queue_full(&self) -> u64 {
        let now = queue_drops(&self.device).ok().flatten().unwrap_or_default();
        now.checked_sub(self.drops_before).unwrap_or(now)
    }

    fn snapshot(&self) -> Option<&Snapshot> {
        match self.world.as_deref() {
            Some(World::Ready(snapshot)) => Some(snapshot),
            Some(World::NotReady) | None => None,
        }
    }
}
