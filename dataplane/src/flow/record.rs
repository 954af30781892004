//! A flow: one record for both directions, read under a sequence lock, written by the owner of its chunk
//! only.
//!
//! A packet that arrives with `key[d]` leaves with `key[1 - d]` reversed: the rewrite of a flow *is* its two
//! tuples. Where destinations arrive as aliases, the top four bits of the real ones stand beside.

use super::key::{Key, Tops};
use super::state::{State, StateWord};
use super::tcp::Flags;
use super::word::{Dir, GEN_MASK};
use crate::ids::{EndpointId, FlowIx, ServiceId};
use crate::packet::checksum::Delta;
use crate::sync::{AtomicU32, AtomicU64, Ordering, Twin, broken, fence};

/// A record as it lies in the region.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Record<const N: usize> {
    /// Odd while being written. Half of it is the generation of this slot; words compare its low 14 bits.
    ver: AtomicU32,
    /// Of TCP, by direction: the upper half of the sequence number that is expected next; see [`super::belief`].
    expected: AtomicU32,
    /// See [`State`]. Anybody may change it, by compare-and-swap.
    pub(super) state: AtomicU64,
    /// The tuples as they arrive: forward, reply.
    key: [[AtomicU64; N]; 2],
    /// `addr:16 | l4:16 | service:32`; the delta is the forward direction's.
    delta: AtomicU64,
    /// `endpoint:32 | incarnation:16 | source top:4 | VIP top:4 | spare:8`. The endpoint is a cache: stamped by another
    /// incarnation it means nothing.
    meta: AtomicU64,
}

#[cfg(not(tunway_loom))]
const _: () = assert!(size_of::<Record<2>>() == 64 && align_of::<Record<2>>() == 64);
#[cfg(not(tunway_loom))]
const _: () = assert!(size_of::<Record<5>>() == 128 && align_of::<Record<5>>() == 64);

/// What the owner writes when it opens a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft<const N: usize> {
    pub(super) forward: Key<N>,
    pub(super) reply: Key<N>,
    pub(super) service: ServiceId,
    pub(super) endpoint: EndpointId,
    pub(super) incarnation: u16,
    pub(super) tops: Tops,
}

/// A consistent copy of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<const N: usize> {
    pub(super) keys: [Key<N>; 2],
    pub(super) delta: Delta,
    pub(super) service: ServiceId,
    pub(super) meta: u64,
    pub(super) state: State,
    pub(super) expected: Expected,
}

/// Of both directions of a TCP flow, the upper half of the sequence number that is expected next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected(u32);

impl Expected {
    /// Of one direction.
    #[allow(clippy::cast_possible_truncation, reason = "one half of 32 bits")]
    pub(super) const fn of(self, dir: Dir) -> u16 {
        (self.0 >> (16 * dir as u32)) as u16
    }

    const fn with(self, dir: Dir, upper: u16) -> Self {
        let shift = 16 * dir as u32;
        Self(self.0 & !(0xffff << shift) | (upper as u32) << shift)
    }
}

impl<const N: usize> Seen<N> {
    /// The endpoint, unless another incarnation wrote it.
    #[allow(clippy::cast_possible_truncation, reason = "fields are cut out of a packed word")]
    pub(super) const fn endpoint(&self, incarnation: u16) -> EndpointId {
        let known = (self.meta >> 16) as u16 == incarnation;
        EndpointId(if known { (self.meta >> 32) as u32 } else { 0 })
    }

    /// The checksum change of a packet of this direction, as it arrives.
    pub(super) fn delta_of(&self, dir: Dir) -> Delta {
        let (delta, real) = match dir {
            Dir::Forward => (self.delta, self.tops().vip),
            Dir::Reply => (self.delta.inverse(), self.tops().source),
        };
        delta.restoring(self.keys[dir as usize].dst_top(), real)
    }

    /// What a packet of this direction leaves with: the other direction's tuple reversed, its source real.
    pub(super) fn out(&self, dir: Dir) -> Key<N> {
        let source = match dir {
            Dir::Forward => self.tops().source,
            Dir::Reply => self.tops().vip,
        };
        self.keys[dir.opposite() as usize].reversed().with_src_top(source)
    }

    /// Both tuples with their real destinations: forward, reply.
    pub(super) fn real(&self) -> [Key<N>; 2] {
        let [forward, reply] = self.keys;
        [forward.with_dst_top(self.tops().vip), reply.with_dst_top(self.tops().source)]
    }

    const fn tops(&self) -> Tops {
        Tops::unpack(self.meta)
    }
}

impl<const N: usize> Record<N> {
    /// A record never used, as a fresh region holds it.
    #[cfg(tunway_loom)]
    pub(super) fn unused() -> Self {
        let zero = || AtomicU64::new(0);
        let key = std::array::from_fn(|_| std::array::from_fn(|_| zero()));
        Self {
            ver: AtomicU32::new(0),
            expected: AtomicU32::new(0),
            state: zero(),
            key,
            delta: zero(),
            meta: zero(),
        }
    }

    /// Everything, if this is still that generation and nobody was writing. Never waits, never looks twice.
    pub(super) fn seen(&self, generation: u16) -> Option<Seen<N>> {
        self.stable(generation, || {
            let delta = self.delta.load(Ordering::Relaxed);
            Seen {
                keys: [self.load_key(Dir::Forward), self.load_key(Dir::Reply)],
                delta: unpack(delta).0,
                service: unpack(delta).1,
                meta: self.meta.load(Ordering::Relaxed),
                state: self.state.state(),
                expected: self.expected(),
            }
        })
    }

    /// One tuple, under the same condition.
    pub(super) fn key(&self, generation: u16, dir: Dir) -> Option<Key<N>> {
        self.stable(generation, || self.load_key(dir))
    }

    /// Both tuples, under the same condition.
    pub(super) fn keys(&self, generation: u16) -> Option<[Key<N>; 2]> {
        self.stable(generation, || [self.load_key(Dir::Forward), self.load_key(Dir::Reply)])
    }

    pub(super) fn expected(&self) -> Expected {
        Expected(self.expected.load(Ordering::Relaxed))
    }

    /// Notes what is expected of a direction. Whoever sees the flag that a later touch sets sees this, too. What comes
    /// late, when the record has its next tenant, is overwritten by that one's handshake, or at worst costs it the belief
    /// in one RST.
    pub(super) fn expect(&self, dir: Dir, upper: u16) {
        let mut known = self.expected();
        while let Err(actual) = self.expected.compare_exchange(
            known.0,
            known.with(dir, upper).0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            known = Expected(actual);
        }
    }

    /// The record's generation as its owner knows it.
    pub(super) fn generation(&self) -> u16 {
        generation_of(self.ver.load(Ordering::Relaxed))
    }

    /// Writes the next generation and returns it. Owner only; no word may name the record.
    pub(super) fn write(&self, draft: &Draft<N>, state: impl FnOnce(u16) -> State) -> u16 {
        let ver = self.ver.load(Ordering::Relaxed);
        self.ver.store(ver.wrapping_add(1), Ordering::Relaxed);
        // A reader that sees any of the stores below also sees `ver` odd, or even further on.
        fence(Ordering::Release);
        let generation = generation_of(ver.wrapping_add(2));
        self.store_key(Dir::Forward, &draft.forward);
        self.store_key(Dir::Reply, &draft.reply);
        let out = draft.reply.reversed().with_src_top(draft.tops.source);
        let delta = draft.forward.with_dst_top(draft.tops.vip).delta_to(&out);
        self.delta.store(pack(delta, draft.service), Ordering::Relaxed);
        let meta = u64::from(draft.endpoint.0) << 32 | u64::from(draft.incarnation) << 16 | draft.tops.pack();
        self.meta.store(meta, Ordering::Relaxed);
        self.state.store(state(generation).0, Ordering::Relaxed);
        self.ver.store(ver.wrapping_add(2), Ordering::Release);
        generation
    }

    /// Ends the record whatever its state. Owner only. `true`: it was COUNTED until now.
    pub(super) fn condemn(&self) -> bool {
        let before = State(self.state.fetch_or(u64::from(Flags::DEAD.0), Ordering::AcqRel)).flags();
        // What is DEAD changes no more by other hands, and who made it so has cleared COUNTED.
        let counted = before.has(Flags::COUNTED) && !before.has(Flags::DEAD);
        if counted {
            self.state.fetch_and(!u64::from(Flags::COUNTED.0), Ordering::AcqRel);
        }
        counted
    }

    /// Moves on to the next generation: the record is free. Owner only; DEAD, and no word names it any more.
    pub(super) fn retire(&self) {
        let ver = self.ver.load(Ordering::Relaxed);
        self.ver.store(ver.wrapping_add(2), Ordering::Release);
    }

    /// Whether it was never used, or retired. For a new owner of its chunk.
    pub(super) fn is_free(&self) -> bool {
        let state = self.state.state();
        state.0 == 0 || (state.flags().has(Flags::DEAD) && state.generation() != self.generation())
    }

    fn stable<T>(&self, generation: u16, read: impl FnOnce() -> T) -> Option<T> {
        let before = self.ver.load(Ordering::Acquire);
        if before & 1 != 0 || generation_of(before) != generation {
            return None;
        }
        let value = read();
        // Orders the loads of `read` before the second look at `ver`; pairs with the fence in `write`.
        fence(Ordering::Acquire);
        (broken(Twin::LookOnce) || self.ver.load(Ordering::Relaxed) == before).then_some(value)
    }

    fn load_key(&self, dir: Dir) -> Key<N> {
        let words = &self.key[dir as usize];
        Key(std::array::from_fn(|n| words[n].load(Ordering::Relaxed)))
    }

    fn store_key(&self, dir: Dir, key: &Key<N>) {
        for (word, value) in self.key[dir as usize].iter().zip(key.0) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "14 bits")]
const fn generation_of(ver: u32) -> u16 {
    (ver as u64 >> 1 & GEN_MASK) as u16
}

fn pack(delta: Delta, service: ServiceId) -> u64 {
    u64::from(delta.addr) << 48 | u64::from(delta.l4) << 32 | u64::from(service.0)
}

#[allow(clippy::cast_possible_truncation, reason = "fields are cut out of a packed word")]
const fn unpack(word: u64) -> (Delta, ServiceId) {
    let addr = (word >> 48) as u16;
    (Delta { addr, l4: (word >> 32) as u16, header: addr }, ServiceId(word as u32))
}

const _: () = assert!(FlowIx::BITS == 24);

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;
    use crate::clock::Tick;

    fn record() -> Record<2> {
        let zero = || AtomicU64::new(0);
        let key = std::array::from_fn(|_| std::array::from_fn(|_| zero()));
        Record {
            ver: AtomicU32::new(0),
            expected: AtomicU32::new(0),
            state: zero(),
            key,
            delta: zero(),
            meta: zero(),
        }
    }

    fn draft(n: u64) -> Draft<2> {
        let (forward, reply) = (Key([n, 6 << 24]), Key([n + 1, 6 << 24]));
        let tops = Tops::as_they_arrive(&forward, &reply);
        Draft { forward, reply, service: ServiceId(9), endpoint: EndpointId(8), incarnation: 3, tops }
    }

    fn live(generation: u16) -> State {
        State::new(generation, Tick::from_secs(5), 1, Flags::NONE)
    }

    #[test]
    fn a_written_record_reads_back_under_its_generation_only() {
        let record = record();
        assert!(record.is_free());
        let generation = record.write(&draft(0x0a00_0001_0a00_0002), live);
        let seen = record.seen(generation).unwrap();
        assert_eq!(seen.keys, [draft(0x0a00_0001_0a00_0002).forward, draft(0x0a00_0001_0a00_0002).reply]);
        assert_eq!(
            (seen.service, seen.endpoint(3), seen.endpoint(4)),
            (ServiceId(9), EndpointId(8), EndpointId(0))
        );
        assert!(seen.state.serves(generation) && !record.is_free());
        assert_eq!(seen.delta_of(Dir::Reply), seen.delta_of(Dir::Forward).inverse());
        assert!(record.seen(generation + 1).is_none() && record.key(generation - 1, Dir::Forward).is_none());
    }

    #[test]
    fn half_written_is_a_miss() {
        let record = record();
        let generation = record.write(&draft(1), live);
        record.ver.fetch_add(1, Ordering::Relaxed);
        assert!(record.seen(generation).is_none());
        record.ver.fetch_add(1, Ordering::Relaxed);
        assert!(record.seen(generation).is_none() && record.seen(generation + 1).is_some());
    }

    #[test]
    fn a_retired_record_is_free_and_nobodys() {
        let record = record();
        let generation = record.write(&draft(1), live);
        record.condemn();
        assert!(!record.is_free(), "dead, but its words may still be there");
        assert!(record.seen(generation).is_some_and(|seen| !seen.state.serves(generation)));
        record.retire();
        assert!(record.is_free() && record.seen(generation).is_none());
    }

    #[test]
    fn generations_wrap_at_14_bits() {
        let record = record();
        record.ver.store(u32::try_from(2 * GEN_MASK).unwrap(), Ordering::Relaxed);
        assert_eq!(record.write(&draft(1), live), 0);
        assert!(record.seen(0).is_some_and(|seen| seen.state.serves(0)));
    }
}
