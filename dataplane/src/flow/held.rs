//! Reply tuples that servers may still remember although their records went to somebody else.
//!
//! When the table is full, closed connections make room before their time. What has to stay of one is that its tuple
//! must not go to another client for [`HOLD`] seconds, and that takes eight bytes instead of a record and two words: a
//! fingerprint of the reply tuple, one of the client's, and the second of its last packet. A tuple for which there is no
//! room keeps its record.
//!
//! Memory comes when the first tuple of a neighbourhood is held, and stays: a table that was never full has none.

use std::sync::OnceLock;

use super::hash::Hash;
use super::ttl::HOLD;
use crate::clock::Tick;
use crate::sync::{AtomicU64, Ordering};

/// Words of a bucket: a cache line.
const WAYS: usize = 8;
/// Buckets that share an allocation.
const LEAF: usize = if cfg!(tunway_loom) { 1 } else { 512 };
/// Tuples there is room for, for each record of the table.
const TUPLES_A_RECORD: usize = 8;

const TICK_MASK: u64 = (1 << Tick::BITS) - 1;
const CLIENT_SHIFT: u32 = Tick::BITS;
const CLIENT_MASK: u64 = (1 << 20) - 1;

/// The tuples held beside a table.
#[derive(Debug)]
pub(super) struct Held {
    leaves: Box<[OnceLock<Box<[AtomicU64]>>]>,
    /// The tick a tuple was last held in, and a bit that says that there was one.
    last: AtomicU64,
}

/// A tuple that was held: what undoes it.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    slot: &'a AtomicU64,
    word: u64,
}

impl Hold<'_> {
    /// The flow has not ended after all.
    pub(super) fn undo(self) {
        let _ = self.slot.compare_exchange(self.word, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Held {
    /// For a table of so many records.
    pub(super) fn new(records: usize) -> Self {
        let leaves = (records * TUPLES_A_RECORD / (LEAF * WAYS)).max(1).next_power_of_two();
        Self { leaves: (0..leaves).map(|_| OnceLock::new()).collect(), last: AtomicU64::new(0) }
    }

    /// Holds a tuple whose last packet came at `since`; `None` when there is no room for it.
    pub(super) fn hold(&self, reply: Hash, forward: Hash, since: Tick, now: Tick) -> Option<Hold<'_>> {
        let word = fingerprint(reply, forward) | u64::from(since.bits());
        let (leaf, bucket) = self.place(reply);
        let leaf = leaf.get_or_init(|| (0..LEAF * WAYS).map(|_| AtomicU64::new(0)).collect());
        for slot in leaf.get(bucket * WAYS..)?.iter().take(WAYS) {
            let found = slot.load(Ordering::Relaxed);
            let free = found == 0 || now.age(tick(found)) >= HOLD;
            if free && slot.compare_exchange(found, word, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                // Before the flow ends, whose end releases it to whoever looks next.
                self.last.store(u64::from(now.bits()) | 1 << Tick::BITS, Ordering::Release);
                return Some(Hold { slot, word });
            }
        }
        None
    }

    /// Whether this reply tuple is held, and not for the client that asks: who reuses its own port may.
    pub(super) fn keeps(&self, reply: Hash, forward: Hash, now: Tick) -> bool {
        let last = self.last.load(Ordering::Acquire);
        if last == 0 || now.age(tick(last)) >= HOLD {
            return false;
        }
        let (leaf, bucket) = self.place(reply);
        let Some(words) = leaf.get().and_then(|leaf| leaf.get(bucket * WAYS..)) else { return false };
        let mine = fingerprint(reply, forward);
        words.iter().take(WAYS).map(|slot| slot.load(Ordering::Relaxed)).any(|word| {
            let same_tuple = (word ^ mine) >> (CLIENT_SHIFT + 20) == 0;
            let same_client = (word ^ mine) >> CLIENT_SHIFT == 0;
            word != 0 && same_tuple && !same_client && now.age(tick(word)) < HOLD
        })
    }

    #[allow(clippy::cast_possible_truncation, reason = "masked to the number of leaves and of buckets")]
    fn place(&self, reply: Hash) -> (&OnceLock<Box<[AtomicU64]>>, usize) {
        let at = reply.0 as usize;
        (&self.leaves[(at / LEAF) & (self.leaves.len() - 1)], at % LEAF)
    }
}

/// `reply:24 | client:20 | 0:20`. The place in the array stands for other bits of the reply tuple's hash.
const fn fingerprint(reply: Hash, forward: Hash) -> u64 {
    reply.tag() << (CLIENT_SHIFT + 20) | (forward.0 >> 20 & CLIENT_MASK) << CLIENT_SHIFT
}

const fn tick(word: u64) -> Tick {
    Tick::from_secs(word & TICK_MASK)
}

const _: () = assert!(CLIENT_SHIFT + 20 + 24 == u64::BITS);

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    const MINE: Hash = Hash(0x1234_5678_9abc_def0);
    const OTHER: Hash = Hash(0x0fed_cba9_8765_4321);

    fn tuple(n: u64) -> Hash {
        Hash((n + 1) << 40)
    }

    fn at(secs: u64) -> Tick {
        Tick::from_secs(secs)
    }

    #[test]
    fn a_tuple_is_kept_from_others_for_a_minute_from_its_last_packet() {
        let held = Held::new(4_096);
        assert!(!held.keeps(tuple(1), OTHER, at(100)), "nothing was ever held");
        assert!(held.hold(tuple(1), MINE, at(90), at(100)).is_some());
        assert!(held.keeps(tuple(1), OTHER, at(149)));
        assert!(!held.keeps(tuple(1), MINE, at(149)), "a client may reuse its own port");
        assert!(!held.keeps(tuple(2), OTHER, at(149)), "another tuple");
        assert!(!held.keeps(tuple(1), OTHER, at(150)));
    }

    #[test]
    fn a_full_neighbourhood_refuses_until_a_minute_is_over() {
        let held = Held::new(4_096);
        for n in 0..WAYS as u64 {
            assert!(held.hold(tuple(n), MINE, at(100), at(100)).is_some());
        }
        assert!(held.hold(tuple(99), MINE, at(101), at(101)).is_none());
        assert!((0..WAYS as u64).all(|n| held.keeps(tuple(n), OTHER, at(101))), "none was pushed out");
        assert!(held.hold(tuple(99), MINE, at(160), at(160)).is_some());
    }

    #[test]
    fn what_is_undone_is_not_held() {
        let held = Held::new(4_096);
        held.hold(tuple(1), MINE, at(100), at(100)).unwrap().undo();
        assert!(!held.keeps(tuple(1), OTHER, at(100)));
    }
}
