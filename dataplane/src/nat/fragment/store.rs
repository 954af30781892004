//! Datagrams of one family whose fragments are on their way.
//!
//! A datagram begins with whichever of its fragments comes first, and ends when all came, when its time is up, or
//! when room is needed and it is the oldest: what is complete within milliseconds outlives any flood of garbage that
//! does not fill the store within milliseconds.

use std::collections::HashMap;

use super::order::Order;
use super::pool::{Pool, Queue};
use super::runs::Runs;
use crate::clock::Time;
use crate::flow::{Hit, Key};
use crate::packet::fragment::{DatagramId, Part};
use crate::packet::frame::Frame;
use crate::stats::{Counter, WorkerStats};
use crate::verdict::{DropReason, Verdict};

/// Datagrams at once.
pub(super) const DATAGRAMS: u16 = 4_096;
/// Fragments of one datagram that may wait: 64 KiB in pieces of 512 bytes.
const HELD: u16 = 128;

/// What became of a first fragment, and so of every other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate<const N: usize> {
    /// It was translated.
    Translated {
        /// The tuple it left with.
        to: Key<N>,
        /// The flow it was counted for.
        flow: Option<Hit<N>>,
    },
    /// It was none of ours.
    Passed,
    /// It went no further.
    Dropped(DropReason),
}

/// What is known of a datagram.
#[derive(Clone, Copy, Debug)]
enum State<const N: usize> {
    /// The first fragment did not come yet; these did.
    Waiting(Queue),
    /// It came.
    Known(Fate<N>),
    /// Its fragments do not fit together: none goes on.
    Refused(DropReason),
}

#[derive(Debug)]
struct Datagram<const N: usize> {
    id: DatagramId,
    since: Time,
    runs: Runs,
    state: State<N>,
}

/// A datagram in the store; good until the store is unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u16);

/// The datagrams of one family.
#[derive(Debug)]
pub(super) struct Store<const N: usize> {
    /// Twice as large as needed: then it tidies itself up in place and never allocates.
    index: HashMap<DatagramId, u16>,
    slots: Vec<Datagram<N>>,
    free: Vec<u16>,
    all: Order,
    /// Those that wait for their first fragment.
    waiting: Order,
    pub(super) pool: Pool,
    held: usize,
    /// How long a datagram may take, ns.
    limit: u64,
}

impl<const N: usize> Store<N> {
    /// An empty store whose datagrams may take so many seconds.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            index: HashMap::with_capacity(2 * usize::from(DATAGRAMS)),
            slots: Vec::with_capacity(DATAGRAMS.into()),
            free: Vec::with_capacity(DATAGRAMS.into()),
            all: Order::new(DATAGRAMS),
            waiting: Order::new(DATAGRAMS),
            pool: Pool::default(),
            held: 0,
            limit: limit * 1_000_000_000,
        }
    }

    /// The datagram this part is of, if the part may be added to it; see [`Store::add`].
    pub(super) fn admit(&mut self, part: &Part, now: Time, stats: &WorkerStats) -> Result<Slot, DropReason> {
        let known = self.index.get(&part.id).copied();
        // Time is up also where no sweep has been.
        let late = known.filter(|slot| now.since(self.at(*slot).since) > self.limit);
        if let Some(slot) = late {
            self.give_up(slot, DropReason::FragmentTimeout, stats);
        }
        let slot = match known.filter(|_| late.is_none()) {
            Some(slot) => slot,
            None => self.begin(part.id, now, stats),
        };
        let datagram = self.at(slot);
        if let State::Refused(reason) = datagram.state {
            return Err(reason);
        }
        match datagram.runs.check(part) {
            Ok(()) => Ok(Slot(slot)),
            Err(DropReason::FragmentDuplicate) => Err(DropReason::FragmentDuplicate),
            Err(reason) => {
                self.refuse(Slot(slot), reason, stats);
                Err(reason)
            }
        }
    }

    /// What became of the first fragment, if it came.
    pub(super) fn fate(&self, slot: Slot) -> Option<Fate<N>> {
        match self.at(slot.0).state {
            State::Known(fate) => Some(fate),
            State::Waiting(_) => None,
            State::Refused(reason) => Some(Fate::Dropped(reason)),
        }
    }

    /// Writes down that an admitted part went its way. A datagram that is complete by it is forgotten.
    pub(super) fn add(&mut self, slot: Slot, part: &Part, stats: &WorkerStats) {
        if self.slots[usize::from(slot.0)].runs.add(part) {
            stats.add(Counter::DatagramsComplete, 1);
            self.forget(slot.0);
        }
    }

    /// Lets a fragment wait for the first one. Older datagrams make room.
    pub(super) fn hold(&mut self, slot: Slot, frame: &[u8], stats: &WorkerStats) -> Result<(), DropReason> {
        let State::Waiting(mut queue) = self.at(slot.0).state else { return Err(DropReason::FragmentsFull) };
        if queue.len() == HELD {
            self.refuse(slot, DropReason::FragmentDisorder, stats);
            return Err(DropReason::FragmentDisorder);
        }
        while !self.pool.has_room(frame.len()) {
            match self.waiting.first() {
                Some(oldest) if oldest != slot.0 => self.give_up(oldest, DropReason::FragmentsFull, stats),
                // Older ones make room, never younger ones; the rest is about to leave.
                Some(_) | None => return Err(DropReason::FragmentsFull),
            }
        }
        self.pool.push(&mut queue, frame);
        self.held += 1;
        self.slots[usize::from(slot.0)].state = State::Waiting(queue);
        Ok(())
    }

    /// Writes down what became of the first fragment, and gives back those that waited for it.
    pub(super) fn settle(&mut self, slot: Slot, fate: Fate<N>) -> Queue {
        let before = std::mem::replace(&mut self.slots[usize::from(slot.0)].state, State::Known(fate));
        let State::Waiting(queue) = before else { return Queue::default() };
        self.waiting.remove(slot.0);
        self.held -= usize::from(queue.len());
        queue
    }

    /// Forgets a datagram nothing is known of: its first fragment has to come again.
    pub(super) fn forget_if_empty(&mut self, slot: Slot) {
        if self.at(slot.0).runs.is_empty() {
            self.forget(slot.0);
        }
    }

    /// Copies the oldest of these fragments into the frame and frees it; its verdict.
    pub(super) fn take(&mut self, queue: &mut Queue, frame: &mut Frame) -> Option<Verdict> {
        let (len, verdict) = self.pool.pop(queue, frame.buffer_mut())?;
        frame.set_len(len);
        Some(verdict)
    }

    /// Gives up every datagram whose time is up.
    pub(super) fn expire(&mut self, now: Time, stats: &WorkerStats) {
        while let Some(oldest) = self.all.first()
            && now.since(self.at(oldest).since) > self.limit
        {
            self.give_up(oldest, DropReason::FragmentTimeout, stats);
        }
    }

    /// Gives up every datagram there is.
    pub(super) fn abandon(&mut self, stats: &WorkerStats) {
        while let Some(oldest) = self.all.first() {
            self.give_up(oldest, DropReason::FragmentTimeout, stats);
        }
    }

    /// Fragments that wait.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Datagrams on their way.
    pub(super) fn datagrams(&self) -> usize {
        self.index.len()
    }

    fn at(&self, slot: u16) -> &Datagram<N> {
        &self.slots[usize::from(slot)]
    }

    fn begin(&mut self, id: DatagramId, now: Time, stats: &WorkerStats) -> u16 {
        if self.index.len() == usize::from(DATAGRAMS)
            && let Some(oldest) = self.all.first()
        {
            self.give_up(oldest, DropReason::FragmentsFull, stats);
        }
        let datagram =
            Datagram { id, since: now, runs: Runs::default(), state: State::Waiting(Queue::default()) };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[usize::from(slot)] = datagram;
                slot
            }
            None => {
                self.slots.push(datagram);
                // At most DATAGRAMS, of which one is free by now.
                u16::try_from(self.slots.len() - 1).unwrap_or(DATAGRAMS - 1)
            }
        };
        self.index.insert(id, slot);
        self.all.push(slot);
        self.waiting.push(slot);
        slot
    }

    /// From now on every fragment of the datagram is dropped for this reason, also those that waited.
    fn refuse(&mut self, slot: Slot, reason: DropReason, stats: &WorkerStats) {
        self.drop_held(slot.0, reason, stats);
        self.slots[usize::from(slot.0)].state = State::Refused(reason);
    }

    fn give_up(&mut self, slot: u16, reason: DropReason, stats: &WorkerStats) {
        self.drop_held(slot, reason, stats);
        stats.add(Counter::DatagramsIncomplete, 1);
        self.forget(slot);
    }

    fn drop_held(&mut self, slot: u16, reason: DropReason, stats: &WorkerStats) {
        if let State::Waiting(queue) = &mut self.slots[usize::from(slot)].state {
            let dropped = self.pool.clear(queue);
            self.held -= usize::from(dropped);
            (0..dropped).for_each(|_| stats.verdict(Verdict::Dropped(reason)));
            self.waiting.remove(slot);
            self.slots[usize::from(slot)].state = State::Refused(reason);
        }
    }

    /// Frees the slot of a datagram that has no fragments waiting.
    fn forget(&mut self, slot: u16) {
        if matches!(self.at(slot).state, State::Waiting(_)) {
            self.waiting.remove(slot);
        }
        self.all.remove(slot);
        self.index.remove(&self.slots[usize::from(slot)].id);
        self.free.push(slot);
    }
}
