//! What becomes of the first packet of a flow: pure, allocation-free, in the order of kube-proxy's dispatch.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Place, Policy, Reason, Reasons, ReturnPath, Service, Set, Snapshot, SvcPort};
use crate::packet::tuple::{Family, Tuple};
use crate::verdict::DropReason;

/// Where a packet came from, beyond its source address. A packet read from the device does not say, so its source
/// stands for it ([`LocalMap`](super::LocalMap)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {}

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

/// Decides about the first packet of a flow. Frontends come first, then live addresses on a port nobody serves,
/// then our own SNAT addresses, then what lies unallocated in a Service CIDR; the rest is not ours.
pub fn decide<'a, R: Reasons>(
    world: &'a Snapshot,
    tuple: &Tuple<IpAddr>,
    _origin: &Origin,
    reasons: &mut R,
) -> Decision<'a> {
    let Some(vip) = world.vip(tuple.dst) else {
        return no_frontend(world, tuple.dst, reasons);
    };
    match vip.port(SvcPort { port: tuple.dport, proto: tuple.proto }) {
        Some(service) => cluster_ip(world, tuple.src, service, reasons),
        None => refuse(reasons),
    }
}

/// Decides about a packet without ports (echo, other protocols): a live ClusterIP refuses it as it refuses a
/// wrong port; never `Serve`.
pub fn decide_portless<'a, R: Reasons>(world: &'a Snapshot, dst: IpAddr, reasons: &mut R) -> Decision<'a> {
    if world.is_vip(dst) { refuse(reasons) } else { no_frontend(world, dst, reasons) }
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
    reasons: &mut R,
) -> bool {
    if world.fabric.return_path == ReturnPath::Masquerade {
        return true;
    }
    if client == endpoint {
        reasons.note(Reason::Hairpin);
        return true;
    }
    let local = &world.fabric.local;
    if asked && local.place(endpoint) == Place::Host && local.place(client) != Place::Host {
        reasons.note(Reason::HostEndpoint);
        return false;
    }
    asked
}

/// The endpoint set of a ClusterIP frontend. Without a usable endpoint anywhere the Service is dead: refuse.
/// With one elsewhere that the policy forbids, the gap is in the policy: say nothing.
fn cluster_ip<'a, R: Reasons>(
    world: &Snapshot,
    client: IpAddr,
    service: &'a Arc<Service>,
    reasons: &mut R,
) -> Decision<'a> {
    reasons.note(Reason::Frontend(service));
    reasons.note(Reason::Policy(service.internal));
    let set = match service.internal {
        Policy::Cluster => Set::Cluster,
        Policy::Local => Set::Local,
    };
    let members = service.members(set).len();
    if members == 0 {
        return match service.internal {
            Policy::Local if service.any => {
                reasons.note(Reason::NoLocalEndpoint);
                Decision::Drop(DropReason::NoLocalEndpoint)
            }
            Policy::Local | Policy::Cluster => {
                reasons.note(Reason::NoEndpoint);
                Decision::Reject
            }
        };
    }
    reasons.note(Reason::Set(set, members));
    Decision::Serve { service, set, masquerade: internal_masquerade(world, client, reasons) }
}

/// Whether a client of a ClusterIP is masqueraded, as far as that does not depend on the endpoint.
fn internal_masquerade<R: Reasons>(world: &Snapshot, client: IpAddr, reasons: &mut R) -> bool {
    let fabric = &world.fabric;
    let (reason, masquerade) = match fabric.return_path {
        ReturnPath::Masquerade => (Reason::EveryFlow, true),
        ReturnPath::ConnMark if fabric.masquerade_all => (Reason::MasqueradeAll, true),
        ReturnPath::ConnMark if !fabric.local.detects(Family::of(client)) => (Reason::NoDetector, false),
        ReturnPath::ConnMark if fabric.local.place(client) == Place::LocalPod => (Reason::LocalPod, false),
        ReturnPath::ConnMark => (Reason::NotLocalPod, true),
    };
    reasons.note(reason);
    masquerade
}

fn refuse<'a, R: Reasons>(reasons: &mut R) -> Decision<'a> {
    reasons.note(Reason::NoSuchPort);
    Decision::Reject
}

/// A destination that is no Service's address.
fn no_frontend<'a, R: Reasons>(world: &Snapshot, dst: IpAddr, reasons: &mut R) -> Decision<'a> {
    if world.is_snat(dst) {
        reasons.note(Reason::SnatAddress);
        Decision::Drop(DropReason::NoFlow)
    } else if world.in_service_cidr(dst) {
        reasons.note(Reason::Unallocated);
        Decision::Drop(DropReason::UnallocatedVip)
    } else if is_link_local(dst) {
        reasons.note(Reason::LinkLocal);
        Decision::Drop(DropReason::NotUnicast)
    } else {
        reasons.note(Reason::NotOurs);
        Decision::NotOurs
    }
}

/// What never leaves its link is nobody's to forward. A SNAT address may be one: it is ours alone.
pub(crate) fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
