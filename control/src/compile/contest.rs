//! Frontends that more than one Service could have: who does, and whose claims a change may have moved.
//!
//! A node port is no address's, but at an address of this host that takes node ports it meets whoever claims the address
//! itself (a load balancer's, often): that one comes first, unless nothing is behind it.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::packet::tuple::{Family, Proto};
use dataplane::service::{FrontendKind, Policy, SvcPort};

use super::claims::{Claim, Claims, Touched, nowhere};
use super::draft::{Accepted, Ground, exposure, join};
use crate::categorize::{NoReasons, categorize};
use crate::desired::Desired;
use crate::model::{Endpoint, ObjectKey, Service};

impl Claims {
    /// Whose frontend it is.
    pub(super) fn winner(&self, addr: IpAddr, port: SvcPort) -> Option<&Claim> {
        let first = self.line(addr, port).next()?;
        let gives_way = first.standing.outside && first.standing.idle && self.node_addresses.contains(&addr);
        let other = || self.line(nowhere(Family::of(addr)), port).next().filter(|claim| !claim.standing.idle);
        gives_way.then(other).flatten().or(Some(first))
    }

    /// Who has this node port's number at an address of its own that takes node ports: the first of them, and how
    /// many such addresses there are.
    pub(super) fn hides(&self, node_port: &Claim) -> Option<(&Claim, usize)> {
        let others = self.crossing(node_port.addr);
        let mut hiding = others.filter_map(|addr| self.winner(addr, node_port.port)).filter(|winner| {
            winner.kind != FrontendKind::NodePort
                && (&winner.key, winner.ordinal) != (&node_port.key, node_port.ordinal)
        });
        let first = hiding.next()?;
        Some((first, 1 + hiding.count()))
    }

    /// Whose node port has this number, in this family.
    pub(super) fn node_port(&self, family: Family, port: SvcPort) -> Option<&Claim> {
        self.line(nowhere(family), port).next()
    }

    /// Replaces the addresses of this host that take node ports.
    pub(super) fn set_node_addresses(&mut self, now: &[IpAddr], touched: &mut Touched) {
        let now: BTreeSet<IpAddr> = now.iter().copied().collect();
        for addr in self.node_addresses.symmetric_difference(&now) {
            for claim in self.at(*addr) {
                touched.frontends.insert((claim.addr, claim.port));
                touched.frontends.insert((nowhere(claim.family()), claim.port));
            }
        }
        self.node_addresses = now;
    }

    /// Replaces the port at which a Service's health is asked for.
    pub(super) fn set_health_port(&mut self, key: &Arc<ObjectKey>, before: Option<u16>, now: Option<u16>) {
        if let Some(port) = before
            && let Entry::Occupied(mut asked) = self.health_ports.entry(port)
        {
            asked.get_mut().remove(key);
            if asked.get().is_empty() {
                asked.remove();
            }
        }
        if let Some(port) = now {
            self.health_ports.entry(port).or_default().insert(Arc::clone(key));
        }
    }

    /// Everybody with a claim to a touched frontend, or to one that meets it.
    pub(super) fn concerned(&self, touched: &Touched) -> BTreeSet<Arc<ObjectKey>> {
        let mut all = BTreeSet::new();
        for &(addr, port) in &touched.frontends {
            let meeting = self.crossing(addr).flat_map(|addr| self.line(addr, port));
            all.extend(self.line(addr, port).chain(meeting).map(|claim| Arc::clone(&claim.key)));
            if addr.is_unspecified() && port.proto == Proto::Tcp {
                all.extend(self.health_ports.get(&port.port).into_iter().flatten().cloned());
            }
        }
        all
    }

    /// More than one claim is to this frontend, or to one that meets it.
    pub(super) fn is_contested(&self, claim: &Claim) -> bool {
        let Claim { addr, port, .. } = *claim;
        self.line(addr, port).nth(1).is_some()
            || self.crossing(addr).any(|addr| self.line(addr, port).next().is_some())
    }

    /// Where else a frontend is: a node port at every address that takes node ports, and the other way round.
    fn crossing(&self, addr: IpAddr) -> impl Iterator<Item = IpAddr> {
        let family = Family::of(addr);
        let is_node_port = addr.is_unspecified();
        let meets = !is_node_port && self.node_addresses.contains(&addr);
        let of_host = self.node_addresses.iter().copied().filter(move |other| {
            is_node_port && Family::of(*other) == family && self.addrs().contains(other)
        });
        meets.then(|| nowhere(family)).into_iter().chain(of_host)
    }
}

/// The same claims, those with nothing behind them marked. As in kube-proxy's dispatch, an outside address takes part
/// as soon as there is a usable endpoint anywhere: with external policy `Local` and none here, it still serves this
/// node's own pods, and drops the others, as every node does. A ClusterIP needs one its policy allows.
pub(super) fn standings(
    claims: &[Claim],
    service: &Service,
    desired: &Desired,
    ground: &Ground<'_>,
) -> Vec<Claim> {
    let slices: Vec<_> = desired.slices(&service.key).map(|slice| Accepted::of(slice, ground)).collect();
    let idle = |claim: &Claim| {
        let Some(port) = service.ports.get(claim.ordinal) else { return true };
        let joined = join(port, claim.family(), &slices);
        let endpoints: Vec<&Endpoint> = joined.values().map(|(endpoint, _)| *endpoint).collect();
        let sets =
            categorize(exposure(service, claim.standing.outside), &endpoints, desired.node(), &mut NoReasons);
        let here_only = !claim.standing.outside && service.internal == Policy::Local;
        if here_only { sets.local.is_empty() } else { !sets.any }
    };
    let judged = |claim: &Claim| {
        let mut claim = claim.clone();
        claim.standing.idle = ground.claims.is_contested(&claim) && idle(&claim);
        claim
    };
    claims.iter().map(judged).collect()
}
