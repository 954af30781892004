//! What load balancers ask this node about a Service: how many of its endpoints are here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::packet::tuple::Family;

use crate::categorize::is_local;
use crate::compile::draft::Joined;
use crate::model::{Node, Port, Service};

/// The answer at a `healthCheckNodePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Where it is asked for.
    pub port: u16,
    /// Distinct IPv4 addresses of ready endpoints on this node, whatever port of the Service they serve.
    pub ready_v4: usize,
    /// The same of IPv6.
    pub ready_v6: usize,
    /// The Service has a ClusterIP of this family: [IPv4, IPv6]. In another one the answer is that of this.
    pub families: [bool; 2],
}

/// None when nobody is to ask. `joined` are the endpoints of a port: one that joins none is nowhere to send to. Those that
/// are terminating do not count, also while traffic falls back to them.
pub(super) fn health<'a>(
    service: &Service,
    node: &Node,
    joined: impl Fn(&Port, Family) -> Joined<'a>,
) -> Option<Health> {
    let port = service.health_check_port?;
    let has = |family| service.cluster_ips.iter().any(|addr| Family::of(*addr) == family);
    let of = |family| {
        let all = service.ports.iter().flat_map(|port| joined(port, family));
        let ready = all.filter(|(_, (endpoint, _))| endpoint.ready && is_local(endpoint, node));
        ready.map(|((addr, _), _)| addr).collect::<BTreeSet<IpAddr>>().len()
    };
    let families = [has(Family::V4), has(Family::V6)];
    Some(Health { port, ready_v4: of(Family::V4), ready_v6: of(Family::V6), families })
}
