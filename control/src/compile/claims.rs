//! Who may have which frontend. Several Services may claim one; the oldest has it, and when it goes the next in
//! line takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::packet::tuple::Proto;
use dataplane::service::SvcPort;

use crate::model::{ObjectKey, Port, Service};

/// One service port's claim to a frontend. Ordered by frontend first, then by who comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) addr: IpAddr,
    pub(super) port: SvcPort,
    /// Creation time; an unknown one comes last.
    rank: i64,
    pub(super) key: Arc<ObjectKey>,
    /// Position in `spec.ports`: one Service may contradict itself.
    pub(super) ordinal: usize,
}

/// The addresses a Service may be reached at: the first of each family, as ids stand for a port of one family.
pub(crate) fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let first_of = |v4: bool| service.cluster_ips.iter().copied().find(|addr| addr.is_ipv4() == v4);
    [first_of(true), first_of(false)].into_iter().flatten()
}

/// The claims of a Service to its addresses that `refused` does not rule out.
pub(super) fn claims_of(
    key: &Arc<ObjectKey>,
    service: &Service,
    refused: impl Fn(IpAddr) -> bool,
) -> Vec<Claim> {
    let rank = if service.created == 0 { i64::MAX } else { service.created };
    let addrs: Vec<IpAddr> = addresses(service).filter(|addr| !refused(*addr)).collect();
    let mut claims = Vec::with_capacity(addrs.len() * service.ports.len());
    // SCTP is read and not translated yet: listing it as served would be a lie.
    for (ordinal, port) in effective_ports(service).filter(|(_, port)| port.proto != Proto::Sctp) {
        let port = SvcPort { port: port.port, proto: port.proto };
        claims.extend(addrs.iter().map(|&addr| Claim { addr, port, rank, key: Arc::clone(key), ordinal }));
    }
    claims
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
    /// Sorts before every real key.
    least: Arc<ObjectKey>,
}

/// What a change of claims may have changed for others.
#[derive(Debug, Default)]
pub(super) struct Touched {
    frontends: BTreeSet<(IpAddr, SvcPort)>,
    /// Whether the address was anybody's before the change.
    was_claimed: BTreeMap<IpAddr, bool>,
}

impl Default for Claims {
    fn default() -> Self {
        let least = ObjectKey { namespace: String::new(), name: String::new() };
        Self { all: BTreeSet::new(), least: Arc::new(least) }
    }
}

impl Claims {
    /// Puts a Service's new claims in the place of its old ones.
    pub(super) fn replace(&mut self, old: &[Claim], new: &[Claim], touched: &mut Touched) {
        for claim in old.iter().chain(new) {
            touched.frontends.insert((claim.addr, claim.port));
            touched.was_claimed.entry(claim.addr).or_insert_with(|| self.has(claim.addr));
        }
        for claim in old {
            self.all.remove(claim);
        }
        self.all.extend(new.iter().cloned());
    }

    /// The address is some Service's.
    pub(super) fn has(&self, addr: IpAddr) -> bool {
        let first = SvcPort { port: 0, proto: Proto::Tcp };
        self.all.range(self.first_of(addr, first)..).next().is_some_and(|claim| claim.addr == addr)
    }

    /// The claims to one frontend, the winner first.
    pub(super) fn line(&self, addr: IpAddr, port: SvcPort) -> impl Iterator<Item = &Claim> {
        let from = self.all.range(self.first_of(addr, port)..);
        from.take_while(move |claim| (claim.addr, claim.port) == (addr, port))
    }

    /// Everybody with a claim to a touched frontend.
    pub(super) fn concerned(&self, touched: &Touched) -> Vec<Arc<ObjectKey>> {
        let lines = touched.frontends.iter().flat_map(|&(addr, port)| self.line(addr, port));
        lines.map(|claim| Arc::clone(&claim.key)).collect()
    }

    /// Addresses that became a frontend, or are one no more.
    pub(super) fn flipped(&self, touched: &Touched) -> Vec<IpAddr> {
        let flips = touched.was_claimed.iter().filter(|(addr, was)| self.has(**addr) != **was);
        flips.map(|(addr, _)| *addr).collect()
    }

    fn first_of(&self, addr: IpAddr, port: SvcPort) -> Claim {
        Claim { addr, port, rank: i64::MIN, key: Arc::clone(&self.least), ordinal: 0 }
    }
}
