//! The next snapshot from the previous one. Nothing leaves here that breaks an invariant the packet path
//! relies on: a bad change is an error, and the previous snapshot stays what it was.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::chunked::Chunked;
use super::lookup::{NodePorts, Prefixes, Vips};
use super::{
    Fabric, FrontendKind, MAX_AFFINITY_SECONDS, PURGE_EPOCH_BITS, Service, Snapshot, Sticky, SvcPort,
    epoch_newer,
};
use crate::ids::ServiceId;
use crate::packet::tuple::Family;

/// What is wrong with a world.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Two service ports claim one frontend.
    #[error("{first} and {second} both claim {addr} {port}")]
    DuplicateFrontend {
        /// The contested address.
        addr: IpAddr,
        /// The contested port.
        port: SvcPort,
        /// Who had it.
        first: Box<str>,
        /// Who wanted it too.
        second: Box<str>,
    },
    /// Two service ports of one family claim one node port.
    #[error("{first} and {second} both claim the {family} node port {port}")]
    DuplicateNodePort {
        /// The family.
        family: Family,
        /// The contested port.
        port: SvcPort,
        /// Who had it.
        first: Box<str>,
        /// Who wanted it too.
        second: Box<str>,
    },
    /// One id names two service ports: flows of the one would be taken for flows of the other.
    #[error("id {} names both {first} and {second}", id.0)]
    DuplicateId {
        /// The id.
        id: ServiceId,
        /// Whose it is.
        first: Box<str>,
        /// Who else was given it.
        second: Box<str>,
    },
    /// A service port contradicts itself.
    #[error("{service}: {what}")]
    Service {
        /// The service port's name.
        service: Box<str>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A Service CIDR's prefix is longer than its family allows.
    #[error("Service CIDR {0}/{1}: no such prefix length")]
    ServiceCidr(IpAddr, u8),
    /// The addresses that take node ports are in no order.
    #[error("addresses that take node ports are not strictly ascending")]
    NodeAddresses,
    /// A SNAT address that cannot be one.
    #[error("SNAT address {addr}: {what}")]
    SnatAddress {
        /// The address.
        addr: IpAddr,
        /// Why not.
        what: &'static str,
    },
}

/// Makes the next snapshot from the previous, sharing what did not change.
#[derive(Debug)]
pub struct SnapshotBuilder {
    base: Snapshot,
    fabric: Option<Fabric>,
    changes: BTreeMap<ServiceId, Option<Service>>,
    conflict: Option<BuildError>,
}

impl SnapshotBuilder {
    /// From nothing: generation 1.
    #[must_use]
    pub fn new(fabric: Fabric) -> Self {
        let base = Snapshot {
            generation: 0,
            purge_epoch: 0,
            vips: Vips::new(),
            node_ports: NodePorts::new(),
            services: Chunked::new(),
            fabric: Arc::default(),
            cidrs: Arc::default(),
        };
        Self { base, fabric: Some(fabric), changes: BTreeMap::new(), conflict: None }
    }

    /// From the previous one: generation + 1.
    #[must_use]
    pub fn from(previous: &Snapshot) -> Self {
        Self { base: previous.clone(), fabric: None, changes: BTreeMap::new(), conflict: None }
    }

    /// Sets what the snapshot knows besides Services.
    pub fn fabric(&mut self, fabric: Fabric) {
        self.fabric = Some(fabric);
    }

    /// Adds a service port, or replaces the one with its id; its frontends move with it. Its purge epoch is the
    /// latest, or one less than half a circle before it.
    pub fn upsert(&mut self, service: Service) {
        if let Some(Some(earlier)) = self.changes.get(&service.id) {
            self.conflict = self.conflict.take().or_else(|| same_name(earlier, &service).err());
        }
        self.changes.insert(service.id, Some(service));
    }

    /// Takes a service port out.
    pub fn remove(&mut self, id: ServiceId) {
        self.changes.insert(id, None);
    }

    /// The next snapshot.
    ///
    /// # Errors
    /// Names what breaks an invariant: a frontend or an id claimed twice, a service port that contradicts
    /// itself, a SNAT address or Service CIDR that cannot be one.
    pub fn build(self) -> Result<Snapshot, BuildError> {
        if let Some(conflict) = self.conflict {
            return Err(conflict);
        }
        let mut next = self.base;
        next.generation += 1;
        if let Some(fabric) = self.fabric {
            let cidrs = Prefixes::new(&fabric.service_cidrs);
            next.cidrs = Arc::new(cidrs.map_err(|(addr, len)| BuildError::ServiceCidr(addr, len))?);
            next.fabric = Arc::new(fabric);
        }
        let mut additions = Vec::with_capacity(self.changes.len());
        // All removals first: a frontend may move from one service port to another in one change.
        for (id, change) in self.changes {
            let old = next.services.remove(id);
            if let Some(old) = &old {
                next.vips.remove(old);
                next.node_ports.remove(old);
            }
            if let Some(mut new) = change {
                validate(&new)?;
                old.as_ref().map_or(Ok(()), |old| same_name(old, &new))?;
                new.note_presence(old.as_deref(), next.generation);
                if let Some(old) = &old {
                    new.balancing.follow(&old.balancing);
                }
                additions.push(Arc::new(new));
            }
        }
        for new in additions {
            if next.purge_epoch == 0 || epoch_newer(new.purge_epoch, next.purge_epoch) {
                next.purge_epoch = new.purge_epoch;
            }
            next.vips.insert(&new).map_err(|(addr, holder)| BuildError::DuplicateFrontend {
                addr,
                port: new.port,
                first: holder.name.clone(),
                second: new.name.clone(),
            })?;
            next.node_ports.insert(&new).map_err(|holder| BuildError::DuplicateNodePort {
                family: Family::of(new.cluster_ip),
                port: SvcPort { port: new.node_port.unwrap_or_default(), proto: new.port.proto },
                first: holder.name.clone(),
                second: new.name.clone(),
            })?;
            next.services.insert(new.id, new);
        }
        check_snat(&next)?;
        if !next.fabric.node_addresses.is_sorted_by(|a, b| a < b) {
            return Err(BuildError::NodeAddresses);
        }
        Ok(next)
    }
}

fn same_name(old: &Service, new: &Service) -> Result<(), BuildError> {
    if old.name == new.name {
        return Ok(());
    }
    let (first, second) = (old.name.clone(), new.name.clone());
    Err(BuildError::DuplicateId { id: new.id, first, second })
}

fn check_snat(world: &Snapshot) -> Result<(), BuildError> {
    let pool = &world.fabric.snat;
    for (n, &addr) in pool.iter().enumerate() {
        let bad = |what| Err(BuildError::SnatAddress { addr, what });
        if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() {
            return bad("no unicast address of this host's own");
        }
        if pool[..n].contains(&addr) {
            return bad("named twice");
        }
        if world.vip(addr).is_some() {
            return bad("it is a frontend of a Service");
        }
    }
    Ok(())
}

fn validate(service: &Service) -> Result<(), BuildError> {
    let bad = |what| Err(BuildError::Service { service: service.name.clone(), what });
    let family = Family::of(service.cluster_ip);
    let in_range = |set: &[u32]| set.iter().all(|index| (*index as usize) < service.backends.len());
    if service.id.0 == 0 {
        return bad("id 0 is none");
    }
    let ports = [Some(service.port.port), service.node_port];
    if ports.contains(&Some(0)) || service.backends.iter().any(|backend| backend.port == 0) {
        return bad("port 0 is none");
    }
    if service.frontends.iter().any(|frontend| Family::of(frontend.addr) != family) {
        return bad("a frontend is of the other family");
    }
    if service.frontends.iter().any(|frontend| frontend.kind == FrontendKind::NodePort) {
        return bad("a node port holds no address");
    }
    if !service.frontends.is_sorted_by(|a, b| a.addr < b.addr) {
        return bad("frontends are not strictly ascending by address");
    }
    if service.purge_epoch == 0 || service.purge_epoch >> PURGE_EPOCH_BITS != 0 {
        return bad("the purge epoch is not within 1 to 16383");
    }
    let seconds = service.affinity.as_ref().map(Sticky::seconds);
    if seconds.is_some_and(|seconds| !(1..=MAX_AFFINITY_SECONDS).contains(&seconds)) {
        return bad("the timeout of its session affinity is not within 1 to 86400 s");
    }
    if service.backends.iter().any(|backend| backend.id.0 == 0) {
        return bad("endpoint id 0 is none");
    }
    if service.backends.iter().any(|backend| Family::of(backend.addr) != family) {
        return bad("a backend is of the other family");
    }
    if !service.backends.is_sorted_by(|a, b| (a.addr, a.port) < (b.addr, b.port)) {
        return bad("backends are not strictly ascending by address and port");
    }
    if !in_range(&service.cluster) || !in_range(&service.local) {
        return bad("a set names a backend that is not there");
    }
    if !service.cluster.is_sorted_by(|a, b| a < b) || !service.local.is_sorted_by(|a, b| a < b) {
        return bad("a set is not strictly ascending");
    }
    if service.local.iter().any(|index| !service.backends[*index as usize].local) {
        return bad("the local set has a backend of another node");
    }
    let members = service.cluster.len() + service.local.len();
    if members > 0 && !service.any {
        return bad("a set has members, yet no endpoint is usable anywhere");
    }
    if !service.balancing.fits(service.backends.len(), [service.cluster.len(), service.local.len()]) {
        return bad("its balancing was made for other backends or sets");
    }
    let mut ids: Vec<_> = service.backends.iter().map(|backend| backend.id).collect();
    ids.sort_unstable();
    if !ids.is_sorted_by(|a, b| a < b) {
        return bad("two backends have one id");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
