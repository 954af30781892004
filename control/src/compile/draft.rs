//! One Service with its slices, compiled: a service port for each of its ports and families that has its
//! frontend, and what its owner should be told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::packet::tuple::Family;
use dataplane::service::{Backend, Policy, Selector, Service as Compiled, Snapshot, Sticky, SvcPort};

use super::claims::{Claim, Claims, claims_of, effective_ports};
use super::refuse::{self, Refusal, unusable};
use crate::categorize::{Exposure, NoReasons, categorize, is_local};
use crate::desired::Desired;
use crate::ids::{Ids, PortKey};
use crate::model::{Endpoint, ObjectKey, Port, Problem, Service, Slice};

/// What decides about addresses: the configured ones and everybody's frontends.
pub(super) struct Ground<'a> {
    /// A snapshot of the fabric alone.
    pub(super) fabric: &'a Snapshot,
    pub(super) claims: &'a Claims,
}

/// A Service compiled, its purge epochs (0 here) still to be set.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) ports: Vec<(PortKey, Compiled)>,
    pub(super) problems: Vec<Problem>,
    /// Every endpoint address of its slices, also the refused: their fate hangs on others' frontends.
    pub(super) addrs: BTreeSet<IpAddr>,
}

/// Why an address cannot be a frontend.
pub(super) fn frontend_refusal(fabric: &Snapshot, addr: IpAddr) -> Option<Refusal> {
    unusable(addr).or_else(|| fabric.is_snat(addr).then_some(Refusal::Snat))
}

/// The frontends a Service claims.
pub(super) fn claims(key: &Arc<ObjectKey>, service: &Service, fabric: &Snapshot) -> Vec<Claim> {
    claims_of(key, service, |addr| frontend_refusal(fabric, addr).is_some())
}

/// Compiles one Service with the claims it makes.
pub(super) fn draft(
    service: &Service,
    claims: &[Claim],
    desired: &Desired,
    ground: &Ground<'_>,
    ids: &mut Ids,
) -> Draft {
    let mut draft = Draft { problems: address_problems(service, ground.fabric), ..Draft::default() };
    let slices: Vec<_> =
        desired.slices(&service.key).map(|slice| Accepted::of(slice, ground, &mut draft)).collect();
    for claim in claims {
        let Some(port) = service.ports.get(claim.ordinal) else { continue };
        match ground.claims.line(claim.addr, claim.port).next() {
            Some(winner) if winner != claim => draft.problems.push(contested(claim, winner)),
            _ => draft.ports.push(compile(claim, port, service, &slices, desired, ids)),
        }
    }
    draft
}

/// A slice with what of each endpoint is accepted.
struct Accepted<'a> {
    slice: &'a Slice,
    endpoints: Vec<&'a Endpoint>,
}

impl<'a> Accepted<'a> {
    fn of(slice: &'a Slice, ground: &Ground<'_>, draft: &mut Draft) -> Self {
        let (mut endpoints, mut refused) = (Vec::with_capacity(slice.endpoints.len()), Vec::new());
        for endpoint in &slice.endpoints {
            draft.addrs.insert(endpoint.addr);
            match endpoint_refusal(ground, endpoint.addr) {
                Some(refusal) => refused.push((endpoint.addr, refusal)),
                None => endpoints.push(endpoint),
            }
        }
        draft.problems.extend(refuse::of_endpoints(slice, refused.into_iter()));
        Self { slice, endpoints }
    }
}

fn endpoint_refusal(ground: &Ground<'_>, addr: IpAddr) -> Option<Refusal> {
    unusable(addr)
        .or_else(|| ground.fabric.is_snat(addr).then_some(Refusal::Snat))
        .or_else(|| ground.claims.has(addr).then_some(Refusal::Frontend))
        .or_else(|| ground.fabric.in_service_cidr(addr).then_some(Refusal::ServiceCidr))
}

fn compile(
    claim: &Claim,
    port: &Port,
    service: &Service,
    slices: &[Accepted<'_>],
    desired: &Desired,
    ids: &mut Ids,
) -> (PortKey, Compiled) {
    let family = Family::of(claim.addr);
    let key = PortKey {
        object: Arc::clone(&claim.key),
        port: port.name.as_str().into(),
        proto: port.proto,
        family,
    };
    let id = ids.service(&key);
    let joined = join(port, family, slices);
    let endpoints: Vec<&Endpoint> = joined.values().copied().collect();
    // A node port makes a port reachable from outside; that policy is not looked at yet, so it is the default.
    let exposure = Exposure { internal: service.internal, external: port.node_port.map(|_| Policy::Cluster) };
    let sets = categorize(exposure, &endpoints, desired.node(), &mut NoReasons);
    // What is neither ready nor serving is in no set and matters to no flow.
    let mut backends = Vec::with_capacity(joined.len());
    let mut places = Vec::with_capacity(joined.len());
    for (&(addr, port), endpoint) in &joined {
        places.push(u32::try_from(backends.len()).unwrap_or(u32::MAX));
        if endpoint.ready || endpoint.serving {
            let (id, local) = (ids.endpoint(id, addr, port), is_local(endpoint, desired.node()));
            backends.push(Backend { id, addr, port, local, ready_or_serving: true });
        }
    }
    let placed = |set: Vec<u32>| set.into_iter().filter_map(|n| places.get(n as usize).copied()).collect();
    let compiled = Compiled {
        id,
        name: name(&claim.key, &port.name),
        cluster_ip: claim.addr,
        port: claim.port,
        internal: service.internal,
        purge_epoch: 0,
        backends: backends.into(),
        cluster: placed(sets.cluster),
        local: placed(sets.local),
        any: sets.any,
        selector: Selector::Random,
        affinity: service.affinity.map(Sticky::new),
    };
    (key, compiled)
}

/// The endpoints of a service port: those of slice ports with its name and protocol. A pod that runs beats one
/// that is terminating and had the same address; among several that run the last slice by name wins.
fn join<'a>(port: &Port, family: Family, slices: &[Accepted<'a>]) -> BTreeMap<(IpAddr, u16), &'a Endpoint> {
    let mut joined = BTreeMap::new();
    for Accepted { slice, endpoints } in slices {
        let ports =
            slice.ports.iter().filter(|p| p.name == port.name && p.proto == port.proto && p.port != 0);
        for slice_port in ports {
            for &endpoint in endpoints.iter().filter(|e| Family::of(e.addr) == family) {
                let key = (endpoint.addr, slice_port.port);
                if !endpoint.terminating || !joined.contains_key(&key) {
                    joined.insert(key, endpoint);
                }
            }
        }
    }
    joined
}

fn name(key: &ObjectKey, port: &str) -> Box<str> {
    if port.is_empty() { key.to_string().into() } else { format!("{key}:{port}").into() }
}

fn address_problems(service: &Service, fabric: &Snapshot) -> Vec<Problem> {
    let object = || format!("Service {}", service.key);
    let refused =
        service.cluster_ips.iter().filter_map(|addr| Some((*addr, frontend_refusal(fabric, *addr)?)));
    let mut problems: Vec<_> = refused.map(|(addr, refusal)| refusal.of_frontend(object(), addr)).collect();
    let effective: BTreeSet<usize> = effective_ports(service).map(|(ordinal, _)| ordinal).collect();
    for (ordinal, port) in service.ports.iter().enumerate().filter(|(n, _)| !effective.contains(n)) {
        let what = if port.port == 0 {
            "port 0 is none: not served".to_owned()
        } else {
            format!(
                "a later port has the same name {:?} and protocol {}: that one is served",
                port.name, port.proto
            )
        };
        let remedy =
            if port.port == 0 { "name a port from 1 to 65535" } else { "give every port a name of its own" };
        let field = format!("spec.ports[{ordinal}]");
        problems.push(Problem { object: object(), field, what, remedy: remedy.into() });
    }
    problems
}

fn contested(claim: &Claim, winner: &Claim) -> Problem {
    let SvcPort { port, proto } = claim.port;
    Problem {
        object: format!("Service {}", claim.key),
        field: format!("spec.ports[{}]", claim.ordinal),
        what: format!(
            "{} port {port}/{proto} belongs to Service {}, which is older or comes first by name: not served for this one",
            claim.addr, winner.key
        ),
        remedy: "give one of the two another clusterIP or port, or delete it".into(),
    }
}
