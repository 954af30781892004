//! What becomes of the first packet of a flow: pure, allocation-free, in the order of kube-proxy's dispatch.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Policy, Reason, Reasons, ReturnPath, Service, Set, Snapshot, SvcPort};
use crate::packet::tuple::Tuple;
use crate::verdict::DropReason;

/// Where a packet came from, as far as the dataplane knows. The return path `masquerade` treats every source
/// alike, so there is nothing to know yet.
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
        /// The flow gets a SNAT address.
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
        Some(service) => cluster_ip(world, service, reasons),
        None => refuse(reasons),
    }
}

/// Decides about a packet without ports (echo, other protocols): a live ClusterIP refuses it as it refuses a
/// wrong port; never `Serve`.
pub fn decide_portless<'a, R: Reasons>(world: &'a Snapshot, dst: IpAddr, reasons: &mut R) -> Decision<'a> {
    if world.is_vip(dst) { refuse(reasons) } else { no_frontend(world, dst, reasons) }
}

/// The endpoint set of a ClusterIP frontend. Without a usable endpoint anywhere the Service is dead: refuse.
/// With one elsewhere that the policy forbids, the gap is in the policy: say nothing.
fn cluster_ip<'a, R: Reasons>(world: &Snapshot, service: &'a Arc<Service>, reasons: &mut R) -> Decision<'a> {
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
    let masquerade = match world.fabric.return_path {
        ReturnPath::Masquerade => {
            reasons.note(Reason::MasqueradeAll);
            true
        }
    };
    Decision::Serve { service, set, masquerade }
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
    } else {
        reasons.note(Reason::NotOurs);
        Decision::NotOurs
    }
}

#[cfg(test)]
mod tests;
