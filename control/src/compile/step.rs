//! One compile on its way: which objects have to be looked at, and what of them came out differently.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dataplane::ids::ServiceId;
use dataplane::packet::tuple::Proto;
use dataplane::service::{Backend, Service as Compiled, Snapshot, SnapshotBuilder};

use super::claims::{Claim, Touched};
use super::contest::standings;
use super::draft::{self, Draft, Ground, draft};
use super::{Compiler, Object, join};
use crate::desired::Desired;
use crate::ids::{Ids, PortKey};
use crate::model::{ObjectKey, Problem, ip};

pub(super) struct Step<'a> {
    compiler: &'a mut Compiler,
    fabric: Snapshot,
    base: Option<Snapshot>,
    builder: SnapshotBuilder,
    epochs: Epochs<'a>,
    changed: bool,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        compiler: &'a mut Compiler,
        fabric: Snapshot,
        advance: &'a mut dyn FnMut() -> u16,
    ) -> Self {
        let base = compiler.snapshot().cloned();
        let from_nothing = || SnapshotBuilder::new(fabric.fabric().clone());
        let mut builder = base.as_ref().map_or_else(from_nothing, SnapshotBuilder::from);
        let mut epochs = Epochs { latest: compiler.epoch, advance, advanced: false };
        if base.is_none() {
            // Flows may be older than this process: each is judged once.
            epochs.advance();
        }
        let new_fabric = base.as_ref().is_some_and(|base| base.fabric() != fabric.fabric());
        if new_fabric {
            builder.fabric(fabric.fabric().clone());
        }
        let changed = base.is_none() || new_fabric;
        Self { compiler, fabric, base, builder, epochs, changed }
    }

    /// Brings all claims up to date and says which Services have to be compiled: the dirty ones, whoever claims a
    /// frontend that one of them claims or claimed, and whoever has an endpoint at an address that became a
    /// frontend or is one no more.
    pub(super) fn claim(
        &mut self,
        dirty: BTreeSet<ObjectKey>,
        desired: &Desired,
    ) -> BTreeSet<Arc<ObjectKey>> {
        let Compiler { claims, objects, by_endpoint, slots, next_slot, rules, .. } = &mut *self.compiler;
        let mut touched = Touched::default();
        claims.set_node_addresses(&self.fabric.fabric().node_addresses, &mut touched);
        let mut work = BTreeSet::new();
        for key in dirty {
            let service = desired.services().get(&key);
            if service.is_some() && !objects.contains_key(&key) {
                let (key, slot) = (Arc::new(key.clone()), *next_slot);
                *next_slot += 1;
                slots.insert(slot, Arc::clone(&key));
                objects.insert(Arc::clone(&key), Object::new(key, slot));
            }
            let Some(object) = objects.get_mut(&key) else { continue };
            let claimed =
                service.map_or_else(Vec::new, |s| draft::claims(&object.key, s, &self.fabric, rules));
            if !same_but_for_endpoints(&claimed, &object.claims) {
                claims.replace(&object.claims, &claimed, &mut touched);
                object.claims = claimed;
            }
            let health_port = service.and_then(|service| service.health_check_port);
            let before = std::mem::replace(&mut object.health_port, health_port);
            claims.set_health_port(&object.key, before, health_port);
            work.insert(Arc::clone(&object.key));
        }
        work.extend(claims.concerned(&touched));
        for addr in claims.flipped(&touched) {
            let here = by_endpoint.range((addr, 0)..=(addr, u64::MAX));
            work.extend(here.filter_map(|(_, slot)| slots.get(slot)).cloned());
        }
        work.extend(self.within_moved_cidrs());
        self.settle_contests(&mut work, desired);
        work
    }

    /// Whoever gained its first endpoint or lost its last one goes ahead or back in the lines it stands in, and whoever
    /// stands in them has to be compiled too. Who stands in a line that became contested is among `work` already.
    fn settle_contests(&mut self, work: &mut BTreeSet<Arc<ObjectKey>>, desired: &Desired) {
        let Compiler { claims, objects, rules, tables, .. } = &mut *self.compiler;
        let mut touched = Touched::default();
        for key in work.iter() {
            let (Some(object), Some(service)) = (objects.get_mut(key), desired.services().get(key)) else {
                continue;
            };
            if !object.claims.iter().any(|claim| claims.is_contested(claim)) {
                continue;
            }
            let ground = Ground { fabric: &self.fabric, rules, claims, tables };
            let judged = standings(&object.claims, service, desired, &ground);
            if judged != object.claims {
                claims.replace(&object.claims, &judged, &mut touched);
                object.claims = judged;
            }
        }
        work.extend(claims.concerned(&touched));
    }

    /// Services with an endpoint inside a Service CIDR that came or went: it is refused, or no more.
    fn within_moved_cidrs(&self) -> BTreeSet<Arc<ObjectKey>> {
        let Compiler { by_endpoint, slots, .. } = &*self.compiler;
        let cidrs = |of: &Snapshot| of.fabric().service_cidrs.iter().copied().collect::<BTreeSet<_>>();
        let (now, before) = (cidrs(&self.fabric), self.base.as_ref().map(cidrs).unwrap_or_default());
        let ends = now.symmetric_difference(&before).map(|cidr| ip::ends(*cidr));
        let within = ends.flat_map(|(first, last)| by_endpoint.range((first, 0)..=(last, u64::MAX)));
        within.filter_map(|(_, slot)| slots.get(slot)).cloned().collect()
    }

    /// Takes back what was reported of a Service and its slices.
    pub(super) fn forget_problems(&mut self, key: &ObjectKey) {
        if let Some(object) = self.compiler.objects.get_mut(key) {
            for reported in std::mem::take(&mut object.reported) {
                self.compiler.problems.remove(&reported);
            }
        }
    }

    /// Compiles a Service and takes down what came out differently.
    pub(super) fn compile(&mut self, key: &ObjectKey, desired: &Desired) {
        let Compiler { ids, claims, objects, rules, tables, .. } = &mut *self.compiler;
        let Some(object) = objects.get_mut(key) else { return };
        let service = desired.services().get(key);
        let ground = Ground { fabric: &self.fabric, rules, claims, tables };
        let Draft { ports, mut problems, addrs, health, table_bytes } =
            service.map_or_else(Draft::default, |s| draft(s, &object.claims, desired, &ground, ids));
        problems.extend(service.into_iter().flat_map(|service| join::unjoined(service, desired)));
        tables.want(&object.key, service.map_or(0, |service| service.created), table_bytes);
        let now = ports.iter().map(|(key, compiled)| (key.clone(), compiled.id)).collect();
        let before = std::mem::replace(&mut object.ports, now);
        let live: BTreeSet<ServiceId> = object.ports.iter().map(|(_, id)| *id).collect();
        for (port, id) in before {
            if !live.contains(&id) {
                self.remove_port(&port, id);
            }
        }
        for (_, compiled) in ports {
            self.set_port(compiled);
        }
        match health {
            Some(health) => drop(self.compiler.health.insert(key.clone(), health)),
            None => drop(self.compiler.health.remove(key)),
        }
        self.index(key, addrs);
        self.report(key, problems);
        if service.is_none() {
            self.forget(key);
        }
    }

    /// Services that have Maglev tables and had none, or the other way round, now that everybody's wishes are known.
    pub(super) fn moved_tables(&mut self) -> Vec<Arc<ObjectKey>> {
        self.compiler.tables.decide(self.compiler.rules.maglev_memory)
    }

    /// After a compile that failed: takes out what the previous world has and no object any more.
    pub(super) fn remove_strays(&mut self) {
        let ports = self.compiler.objects.values().flat_map(|object| &object.ports);
        let live: BTreeSet<ServiceId> = ports.map(|(_, id)| *id).collect();
        for stray in
            self.base.iter().flat_map(Snapshot::services).filter(|service| !live.contains(&service.id))
        {
            self.builder.remove(stray.id);
            self.changed = true;
        }
    }

    /// What to build, if anything came out differently.
    pub(super) fn changes(self) -> Option<SnapshotBuilder> {
        self.compiler.epoch = self.epochs.latest;
        self.changed.then_some(self.builder)
    }

    fn set_port(&mut self, mut compiled: Compiled) {
        let old = self.base.as_ref().and_then(|base| base.service(compiled.id));
        if let Some(old) = old {
            compiled.purge_epoch = old.purge_epoch;
            if **old == compiled {
                return;
            }
            retire_endpoints(&mut self.compiler.ids, old, Some(&compiled));
        }
        compiled.purge_epoch = self.epochs.of(old.map(|old| &**old), &compiled);
        self.builder.upsert(compiled);
        self.changed = true;
    }

    fn remove_port(&mut self, port: &PortKey, id: ServiceId) {
        self.compiler.ids.retire_service(port);
        if let Some(old) = self.base.as_ref().and_then(|base| base.service(id)) {
            retire_endpoints(&mut self.compiler.ids, old, None);
        }
        self.builder.remove(id);
        self.changed = true;
    }

    fn index(&mut self, key: &ObjectKey, addrs: BTreeSet<std::net::IpAddr>) {
        let Compiler { objects, by_endpoint, .. } = &mut *self.compiler;
        let Some(object) = objects.get_mut(key) else { return };
        for addr in object.addrs.difference(&addrs) {
            by_endpoint.remove(&(*addr, object.slot));
        }
        by_endpoint.extend(addrs.difference(&object.addrs).map(|addr| (*addr, object.slot)));
        object.addrs = addrs;
    }

    fn report(&mut self, key: &ObjectKey, problems: Vec<Problem>) {
        let Compiler { objects, problems: all, .. } = &mut *self.compiler;
        let Some(object) = objects.get_mut(key) else { return };
        let mut by_object: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
        for problem in problems {
            by_object.entry(problem.object.clone()).or_default().push(problem);
        }
        object.reported = by_object.keys().cloned().collect();
        all.extend(by_object);
    }

    fn forget(&mut self, key: &ObjectKey) {
        if let Some(object) = self.compiler.objects.remove(key) {
            self.compiler.slots.remove(&object.slot);
        }
    }
}

impl Object {
    fn new(key: Arc<ObjectKey>, slot: u64) -> Self {
        Self {
            key,
            slot,
            claims: Vec::new(),
            ports: Vec::new(),
            addrs: BTreeSet::new(),
            reported: BTreeSet::new(),
            health_port: None,
        }
    }
}

/// Whether an endpoint is behind a claim is judged later, and only of contested ones.
fn same_but_for_endpoints(one: &[Claim], other: &[Claim]) -> bool {
    let same = |(one, other): (&Claim, &Claim)| {
        let mut one = one.clone();
        one.standing.idle = other.standing.idle;
        one == *other
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

/// The purge epoch of this compile: taken when the first port needs it, and only once.
struct Epochs<'a> {
    latest: u16,
    advance: &'a mut dyn FnMut() -> u16,
    advanced: bool,
}

impl Epochs<'_> {
    fn advance(&mut self) -> u16 {
        if !self.advanced {
            self.latest = (self.advance)();
            self.advanced = true;
        }
        self.latest
    }

    /// The epoch of a service port that comes out differently: a new one when the change can make UDP flows of it
    /// stale that were not so when they were last judged, else the latest there is: on the circle, one kept from
    /// long ago would look like one to come. A port that is new here may be one that was gone for a while, and
    /// its flows may still be there.
    fn of(&mut self, old: Option<&Compiled>, new: &Compiled) -> u16 {
        let due = new.port.proto == Proto::Udp && old.is_none_or(|old| changes_verdicts(old, new));
        if due { self.advance() } else { self.latest }
    }
}

/// The Service itself changed, an endpoint left those that are ready or serving, or those are no longer none:
/// while there were none, flows to endpoints long gone were kept.
fn changes_verdicts(old: &Compiled, new: &Compiled) -> bool {
    let itself = |s: &Compiled| (s.cluster_ip, s.port, s.frontends.clone(), s.node_port);
    let serves = |s: &Compiled| s.backends.iter().any(|backend| backend.ready_or_serving);
    let kept = |b: &Backend| new.backend(b.addr, b.port).is_some_and(|backend| backend.ready_or_serving);
    itself(old) != itself(new)
        || (!serves(old) && serves(new))
        || old.backends.iter().any(|backend| backend.ready_or_serving && !kept(backend))
}

fn retire_endpoints(ids: &mut Ids, old: &Compiled, new: Option<&Compiled>) {
    for backend in &old.backends {
        if new.is_none_or(|new| new.backend(backend.addr, backend.port).is_none()) {
            ids.retire_endpoint(old.id, backend.addr, backend.port);
        }
    }
}
