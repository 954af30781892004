//! The tagged index: from a hash to the words that may be its key's, and the claim that makes a key one
//! flow's.
//!
//! Buckets of one cache line. A key has two home buckets and may be nowhere else, so a look-up reads at most
//! two lines. Every scan goes through the homes in bucket order, so any two claimants of a key agree on who
//! comes first.

use super::map::Slots;
use super::word::Word;
use crate::sync::{AtomicU64, Ordering, Twin, broken, fence};

/// Slots of a bucket: one cache line. Models use two, so that loom can look at everything.
pub(super) const WAYS: usize = if cfg!(tunway_loom) { 2 } else { 8 };
/// Slots a key may be in.
const SLOTS: usize = 2 * WAYS;
/// Times a claim looks again because a rival moved meanwhile. Each time a rival got on; nobody waits for
/// another.
const LOOKS: usize = 8;

/// One line of the index.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Bucket {
    words: [AtomicU64; WAYS],
}

#[cfg(not(tunway_loom))]
const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

impl Bucket {
    /// An empty bucket, as a fresh region holds it.
    #[cfg(any(test, tunway_loom))]
    pub(super) fn unused() -> Self {
        Self { words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// What the record behind a word says about a key being claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rival {
    /// It is another key's.
    None,
    /// Its record has moved on, and so the word must have gone from here.
    Moved,
    /// Its flow is over: the word may be unlinked, and does not count.
    Over,
    /// It is the same key's.
    Same,
}

/// Outcome of a claim. Unless it was won, no word of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The key is ours.
    Won,
    /// It is this word's flow.
    Existing(Word),
    /// Another claim of it is not decided yet, or was decided against us a moment ago.
    Raced(Option<Word>),
    /// Both homes are full.
    Full,
}

/// All buckets of a table. Their number is a power of two, at least two.
#[derive(Debug)]
pub(super) struct Index {
    buckets: Slots<Bucket>,
}

impl Index {
    pub(super) fn new(buckets: Slots<Bucket>) -> Self {
        assert!(buckets.len() >= 2 && buckets.len().is_power_of_two());
        Self { buckets }
    }

    /// The number of buckets less one.
    pub(super) fn mask(&self) -> usize {
        self.buckets.len() - 1
    }

    /// The line of a home bucket, to be prefetched.
    pub(super) fn line(&self, home: usize) -> &Bucket {
        &self.buckets[home & self.mask()]
    }

    /// Visits the committed words of a tag until `visit` has an answer.
    pub(super) fn find<T>(
        &self,
        homes: [usize; 2],
        tag: u64,
        mut visit: impl FnMut(Word) -> Option<T>,
    ) -> Option<T> {
        let serving = Word::serving(tag);
        for home in homes {
            let words = self.line(home).load();
            let mut matches = 0_u32;
            for (n, word) in words.iter().enumerate() {
                matches |= u32::from(word & Word::SERVES == serving) << n;
            }
            if matches == 0 {
                continue;
            }
            // What the word names was written before the word.
            fence(Ordering::Acquire);
            while matches != 0 {
                if let Some(answer) = visit(Word(words[matches.trailing_zeros() as usize])) {
                    return Some(answer);
                }
                matches &= matches - 1;
            }
        }
        None
    }

    /// Makes `mine`'s key ours, if no other flow has it. `rival` compares the key of a word with the same
    /// tag.
    ///
    /// Everybody puts a tentative word first and then looks (the fence orders the two for all), so of two
    /// claimants at least one sees the other; of undecided ones the first in scan order goes on and removes
    /// the later ones' words.
    pub(super) fn claim(&self, homes: [usize; 2], mine: Word, rival: impl Fn(Word) -> Rival) -> Claim {
        let slots = self.slots(homes);
        let Some(at) = place(&slots, mine) else { return Claim::Full };
        if !broken(Twin::NoFence) {
            fence(Ordering::SeqCst);
        }
        for _ in 0..LOOKS {
            if let Some(outcome) = contest(&slots, at, mine, &rival) {
                return outcome;
            }
        }
        clear(slots[at], mine);
        Claim::Raced(None)
    }

    /// Puts one committed word in the place of another of the same key. At no moment is the key free for
    /// others.
    pub(super) fn hand_over(&self, homes: [usize; 2], from: Word, to: Word) -> bool {
        self.slots(homes).iter().any(|slot| {
            slot.load(Ordering::Relaxed) == from.0
                && slot.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Removes a flow's word, committed or not.
    pub(super) fn unlink(&self, homes: [usize; 2], word: Word) {
        for slot in self.slots(homes) {
            let mut found = Word(slot.load(Ordering::Acquire));
            while found.committed() == word.committed() && found.0 != 0 && !clear(slot, found) {
                found = Word(slot.load(Ordering::Acquire));
            }
        }
    }

    /// Removes the words for which `over` says so; returns how many went.
    pub(super) fn purge(&self, homes: [usize; 2], over: impl Fn(Word) -> bool) -> usize {
        let gone = |slot: &&&AtomicU64| {
            let word = Word(slot.load(Ordering::Acquire));
            word.0 != 0 && over(word) && clear(slot, word)
        };
        self.slots(homes).iter().filter(gone).count()
    }

    /// Occupied slots of both homes; for tests.
    #[cfg(test)]
    pub(super) fn words(&self, homes: [usize; 2]) -> Vec<Word> {
        let words = self.slots(homes).map(|slot| Word(slot.load(Ordering::Acquire)));
        words.into_iter().filter(|word| word.0 != 0).collect()
    }

    fn slots(&self, homes: [usize; 2]) -> [&AtomicU64; SLOTS] {
        std::array::from_fn(|n| &self.line(homes[n / WAYS]).words[n % WAYS])
    }
}

impl Bucket {
    fn load(&self) -> [u64; WAYS] {
        std::array::from_fn(|n| self.words[n].load(Ordering::Relaxed))
    }
}

/// Puts a word into an empty slot, of the emptier home first: first-fit does not reach half full without
/// overflow.
fn place(slots: &[&AtomicU64; SLOTS], mine: Word) -> Option<usize> {
    let empty: [bool; SLOTS] = std::array::from_fn(|n| slots[n].load(Ordering::Relaxed) == 0);
    let room = |home: usize| empty[home * WAYS..][..WAYS].iter().filter(|is| **is).count();
    let start = if room(1) > room(0) { WAYS } else { 0 };
    (0..SLOTS)
        .map(|n| (start + n) % SLOTS)
        .filter(|n| empty[*n])
        .find(|n| slots[*n].compare_exchange(0, mine.0, Ordering::AcqRel, Ordering::Relaxed).is_ok())
}

/// One look at all rivals. `None`: one of them moved, look again.
fn contest(
    slots: &[&AtomicU64; SLOTS],
    at: usize,
    mine: Word,
    rival: &impl Fn(Word) -> Rival,
) -> Option<Claim> {
    let mut later = [Word(0); SLOTS];
    for (n, slot) in slots.iter().enumerate().filter(|(n, _)| *n != at) {
        let word = Word(slot.load(Ordering::Acquire));
        if word.0 == 0 || word.tag() != mine.tag() {
            continue;
        }
        match rival(word) {
            Rival::None => {}
            // Something else may be in its place by now, also one put there by [`Index::hand_over`].
            Rival::Moved if is_still(slot, word) || broken(Twin::MovedIsGone) => {}
            Rival::Over if clear(slot, word) || broken(Twin::MovedIsGone) => {}
            Rival::Moved | Rival::Over => return None,
            Rival::Same if word.is_committed() => {
                clear(slots[at], mine);
                return Some(Claim::Existing(word));
            }
            Rival::Same if n < at => {
                clear(slots[at], mine);
                return Some(Claim::Raced(Some(word)));
            }
            Rival::Same => later[n] = word,
        }
    }
    for (slot, word) in slots.iter().zip(later).filter(|(_, word)| word.0 != 0) {
        if !clear(slot, word) {
            return None;
        }
    }
    let won = slots[at].compare_exchange(mine.0, mine.committed().0, Ordering::AcqRel, Ordering::Relaxed);
    Some(if won.is_ok() { Claim::Won } else { Claim::Raced(None) })
}

/// Whether a slot holds this word, whose record has moved on: what was done to the slot before that is seen
/// here, even if the record's move was seen by a relaxed load.
fn is_still(slot: &AtomicU64, word: Word) -> bool {
    fence(Ordering::Acquire);
    slot.load(Ordering::Relaxed) == word.0
}

/// Empties a slot that holds exactly this word.
fn clear(slot: &AtomicU64, word: Word) -> bool {
    slot.compare_exchange(word.0, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;
    use crate::flow::word::Dir;
    use crate::ids::FlowIx;

    const HOMES: [usize; 2] = [1, 2];

    fn index() -> Index {
        Index::new(Slots::fresh((0..4).map(|_| Bucket::unused())))
    }

    fn word(tag: u64, ix: u32) -> Word {
        Word::tentative(tag, 1, Dir::Forward, FlowIx(ix))
    }

    fn found(index: &Index, tag: u64) -> Vec<u32> {
        let mut all = Vec::new();
        let _ = index.find(HOMES, tag, |word| {
            all.push(word.ix().0);
            None::<()>
        });
        all
    }

    #[test]
    fn a_key_is_claimed_once() {
        let index = index();
        assert_eq!(index.claim(HOMES, word(5, 1), |_| Rival::Same), Claim::Won);
        assert_eq!(found(&index, 5), [1]);
        assert_eq!(found(&index, 6), [0_u32; 0]);
        let second = index.claim(HOMES, word(5, 2), |_| Rival::Same);
        assert_eq!(second, Claim::Existing(word(5, 1).committed()));
        assert_eq!(index.claim(HOMES, word(5, 3), |_| Rival::None), Claim::Won, "another key with the tag");
        assert_eq!(index.words(HOMES).len(), 2, "the loser left nothing");
    }

    #[test]
    fn a_word_whose_flow_is_over_does_not_count() {
        let index = index();
        assert_eq!(index.claim(HOMES, word(5, 1), |_| Rival::Same), Claim::Won);
        assert_eq!(index.claim(HOMES, word(5, 2), |_| Rival::Over), Claim::Won);
        assert_eq!(found(&index, 5), [2]);
    }

    #[test]
    fn an_undecided_rival_in_front_races_and_one_behind_loses() {
        let index = index();
        index.line(1).words[0].store(word(5, 9).0, Ordering::Relaxed);
        assert_eq!(found(&index, 5), [0_u32; 0], "a tentative word serves nobody");
        let raced = index.claim([1, 2], word(5, 1), |_| Rival::Same);
        assert_eq!(raced, Claim::Raced(Some(word(5, 9))));
        assert_eq!(index.words(HOMES), [word(5, 9)]);
        // The same word behind everything else.
        index.line(1).words[0].store(0, Ordering::Relaxed);
        index.line(2).words[WAYS - 1].store(word(5, 9).0, Ordering::Relaxed);
        assert_eq!(index.claim(HOMES, word(5, 1), |_| Rival::Same), Claim::Won);
        assert_eq!(index.words(HOMES), [word(5, 1).committed()]);
    }

    #[test]
    fn homes_fill_evenly_and_then_are_full() {
        let index = index();
        for n in 0..SLOTS {
            assert_eq!(index.claim(HOMES, word(n as u64 + 1, 1), |_| Rival::Same), Claim::Won);
            let [first, second] =
                HOMES.map(|home| index.line(home).load().iter().filter(|w| **w != 0).count());
            assert!(first.abs_diff(second) <= 1, "{first} {second}");
        }
        assert_eq!(index.claim(HOMES, word(99, 1), |_| Rival::Same), Claim::Full);
        assert_eq!(index.purge(HOMES, |word| word.tag() == 3), 1);
        assert_eq!(index.claim(HOMES, word(99, 1), |_| Rival::Same), Claim::Won);
    }

    #[test]
    fn a_word_is_handed_over_in_its_place() {
        let index = index();
        assert_eq!(index.claim(HOMES, word(5, 1), |_| Rival::Same), Claim::Won);
        let (old, new) = (word(5, 1).committed(), word(5, 2).committed());
        assert!(index.hand_over(HOMES, old, new) && !index.hand_over(HOMES, old, new));
        assert_eq!(index.words(HOMES), [new]);
        let moved = index.claim(HOMES, word(5, 3), |_| Rival::Moved);
        assert_eq!(moved, Claim::Won, "a word whose record moved on, and which is still there, is nobody's");
    }

    #[test]
    fn unlinking_takes_exactly_its_word_committed_or_not() {
        let index = index();
        assert_eq!(index.claim(HOMES, word(5, 1), |_| Rival::None), Claim::Won);
        assert_eq!(index.claim(HOMES, word(5, 2), |_| Rival::None), Claim::Won);
        index.line(2).words[7].store(word(5, 3).0, Ordering::Relaxed);
        index.unlink(HOMES, Word::tentative(5, 2, Dir::Forward, FlowIx(1)));
        index.unlink(HOMES, Word::tentative(5, 1, Dir::Reply, FlowIx(1)));
        assert_eq!(index.words(HOMES).len(), 3, "another generation, another direction");
        index.unlink(HOMES, word(5, 1));
        index.unlink(HOMES, word(5, 3).committed());
        assert_eq!(index.words(HOMES), [word(5, 2).committed()]);
    }
}
