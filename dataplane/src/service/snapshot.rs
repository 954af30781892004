//! What workers see: one consistent world, immutable, cheap to clone.

use std::net::IpAddr;
use std::sync::Arc;

use super::chunked::Chunked;
use super::lookup::{NodePorts, Prefixes, Vip, Vips};
use super::{FrontendKind, LocalMap, PortSet, Service, SvcPort};
use crate::ids::ServiceId;
use crate::packet::alias;

/// What workers see.
#[derive(Debug)]
pub enum World {
    /// No complete snapshot yet: known flows are translated, new ones neither answered nor refused.
    NotReady,
    /// Serving.
    Ready(Snapshot),
}

/// How replies come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReturnPath {
    /// Every flow gets a SNAT address, routed to this host.
    #[default]
    Masquerade,
    /// Connection marks bring replies back; sources are kept.
    ConnMark,
}

/// What a snapshot needs besides Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fabric {
    /// How replies come back.
    pub return_path: ReturnPath,
    /// SNAT addresses of either family, in the order they are tried.
    pub snat: Vec<IpAddr>,
    /// Service CIDRs (address, prefix length). An address in one of them that no Service has is dropped.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// Every flow to a ClusterIP is masqueraded, whoever the client is (kube-proxy's `masqueradeAll`).
    pub masquerade_all: bool,
    /// Which addresses are local pods or this host.
    pub local: Arc<LocalMap>,
    /// The addresses of this host that take node ports, ascending.
    pub node_addresses: Vec<IpAddr>,
    /// With [`crate::packet::alias`]: addresses whose packets may arrive by their aliases, those of this host and of
    /// frontends that are gone while flows of theirs are open. Alias and address, ascending.
    pub aliased: Vec<(IpAddr, IpAddr)>,
    /// Source ports a SNAT never draws.
    pub reserved_ports: Arc<PortSet>,
}

/// One consistent world. Immutable; a clone is a handful of reference counts, and the next one shares every
/// chunk that did not change. Made by [`SnapshotBuilder`](super::SnapshotBuilder).
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) generation: u64,
    pub(super) purge_epoch: u16,
    pub(super) vips: Vips,
    pub(super) node_ports: NodePorts,
    pub(super) services: Chunked<ServiceId, Arc<Service>>,
    pub(super) fabric: Arc<Fabric>,
    pub(super) cidrs: Arc<Prefixes>,
}

impl Snapshot {
    /// Counts snapshots: each is one more than the one it was made from.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The newest purge epoch of any service port it ever had: a UDP flow judged under this epoch need not be judged
    /// again. 0 before there was one.
    #[must_use]
    pub fn purge_epoch(&self) -> u16 {
        self.purge_epoch
    }

    /// The service port with this id.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(id)
    }

    /// The service port that serves this address and port, and as what: an address of its own, else a node port.
    #[must_use]
    pub fn frontend(&self, addr: IpAddr, port: SvcPort) -> Option<(FrontendKind, &Arc<Service>)> {
        self.vip(addr).and_then(|vip| vip.port(port)).or_else(|| {
            let service = self.node_ports.get(addr, port)?;
            self.takes_node_ports(addr).then_some((FrontendKind::NodePort, service))
        })
    }

    /// The address is one of this host's that take node ports.
    #[must_use]
    pub fn takes_node_ports(&self, addr: IpAddr) -> bool {
        self.fabric.node_addresses.binary_search(&addr).is_ok()
    }

    /// Every service port, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter().map(|(_, service)| service)
    }

    /// How many service ports there are.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// What the snapshot knows besides Services.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// The address is the ClusterIP of some service port. Nobody sends from one, and nothing else is there; both may
    /// be otherwise at the address of an external frontend.
    #[must_use]
    pub fn is_cluster_ip(&self, addr: IpAddr) -> bool {
        self.vip(addr).is_some_and(Vip::has_cluster_ip)
    }

    /// The address is one of the SNAT addresses.
    #[must_use]
    pub fn is_snat(&self, addr: IpAddr) -> bool {
        self.fabric.snat.contains(&addr)
    }

    /// The addresses that an alias may stand for: this host's and those kept, then those of frontends. None for a reply's.
    pub fn behind_alias(&self, alias: IpAddr) -> impl Iterator<Item = IpAddr> {
        let first = self.fabric.aliased.partition_point(|(other, _)| *other < alias);
        let same = self.fabric.aliased[first..].iter().take_while(move |(other, _)| *other == alias);
        let fronts = alias::behind(alias).filter(|addr| self.vip(*addr).is_some());
        same.map(|(_, addr)| *addr).chain(fronts)
    }

    /// What is sent to this address comes to this host whoever serves it, or belongs to a flow that is kept.
    #[must_use]
    pub fn is_aliased(&self, addr: IpAddr) -> bool {
        self.fabric.aliased.binary_search(&(alias::of(addr), addr)).is_ok()
    }

    /// The address lies in a Service CIDR, whether or not a Service has it.
    #[must_use]
    pub fn in_service_cidr(&self, addr: IpAddr) -> bool {
        self.cidrs.contains(addr)
    }

    pub(super) fn vip(&self, addr: IpAddr) -> Option<&Vip> {
        self.vips.get(addr)
    }
}
