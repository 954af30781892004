//! Who may have which frontend. Several Services may claim one: a ClusterIP comes first, then whoever has endpoints,
//! then the oldest; when it goes, or has no endpoints any more, the next in line takes over. What is contested where is
//! in [`super::contest`].

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::packet::tuple::{Family, Proto};
use dataplane::service::{FrontendKind, SvcPort};

use crate::model::{ObjectKey, Port, Service};

/// One service port's claim to a frontend. Ordered by frontend first, then by who comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    /// A node port has no address of its own: it stands under the unspecified one, where nothing else can be.
    pub(super) addr: IpAddr,
    /// The port clients use there.
    pub(super) port: SvcPort,
    pub(super) standing: Standing,
    pub(super) key: Arc<ObjectKey>,
    /// Position in `spec.ports`: one Service may contradict itself.
    pub(super) ordinal: usize,
    pub(super) kind: FrontendKind,
}

/// A claim's place in the line for its frontend. Only Services with endpoints take part in kube-proxy's dispatch; and
/// whoever may write a Service must not get another's ClusterIP by naming it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    /// It is no ClusterIP.
    pub(super) outside: bool,
    /// No endpoint would be served through it. Only known of contested claims.
    pub(super) idle: bool,
    /// Creation time; an unknown one comes last.
    created: i64,
}

impl Claim {
    pub(super) fn family(&self) -> Family {
        Family::of(self.addr)
    }
}

/// The ClusterIPs a Service is served with: the first of each family, as ids stand for a port of one family.
pub(crate) fn cluster_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let first_of = |v4: bool| service.cluster_ips.iter().copied().find(|addr| addr.is_ipv4() == v4);
    [first_of(true), first_of(false)].into_iter().flatten()
}

/// Every address a Service names, by what it is to it. One it names twice is the first of the kinds.
pub(super) fn addresses(service: &Service) -> BTreeMap<IpAddr, FrontendKind> {
    let of = |kind, list: &[IpAddr]| list.iter().map(move |addr| (*addr, kind)).collect::<Vec<_>>();
    let cluster = cluster_ips(service).map(|addr| (addr, FrontendKind::ClusterIp));
    let outside = of(FrontendKind::LoadBalancer, &service.load_balancer_ips)
        .into_iter()
        .chain(of(FrontendKind::ExternalIp, &service.external_ips));
    let mut all = BTreeMap::new();
    for (addr, kind) in cluster.chain(outside) {
        all.entry(addr).and_modify(|known: &mut FrontendKind| *known = (*known).min(kind)).or_insert(kind);
    }
    all
}

/// The claims of a Service to its frontends that `refused` does not rule out. In a family without a ClusterIP it does
/// not exist.
pub(super) fn claims_of(
    key: &Arc<ObjectKey>,
    service: &Service,
    refused: impl Fn(IpAddr, FrontendKind) -> bool,
) -> Vec<Claim> {
    let created = if service.created == 0 { i64::MAX } else { service.created };
    let mut addrs = addresses(service);
    addrs.retain(|addr, kind| !refused(*addr, *kind));
    let families: Vec<Family> = addrs
        .iter()
        .filter(|(_, kind)| **kind == FrontendKind::ClusterIp)
        .map(|(addr, _)| Family::of(*addr))
        .collect();
    addrs.retain(|addr, _| families.contains(&Family::of(*addr)));
    let mut claims = Vec::with_capacity(addrs.len() * service.ports.len());
    for (ordinal, port) in effective_ports(service) {
        let mut claim = |addr, number, kind| {
            let port = SvcPort { port: number, proto: port.proto };
            let standing = Standing { outside: kind != FrontendKind::ClusterIp, idle: false, created };
            claims.push(Claim { addr, port, standing, key: Arc::clone(key), ordinal, kind });
        };
        addrs.iter().for_each(|(addr, kind)| claim(*addr, port.port, *kind));
        if let Some(number) = port.node_port {
            let nowhere = families.iter().map(|family| nowhere(*family));
            let node_ports = nowhere.filter(|addr| !refused(*addr, FrontendKind::NodePort));
            node_ports.for_each(|addr| claim(addr, number, FrontendKind::NodePort));
        }
    }
    claims
}

/// Where the node ports of a family stand.
pub(super) fn nowhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The ports of a Service with their positions: of several with one name and protocol the last counts.
pub(super) fn effective_ports(service: &Service) -> impl Iterator<Item = (usize, &Port)> {
    let last: BTreeMap<_, _> =
        service.ports.iter().enumerate().map(|(n, p)| ((&*p.name, p.proto), n)).collect();
    let counts = move |n: usize, port: &Port| last.get(&(&*port.name, port.proto)) == Some(&n);
    service.ports.iter().enumerate().filter(move |(n, port)| port.port != 0 && counts(*n, port))
}

/// All claims.
#[derive(Debug)]
pub(super) struct Claims {
    all: BTreeSet<Claim>,
    /// Addresses with how many claims there are to each, and the same without the counts.
    users: BTreeMap<IpAddr, usize>,
    addrs: BTreeSet<IpAddr>,
    /// Addresses of this host that take node ports.
    pub(super) node_addresses: BTreeSet<IpAddr>,
    /// Who asks for health checks at which port: a node port of that number would hide them.
    pub(super) health_ports: BTreeMap<u16, BTreeSet<Arc<ObjectKey>>>,
    /// Sorts before every real key.
    least: Arc<ObjectKey>,
}

/// What a change of claims may have changed for others.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) frontends: BTreeSet<(IpAddr, SvcPort)>,
    /// Whether the address was anybody's ClusterIP before the change.
    was_cluster_ip: BTreeMap<IpAddr, bool>,
}

impl Default for Claims {
    fn default() -> Self {
        let least = ObjectKey { namespace: String::new(), name: String::new() };
        Self {
            all: BTreeSet::new(),
            users: BTreeMap::new(),
            addrs: BTreeSet::new(),
            node_addresses: BTreeSet::new(),
            health_ports: BTreeMap::new(),
            least: Arc::new(least),
        }
    }
}

impl Claims {
    /// Puts a Service's new claims in the place of its old ones.
    pub(super) fn replace(&mut self, old: &[Claim], new: &[Claim], touched: &mut Touched) {
        for claim in old.iter().chain(new) {
            touched.frontends.insert((claim.addr, claim.port));
            let is = || self.has_cluster_ip(claim.addr);
            touched.was_cluster_ip.entry(claim.addr).or_insert_with(is);
        }
        for claim in old {
            self.all.remove(claim);
            self.leave(claim);
        }
        new.iter().filter(|claim| claim.kind != FrontendKind::NodePort).for_each(|claim| {
            *self.users.entry(claim.addr).or_default() += 1;
            self.addrs.insert(claim.addr);
        });
        self.all.extend(new.iter().cloned());
    }

    fn leave(&mut self, claim: &Claim) {
        if let Entry::Occupied(mut users) = self.users.entry(claim.addr) {
            *users.get_mut() -= 1;
            if *users.get() == 0 {
                users.remove();
                self.addrs.remove(&claim.addr);
            }
        }
    }

    /// Every address some Service is to be reached at; node ports have none.
    pub(super) fn addrs(&self) -> &BTreeSet<IpAddr> {
        &self.addrs
    }

    /// The frontends at one address.
    pub(super) fn at(&self, addr: IpAddr) -> impl Iterator<Item = &Claim> {
        let first = SvcPort { port: 0, proto: Proto::Tcp };
        self.all.range(self.first_of(addr, first)..).take_while(move |claim| claim.addr == addr)
    }

    /// Every node port of either family.
    pub(super) fn node_ports(&self) -> BTreeSet<SvcPort> {
        let of_both = [Family::V4, Family::V6].map(nowhere);
        of_both.into_iter().flat_map(|addr| self.at(addr)).map(|claim| claim.port).collect()
    }

    /// The address is some Service's ClusterIP.
    pub(super) fn has_cluster_ip(&self, addr: IpAddr) -> bool {
        self.at(addr).any(|claim| claim.kind == FrontendKind::ClusterIp)
    }

    /// The claims to one frontend, whoever comes first in front.
    pub(super) fn line(&self, addr: IpAddr, port: SvcPort) -> impl Iterator<Item = &Claim> {
        let from = self.all.range(self.first_of(addr, port)..);
        from.take_while(move |claim| (claim.addr, claim.port) == (addr, port))
    }

    /// Addresses that became a ClusterIP, or are one no more.
    pub(super) fn flipped(&self, touched: &Touched) -> Vec<IpAddr> {
        let flips = touched.was_cluster_ip.iter().filter(|(addr, was)| self.has_cluster_ip(**addr) != **was);
        flips.map(|(addr, _)| *addr).collect()
    }

    fn first_of(&self, addr: IpAddr, port: SvcPort) -> Claim {
        let (key, kind) = (Arc::clone(&self.least), FrontendKind::ClusterIp);
        let standing = Standing { outside: false, idle: false, created: i64::MIN };
        Claim { addr, port, standing, key, ordinal: 0, kind }
    }
}
