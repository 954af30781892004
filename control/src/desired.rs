//! What should be served, from events: the objects as the source last said them, and which Services may come out
//! differently since somebody last looked. Pure.
//!
//! A list is buffered and swapped in whole when it is complete, so a reconnect never shows an empty world, and
//! what was deleted while nobody watched goes with it. Only differences are marked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use self::cidrs::Cidrs;
use crate::model::{Node, ObjectKey, Problem, Service, Slice};
use crate::source::{Event, Kind};

mod cidrs;

/// The state of the world as objects.
#[derive(Debug, Default)]
pub struct Desired {
    node: Node,
    services: BTreeMap<ObjectKey, Service>,
    /// By Service, then by slice. No Service here without a slice.
    slices: BTreeMap<ObjectKey, BTreeMap<ObjectKey, Slice>>,
    /// Slice → Service: where a slice that moves or goes is taken from.
    owners: HashMap<ObjectKey, ObjectKey>,
    service_list: List<Service>,
    slice_list: List<Slice>,
    service_cidrs: Cidrs,
    /// The source said what it knows of our Node.
    knows_node: bool,
    dirty: BTreeSet<ObjectKey>,
    /// Became ready since the last `take_dirty`: there is something to publish even without Services.
    newly_ready: bool,
    problems: BTreeMap<String, Vec<Problem>>,
}

/// A full list on its way, and whether one was ever complete.
#[derive(Debug)]
struct List<T> {
    buffer: Option<BTreeMap<ObjectKey, T>>,
    complete: bool,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { buffer: None, complete: false }
    }
}

impl<T> List<T> {
    /// The complete list, if one was on its way.
    fn done(&mut self) -> Option<BTreeMap<ObjectKey, T>> {
        let list = self.buffer.take();
        self.complete |= list.is_some();
        list
    }
}

impl Desired {
    /// Nothing known yet, on the node of this name.
    #[must_use]
    pub fn new(node_name: &str) -> Self {
        Self { node: Node { name: node_name.to_owned(), ..Node::default() }, ..Self::default() }
    }

    /// Takes one event.
    pub fn apply(&mut self, event: Event) {
        let was_ready = self.ready();
        match event {
            Event::Restart(Kind::Service) => self.service_list.buffer = Some(BTreeMap::new()),
            Event::Restart(Kind::Slice) => self.slice_list.buffer = Some(BTreeMap::new()),
            Event::Restart(Kind::ServiceCidr) => self.service_cidrs.restart(),
            // There is one Node at most, and its absence is not news: it keeps what it last said.
            Event::Restart(Kind::Node) => {}
            Event::Done(Kind::Node) => self.node_listed(),
            Event::Service(service) => {
                let key = service.key.clone();
                match &mut self.service_list.buffer {
                    Some(list) => drop(list.insert(key, *service)),
                    None => self.set_service(key, Some(*service)),
                }
            }
            Event::ServiceGone(key) => match &mut self.service_list.buffer {
                Some(list) => drop(list.remove(&key)),
                None => self.set_service(key, None),
            },
            Event::Slice(slice) => match &mut self.slice_list.buffer {
                Some(list) => drop(list.insert(slice.key.clone(), *slice)),
                None => self.set_slice(*slice),
            },
            Event::SliceGone(key) => match &mut self.slice_list.buffer {
                Some(list) => drop(list.remove(&key)),
                None => self.remove_slice(&key),
            },
            Event::Node(node) => self.set_node(*node),
            Event::ServiceCidr(object) => self.service_cidrs.set(object),
            Event::ServiceCidrGone(name) => self.service_cidrs.remove(&name),
            Event::Unreadable(kind, key) => self.keep(kind, key),
            Event::Done(Kind::ServiceCidr) => self.service_cidrs.done(),
            Event::Done(Kind::Service) => {
                if let Some(list) = self.service_list.done() {
                    let gone = self.services.keys().filter(|key| !list.contains_key(key)).cloned();
                    gone.collect::<Vec<_>>().into_iter().for_each(|key| self.set_service(key, None));
                    list.into_iter().for_each(|(key, service)| self.set_service(key, Some(service)));
                }
            }
            Event::Done(Kind::Slice) => {
                if let Some(list) = self.slice_list.done() {
                    let gone = self.owners.keys().filter(|key| !list.contains_key(key)).cloned();
                    gone.collect::<Vec<_>>().into_iter().for_each(|key| self.remove_slice(&key));
                    list.into_values().for_each(|slice| self.set_slice(slice));
                }
            }
            Event::Problems { object, problems } if problems.is_empty() => {
                self.problems.remove(&object);
            }
            Event::Problems { object, problems } => {
                self.problems.insert(object, problems);
            }
            // The last state serves on, in touch or not.
            Event::Health { .. } => {}
        }
        self.newly_ready |= self.ready() && !was_ready;
    }

    /// Services and slices were both listed completely at least once.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.service_list.complete && self.slice_list.complete
    }

    /// Something changed since the last [`Self::take_dirty`].
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.newly_ready || !self.dirty.is_empty()
    }

    /// The Services whose compiled form may have changed since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<ObjectKey> {
        self.newly_ready = false;
        std::mem::take(&mut self.dirty)
    }

    /// All Services.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<ObjectKey, Service> {
        &self.services
    }

    /// The slices of a Service, by name. Those made of legacy Endpoints say less than real ones, and count only where
    /// there are none of these.
    pub fn slices(&self, service: &ObjectKey) -> impl Iterator<Item = &Slice> {
        let slices = self.slices.get(service);
        let real = slices.is_some_and(|slices| slices.values().any(|slice| !slice.is_legacy()));
        slices.into_iter().flat_map(BTreeMap::values).filter(move |slice| !(real && slice.is_legacy()))
    }

    /// Our own Node; before the source says more, only its name.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What is not known of our Node the source does not know either.
    #[must_use]
    pub fn knows_node(&self) -> bool {
        self.knows_node
    }

    /// Every CIDR of every ServiceCIDR: address and prefix length. None when the source has no such objects.
    #[must_use]
    pub fn service_cidrs(&self) -> BTreeSet<(IpAddr, u8)> {
        self.service_cidrs.all()
    }

    /// What the source reported, by object.
    #[must_use]
    pub fn problems(&self) -> &BTreeMap<String, Vec<Problem>> {
        &self.problems
    }

    /// What is known of an object is in the list that is under way, if one is.
    fn keep(&mut self, kind: Kind, key: ObjectKey) {
        match kind {
            Kind::Service => {
                if let (Some(list), Some(known)) = (&mut self.service_list.buffer, self.services.get(&key)) {
                    list.insert(key, known.clone());
                }
            }
            Kind::Slice => {
                let known = self.owners.get(&key).and_then(|owner| self.slices.get(owner)?.get(&key));
                if let (Some(list), Some(known)) = (&mut self.slice_list.buffer, known) {
                    list.insert(key, known.clone());
                }
            }
            Kind::ServiceCidr => self.service_cidrs.keep(&key.name),
            Kind::Node => {}
        }
    }

    fn set_service(&mut self, key: ObjectKey, new: Option<Service>) {
        let old = self.services.get(&key);
        if old == new.as_ref() {
            return;
        }
        match new {
            Some(service) => drop(self.services.insert(key.clone(), service)),
            None => drop(self.services.remove(&key)),
        }
        self.dirty.insert(key);
    }

    fn set_slice(&mut self, slice: Slice) {
        let current = self.slices.get(&slice.service).and_then(|slices| slices.get(&slice.key));
        if current == Some(&slice) {
            return;
        }
        if self.owners.get(&slice.key).is_some_and(|owner| *owner != slice.service) {
            // The owner label was edited: the old Service loses the slice, it does not keep a stale copy.
            self.remove_slice(&slice.key);
        }
        self.owners.insert(slice.key.clone(), slice.service.clone());
        self.mark(&slice.service);
        self.slices.entry(slice.service.clone()).or_default().insert(slice.key.clone(), slice);
    }

    fn remove_slice(&mut self, key: &ObjectKey) {
        let Some(owner) = self.owners.remove(key) else { return };
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        self.mark(&owner);
    }

    fn set_node(&mut self, node: Node) {
        if node.name != self.node.name {
            return;
        }
        if node.zone != self.node.zone {
            let hinted = self.slices.keys().filter(|key| self.services.contains_key(key));
            self.dirty.extend(hinted.cloned());
        }
        if node.addresses != self.node.addresses {
            // Whether this node is among those who may decides about more.
            let closed = self.services.iter().filter(|(_, service)| !service.source_ranges.is_empty());
            self.dirty.extend(closed.map(|(key, _)| key.clone()));
        }
        self.node = node;
    }

    /// From now on it can be told where node ports are missing.
    fn node_listed(&mut self) {
        if !std::mem::replace(&mut self.knows_node, true) {
            let outside = |service: &Service| {
                service.health_check_port.is_some()
                    || service.ports.iter().any(|port| port.node_port.is_some())
            };
            let outside = self.services.values().filter(|service| outside(service));
            self.dirty.extend(outside.map(|service| service.key.clone()));
        }
    }

    /// A Service that is not there yet compiles to nothing, whatever its slices say.
    fn mark(&mut self, service: &ObjectKey) {
        if self.services.contains_key(service) {
            self.dirty.insert(service.clone());
        }
    }
}

#[cfg(test)]
mod tests;
