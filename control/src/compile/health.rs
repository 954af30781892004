//! What load balancers ask this node about a Service: how many of its endpoints are here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::packet::tuple::Family;

use crate::categorize::is_local;
use crate::model::{Endpoint, Node, Service};

/// The answer at a `healthCheckNodePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Where it is asked for.
    pub port: u16,
    /// Distinct IPv4 addresses of ready endpoints on this node, whatever port of the Service they serve.
    pub ready_v4: usize,
    /// The same of IPv6.
    pub ready_v6: usize,
    /// The Service has a ClusterIP of this family: [IPv4, IPv6]. It is asked for in no other.
    pub families: [bool; 2],
}

/// None when nobody is to ask. Endpoints that are terminating do not count, also while traffic falls back to them.
pub(super) fn health<'a>(
    service: &Service,
    endpoints: impl Iterator<Item = &'a &'a Endpoint>,
    node: &Node,
) -> Option<Health> {
    let port = service.health_check_port?;
    let ready = endpoints.filter(|endpoint| endpoint.ready && is_local(endpoint, node));
    let ready: BTreeSet<IpAddr> = ready.map(|endpoint| endpoint.addr).collect();
    let has = |family| service.cluster_ips.iter().any(|addr| Family::of(*addr) == family);
    let of = |family| ready.iter().filter(|addr| Family::of(**addr) == family).count();
    let families = [has(Family::V4), has(Family::V6)];
    Some(Health { port, ready_v4: of(Family::V4), ready_v6: of(Family::V6), families })
}
