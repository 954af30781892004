//! What becomes of the first packet of a flow: pure, allocation-free, in the order of kube-proxy's dispatch.

use std::net::IpAddr;
use std::sync::Arc;

use super::{FrontendKind, Place, Policy, Reason, Reasons, ReturnPath, Service, Set, Snapshot, SvcPort};
use crate::packet::tuple::{Family, Tuple};
use crate::verdict::DropReason;

/// Where a packet came from, beyond its source address. A packet read from the device does not say, so its source
/// stands for it ([`LocalMap`](super::LocalMap)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// Where its client is, if something better than its address tells.
    pub place: Option<Place>,
}

impl Origin {
    fn of(self, world: &Snapshot, client: IpAddr) -> Place {
        self.place.unwrap_or_else(|| world.fabric.local.place(client))
    }
}

/// What to do with the first packet of a flow.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// Pick an endpoint of the set and open a flow to it.
    Serve {
        /// The service port.
        service: &'a Arc<Service>,
        /// Where its endpoint comes from. Never empty.
        set: Set,
        /// The frontend and the client want a SNAT address; with the endpoint known, [`masquerades()`] has the
        /// last word.
        masquerade: bool,
    },
    /// Answer with ICMP port unreachable, or as configured with RST.
    Reject,
    /// Drop, for this reason.
    Drop(DropReason),
    /// Not for a Service: leave it alone.
    NotOurs,
}

/// Decides about the first packet of a flow. Frontends come first (whom a load-balancer address is closed to goes no
/// further), then node ports, then live ClusterIPs on a port nobody serves, then our own SNAT addresses, then what lies
/// unallocated in a Service CIDR; the rest is not ours.
pub fn decide<'a, R: Reasons>(
    world: &'a Snapshot,
    tuple: &Tuple<IpAddr>,
    origin: &Origin,
    reasons: &mut R,
) -> Decision<'a> {
    let port = SvcPort { port: tuple.dport, proto: tuple.proto };
    let Some((kind, service)) = world.frontend(tuple.dst, port) else {
        return decide_portless(world, tuple.dst, reasons);
    };
    reasons.note(Reason::Frontend { kind, addr: tuple.dst, port: tuple.dport, service });
    let first = First { world, client: tuple.src, origin: *origin, service };
    if service.guards(kind) && !service.admits(tuple.src) {
        reasons.note(Reason::SourceRange { client: tuple.src });
        return Decision::Drop(DropReason::SourceRange);
    }
    match kind {
        FrontendKind::ClusterIp => first.internal(reasons),
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => {
            first.external(reasons)
        }
    }
}

/// Decides about a packet no frontend is for, also one without ports (echo, other protocols): a live ClusterIP
/// refuses it; never `Serve`.
pub fn decide_portless<'a, R: Reasons>(world: &'a Snapshot, dst: IpAddr, reasons: &mut R) -> Decision<'a> {
    if world.is_cluster_ip(dst) {
        reasons.note(Reason::NoSuchPort);
        return Decision::Reject;
    }
    no_frontend(world, dst, reasons)
}

/// Whether a flow gets a SNAT address, now that its endpoint is known. `asked` is what [`decide()`] said.
///
/// A client that is its own endpoint is masqueraded always: it would never see a reply to itself. An endpoint that
/// is this host keeps the client's address, because kube-proxy masquerades behind routing, which local delivery
/// never meets; a client that is this host too is masqueraded all the same.
pub fn masquerades<R: Reasons>(
    world: &Snapshot,
    asked: bool,
    client: IpAddr,
    endpoint: IpAddr,
    origin: &Origin,
    reasons: &mut R,
) -> bool {
    if world.fabric.return_path == ReturnPath::Masquerade {
        return true;
    }
    if client == endpoint {
        reasons.note(Reason::Hairpin);
        return true;
    }
    let is_host = |place: Place| place.is_hosts();
    if asked && is_host(world.fabric.local.place(endpoint)) && !is_host(origin.of(world, client)) {
        reasons.note(Reason::HostEndpoint);
        return false;
    }
    asked
}

/// The first packet of a flow to a frontend.
struct First<'a> {
    world: &'a Snapshot,
    client: IpAddr,
    origin: Origin,
    service: &'a Arc<Service>,
}

impl<'a> First<'a> {
    /// To a ClusterIP: `internalTrafficPolicy` names the set.
    fn internal<R: Reasons>(&self, reasons: &mut R) -> Decision<'a> {
        reasons.note(Reason::Policy { external: false, policy: self.service.internal });
        let set = match self.service.internal {
            Policy::Cluster => Set::Cluster,
            Policy::Local => Set::Local,
        };
        self.serve(set, |first, reasons| first.masquerades_internal(reasons), reasons)
    }

    /// To an address the outside uses: `externalTrafficPolicy`, but for those who are inside anyway. With policy
    /// `Local`, what comes from this node's pods or the node itself stands for traffic that went out to a load
    /// balancer and came back: it goes to any endpoint.
    fn external<R: Reasons>(&self, reasons: &mut R) -> Decision<'a> {
        let service = self.service;
        reasons.note(Reason::Policy { external: true, policy: service.external });
        if service.external == Policy::Cluster {
            return self.serve(
                Set::Cluster,
                |_, reasons| {
                    reasons.note(Reason::ExternalCluster);
                    true
                },
                reasons,
            );
        }
        let place = self.origin.of(self.world, self.client);
        if place.is_pods() && self.world.fabric.local.detects(Family::of(self.client)) {
            reasons.note(Reason::ShortCircuitPod);
            return self.serve(Set::Cluster, |first, _| first.every_flow(), reasons);
        }
        if place.is_hosts() {
            reasons.note(Reason::ShortCircuitHost);
            return self.serve(Set::Cluster, |_, _| true, reasons);
        }
        self.serve(
            Set::Local,
            |first, reasons| {
                reasons.note(Reason::ExternalLocal);
                first.every_flow()
            },
            reasons,
        )
    }

    /// Serves from a set. Without a usable endpoint anywhere the Service is dead: refuse. With one elsewhere that the
    /// policy forbids, the gap is in the policy: say nothing.
    fn serve<R: Reasons>(
        &self,
        set: Set,
        masquerades: impl FnOnce(&Self, &mut R) -> bool,
        reasons: &mut R,
    ) -> Decision<'a> {
        let members = self.service.members(set).len();
        match (members, set) {
            (0, Set::Local) if self.service.any => {
                reasons.note(Reason::NoLocalEndpoint);
                Decision::Drop(DropReason::NoLocalEndpoint)
            }
            (0, Set::Local | Set::Cluster) => {
                reasons.note(Reason::NoEndpoint);
                Decision::Reject
            }
            (_, Set::Local | Set::Cluster) => {
                reasons.note(Reason::Set(set, members));
                Decision::Serve { service: self.service, set, masquerade: masquerades(self, reasons) }
            }
        }
    }

    /// Whether a client of a ClusterIP is masqueraded, as far as that does not depend on the endpoint.
    fn masquerades_internal<R: Reasons>(&self, reasons: &mut R) -> bool {
        let fabric = &self.world.fabric;
        let (reason, masquerade) = if self.every_flow() {
            (Reason::EveryFlow, true)
        } else if fabric.masquerade_all {
            (Reason::MasqueradeAll, true)
        } else if !fabric.local.detects(Family::of(self.client)) {
            (Reason::NoDetector, false)
        } else if self.origin.of(self.world, self.client).is_pods() {
            (Reason::LocalPod, false)
        } else {
            (Reason::NotLocalPod, true)
        };
        reasons.note(reason);
        masquerade
    }

    /// Nothing else brings replies back.
    fn every_flow(&self) -> bool {
        self.world.fabric.return_path == ReturnPath::Masquerade
    }
}

/// A destination that is no Service's address.
fn no_frontend<'a, R: Reasons>(world: &Snapshot, dst: IpAddr, reasons: &mut R) -> Decision<'a> {
    if world.is_snat(dst) {
        reasons.note(Reason::SnatAddress);
        Decision::Drop(DropReason::NoFlow)
    } else if world.in_service_cidr(dst) {
        reasons.note(Reason::Unallocated);
        Decision::Drop(DropReason::UnallocatedVip)
    } else {
        reasons.note(Reason::NotOurs);
        Decision::NotOurs
    }
}

#[cfg(test)]
mod tests;
