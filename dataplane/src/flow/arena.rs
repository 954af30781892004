//! Who owns which records: chunks of the arena, one worker's free records, and its places in the walk over
//! them.
//!
//! Only a chunk's owner writes and frees its records, so freeing needs no scheme: nobody else can be in the
//! middle of writing one. A worker without a free record takes a chunk nobody owns, by compare-and-swap, and
//! gives one back when more than two of its own are wholly free; where nobody has a chunk to give, one with
//! flows in it changes hands. Its free records are bits it keeps to itself; they are handed out in turn, so
//! that a record rests as long as possible before its next tenant.

use super::map::Slots;
use super::record::Record;
use crate::clock::Time;
use crate::ids::{FlowIx, WorkerId};
use crate::sync::{AtomicU8, Ordering, Twin, broken};

/// Records a chunk.
pub(super) const CHUNK: u32 = if cfg!(tunway_loom) { 2 } else { 4096 };
const WORDS: usize = CHUNK.div_ceil(64) as usize;

/// Nobody's, and every record in it free.
const UNOWNED: u8 = 0;
/// Nobody's, but flows live in it: their worker is gone, or has records to spare.
const ORPHANED: u8 = u8::MAX;

/// Wholly free chunks a worker keeps.
const SPARE: usize = 2;

/// One worker's chunks and its clock hand.
#[derive(Debug)]
pub struct Chunks<const N: usize> {
    owners: Slots<AtomicU8>,
    records: Slots<Record<N>>,
    me: u8,
    /// Own chunks, in the order of the walk.
    mine: Vec<u32>,
    /// A bit per record of the table, set for own free ones.
    free: Vec<u64>,
    /// Free records of each chunk, and of all.
    free_in: Vec<u32>,
    available: u32,
    /// Own chunks that are wholly free.
    whole: usize,
    /// Where the next free record is looked for.
    next: Place,
    pub(super) hand: Hand,
}

/// A place in a worker's walk over its own records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Into `mine`.
    chunk: usize,
    /// Within the chunk.
    at: u32,
}

/// The clock hand: where it is and how far it should be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hand {
    pub(super) place: Place,
    /// When it was last moved; `None` before the first time.
    pub(super) last: Option<Time>,
    /// Records due, in units of 1 / [`super::sweep::CYCLE_NS`].
    pub(super) due: u64,
    /// The hand of pressure, which looks for flows to evict.
    pub(super) pressure: Place,
    /// Records it passed since it last found one.
    pub(super) barren: u32,
    /// It found none in a whole cycle: no use to look again before this.
    pub(super) rest: Option<Time>,
}

impl Place {
    /// Whether the walk has come round between `earlier` and here.
    pub(super) const fn is_before(self, earlier: Self) -> bool {
        self.chunk < earlier.chunk || (self.chunk == earlier.chunk && self.at < earlier.at)
    }
}

impl<const N: usize> Chunks<N> {
    pub(super) fn new(owners: Slots<AtomicU8>, records: Slots<Record<N>>, id: WorkerId) -> Self {
        let chunks = owners.len();
        Self {
            owners,
            records,
            me: id.0 % (ORPHANED - 1) + 1,
            mine: Vec::with_capacity(chunks),
            free: vec![0; chunks * WORDS],
            free_in: vec![0; chunks],
            available: 0,
            whole: 0,
            next: Place::default(),
            hand: Hand::default(),
        }
    }

    /// Records of own chunks.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.mine.len() * CHUNK as usize
    }

    /// Own records that are free.
    #[must_use]
    pub const fn free(&self) -> usize {
        self.available as usize
    }

    /// Takes a free record, the one that has rested longest or nearly so; a new chunk if there is none.
    pub(super) fn pop(&mut self) -> Option<FlowIx> {
        if self.available == 0 {
            self.take()?;
        }
        // Every chunk once, and the first one's beginning again.
        for _ in 0..=self.mine.len() {
            if self.next.chunk >= self.mine.len() {
                self.next = Place::default();
            }
            let chunk = *self.mine.get(self.next.chunk)?;
            if let Some(at) = self.first(chunk, self.next.at, Find::Free) {
                self.next.at = at + 1;
                let ix = chunk * CHUNK + at;
                self.mark(ix, false);
                return Some(FlowIx(ix));
            }
            self.next = self.next_chunk(self.next);
        }
        None
    }

    /// Gives back a record of an own chunk.
    pub(super) fn push(&mut self, ix: FlowIx) {
        self.mark(ix.0, true);
    }

    /// The next own record in use, from `place` on, at most `budget` records further; both move on.
    pub(super) fn walk(&self, place: &mut Place, budget: &mut u32) -> Option<FlowIx> {
        while *budget > 0 {
            if place.chunk >= self.mine.len() {
                *place = Place::default();
            }
            let chunk = *self.mine.get(place.chunk)?;
            let used = self.first(chunk, place.at, Find::Used);
            let end = used.map_or(CHUNK, |at| at + 1);
            if end - place.at > *budget {
                place.at += *budget;
                *budget = 0;
                return None;
            }
            *budget -= end - place.at;
            place.at = end;
            if let Some(at) = used {
                return Some(FlowIx(chunk * CHUNK + at));
            }
            *place = self.next_chunk(*place);
        }
        None
    }

    /// Gives a wholly free chunk back, if there are more than this worker keeps.
    pub(super) fn give_back(&mut self) {
        if self.whole <= SPARE {
            return;
        }
        let spare = self.mine.iter().rposition(|chunk| self.free_in[*chunk as usize] == CHUNK);
        if let Some(spare) = spare {
            let chunk = self.mine.swap_remove(spare);
            self.forget(chunk);
            self.owners[chunk as usize].store(UNOWNED, Ordering::Release);
        }
    }

    /// Leaves the emptiest chunk to whoever runs dry, flows and all, when nobody else could give one and this worker
    /// has free records to spare. If nobody wants it, some worker's hand takes it over within a cycle.
    ///
    /// Without this one long-lived flow would hold a chunk of free records for as long as it lives.
    pub(super) fn share(&mut self) {
        let half = CHUNK / 2;
        let nobodys = |owner: &AtomicU8| matches!(owner.load(Ordering::Relaxed), UNOWNED | ORPHANED);
        let emptiest = (0..self.mine.len()).max_by_key(|at| self.free_in[self.mine[*at] as usize]);
        let Some((at, free)) = emptiest.map(|at| (at, self.free_in[self.mine[at] as usize])) else { return };
        if free < half || self.available - free < half || self.owners.iter().any(nobodys) {
            return;
        }
        let chunk = self.mine.swap_remove(at);
        self.forget(chunk);
        self.owners[chunk as usize].store(if free == CHUNK { UNOWNED } else { ORPHANED }, Ordering::Release);
    }

    /// Takes over one chunk whose worker is gone, so that its flows expire.
    pub(super) fn adopt(&mut self) -> bool {
        self.take_one(ORPHANED)
    }

    fn take(&mut self) -> Option<()> {
        let mut taken = self.take_one(UNOWNED) || self.adopt();
        while taken && self.available == 0 {
            taken = self.adopt();
        }
        taken.then_some(())
    }

    fn take_one(&mut self, from: u8) -> bool {
        let taken = (0..self.owners.len()).find(|chunk| {
            let owner = &self.owners[*chunk];
            if owner.load(Ordering::Relaxed) != from {
                return false;
            }
            if broken(Twin::OwnerByStore) {
                owner.store(self.me, Ordering::Release);
                return true;
            }
            // What the owner before wrote into its records is ours to see.
            owner.compare_exchange(from, self.me, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
        let Some(chunk) = taken.and_then(|chunk| u32::try_from(chunk).ok()) else { return false };
        for ix in chunk * CHUNK..(chunk + 1) * CHUNK {
            if from == UNOWNED || self.records[ix as usize].is_free() {
                self.mark(ix, true);
            }
        }
        self.next = Place { chunk: self.mine.len(), at: 0 };
        self.mine.push(chunk);
        true
    }

    fn next_chunk(&self, place: Place) -> Place {
        let next = place.chunk + 1;
        Place { chunk: if next < self.mine.len() { next } else { 0 }, at: 0 }
    }

    /// The first record of a chunk at or behind `at` that is free, or in use.
    fn first(&self, chunk: u32, at: u32, find: Find) -> Option<u32> {
        if find == Find::Free && self.free_in[chunk as usize] == 0 {
            return None;
        }
        let words = &self.free[chunk as usize * WORDS..][..WORDS];
        let mut from = at;
        while from < CHUNK {
            let free = words[(from / 64) as usize];
            let looked_for = (if find == Find::Free { free } else { !free }) & (!0 << (from % 64));
            let found = from / 64 * 64 + looked_for.trailing_zeros();
            if looked_for != 0 {
                return (found < CHUNK).then_some(found);
            }
            from = (from / 64 + 1) * 64;
        }
        None
    }

    fn mark(&mut self, ix: u32, free: bool) {
        let (chunk, at) = ((ix / CHUNK) as usize, ix % CHUNK);
        let (word, bit) = (&mut self.free[chunk * WORDS + (at / 64) as usize], 1_u64 << (at % 64));
        debug_assert_eq!(*word & bit == 0, free, "record {ix} twice");
        let before = self.free_in[chunk];
        if free {
            *word |= bit;
            self.free_in[chunk] += 1;
            self.available += 1;
        } else {
            *word &= !bit;
            self.free_in[chunk] -= 1;
            self.available -= 1;
        }
        self.whole = self.whole + usize::from(self.free_in[chunk] == CHUNK) - usize::from(before == CHUNK);
    }

    fn forget(&mut self, chunk: u32) {
        self.free[chunk as usize * WORDS..][..WORDS].fill(0);
        self.available -= self.free_in[chunk as usize];
        self.whole -= usize::from(self.free_in[chunk as usize] == CHUNK);
        self.free_in[chunk as usize] = 0;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Find {
    Free,
    Used,
}

impl<const N: usize> Drop for Chunks<N> {
    /// Leaves the chunks to others.
    fn drop(&mut self) {
        for chunk in &self.mine {
            let whole = self.free_in[*chunk as usize] == CHUNK;
            self.owners[*chunk as usize].store(if whole { UNOWNED } else { ORPHANED }, Ordering::Release);
        }
    }
}

const _: () = assert!(WorkerId::MAX < ORPHANED as usize);

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;
    use crate::flow::place::RegionConfig;
    use crate::flow::region::{Parts, Region};
    use std::collections::BTreeSet;

    fn parts(chunks: u32) -> Parts<2> {
        let name = "arena".to_owned();
        let config = RegionConfig { dir: None, name, max_flows_v4: chunks * CHUNK, max_flows_v6: 1 };
        Region::open(&config, Time::from_secs(1)).unwrap().parts()
    }

    fn worker(parts: &Parts<2>, id: u8) -> Chunks<2> {
        Chunks::new(parts.owners.clone(), parts.records.clone(), WorkerId(id))
    }

    fn pop(chunks: &mut Chunks<2>, n: u32) -> BTreeSet<FlowIx> {
        (0..n).map_while(|_| chunks.pop()).collect()
    }

    #[test]
    fn two_workers_share_the_arena_without_sharing_a_record() {
        let parts = parts(4);
        let (mut a, mut b) = (worker(&parts, 0), worker(&parts, 1));
        let (first, second) = (pop(&mut a, CHUNK + 1), pop(&mut b, CHUNK + 1));
        assert_eq!((first.len(), second.len()), (CHUNK as usize + 1, CHUNK as usize + 1));
        assert!(first.is_disjoint(&second));
        assert_eq!((a.owned(), a.free()), (2 * CHUNK as usize, CHUNK as usize - 1));
        assert_eq!(pop(&mut a, CHUNK).len(), CHUNK as usize - 1, "no third chunk is left");
    }

    #[test]
    fn a_record_rests_while_others_are_free() {
        let parts = parts(1);
        let mut a = worker(&parts, 0);
        let first = a.pop().unwrap();
        a.push(first);
        for _ in 1..CHUNK {
            let next = a.pop().unwrap();
            assert_ne!(next, first);
            a.push(next);
        }
        assert_eq!(a.pop(), Some(first), "after a whole turn");
    }

    #[test]
    fn more_than_two_whole_chunks_go_back_and_serve_others() {
        let parts = parts(4);
        let (mut a, mut b) = (worker(&parts, 0), worker(&parts, 1));
        let all = pop(&mut a, 4 * CHUNK);
        assert_eq!(b.pop(), None);
        all.iter().for_each(|ix| a.push(*ix));
        for _ in 0..5 {
            a.give_back();
        }
        assert_eq!((a.owned(), a.free()), (2 * CHUNK as usize, 2 * CHUNK as usize));
        let theirs = pop(&mut b, 4 * CHUNK);
        assert_eq!(theirs.len(), 2 * CHUNK as usize);
        assert!(theirs.is_disjoint(&pop(&mut a, 4 * CHUNK)));
    }

    #[test]
    fn a_gone_workers_chunks_are_taken_over() {
        let parts = parts(2);
        let mut a = worker(&parts, 0);
        let _ = pop(&mut a, 2 * CHUNK);
        drop(a);
        let mut b = worker(&parts, 1);
        assert!(b.adopt() && b.adopt() && !b.adopt());
        assert_eq!(b.free(), 2 * CHUNK as usize, "none was ever written");
        drop(b);
        assert!(parts.owners.iter().all(|owner| owner.load(Ordering::Relaxed) == UNOWNED));
    }

    #[test]
    fn the_walk_meets_every_record_in_use_once_a_cycle() {
        let parts = parts(2);
        let mut a = worker(&parts, 0);
        let mut used = pop(&mut a, CHUNK + 100);
        for ix in [0, 63, 64, 1000, CHUNK - 1, CHUNK + 5] {
            a.push(FlowIx(ix));
            used.remove(&FlowIx(ix));
        }
        let (mut place, mut met, mut steps) = (Place::default(), Vec::new(), 0);
        while steps < 2 * CHUNK {
            let mut budget = 100.min(2 * CHUNK - steps);
            let before = budget;
            while let Some(ix) = a.walk(&mut place, &mut budget) {
                met.push(ix);
            }
            steps += before - budget;
        }
        assert_eq!(met.len(), used.len());
        assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), used);
        let mut budget = 10;
        assert_eq!(
            worker(&parts, 3).walk(&mut Place::default(), &mut budget),
            None,
            "nothing owned, no endless walk"
        );
    }
}
