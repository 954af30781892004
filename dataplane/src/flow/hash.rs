//! The keyed hash of a tuple, and the two home buckets it names.
//!
//! Multilinear hashing over 128 bits (Lemire and Kaser, "Strongly universal string hashing is fast"): with
//! random multipliers nobody knows, two chosen tuples share any set of hash bits with exactly the chance of
//! two random ones. So a client that picks its ports cannot fill a bucket of its choice. A bijection behind
//! it breaks up the arithmetic progressions that consecutive ports would otherwise leave.

use super::key::Key;

/// Words of one family's seed: a 128-bit multiplier per key word, a 128-bit offset, an odd factor.
pub(super) const SEED_WORDS: usize = 16;

/// 64-bit keyed hash of a key. Means something in the table that made it only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash(pub u64);

impl Hash {
    /// The 24 bits an index word remembers of its key; never 0, so that no word is ever 0.
    pub(super) const fn tag(self) -> u64 {
        let tag = self.0 >> 40;
        if tag == 0 { 1 } else { tag }
    }

    /// Both home buckets, in bucket order. `mask` is the number of buckets less one; at least 1.
    #[allow(clippy::cast_possible_truncation, reason = "masked to the number of buckets")]
    pub(super) const fn homes(self, mask: usize) -> [usize; 2] {
        let first = self.0 as usize & mask;
        let second = (first ^ spread(self.tag())) & mask;
        if first < second { [first, second] } else { [second, first] }
    }
}

/// The distance between the two homes of a tag. Odd, hence never 0 modulo the number of buckets.
#[allow(clippy::cast_possible_truncation, reason = "masked to the number of buckets by the caller")]
const fn spread(tag: u64) -> usize {
    (tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize | 1
}

/// A table's secret.
#[derive(Clone, Debug)]
pub(super) struct Seed<const N: usize> {
    multipliers: [u128; N],
    offset: u128,
    factor: u64,
}

impl<const N: usize> Seed<N> {
    /// From random words.
    pub(super) fn new(random: [u64; SEED_WORDS]) -> Self {
        let wide = |at: usize| u128::from(random[2 * at]) << 64 | u128::from(random[2 * at + 1]);
        Self { multipliers: std::array::from_fn(wide), offset: wide(N), factor: random[SEED_WORDS - 1] | 1 }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the upper half of 128 bits")]
    pub(super) fn hash(&self, key: &Key<N>) -> Hash {
        let sum = key.0.iter().zip(&self.multipliers).fold(self.offset, |sum, (word, multiplier)| {
            sum.wrapping_add(u128::from(*word).wrapping_mul(*multiplier))
        });
        let high = (sum >> 64) as u64;
        let mixed = (high ^ high >> 32).wrapping_mul(self.factor);
        Hash(mixed ^ mixed >> 29)
    }
}

const _: () = assert!(2 * (5 + 1) < SEED_WORDS);

#[cfg(test)]
pub(super) fn test_seed(mut state: u64) -> [u64; SEED_WORDS] {
    std::array::from_fn(|_| {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_two_ordered_buckets_and_find_each_other() {
        for n in 0..10_000_u64 {
            let hash = Hash(n.wrapping_mul(0x2545_f491_4f6c_dd1d));
            for mask in [1, 7, 2047, (1 << 23) - 1] {
                let [a, b] = hash.homes(mask);
                assert!(a < b && b <= mask);
                let other = Hash(hash.0 & !(mask as u64) | b as u64);
                assert_eq!(other.homes(mask), [a, b], "either home leads to the other");
            }
        }
        assert_eq!(Hash(0).tag(), 1);
    }

    #[test]
    fn consecutive_ports_fill_buckets_as_random_keys_would() {
        for seed in 0..20 {
            let seed_of_table = Seed::<2>::new(test_seed(seed));
            let mut load = vec![0_u32; 1024];
            for port in 0..8192_u64 {
                let [a, b] =
                    seed_of_table.hash(&Key([0x0a00_0001_0a60_0001, port << 48 | 6 << 24])).homes(1023);
                let emptier = if load[b] < load[a] { b } else { a };
                load[emptier] += 1;
            }
            // 8 a bucket on average; the better of two random choices stays within a few of it.
            assert!(load.iter().all(|n| *n <= 14), "seed {seed}: {:?}", load.iter().max());
        }
    }

    #[test]
    fn every_bit_of_a_key_reaches_tag_and_bucket() {
        let seed = Seed::<5>::new(test_seed(7));
        let base = Key([1, 2, 3, 4, 5]);
        for bit in 0..320 {
            let mut other = base;
            other.0[bit / 64] ^= 1 << (bit % 64);
            let change = seed.hash(&base).0 ^ seed.hash(&other).0;
            assert!(change >> 40 != 0 && change & 0xff_ffff != 0, "bit {bit}");
        }
    }

    #[test]
    fn another_seed_is_another_hash() {
        let key = Key([1, 2]);
        assert_ne!(Seed::new(test_seed(1)).hash(&key), Seed::new(test_seed(2)).hash(&key));
    }
}
