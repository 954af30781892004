//! One service port of one family, compiled: what a new flow and the UDP purge rule need to know of it.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Balancing, Frontend, FrontendKind, Policy, Prefixes, Sticky, SvcPort};
use crate::ids::{EndpointId, ServiceId};

/// Bits of a purge epoch. 0 is no epoch, so a compiled service port always has a non-zero one.
pub const PURGE_EPOCH_BITS: u32 = 14;

/// Which set a decision sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Endpoints of any node, narrowed by topology.
    Cluster,
    /// Endpoints of this node.
    Local,
}

/// A backend of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Stable while a flow may name it. Never 0.
    pub id: EndpointId,
    /// Its address, of the service port's family.
    pub addr: IpAddr,
    /// Where it listens, host order.
    pub port: u16,
    /// It runs on this node.
    pub local: bool,
    /// It is ready or serving: what the UDP purge rule asks.
    pub ready_or_serving: bool,
}

/// One service port of one family, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Stable while a flow may name it. Never 0.
    pub id: ServiceId,
    /// `namespace/name:port`, or `namespace/name` when the port has no name.
    pub name: Box<str>,
    /// The ClusterIP of its family, whether or not it holds it.
    pub cluster_ip: IpAddr,
    /// Its port at every address.
    pub port: SvcPort,
    /// The addresses it holds, strictly ascending by address.
    pub frontends: Box<[Frontend]>,
    /// Its port at the node's own addresses, when it holds one.
    pub node_port: Option<u16>,
    /// `internalTrafficPolicy`.
    pub internal: Policy,
    /// `externalTrafficPolicy`.
    pub external: Policy,
    /// `loadBalancerSourceRanges`: who may use its LoadBalancer frontends; `None`: everybody.
    pub sources: Option<Arc<Prefixes>>,
    /// Its ClusterIP is one of its LoadBalancer addresses as well: `sources` hold there, too.
    pub guarded: bool,
    /// Purge epoch of the last change that can make a UDP flow of this port stale. 1 to 16,383.
    pub purge_epoch: u16,
    /// All backends, strictly ascending by address and port; also those no set has, while ready or serving.
    pub backends: Box<[Backend]>,
    /// The cluster set: ascending indices into `backends`.
    pub cluster: Box<[u32]>,
    /// The local set: ascending indices into `backends`.
    pub local: Box<[u32]>,
    /// There is a usable endpoint somewhere in the cluster, whether or not a set has it.
    pub any: bool,
    /// How an endpoint is picked.
    pub balancing: Balancing,
    /// `sessionAffinity: ClientIP`: a client gets the endpoint it had.
    pub affinity: Option<Sticky>,
}

/// What the UDP purge rule says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Purge {
    /// The flow keeps its endpoint.
    Kept,
    /// Its endpoint is withdrawn and another could serve: pick again.
    Stale,
}

impl Service {
    /// A service port at its ClusterIP alone, by every default and without endpoints.
    #[must_use]
    pub fn bare(id: ServiceId, name: &str, cluster_ip: IpAddr, port: SvcPort) -> Self {
        Self {
            id,
            name: name.into(),
            cluster_ip,
            port,
            frontends: Box::new([Frontend::cluster_ip(cluster_ip)]),
            node_port: None,
            internal: Policy::Cluster,
            external: Policy::Cluster,
            sources: None,
            guarded: false,
            purge_epoch: 1,
            backends: Box::default(),
            cluster: Box::default(),
            local: Box::default(),
            any: false,
            balancing: Balancing::default(),
            affinity: None,
        }
    }

    /// The indices of a set's members in `backends`.
    #[must_use]
    pub fn members(&self, set: Set) -> &[u32] {
        match set {
            Set::Cluster => &self.cluster,
            Set::Local => &self.local,
        }
    }

    /// It can be reached from outside the cluster: by a node port, or at an address that is no ClusterIP.
    #[must_use]
    pub fn is_external(&self) -> bool {
        let outside = |frontend: &Frontend| frontend.kind != FrontendKind::ClusterIp;
        self.node_port.is_some() || self.frontends.iter().any(outside)
    }

    /// `sources` decide who may use its frontends of this kind.
    #[must_use]
    pub fn guards(&self, kind: FrontendKind) -> bool {
        match kind {
            FrontendKind::LoadBalancer => true,
            FrontendKind::ClusterIp => self.guarded,
            FrontendKind::ExternalIp | FrontendKind::NodePort => false,
        }
    }

    /// The client may use its LoadBalancer frontends.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.contains(client))
    }

    /// The backend at this address and port.
    #[must_use]
    pub fn backend(&self, addr: IpAddr, port: u16) -> Option<&Backend> {
        let found = self.backends.binary_search_by_key(&(addr, port), |b| (b.addr, b.port)).ok()?;
        self.backends.get(found)
    }

    /// Judges a UDP flow of this service port by its endpoint's address and port: stale when some endpoint of
    /// the port is ready or serving (on any node; policy and topology do not matter) and the flow's is not
    /// among those. With none ready or serving the flow is kept: there is nowhere better to send it.
    pub fn keeps(&self, addr: IpAddr, port: u16) -> Purge {
        let known = self.backend(addr, port).is_some_and(|backend| backend.ready_or_serving);
        if known || !self.backends.iter().any(|backend| backend.ready_or_serving) {
            Purge::Kept
        } else {
            Purge::Stale
        }
    }

    /// The port changed since a flow with this purge epoch was last judged, so the flow is due. Epochs are
    /// compared on the circle: a worker still on an older snapshot than the flow's last judge judges nothing.
    #[must_use]
    pub const fn judges(&self, flow_epoch: u16) -> bool {
        epoch_newer(self.purge_epoch, flow_epoch)
    }
}

/// Whether purge epoch `a` came after `b`, on the circle of 14 bits.
#[must_use]
pub const fn epoch_newer(a: u16, b: u16) -> bool {
    const MASK: u16 = (1 << PURGE_EPOCH_BITS) - 1;
    let ahead = a.wrapping_sub(b) & MASK;
    ahead != 0 && ahead < 1 << (PURGE_EPOCH_BITS - 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{backend, service};
    use super::*;

    #[test]
    fn the_purge_rule_row_by_row() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let kept = |backends: &[(&str, u16, bool)], addr: &str, port: u16| {
            let mut service = service(1, "10.96.0.10", 53);
            service.backends = backends
                .iter()
                .map(|&(addr, port, usable)| Backend { ready_or_serving: usable, ..backend(1, addr, port) })
                .collect();
            service.keeps(ip(addr), port) == Purge::Kept
        };
        let two = [("10.1.0.1", 53, true), ("10.1.0.2", 53, true)];
        assert!(kept(&two, "10.1.0.1", 53), "still there");
        assert!(kept(&two, "10.1.0.2", 53), "still there");
        assert!(!kept(&two, "10.1.0.3", 53), "gone from the slices");
        assert!(!kept(&two, "10.1.0.1", 54), "same address, other port");
        assert!(!kept(&two, "10.96.0.10", 53), "an untranslated flow of before");
        assert!(kept(&[], "10.1.0.1", 53), "the last endpoint is gone");
        let down = [("10.1.0.1", 53, false), ("10.1.0.2", 53, false)];
        assert!(kept(&down, "10.1.0.1", 53), "none ready or serving");
        assert!(kept(&down, "10.1.0.9", 53), "none ready or serving, also for one that is gone");
        let one = [("10.1.0.1", 53, false), ("10.1.0.2", 53, true)];
        assert!(!kept(&one, "10.1.0.1", 53), "not serving any more, another is");
        assert!(kept(&one, "10.1.0.2", 53), "the one that serves");
    }

    #[test]
    fn only_a_newer_epoch_judges_also_across_the_wrap() {
        let mut service = service(1, "10.96.0.10", 53);
        service.purge_epoch = 7;
        assert!(!service.judges(7) && service.judges(6) && !service.judges(8));
        assert!(service.judges(16_383), "the circle has passed its end");
        service.purge_epoch = 16_383;
        assert!(!service.judges(1) && service.judges(16_382));
    }
}
