//! One Service with its slices, compiled: a service port for each of its ports and families that holds a frontend, and
//! what its owner should be told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::packet::tuple::Family;
use dataplane::service::{
    Backend, Balancing, Fabric, Frontend, FrontendKind, Prefixes, ReturnPath, Service as Compiled, Snapshot,
    Sticky,
};

use super::balance::Wish;
use super::claims::{Claim, Claims, claims_of, cluster_ips};
use super::health::{Health, health};
use super::refuse::{self, Refusal, unusable};
use super::tables::Tables;
use super::{Rules, tell};
use crate::categorize::{Exposure, NoReasons, categorize, is_local};
use crate::desired::Desired;
use crate::ids::{Ids, PortKey};
use crate::model::{Endpoint, ObjectKey, Port, Problem, Service, Slice};

/// What decides about addresses: the configured ones and everybody's frontends.
pub(super) struct Ground<'a> {
    /// A snapshot of the fabric alone.
    pub(super) fabric: &'a Snapshot,
    pub(super) rules: &'a Rules,
    pub(super) claims: &'a Claims,
    pub(super) tables: &'a Tables,
}

/// A Service compiled, its purge epochs (0 here) still to be set.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) ports: Vec<(PortKey, Compiled)>,
    pub(super) problems: Vec<Problem>,
    /// Every endpoint address of its slices, also the refused: their fate hangs on others' frontends.
    pub(super) addrs: BTreeSet<IpAddr>,
    pub(super) health: Option<Health>,
    /// Bytes of the Maglev tables it asks for, whether or not it has them.
    pub(super) table_bytes: usize,
}

/// Why something cannot be a frontend.
pub(super) fn frontend_refusal(
    fabric: &Snapshot,
    rules: &Rules,
    addr: IpAddr,
    kind: FrontendKind,
) -> Option<Refusal> {
    if kind == FrontendKind::NodePort {
        let Fabric { return_path, node_addresses, .. } = fabric.fabric();
        let taken = node_addresses.iter().any(|own| Family::of(*own) == Family::of(addr));
        return match return_path {
            ReturnPath::Masquerade => Some(Refusal::NoNodePorts),
            ReturnPath::ConnMark => (!taken).then_some(Refusal::NoNodeAddress),
        };
    }
    let refused = kind == FrontendKind::ExternalIp && !rules.external_ips.contains(addr);
    unusable(addr)
        .or_else(|| fabric.is_snat(addr).then_some(Refusal::Snat))
        .or_else(|| refused.then_some(Refusal::NotAllowed))
}

/// The frontends a Service claims.
pub(super) fn claims(
    key: &Arc<ObjectKey>,
    service: &Service,
    fabric: &Snapshot,
    rules: &Rules,
) -> Vec<Claim> {
    claims_of(key, service, |addr, kind| frontend_refusal(fabric, rules, addr, kind).is_some())
}

/// Compiles one Service with the claims it makes.
pub(super) fn draft(
    service: &Service,
    claims: &[Claim],
    desired: &Desired,
    ground: &Ground<'_>,
    ids: &mut Ids,
) -> Draft {
    let mut draft =
        Draft { problems: tell::of_service(service, desired.knows_node(), ground), ..Draft::default() };
    draft.problems.extend(tell::hidden_health_check(service, ground.claims));
    let slices: Vec<_> = desired.slices(&service.key).map(|slice| Accepted::of(slice, ground)).collect();
    for accepted in &slices {
        draft.addrs.extend(accepted.slice.endpoints.iter().map(|endpoint| endpoint.addr));
        let refused = accepted.refused.iter().map(|(endpoint, refusal)| (endpoint.addr, *refusal));
        draft.problems.extend(refuse::of_endpoints(accepted.slice, refused));
    }
    draft.health = health(service, desired.node(), |port, family| join(port, family, &slices));
    let wish = Wish::of(service, ground);
    let mut held: BTreeMap<(usize, Family), Vec<&Claim>> = BTreeMap::new();
    for claim in claims {
        match ground.claims.winner(claim.addr, claim.port) {
            Some(winner) if winner != claim => draft.problems.push(tell::contested(claim, winner)),
            _ => {
                let hidden = (claim.kind == FrontendKind::NodePort).then(|| ground.claims.hides(claim));
                let hidden = hidden.flatten().map(|(by, places)| tell::hidden(claim, by, places));
                draft.problems.extend(hidden);
                held.entry((claim.ordinal, claim.family())).or_default().push(claim);
            }
        }
    }
    for ((ordinal, family), held) in held {
        let cluster_ip = cluster_ips(service).find(|addr| Family::of(*addr) == family);
        if let (Some(port), Some(cluster_ip)) = (service.ports.get(ordinal), cluster_ip) {
            let making = Making { service, port, cluster_ip, held: &held, wish };
            draft.ports.push(making.compile(&slices, desired, ids));
        }
    }
    wish.account(service, &mut draft);
    draft
}

/// A slice with what of its endpoints is accepted, and what is not.
pub(super) struct Accepted<'a> {
    pub(super) slice: &'a Slice,
    pub(super) endpoints: Vec<&'a Endpoint>,
    pub(super) refused: Vec<(&'a Endpoint, Refusal)>,
}

impl<'a> Accepted<'a> {
    pub(super) fn of(slice: &'a Slice, ground: &Ground<'_>) -> Self {
        let (mut endpoints, mut refused) = (Vec::with_capacity(slice.endpoints.len()), Vec::new());
        for endpoint in &slice.endpoints {
            match endpoint_refusal(ground, endpoint.addr) {
                Some(refusal) => refused.push((endpoint, refusal)),
                None => endpoints.push(endpoint),
            }
        }
        Self { slice, endpoints, refused }
    }
}

fn endpoint_refusal(ground: &Ground<'_>, addr: IpAddr) -> Option<Refusal> {
    unusable(addr)
        .or_else(|| ground.fabric.is_snat(addr).then_some(Refusal::Snat))
        .or_else(|| ground.claims.has_cluster_ip(addr).then_some(Refusal::Frontend))
        .or_else(|| ground.fabric.in_service_cidr(addr).then_some(Refusal::ServiceCidr))
}

/// A service port of one family, about to be compiled.
struct Making<'a> {
    service: &'a Service,
    port: &'a Port,
    cluster_ip: IpAddr,
    /// The frontends it holds.
    held: &'a [&'a Claim],
    wish: Wish,
}

impl Making<'_> {
    fn compile(&self, slices: &[Accepted<'_>], desired: &Desired, ids: &mut Ids) -> (PortKey, Compiled) {
        let Self { service, port, cluster_ip, held, wish } = *self;
        let family = Family::of(cluster_ip);
        let key = PortKey {
            object: Arc::new(service.key.clone()),
            port: port.name.as_str().into(),
            proto: port.proto,
            family,
        };
        let id = ids.service(&key);
        let joined = join(port, family, slices);
        let endpoints: Vec<&Endpoint> = joined.values().map(|(endpoint, _)| *endpoint).collect();
        let outside = held.iter().any(|claim| claim.kind != FrontendKind::ClusterIp);
        let sets = categorize(exposure(service, outside), &endpoints, desired.node(), &mut NoReasons);
        // What is neither ready nor serving is in no set and matters to no flow.
        let (mut backends, mut weights) = (Vec::with_capacity(joined.len()), Vec::new());
        let mut places = Vec::with_capacity(joined.len());
        for (&(addr, port), (endpoint, slice)) in &joined {
            places.push(u32::try_from(backends.len()).unwrap_or(u32::MAX));
            if endpoint.ready || endpoint.serving {
                let (id, local) = (ids.endpoint(id, addr, port), is_local(endpoint, desired.node()));
                backends.push(Backend { id, addr, port, local, ready_or_serving: true });
                weights.push(service.balance.weight(endpoint, &slice.labels));
            }
        }
        let placed = |set: Vec<u32>| {
            set.into_iter().filter_map(|n| places.get(n as usize).copied()).collect::<Box<_>>()
        };
        let (cluster, local) = (placed(sets.cluster), placed(sets.local));
        let name = name(&service.key, &port.name);
        let balancing = Balancing::new(wish.selector(), &name, &backends, &weights, [&cluster, &local]);
        let addressed = held.iter().filter(|claim| claim.kind != FrontendKind::NodePort);
        let node_port = held.iter().find(|claim| claim.kind == FrontendKind::NodePort);
        let compiled = Compiled {
            id,
            name,
            cluster_ip,
            port: dataplane::service::SvcPort { port: port.port, proto: port.proto },
            // Claims are in the order of their addresses.
            frontends: addressed.map(|claim| Frontend { addr: claim.addr, kind: claim.kind }).collect(),
            node_port: node_port.map(|claim| claim.port.port),
            internal: service.internal,
            external: service.external,
            sources: sources(service, family, desired),
            guarded: service.load_balancer_ips.contains(&cluster_ip),
            purge_epoch: 0,
            backends: backends.into(),
            cluster,
            local,
            any: sets.any,
            balancing,
            affinity: service.affinity.map(Sticky::new),
        };
        (key, compiled)
    }
}

/// How a service port can be reached, which may be from `outside` the cluster.
pub(super) fn exposure(service: &Service, outside: bool) -> Exposure {
    Exposure { internal: service.internal, external: outside.then_some(service.external) }
}

/// Who may use load-balancer addresses of this family; `None`: everybody. Where this node itself may, so may whoever has
/// one of these addresses: a process of this host that connects to one may get it for its own.
fn sources(service: &Service, family: Family, desired: &Desired) -> Option<Arc<Prefixes>> {
    let mut ranges: Vec<(IpAddr, u8)> =
        service.source_ranges.iter().copied().filter(|(addr, _)| Family::of(*addr) == family).collect();
    let allowed = Prefixes::new(&ranges).ok().filter(|_| !ranges.is_empty())?;
    let node = desired.node().addresses.iter().find(|addr| Family::of(**addr) == family);
    if !node.is_some_and(|node| allowed.contains(*node)) {
        return Some(Arc::new(allowed));
    }
    let own = service.load_balancer_ips.iter().filter(|addr| Family::of(**addr) == family);
    ranges.extend(own.map(|addr| (*addr, if addr.is_ipv4() { 32 } else { 128 })));
    Prefixes::new(&ranges).ok().map(Arc::new)
}

/// The endpoints of a service port, each with the slice it is of, by where they listen.
pub(super) type Joined<'a> = BTreeMap<(IpAddr, u16), (&'a Endpoint, &'a Slice)>;

/// The endpoints of a service port: those of slice ports with its name and protocol. A pod that runs beats one
/// that is terminating and had the same address; among several that run the last slice by name wins.
pub(super) fn join<'a>(port: &Port, family: Family, slices: &[Accepted<'a>]) -> Joined<'a> {
    let mut joined = BTreeMap::new();
    for &Accepted { slice, ref endpoints, .. } in slices {
        let ports =
            slice.ports.iter().filter(|p| p.name == port.name && p.proto == port.proto && p.port != 0);
        for slice_port in ports {
            for &endpoint in endpoints.iter().filter(|e| Family::of(e.addr) == family) {
                let key = (endpoint.addr, slice_port.port);
                if !endpoint.terminating || !joined.contains_key(&key) {
                    joined.insert(key, (endpoint, slice));
                }
            }
        }
    }
    joined
}

fn name(key: &ObjectKey, port: &str) -> Box<str> {
    if port.is_empty() { key.to_string().into() } else { format!("{key}:{port}").into() }
}
