//! The clock hand: each worker walks over its own records, once round in 8 seconds, a little between batches.
//!
//! Nothing is re-armed per packet. The hand ends what is past its time, frees what others ended, and asks
//! about idle UDP flows whether their endpoint is still good. In pressure mode a second hand looks for flows
//! that may go before their time.

use super::arena::Chunks;
use super::record::Seen;
use super::state::StateWord;
use super::table::{Hit, Table};
use super::tcp::Flags;
use super::ttl::{leaves_hold, rank};
use super::word::Dir;
use crate::clock::{Tick, Time};
use crate::ids::FlowIx;
use crate::packet::tuple::Proto;
use crate::sync::{Twin, broken};

/// One turn of the hand, in nanoseconds.
pub(super) const CYCLE_NS: u64 = 8_000_000_000;
/// What one call may cost: about 200 µs. The clock is not ours to read; these are generous estimates, in
/// nanoseconds.
const BUDGET_NS: u64 = 200_000;
const PASS_NS: u64 = 1;
const JUDGE_NS: u64 = 20;
const FREE_NS: u64 = 400;
/// Records in use between two looks at the budget.
const SLICE: u32 = 256;
/// Records one call looks at in pressure mode, and flows it may evict: a batch of new flows.
const WINDOW: u32 = 64;
const EVICT: usize = 32;
/// How long a cycle that found nothing to evict is remembered.
const REST_NS: u64 = 100_000_000;

/// What one call of [`Table::sweep`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Records in use that were looked at.
    pub scanned: u32,
    /// Flows ended because they were idle for too long.
    pub expired: u32,
    /// Flows ended before their time, to make room.
    pub evicted: u32,
    /// UDP flows ended because their endpoint is withdrawn.
    pub purged: u32,
    /// Records made free, whoever ended their flows.
    pub freed: u32,
    /// The hand is behind its plan: do not idle long.
    pub behind: bool,
}

/// What is to become of a record.
enum Fate {
    Stays,
    Expires,
    Purged,
    /// It has ended already, and only its record is left.
    Ended,
}

impl<const N: usize> Table<N> {
    /// One slice of the clock hand over the owner's records. `stale` judges UDP flows: whether the endpoint
    /// is withdrawn. With `pressure`, flows that may go before their time go, if the table needs their
    /// records: never an established TCP flow that was answered. The reply tuple of one whose server may still
    /// remember it stays held.
    pub fn sweep(
        &self,
        own: &mut Chunks<N>,
        now: Time,
        pressure: bool,
        stale: impl Fn(&Hit<N>) -> bool,
    ) -> Swept {
        let mut swept = Swept::default();
        self.turn(own, now, &stale, &mut swept);
        if pressure {
            self.evict(own, now, &mut swept);
        }
        own.give_back();
        swept
    }

    fn turn(&self, own: &mut Chunks<N>, now: Time, stale: &impl Fn(&Hit<N>) -> bool, swept: &mut Swept) {
        let owned = own.owned() as u64;
        let elapsed = own.hand.last.map_or(0, |last| now.since(last)).min(CYCLE_NS);
        own.hand.last = Some(now);
        // At most one turn: what was missed while nobody swept is not swept twice.
        own.hand.due = (own.hand.due + elapsed * owned).min(owned * CYCLE_NS);
        let mut place = own.hand.place;
        let mut cost = 0;
        while own.hand.due >= CYCLE_NS && cost < BUDGET_NS {
            let wanted = u32::try_from(own.hand.due / CYCLE_NS).unwrap_or(u32::MAX).min(SLICE);
            let mut left = wanted;
            while let Some(ix) = own.walk(&mut place, &mut left) {
                cost += JUDGE_NS;
                swept.scanned += 1;
                if self.judge(own, ix, now.tick(), stale, swept) {
                    cost += FREE_NS;
                }
            }
            own.hand.due -= u64::from(wanted) * CYCLE_NS;
            cost += u64::from(wanted) * PASS_NS;
        }
        if place.is_before(own.hand.place) && !own.adopt() {
            own.share();
        }
        own.hand.place = place;
        swept.behind = own.hand.due >= CYCLE_NS;
        if own.owned() == 0 {
            // Somebody must: flows of a worker that is gone would never expire.
            own.adopt();
        }
    }

    /// Judges one record in use; `true` if it is free now.
    fn judge(
        &self,
        own: &mut Chunks<N>,
        ix: FlowIx,
        now: Tick,
        stale: &impl Fn(&Hit<N>) -> bool,
        swept: &mut Swept,
    ) -> bool {
        let generation = self.record(ix).generation();
        let Some(seen) = self.record(ix).seen(generation) else { return false };
        match self.fate(ix, generation, &seen, now, stale) {
            Fate::Stays => return false,
            Fate::Ended => {}
            Fate::Expires | Fate::Purged
                if !broken(Twin::UnlinkOnly) && !self.end(ix, &seen, Flags::DEAD) =>
            {
                // Touched, or ended, since: the next turn sees.
                return false;
            }
            Fate::Expires if !seen.state.flags().has(Flags::LINGER) => swept.expired += 1,
            Fate::Expires => {}
            Fate::Purged => swept.purged += 1,
        }
        self.free(own, ix, generation, &seen);
        swept.freed += 1;
        true
    }

    fn fate(
        &self,
        ix: FlowIx,
        generation: u16,
        seen: &Seen<N>,
        now: Tick,
        stale: &impl Fn(&Hit<N>) -> bool,
    ) -> Fate {
        let proto = seen.keys[0].proto();
        let flags = seen.state.flags();
        match () {
            () if flags.has(Flags::DEAD) => Fate::Ended,
            () if self.expired(seen.state, proto, now) => Fate::Expires,
            () if flags.has(Flags::LINGER) || proto != Proto::Udp => Fate::Stays,
            () if stale(&self.hit_of(ix, generation, Dir::Forward, seen)) => Fate::Purged,
            () => Fate::Stays,
        }
    }

    /// Frees a record whose flow is dead. Owner only.
    fn free(&self, own: &mut Chunks<N>, ix: FlowIx, generation: u16, seen: &Seen<N>) {
        self.unlink_key(&seen.keys[0], ix, generation, Dir::Forward);
        self.unlink_key(&seen.keys[1], ix, generation, Dir::Reply);
        self.record(ix).retire();
        own.push(ix);
    }

    /// Ends the flows of the lowest rank among the next few, the longest idle first.
    fn evict(&self, own: &mut Chunks<N>, now: Time, swept: &mut Swept) {
        if own.free() > 0 || own.hand.rest.is_some_and(|rest| now < rest) {
            return;
        }
        let tick = now.tick();
        let mut place = own.hand.pressure;
        let mut candidates = Candidates::default();
        let mut left = u32::try_from(own.owned()).unwrap_or(u32::MAX).min(WINDOW);
        let mut passed = left;
        while let Some(ix) = own.walk(&mut place, &mut left) {
            swept.scanned += 1;
            if self.judge(own, ix, tick, &|_| false, swept) {
                continue;
            }
            let state = self.record(ix).state.state();
            let Some(seen) = self.record(ix).seen(state.generation()) else { continue };
            let idle = seen.state.idle(tick);
            if let Some(rank) = rank(seen.keys[0].proto(), seen.state.flags(), idle) {
                candidates.add(rank, idle, ix);
            }
        }
        passed -= left;
        own.hand.pressure = place;
        let before = swept.freed;
        for ix in candidates.first() {
            let generation = self.record(ix).generation();
            let Some(seen) = self.record(ix).seen(generation) else { continue };
            let may_go = rank(seen.keys[0].proto(), seen.state.flags(), seen.state.idle(tick)).is_some();
            if may_go && self.end_early(ix, &seen, tick) {
                self.free(own, ix, generation, &seen);
                swept.freed += 1;
                swept.evicted += 1;
            }
        }
        own.hand.barren = if swept.freed > before { 0 } else { own.hand.barren.saturating_add(passed) };
        if own.free() > 0 {
            own.hand.rest = None;
        } else if own.hand.barren as usize >= own.owned() {
            own.hand.barren = 0;
            own.hand.rest = Some(now.plus_nanos(REST_NS));
        }
    }
}

impl<const N: usize> Table<N> {
    /// Ends a flow before its time. Its reply tuple is held before anybody could take it, if its server may remember it;
    /// a tuple there is no room for keeps its flow.
    fn end_early(&self, ix: FlowIx, seen: &Seen<N>, now: Tick) -> bool {
        let [forward, reply] = seen.keys.map(|key| self.hash(&key));
        if !leaves_hold(seen.keys[0].proto(), seen.state.flags(), seen.state.idle(now)) {
            return self.end(ix, seen, Flags::DEAD);
        }
        let Some(hold) = self.held.hold(reply, forward, seen.state.tick(), now) else { return false };
        let ended = self.end(ix, seen, Flags::DEAD);
        if !ended {
            hold.undo();
        }
        ended
    }
}

/// Flows that may be evicted, by rank and idle time.
struct Candidates {
    found: [(u8, u32, FlowIx); WINDOW as usize],
    len: usize,
}

impl Default for Candidates {
    fn default() -> Self {
        Self { found: [(0, 0, FlowIx(0)); WINDOW as usize], len: 0 }
    }
}

impl Candidates {
    fn add(&mut self, rank: u8, idle: u32, ix: FlowIx) {
        if let Some(slot) = self.found.get_mut(self.len) {
            *slot = (rank, idle, ix);
            self.len += 1;
        }
    }

    /// Those of the lowest rank, longest idle first.
    fn first(&mut self) -> impl Iterator<Item = FlowIx> {
        let found = &mut self.found[..self.len];
        found.sort_unstable_by_key(|(rank, idle, _)| (*rank, u32::MAX - *idle));
        let lowest = found.first().map(|(rank, ..)| *rank);
        found.iter().take_while(move |(rank, ..)| Some(*rank) == lowest).take(EVICT).map(|(.., ix)| *ix)
    }
}
