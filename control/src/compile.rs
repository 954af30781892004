//! Objects into snapshots: compiles the Services that may have changed, gives them stable ids, shares the rest
//! with the previous snapshot, and publishes nothing when nothing came out differently. Pure.
//!
//! What one object says may change what another gets: a frontend that two Services claim goes to the one that has
//! endpoints, then to the older, and an endpoint at some Service's frontend is refused. So a change of claims, or of
//! what is behind them, pulls in whoever stands in line for the same frontend and whoever has an endpoint at an address
//! that became one or is one no more. The result is always that of compiling everything from scratch.

mod account;
mod balance;
pub(crate) mod claims;
mod contest;
mod draft;
mod health;
pub(crate) mod refuse;
mod step;
mod tables;
mod tell;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::flow::Loads;
use dataplane::ids::ServiceId;
use dataplane::packet::tuple::Family;
use dataplane::service::{BuildError, Fabric, HashBy, Prefixes, Snapshot, SnapshotBuilder, SvcPort, World};

pub use self::account::{Account, Candidate, Outcome};
pub use self::health::Health;

use self::claims::{Claim, Claims};
use self::step::Step;
use self::tables::Tables;
use crate::desired::Desired;
use crate::ids::{Ids, PortKey};
use crate::model::service::balance::Algorithm;
use crate::model::{ObjectKey, Problem};

/// What the operator lets Services have, and gives those that ask for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `externalIPs.allow`: external IPs in these are served, all others refused. Whoever may write a Service could
    /// take anybody's traffic with them (CVE-2020-8554), so by default there are none.
    pub external_ips: Prefixes,
    /// The algorithm of Services that name none.
    pub algorithm: Algorithm,
    /// What is hashed of Services' flows that do not say.
    pub hash_by: HashBy,
    /// Bytes of all Maglev tables together.
    pub maglev_memory: usize,
}

/// [`Rules::maglev_memory`] where nothing else is said: 64 MB.
pub const DEFAULT_MAGLEV_MEMORY: usize = 64_000_000;

impl Default for Rules {
    fn default() -> Self {
        Self {
            external_ips: Prefixes::default(),
            algorithm: Algorithm::default(),
            hash_by: HashBy::default(),
            maglev_memory: DEFAULT_MAGLEV_MEMORY,
        }
    }
}

/// Desired + dirty + previous snapshot → next. Owns the stable ids.
#[derive(Debug)]
pub struct Compiler {
    /// A snapshot of the fabric alone: what it says of an address does not depend on Services.
    fabric: Result<Snapshot, BuildError>,
    rules: Rules,
    world: Option<Arc<World>>,
    ids: Ids,
    /// The latest purge epoch; 0 before the first compile.
    epoch: u16,
    claims: Claims,
    objects: HashMap<Arc<ObjectKey>, Object>,
    /// Endpoint address and [`Object::slot`] of every Service with an endpoint there.
    by_endpoint: BTreeSet<(IpAddr, u64)>,
    slots: HashMap<u64, Arc<ObjectKey>>,
    next_slot: u64,
    problems: BTreeMap<String, Vec<Problem>>,
    health: BTreeMap<ObjectKey, Health>,
    tables: Tables,
    /// The last compile failed half way: the next one starts over from all objects.
    start_over: bool,
}

/// What is known of a Service from its last compile.
#[derive(Debug)]
struct Object {
    key: Arc<ObjectKey>,
    slot: u64,
    claims: Vec<Claim>,
    ports: Vec<(PortKey, ServiceId)>,
    addrs: BTreeSet<IpAddr>,
    /// Objects it has problems of in [`Compiler::problems`]: itself and its slices.
    reported: BTreeSet<String>,
    /// Where its health is asked for.
    health_port: Option<u16>,
}

impl Compiler {
    /// Nothing compiled yet. A fabric that cannot be is the error of every compile.
    #[must_use]
    pub fn new(fabric: Fabric) -> Self {
        Self {
            fabric: SnapshotBuilder::new(fabric).build(),
            rules: Rules::default(),
            world: None,
            ids: Ids::default(),
            epoch: 0,
            claims: Claims::default(),
            objects: HashMap::new(),
            by_endpoint: BTreeSet::new(),
            slots: HashMap::new(),
            next_slot: 0,
            problems: BTreeMap::new(),
            health: BTreeMap::new(),
            tables: Tables::default(),
            start_over: false,
        }
    }

    /// The same, with numbers of endpoints given again once these say that nobody uses them.
    #[must_use]
    pub fn counting(self, loads: Arc<Loads>) -> Self {
        Self { ids: Ids::new(loads), ..self }
    }

    /// Replaces what snapshots know besides Services; the next compile takes it up. Nothing is compiled anew for it but
    /// Services with an endpoint in a Service CIDR that came or went.
    pub fn set_fabric(&mut self, fabric: Fabric) {
        if self.fabric.as_ref().is_ok_and(|known| *known.fabric() == fabric) {
            return;
        }
        let families =
            |of: &Fabric| of.node_addresses.iter().map(|addr| Family::of(*addr)).collect::<BTreeSet<_>>();
        let snat = |known: &Snapshot| {
            let known = known.fabric();
            known.snat != fabric.snat
                || known.return_path != fabric.return_path
                || families(known) != families(&fabric)
        };
        // What may be a frontend or an endpoint at all hangs on these.
        self.start_over |= self.fabric.as_ref().is_ok_and(snat);
        self.fabric = SnapshotBuilder::new(fabric).build();
    }

    /// Replaces what Services may have; the next compile takes it up, and looks at every Service again.
    pub fn set_rules(&mut self, rules: Rules) {
        self.start_over |= self.rules != rules && self.world.is_some();
        self.rules = rules;
    }

    /// Rules changed, or a compile failed: there is something to do, whatever happens to Services.
    #[must_use]
    pub fn starts_over(&self) -> bool {
        self.start_over
    }

    /// The fabric is not the one of the last world: there is something to publish, whatever happens to Services.
    #[must_use]
    pub fn has_new_fabric(&self) -> bool {
        let served = self.snapshot().map(Snapshot::fabric);
        served.is_some_and(|served| self.fabric.as_ref().is_ok_and(|known| known.fabric() != served))
    }

    /// The next world, or `None` when `desired` is not complete yet or nothing came out differently.
    ///
    /// `advance_epoch` is called at most once, when a purge epoch is due: at the first compile, whose service
    /// ports all get it, and later when a UDP service port changed such that flows of it may have become stale.
    ///
    /// # Errors
    /// The fabric is invalid, or what was compiled breaks an invariant, which is a bug here: the previous world
    /// stays, and the next call compiles everything again.
    pub fn compile(
        &mut self,
        desired: &mut Desired,
        advance_epoch: &mut dyn FnMut() -> u16,
    ) -> Result<Option<Arc<World>>, BuildError> {
        if !desired.ready() {
            return Ok(None);
        }
        let fabric = self.fabric.clone()?;
        let mut dirty = desired.take_dirty();
        let start_over = std::mem::take(&mut self.start_over);
        if start_over || self.world.is_none() {
            dirty.extend(desired.services().keys().cloned());
            dirty.extend(self.objects.keys().map(|key| ObjectKey::clone(key)));
        }
        let mut step = Step::new(self, fabric, advance_epoch);
        let work = step.claim(dirty, desired);
        for key in &work {
            step.forget_problems(key);
        }
        for key in &work {
            step.compile(key, desired);
        }
        // Room for tables came or went with these: for others, and for themselves.
        for key in step.moved_tables() {
            step.forget_problems(&key);
            step.compile(&key, desired);
        }
        if start_over {
            step.remove_strays();
        }
        let Some(builder) = step.changes() else { return Ok(None) };
        let world = builder.build().inspect_err(|_| self.start_over = true)?;
        let world = Arc::new(World::Ready(world));
        self.world = Some(Arc::clone(&world));
        Ok(Some(world))
    }

    /// Refused endpoints and contested frontends, by object.
    #[must_use]
    pub fn problems(&self) -> &BTreeMap<String, Vec<Problem>> {
        &self.problems
    }

    /// Every address some Service is to be reached at.
    #[must_use]
    pub fn frontends(&self) -> &BTreeSet<IpAddr> {
        self.claims.addrs()
    }

    /// The ports some Service is to be reached at, at this address.
    pub fn frontends_at(&self, addr: IpAddr) -> impl Iterator<Item = SvcPort> {
        self.claims.at(addr).map(|claim| claim.port)
    }

    /// Every node port, of either family.
    #[must_use]
    pub fn node_ports(&self) -> BTreeSet<SvcPort> {
        self.claims.node_ports()
    }

    /// What load balancers may ask of this node, by Service.
    #[must_use]
    pub fn health(&self) -> &BTreeMap<ObjectKey, Health> {
        &self.health
    }

    fn snapshot(&self) -> Option<&Snapshot> {
        match self.world.as_deref() {
            Some(World::Ready(snapshot)) => Some(snapshot),
            Some(World::NotReady) | None => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
