//! The part of a record that everybody writes: `gen:14 | tick:20 | epoch:14 | flags:16`.
//!
//! It changes by compare-and-swap only, and carries its record's generation: a change that comes late, when
//! the record has its next tenant, fails by itself. Flags are never lost, ticks never move backwards, DEAD is
//! never undone.

use super::tcp::{Effect, Flags};
use super::word::{GEN_BITS, GEN_MASK};
use crate::clock::Tick;
use crate::sync::{AtomicU64, Ordering, Twin, broken};

const EPOCH_BITS: u32 = 14;
const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;
const EPOCH_SHIFT: u32 = 16;
const TICK_SHIFT: u32 = 30;
const GEN_SHIFT: u32 = 50;

/// A state word as read. 0 is a record never used: a live one has an epoch, which is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(pub(super) u64);

impl State {
    pub(super) fn new(generation: u16, tick: Tick, epoch: u16, flags: Flags) -> Self {
        let generation = (u64::from(generation) & GEN_MASK) << GEN_SHIFT;
        Self(generation | u64::from(tick.bits()) << TICK_SHIFT | u64::from(flags.0)).with_epoch(epoch.max(1))
    }

    #[allow(clippy::cast_possible_truncation, reason = "14 bits")]
    pub(super) const fn generation(self) -> u16 {
        (self.0 >> GEN_SHIFT) as u16
    }

    /// When the last packet that counts came.
    pub(super) const fn tick(self) -> Tick {
        Tick::from_secs(self.0 >> TICK_SHIFT)
    }

    #[allow(clippy::cast_possible_truncation, reason = "14 bits")]
    pub(super) const fn epoch(self) -> u16 {
        (self.0 >> EPOCH_SHIFT & EPOCH_MASK) as u16
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low 16 bits are the flags")]
    pub(super) const fn flags(self) -> Flags {
        Flags(self.0 as u16)
    }

    pub(super) const fn with_flags(self, flags: Flags) -> Self {
        Self(self.0 & !0xffff | flags.0 as u64)
    }

    pub(super) const fn with_epoch(self, epoch: u16) -> Self {
        Self(self.0 & !(EPOCH_MASK << EPOCH_SHIFT) | (epoch as u64 & EPOCH_MASK) << EPOCH_SHIFT)
    }

    /// Seconds since the last packet that counts; 0 when another worker has seen a newer one than `now`.
    pub(super) fn idle(self, now: Tick) -> u32 {
        if broken(Twin::UnsignedAge) {
            return now.bits().wrapping_sub(self.tick().bits()) & ((1 << Tick::BITS) - 1);
        }
        now.age(self.tick())
    }

    /// Whether this is the live state of that generation.
    pub(super) const fn serves(self, generation: u16) -> bool {
        self.generation() == generation && !self.flags().is_over() && self.0 != 0
    }

    /// Whether a flow has the record: it serves packets, or holds its reply tuple.
    pub(super) const fn is_in_use(self) -> bool {
        self.0 != 0 && !self.flags().has(Flags::DEAD)
    }

    fn after(self, effect: Effect, now: Tick) -> Self {
        let next = self.with_flags(self.flags().without(effect.clear).with(effect.set));
        let newer = effect.refresh && now.diff(self.tick()) > 0;
        let tick = if newer { now } else { self.tick() };
        let tick_mask = ((1 << Tick::BITS) - 1) << TICK_SHIFT;
        Self(next.0 & !tick_mask | u64::from(tick.bits()) << TICK_SHIFT)
    }
}

/// Whether purge epoch `a` was given out later than `b`. 14 bits, signed: half the circle either way.
#[must_use]
pub const fn epoch_is_newer(a: u16, b: u16) -> bool {
    let shift = 16 - EPOCH_BITS;
    ((a.wrapping_sub(b) << shift) as i16) > 0
}

/// The purge epoch after this one: 14 bits, never 0.
pub(super) const fn next_epoch(epoch: u64) -> u64 {
    let next = (epoch + 1) & EPOCH_MASK;
    if next == 0 { 1 } else { next }
}

/// What came of a touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    /// Nothing the caller must see to.
    Done,
    /// The flow is counted from now on: this touch set COUNTED.
    Counted,
    /// It is not any more: this touch cleared COUNTED.
    Uncounted,
    /// The packet ends the flow, which was judged in this state. Ending it is the caller's.
    Ends(State),
}

/// The atomic operations on a record's state word.
pub(super) trait StateWord {
    fn state(&self) -> State;
    fn replace(&self, judged: State, next: State) -> Result<(), State>;
    fn touch(&self, generation: u16, now: Tick, effect: impl FnMut(Flags) -> Effect) -> Touched;
    fn end(&self, judged: State, how: Flags) -> bool;
    fn keep(&self, generation: u16, epoch: u16);
}

impl StateWord for AtomicU64 {
    fn state(&self) -> State {
        State(self.load(Ordering::Acquire))
    }

    fn replace(&self, judged: State, next: State) -> Result<(), State> {
        self.compare_exchange(judged.0, next.0, Ordering::AcqRel, Ordering::Acquire).map(drop).map_err(State)
    }

    /// Lets a packet's effect take place. Usually a look and no write.
    ///
    /// A write that only moves the tick is tried once: whoever was faster wrote a tick of the same second.
    /// One that changes a flag is repeated while it is missing; each failure is another worker's success.
    fn touch(&self, generation: u16, now: Tick, mut effect: impl FnMut(Flags) -> Effect) -> Touched {
        let mut judged = self.state();
        while judged.serves(generation) {
            let effect = effect(judged.flags());
            if effect.end {
                return Touched::Ends(judged);
            }
            let next = judged.after(effect, now);
            if next == judged {
                return Touched::Done;
            }
            match self.replace(judged, next) {
                Ok(()) => {
                    return match (judged.flags().has(Flags::COUNTED), next.flags().has(Flags::COUNTED)) {
                        (false, true) => Touched::Counted,
                        (true, false) => Touched::Uncounted,
                        (false, false) | (true, true) => Touched::Done,
                    };
                }
                Err(_) if next.flags() == judged.flags() || broken(Twin::FlagOnce) => return Touched::Done,
                Err(actual) => judged = actual,
            }
        }
        Touched::Done
    }

    /// Ends the flow from exactly the state that was judged; it is not COUNTED any more. `how` is DEAD or LINGER. A
    /// failure means that somebody touched it meanwhile: it is alive, or ended already.
    fn end(&self, judged: State, how: Flags) -> bool {
        let over = judged.with_flags(judged.flags().with(how).without(Flags::COUNTED));
        !judged.flags().has(Flags::DEAD) && self.replace(judged, over).is_ok()
    }

    /// Stamps a newer purge epoch on a flow that was judged under it and kept.
    fn keep(&self, generation: u16, epoch: u16) {
        let mut judged = self.state();
        while judged.serves(generation) && epoch_is_newer(epoch, judged.epoch()) {
            match self.replace(judged, judged.with_epoch(epoch)) {
                Ok(()) => return,
                Err(actual) => judged = actual,
            }
        }
    }
}

const _: () = assert!(GEN_BITS + Tick::BITS + EPOCH_BITS + 16 == u64::BITS);

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    const REFRESH: Effect = Effect { set: Flags::NONE, clear: Flags::NONE, refresh: true, end: false };

    fn at(secs: u64) -> AtomicU64 {
        AtomicU64::new(State::new(7, Tick::from_secs(secs), 3, Flags::REPLIED).0)
    }

    #[test]
    fn fields_do_not_touch_each_other() {
        let state = State::new(0x2aaa, Tick::from_secs(0x9_5555), 0x2bcd, Flags(0x8421));
        assert_eq!((state.generation(), state.tick().bits()), (0x2aaa, 0x9_5555));
        assert_eq!((state.epoch(), state.flags()), (0x2bcd, Flags(0x8421)));
        let other = state.with_epoch(1).with_flags(Flags::EST);
        assert_eq!((other.generation(), other.tick()), (state.generation(), state.tick()));
        assert_eq!((other.epoch(), other.flags()), (1, Flags::EST));
        assert_ne!(
            State::new(0, Tick::from_secs(0), 0, Flags::NONE).0,
            0,
            "a live state is never the unused one"
        );
    }

    #[test]
    fn a_tick_never_moves_backwards() {
        let word = at(100);
        for (now, expected) in [(101, 101), (99, 101), (101, 101), (500, 500), (499, 500)] {
            word.touch(7, Tick::from_secs(now), |_| REFRESH);
            assert_eq!(word.state().tick(), Tick::from_secs(expected));
        }
        let word = at((1 << 20) - 1);
        word.touch(7, Tick::from_secs(1 << 20), |_| REFRESH);
        assert_eq!(word.state().tick().bits(), 0, "across the wrap");
    }

    #[test]
    fn nothing_touches_another_generation_or_a_dead_flow() {
        let word = at(100);
        let before = word.state();
        word.touch(8, Tick::from_secs(200), |_| REFRESH);
        word.keep(8, 9);
        assert_eq!(word.state(), before);
        assert!(word.end(before, Flags::DEAD));
        let dead = word.state();
        assert_eq!(word.touch(7, Tick::from_secs(200), |_| REFRESH), Touched::Done);
        word.keep(7, 9);
        assert!(!word.end(before, Flags::DEAD), "judged before");
        assert!(!word.end(dead, Flags::DEAD), "only once");
        assert_eq!(word.state(), dead);
    }

    #[test]
    fn ending_needs_the_judged_state() {
        let word = at(100);
        let judged = word.state();
        word.touch(7, Tick::from_secs(101), |_| REFRESH);
        assert!(!word.end(judged, Flags::DEAD), "a refreshed flow lives");
        assert!(word.end(word.state(), Flags::LINGER) && !word.state().serves(7));
        assert!(word.end(word.state(), Flags::DEAD), "a lingering one dies for good");
    }

    #[test]
    fn a_packet_that_ends_the_flow_leaves_that_to_the_caller() {
        let word = at(100);
        let end = Effect { end: true, ..Effect::default() };
        assert_eq!(word.touch(7, Tick::from_secs(101), |_| end), Touched::Ends(word.state()));
    }

    #[test]
    fn who_changes_counted_is_told_and_an_end_clears_it() {
        let word = at(100);
        let change = |set, clear| move |_| Effect { set, clear, ..Effect::default() };
        let touch = |set, clear| word.touch(7, Tick::from_secs(100), change(set, clear));
        assert_eq!(touch(Flags::COUNTED, Flags::NONE), Touched::Counted);
        assert_eq!(touch(Flags::COUNTED, Flags::NONE), Touched::Done);
        assert_eq!(touch(Flags::FIN_FWD, Flags::COUNTED), Touched::Uncounted);
        assert_eq!(touch(Flags::FIN_REV, Flags::COUNTED), Touched::Done);
        assert_eq!(touch(Flags::COUNTED, Flags::NONE), Touched::Counted);
        assert!(word.end(word.state(), Flags::LINGER) && !word.state().flags().has(Flags::COUNTED));
    }

    #[test]
    fn epochs_are_signed_and_never_zero() {
        assert!(epoch_is_newer(2, 1) && !epoch_is_newer(1, 2) && !epoch_is_newer(5, 5));
        assert!(epoch_is_newer(1, 0x3fff) && !epoch_is_newer(0x3fff, 1));
        assert_eq!((next_epoch(0), next_epoch(41), next_epoch(0x3fff)), (1, 42, 1));
        let word = at(1);
        word.keep(7, 2);
        assert_eq!(word.state().epoch(), 3, "an older one judges nothing");
        word.keep(7, 4);
        assert_eq!((word.state().epoch(), word.state().flags()), (4, Flags::REPLIED));
    }
}
