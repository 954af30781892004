//! How the flows of a service port are spread over the endpoints of a set: the rule, the weights, and what is worked out
//! from them once, when the service port is compiled, so that a pick is short.

use std::net::IpAddr;
use std::sync::Arc;

use super::groups::{Groups, cost};
use super::select::{hash_endpoint, hash_name, mix};
use super::{Backend, Live, Selector, Set, maglev};
use crate::packet::tuple::Tuple;
use crate::sync::{AtomicU32, Ordering};

/// The heaviest weight an endpoint may have.
pub const MAX_WEIGHT: u16 = 1_000;

/// How a service port picks endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    selector: Selector,
    seed: u64,
    /// Of each backend, where the selector hashes.
    hashes: Box<[u64]>,
    cluster: Shares,
    local: Shares,
    turn: Turn,
}

/// What the members of one set get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shares {
    /// The weights of the members before each and of itself, added up; empty when all weigh the same.
    sums: Box<[u32]>,
    /// The Maglev table: positions in the set.
    table: Box<[u16]>,
    /// For rendezvous hashing over a large set.
    groups: Option<Box<Groups>>,
}

/// Whose turn it is, in the cluster set and in the local one. No two are different: it is no part of what a service port
/// is.
#[derive(Clone, Debug, Default)]
struct Turn(Arc<[AtomicU32; 2]>);

impl PartialEq for Turn {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Turn {}

impl Balancing {
    /// Of a service port with this name, these backends and sets of their places. `weights` has one for each backend, at
    /// most [`MAX_WEIGHT`]; empty: all weigh the same. One that weighs 0 gets no new flow, unless all members of the set
    /// weigh 0: then they weigh the same.
    #[must_use]
    pub fn new(
        selector: Selector,
        name: &str,
        backends: &[Backend],
        weights: &[u16],
        sets: [&[u32]; 2],
    ) -> Self {
        let seed = hash_name(name);
        let hashes: Box<[u64]> = match selector.hash_by() {
            Some(_) => backends.iter().map(|b| hash_endpoint(seed, b.addr, b.port)).collect(),
            None => Box::default(),
        };
        let [cluster, local] = sets.map(|members| Shares::new(selector, members, weights, &hashes));
        Self { selector, seed, hashes, cluster, local, turn: Turn::default() }
    }

    /// Bytes of the Maglev tables for sets of so many members.
    #[must_use]
    pub fn maglev_bytes(members: [usize; 2]) -> usize {
        let bytes = |members| if members > 0 { maglev::slots(members) * size_of::<u16>() } else { 0 };
        members.into_iter().map(bytes).sum()
    }

    /// Whether a Maglev table has room for so many members.
    #[must_use]
    pub const fn fits_maglev(members: usize) -> bool {
        members <= maglev::MAX_MEMBERS
    }

    /// The rule.
    #[must_use]
    pub const fn selector(&self) -> Selector {
        self.selector
    }

    /// Bytes of its Maglev tables.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        size_of_val(&*self.cluster.table) + size_of_val(&*self.local.table)
    }

    /// What the member at this position of the set weighs, and what all of them do; `None` when all weigh the same.
    #[must_use]
    pub fn weight(&self, set: Set, position: usize) -> Option<(u32, u32)> {
        let shares = self.shares(set);
        (!shares.sums.is_empty()).then(|| (shares.weight(position), shares.total()))
    }

    /// Goes on with the turns of the service port as it was before.
    pub(super) fn follow(&mut self, before: &Self) {
        self.turn = before.turn.clone();
    }

    /// Was made for sets of these sizes, out of so many backends.
    pub(super) fn fits(&self, backends: usize, [cluster, local]: [usize; 2]) -> bool {
        let fits = |shares: &Shares, members: usize| {
            let tabled = !matches!(self.selector, Selector::Maglev(_)) || members == 0;
            (shares.sums.is_empty() || shares.sums.len() == members)
                && shares.groups.as_ref().is_none_or(|groups| groups.members() == members)
                && (tabled || !shares.table.is_empty())
                && shares.table.iter().all(|position| usize::from(*position) < members)
        };
        let hashed = self.selector.hash_by().is_none() || self.hashes.len() == backends;
        hashed && fits(&self.cluster, cluster) && fits(&self.local, local)
    }

    /// The position of the flow's endpoint among the members of the set; `None` only when there are none.
    pub(super) fn pick<L: Live>(
        &self,
        set: Set,
        members: &[u32],
        backends: &[Backend],
        flow: &Tuple<IpAddr>,
        live: &mut L,
    ) -> Option<usize> {
        if members.is_empty() {
            return None;
        }
        if let Some(fixed) = self.fixed(set, members, flow) {
            return Some(fixed);
        }
        let among = Among { shares: self.shares(set), members, backends };
        match self.selector {
            Selector::Random => among.draw(live),
            Selector::RoundRobin => among.next(self.turn.0[set as usize].fetch_add(1, Ordering::Relaxed)),
            Selector::LeastConn if members.len() <= Selector::LOOKED_AT => among.least_loaded(live),
            Selector::LeastConn | Selector::P2c => among.less_loaded_of_two(live),
            // Both are fixed by the flow.
            Selector::Hrw(_) | Selector::Maglev(_) => None,
        }
    }

    /// The position this flow gets whenever it comes; `None` when that hangs on more than the flow.
    #[must_use]
    pub fn fixed(&self, set: Set, members: &[u32], flow: &Tuple<IpAddr>) -> Option<usize> {
        let among = Among { shares: self.shares(set), members, backends: &[] };
        match self.selector {
            // Nothing to choose; the weight of one alone means nothing.
            _ if members.len() == 1 => Some(0),
            Selector::Random | Selector::RoundRobin | Selector::LeastConn | Selector::P2c => None,
            Selector::Hrw(by) => among.highest(&self.hashes, by.hash(self.seed, flow)),
            Selector::Maglev(by) => among.tabled(by.hash(self.seed, flow)),
        }
    }

    const fn shares(&self, set: Set) -> &Shares {
        match set {
            Set::Cluster => &self.cluster,
            Set::Local => &self.local,
        }
    }
}

impl Shares {
    fn new(selector: Selector, members: &[u32], weights: &[u16], hashes: &[u64]) -> Self {
        let of = |place: &u32| weights.get(*place as usize).copied().unwrap_or(1).min(MAX_WEIGHT);
        let mut total = 0_u32;
        let mut sums: Box<[u32]> = members
            .iter()
            .map(|place| {
                total = total.saturating_add(u32::from(of(place)));
                total
            })
            .collect();
        let first = members.first().map_or(0, of);
        if members.iter().all(|place| of(place) == first) {
            sums = Box::default();
        }
        let mut shares = Self { sums, ..Self::default() };
        let hashes = || -> Vec<u64> {
            members.iter().filter_map(|place| hashes.get(*place as usize).copied()).collect()
        };
        match selector {
            Selector::Maglev(_) => {
                let table = maglev::table(&hashes(), |position| shares.weight(position));
                shares.table = table.unwrap_or_default();
            }
            Selector::Hrw(_) => {
                shares.groups = Groups::new(&hashes(), |position| shares.weight(position)).map(Box::new);
            }
            Selector::Random | Selector::RoundRobin | Selector::LeastConn | Selector::P2c => {}
        }
        shares
    }

    fn total(&self) -> u32 {
        self.sums.last().copied().unwrap_or_default()
    }

    fn weight(&self, position: usize) -> u32 {
        let Some(sum) = self.sums.get(position) else { return 1 };
        sum - position.checked_sub(1).and_then(|before| self.sums.get(before)).copied().unwrap_or_default()
    }
}

/// The members of a set, to pick one of. At least two.
struct Among<'a> {
    shares: &'a Shares,
    members: &'a [u32],
    backends: &'a [Backend],
}

impl Among<'_> {
    fn count(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// By weight, independent of everything else.
    fn draw<L: Live>(&self, live: &mut L) -> Option<usize> {
        if self.shares.sums.is_empty() {
            return Some(live.draw(self.count()) as usize);
        }
        Some(self.at(live.draw(self.shares.total())))
    }

    /// Whose share of all weights this one is in.
    fn at(&self, share: u32) -> usize {
        self.shares.sums.partition_point(|sum| *sum <= share)
    }

    /// One after the other. Weighted: through all shares once in as many turns, in strides of about the golden section
    /// of them, so that one's turns lie far apart.
    fn next(&self, turn: u32) -> Option<usize> {
        if self.shares.sums.is_empty() {
            return Some((turn % self.count()) as usize);
        }
        let total = u64::from(self.shares.total());
        let share = u64::from(turn) * stride(total) % total;
        Some(self.at(u32::try_from(share).unwrap_or_default()))
    }

    fn active<L: Live>(&self, position: usize, live: &L) -> u64 {
        let place = self.members.get(position).copied().unwrap_or_default();
        self.backends.get(place as usize).map_or(0, |backend| u64::from(live.active(backend.id)))
    }

    /// Whether the one has fewer active flows for its weight than the other. With one more each: so that of idle ones
    /// the heavier is the less loaded.
    fn compare<L: Live>(&self, one: usize, other: usize, live: &L) -> std::cmp::Ordering {
        let load = |this, that| (self.active(this, live) + 1) * u64::from(self.shares.weight(that));
        load(one, other).cmp(&load(other, one))
    }

    /// Any of the least loaded, each as likely.
    fn least_loaded<L: Live>(&self, live: &mut L) -> Option<usize> {
        let mut least: Option<(usize, u32)> = None;
        for position in (0..self.members.len()).filter(|position| self.shares.weight(*position) > 0) {
            let Some((best, equals)) = least else {
                least = Some((position, 1));
                continue;
            };
            least = match self.compare(position, best, live) {
                std::cmp::Ordering::Less => Some((position, 1)),
                std::cmp::Ordering::Equal if live.draw(equals + 1) == 0 => Some((position, equals + 1)),
                std::cmp::Ordering::Equal => Some((best, equals + 1)),
                std::cmp::Ordering::Greater => least,
            };
        }
        least.map(|(best, _)| best)
    }

    /// The less loaded of two different ones drawn by weight; of equals the first.
    fn less_loaded_of_two<L: Live>(&self, live: &mut L) -> Option<usize> {
        let one = self.draw(live)?;
        let other = if self.shares.sums.is_empty() {
            let drawn = live.draw(self.count() - 1) as usize;
            drawn + usize::from(drawn >= one)
        } else {
            let weight = self.shares.weight(one);
            let rest = self.shares.total() - weight;
            if rest == 0 {
                return Some(one);
            }
            // Among the shares without the first one's.
            let drawn = live.draw(rest);
            let before = self.shares.sums.get(one).copied().unwrap_or_default() - weight;
            self.at(if drawn >= before { drawn + weight } else { drawn })
        };
        Some(if self.compare(other, one, live).is_lt() { other } else { one })
    }

    /// Rendezvous: the highest hash; weighted, the lowest [`cost`]. Of a large set among one group only.
    fn highest(&self, hashes: &[u64], flow: u64) -> Option<usize> {
        match &self.shares.groups {
            Some(groups) => self.highest_of(groups.of(flow).iter().map(|at| *at as usize), hashes, flow),
            None => self.highest_of(0..self.members.len(), hashes, flow),
        }
    }

    fn highest_of(&self, positions: impl Iterator<Item = usize>, hashes: &[u64], flow: u64) -> Option<usize> {
        let hash = |position: usize| {
            let place = self.members.get(position).copied().unwrap_or_default();
            mix(flow, hashes.get(place as usize).copied().unwrap_or_default())
        };
        if self.shares.sums.is_empty() {
            return positions.max_by_key(|position| hash(*position));
        }
        let costs = positions.map(|position| (position, cost(hash(position), self.shares.weight(position))));
        costs.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(position, _)| position)
    }

    fn tabled(&self, flow: u64) -> Option<usize> {
        let slots = u64::try_from(self.shares.table.len()).ok().filter(|slots| *slots > 0)?;
        self.shares.table.get(usize::try_from(flow % slots).ok()?).map(|position| usize::from(*position))
    }
}

/// About 0.618 of the total, and without a common divisor: its multiples come to every share.
fn stride(total: u64) -> u64 {
    let mut stride = (total * 618 / 1_000).max(1);
    while divisor(total, stride) > 1 {
        stride += 1;
    }
    stride
}

const fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests;
