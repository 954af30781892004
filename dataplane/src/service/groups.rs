//! Rendezvous hashing in two steps, for sets too large to look at every endpoint for each new flow: first a group of
//! endpoints, then one of its members.
//!
//! Endpoints are in one of 256 groups by their own hash, for ever. A group weighs what its members do together, so that
//! shares are those of plain rendezvous hashing. When an endpoint leaves, its flows go elsewhere, and because its group
//! weighs less, about as many others leave the group; all else stays.

use super::select::mix;

/// Sets up to this size are looked at as a whole.
pub(super) const WHOLE: usize = 2_048;

const GROUPS: usize = 256;
/// Makes the hash a group is chosen by another one than that a member is chosen by.
const SALT: u64 = 0x9106_1b5e_74d5_a2c3;

/// The members of a large set by group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    /// Positions in the set, group after group.
    positions: Box<[u32]>,
    /// Where each group ends in it.
    ends: Box<[u32]>,
    /// What the members of each weigh together.
    weights: Box<[u32]>,
}

impl Groups {
    /// Of members with these hashes and weights, in the order of the set. `None`: they are few.
    pub(super) fn new(hashes: &[u64], weight: impl Fn(usize) -> u32) -> Option<Self> {
        if hashes.len() <= WHOLE {
            return None;
        }
        let mut positions: Vec<u32> = (0..).take(hashes.len()).collect();
        positions.sort_by_key(|position| group(hashes, *position));
        let mut groups = Self { ends: [0; GROUPS].into(), weights: [0; GROUPS].into(), ..Self::default() };
        for position in &positions {
            let (group, weight) = (group(hashes, *position), weight(*position as usize));
            groups.weights[group] = groups.weights[group].saturating_add(weight);
            groups.ends[group] += 1;
        }
        let mut end = 0;
        for length in &mut groups.ends {
            end += *length;
            *length = end;
        }
        groups.positions = positions.into();
        Some(groups)
    }

    /// How many members they were made of.
    pub(super) const fn members(&self) -> usize {
        self.positions.len()
    }

    /// The positions of the members among which the flow's endpoint is.
    pub(super) fn of(&self, flow: u64) -> &[u32] {
        let salted = mix(flow, SALT);
        let costs = (0_usize..).zip(&self.weights).filter(|(_, weight)| **weight > 0);
        let costs = costs.map(|(group, weight)| (group, cost(mix(salted, group as u64), *weight)));
        let chosen = costs.min_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(0, |(group, _)| group);
        let end = |group: usize| self.ends.get(group).copied().unwrap_or_default() as usize;
        let start = chosen.checked_sub(1).map_or(0, end);
        self.positions.get(start..end(chosen)).unwrap_or_default()
    }
}

/// What weighted rendezvous hashing compares, lowest first: `-ln(u) / weight`, `u` being the hash as a number in (0, 1)
/// (Schindelhauer and Schomaker, SPAA 2005).
#[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
pub(super) fn cost(hash: u64, weight: u32) -> f64 {
    let u = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -u.ln() / f64::from(weight)
}

#[allow(clippy::cast_possible_truncation, reason = "the upper eight bits")]
fn group(hashes: &[u64], position: u32) -> usize {
    hashes.get(position as usize).map_or(0, |hash| (hash >> 56) as usize)
}

const _: () = assert!(GROUPS == 1 << 8);

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    fn hashes(count: u64) -> Vec<u64> {
        (0..count).map(|n| mix(7, n)).collect()
    }

    #[test]
    fn every_member_is_in_one_group_and_few_are_looked_at() {
        assert_eq!(Groups::new(&hashes(WHOLE as u64), |_| 1), None);
        let groups = Groups::new(&hashes(99_000), |_| 1).unwrap();
        let mut all = groups.positions.to_vec();
        all.sort_unstable();
        assert!(all.iter().zip(0..).all(|(position, n)| *position == n) && all.len() == 99_000);
        let most = (0..2_000).map(|flow| groups.of(mix(flow, 1)).len()).max().unwrap();
        assert!(most < 500, "{most} of 99,000");
    }

    #[test]
    fn a_group_without_weight_is_never_chosen() {
        let hashes = hashes(3_000);
        let heavy = |position: usize| u32::from(hashes[position] >> 56 == 77);
        let groups = Groups::new(&hashes, heavy).unwrap();
        assert!((0..1_000).all(|flow| groups.of(flow).iter().all(|position| heavy(*position as usize) == 1)));
    }
}
