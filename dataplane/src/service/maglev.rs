//! Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016): every
//! endpoint has a permutation of the table's slots of its own, and they take turns in claiming the next free one.

use super::select::mix;

/// Slots of a table for at least so many endpoints: primes above a hundred for each, as the paper wants, so that shares
/// are within a percent. In steps of two, because a table of another size is another table: an endpoint more or less must
/// leave most flows where they are.
const SIZES: [(usize, usize); 11] = [
    (1, 101),
    (2, 211),
    (4, 401),
    (8, 809),
    (16, 1_601),
    (32, 3_203),
    (64, 6_421),
    (128, 12_809),
    (256, 25_601),
    (512, 51_203),
    (usize::MAX, 65_537),
];

/// Endpoints a table is made for: more would have shares too uneven, and take too long on the way of a change.
pub(super) const MAX_MEMBERS: usize = 10_000;

/// Slots of the table for so many endpoints.
pub(super) fn slots(members: usize) -> usize {
    SIZES.iter().find(|(most, _)| members <= *most).map_or(0, |(_, slots)| *slots)
}

/// The table: for each slot the position of an endpoint in its set. `hashes` has one for each endpoint, `weight` says
/// how often it may claim a slot compared with the others: at least once, but for one with 0. `None`: nobody may.
pub(super) fn table(hashes: &[u64], weight: impl Fn(usize) -> u32) -> Option<Box<[u16]>> {
    const FREE: u16 = u16::MAX;
    let slots = slots(hashes.len());
    let members =
        (0..FREE).zip(hashes).map(|(position, hash)| (position, hash, weight(usize::from(position))));
    let members: Vec<_> = members.filter(|(.., weight)| *weight > 0).collect();
    let heaviest =
        members.iter().map(|(.., weight)| *weight).max().filter(|_| hashes.len() <= MAX_MEMBERS)?;
    // Everybody's first turn comes at once.
    let first = |weight: &u32| heaviest - weight;
    let turns = members.iter().map(|(_, hash, weight)| Turns::new(**hash, slots as u64, first(weight)));
    let mut turns: Vec<Turns> = turns.collect();
    let mut table = vec![FREE; slots];
    let mut left = slots;
    while left > 0 {
        for ((position, _, weight), turns) in members.iter().zip(&mut turns) {
            // The heaviest claims at every turn, another one whenever its share has added up to a turn.
            turns.saved += weight;
            if turns.saved < heaviest {
                continue;
            }
            turns.saved -= heaviest;
            // A free slot is in every permutation.
            while let Some(slot) = table.get_mut(turns.next()) {
                if *slot == FREE {
                    *slot = *position;
                    left -= 1;
                    break;
                }
            }
            if left == 0 {
                break;
            }
        }
    }
    Some(table.into())
}

/// One endpoint's way through its permutation.
struct Turns {
    at: u64,
    skip: u64,
    slots: u64,
    saved: u32,
}

impl Turns {
    fn new(hash: u64, slots: u64, saved: u32) -> Self {
        Self { at: mix(hash, 1) % slots, skip: mix(hash, 2) % (slots - 1) + 1, slots, saved }
    }

    fn next(&mut self) -> usize {
        let now = self.at;
        // The number of slots is a prime, so that any stride comes to all of them.
        self.at = (now + self.skip) % self.slots;
        usize::try_from(now).unwrap_or_default()
    }
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    fn hashes(count: u64) -> Vec<u64> {
        (0..count).map(|n| mix(99, n)).collect()
    }

    fn shares(table: &[u16], count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        table.iter().for_each(|position| shares[usize::from(*position)] += 1);
        shares
    }

    #[test]
    fn sizes_are_primes_above_a_hundred_for_each() {
        for (most, slots) in SIZES {
            assert!((2..).take_while(|n| n * n <= slots).all(|n| slots % n != 0), "{slots} is no prime");
            assert!(slots == 65_537 || (slots > 100 * most && slots < 110 * most), "{slots} for {most}");
        }
        assert_eq!(
            [1, 2, 3, 9, 10, 16, 17, 600, 65_535].map(slots),
            [101, 211, 401, 1_601, 1_601, 1_601, 3_203, 65_537, 65_537]
        );
    }

    #[test]
    fn shares_are_even_within_a_slot() {
        for count in [1, 3, 10, 100, 700] {
            let shares = shares(&table(&hashes(count), |_| 1).unwrap(), usize::try_from(count).unwrap());
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count} endpoints have {least} to {most} slots");
        }
    }

    #[test]
    fn shares_follow_weights_and_weight_0_gets_nothing() {
        let weights = [1, 2, 0, 5];
        let table = table(&hashes(4), |n| weights[n]).unwrap();
        let shares = shares(&table, 4);
        for (share, weight) in shares.iter().zip(weights) {
            let due = table.len() as f64 * f64::from(weight) / 8.0;
            assert!((*share as f64 - due).abs() <= 2.0, "{share} slots for weight {weight}, {due} are due");
        }
        let scarce = super::table(&hashes(2), |n| [1, 1_000][n]).unwrap();
        assert!(self::shares(&scarce, 2)[0] >= 1, "a share under a slot is still one");
        assert_eq!(super::table(&hashes(3), |_| 0), None);
        assert_eq!(super::table(&[], |_| 1), None);
    }

    #[test]
    fn when_one_leaves_few_slots_of_others_change() {
        let all = hashes(10);
        let before = table(&all, |_| 1).unwrap();
        for gone in 0..10_u16 {
            let left: Vec<_> =
                all.iter().enumerate().filter(|(n, _)| *n != usize::from(gone)).map(|(_, h)| *h).collect();
            let after = table(&left, |_| 1).unwrap();
            let moved = before.iter().zip(&after).filter(|(before, after)| {
                let same = **after + u16::from(**after >= gone);
                **before != gone && **before != same
            });
            let share = moved.count() as f64 / before.len() as f64;
            assert!(share < 0.15, "{share:.3} of the slots changed between others");
        }
    }
}
