//! Virtual reassembly: every fragment goes where its datagram's first one went, without being put together.
//!
//! The first fragment has the ports, so it is judged, translated or refused as a whole packet is, and what became
//! of it is written down under the datagram's identification. Of the others only the addresses change: the
//! checksum of layer 4 covers the whole datagram and stands in the first. A fragment that comes before the first
//! one waits for it. Sizes, offsets, identifications stay, so what the sender made of its path's MTU holds.
//!
//! The store is shared by all workers and behind a lock, one a family: fragments are the slow path. They cannot be
//! per worker, because the kernel moves the fragments of a pair of addresses to another queue whenever a packet
//! between the same two comes out of that (`tun_flow_update`), and with a SNAT address there are many such.
//!
//! SCTP is the exception: its CRC follows from the ports that change only if the length of the whole datagram is known,
//! and the first fragment does not know it. So its fragments may get other addresses, and are dropped (`sctp_fragment`)
//! where the flow has other ports or would have to be opened. SCTP cuts its data to the path's MTU by itself, and hardly
//! ever sends any.
//!
//! No ICMP time exceeded is sent for a datagram that is given up: whoever puts it together does that.

mod order;
mod pool;
mod runs;
mod store;

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Nat, Outcome};
use crate::clock::Time;
use crate::flow::{Hash, Key};
use crate::packet::fragment::{Part, readdress};
use crate::packet::frame::{Batch, Frame};
use crate::packet::give_back_hop;
use crate::packet::layout::{Kind, Piece};
use crate::packet::tuple::{Address, Tuple};
use crate::packet::vnet::VNET_LEN;
use crate::stats::{Counter, WorkerStats};
use crate::verdict::{DropReason, Verdict};
use pool::Queue;
use store::{Fate, Slot, Store};

/// Seconds an IPv4 datagram may take: the kernel's `ipfrag_time`.
const LIMIT_V4: u64 = 30;
/// Seconds an IPv6 datagram may take: RFC 8200, section 4.5.
const LIMIT_V6: u64 = 60;

/// The datagrams whose fragments are on their way, of both families.
///
/// Fixed at start, for each family: 4,096 datagrams, 4 MiB of fragments that wait. Who comes when it is full takes
/// the place of the oldest.
#[derive(Debug)]
pub struct Fragments {
    v4: Shared<2>,
    v6: Shared<5>,
}

/// The datagrams of one family.
#[derive(Debug)]
pub(crate) struct Shared<const N: usize>(Mutex<Store<N>>);

/// Fragments whose first one came, and which leave with one worker's next batches.
#[derive(Debug, Default)]
pub(crate) struct Due(Queue);

impl Default for Fragments {
    fn default() -> Self {
        Self { v4: Shared(Mutex::new(Store::new(LIMIT_V4))), v6: Shared(Mutex::new(Store::new(LIMIT_V6))) }
    }
}

impl Fragments {
    /// Fragments that wait for their first one: received, without an end yet.
    #[must_use]
    pub fn held(&self) -> usize {
        self.v4.lock().held() + self.v6.lock().held()
    }

    /// Datagrams whose fragments are on their way.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.v4.lock().datagrams() + self.v6.lock().datagrams()
    }

    /// Gives up datagrams whose time is up; what another worker is busy with is left for the next time.
    pub(crate) fn expire(&self, now: Time, stats: &WorkerStats) {
        if let Ok(mut store) = self.v4.0.try_lock() {
            store.expire(now, stats);
        }
        if let Ok(mut store) = self.v6.0.try_lock() {
            store.expire(now, stats);
        }
    }

    /// Gives up every datagram, so that every fragment read has an end.
    pub(crate) fn abandon(&self, stats: &WorkerStats) {
        self.v4.lock().abandon(stats);
        self.v6.lock().abandon(stats);
    }

    pub(crate) const fn v4(&self) -> &Shared<2> {
        &self.v4
    }

    pub(crate) const fn v6(&self) -> &Shared<5> {
        &self.v6
    }
}

impl<const N: usize> Shared<N> {
    fn lock(&self) -> MutexGuard<'_, Store<N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts fragments that are due behind the frames of a batch, as far as there is room, each with its verdict.
    pub(crate) fn emit(&self, due: &mut Due, batch: &mut Batch, stats: &WorkerStats) {
        let mut store = self.lock();
        while let Some(frame) = batch.spare() {
            let Some(verdict) = store.take(&mut due.0, frame) else { return };
            frame.verdict = Some(verdict);
            stats.verdict(verdict);
            batch.push();
        }
    }
}

impl Due {
    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.0.len() as usize
    }
}

impl<const N: usize> Nat<'_, N> {
    /// A fragment: the first one decides, the others follow it.
    #[cold]
    pub(super) fn fragment<A: Address>(&mut self, frame: &mut Frame, hash: Hash) -> Outcome
    where
        Key<N>: From<Tuple<A>>,
        Tuple<A>: From<Key<N>>,
    {
        let part = Part::of::<A>(frame.packet(), &frame.layout);
        let shared = self.fragments;
        let mut store = shared.lock();
        let outcome = match store.admit(&part, self.now, self.stats) {
            Err(reason) => Outcome::dropped(reason),
            Ok(slot) if frame.layout.piece() == Piece::First => {
                self.first_fragment::<A>(frame, hash, &mut store, slot, &part)
            }
            Ok(slot) => self.later_fragment::<A>(frame, &mut store, slot, &part),
        };
        // A frame that is tried again is counted then.
        if outcome != Outcome::Raced {
            self.stats.add(Counter::Fragments, 1);
        }
        outcome
    }

    fn later_fragment<A: Address>(
        &mut self,
        frame: &mut Frame,
        store: &mut Store<N>,
        slot: Slot,
        part: &Part,
    ) -> Outcome
    where
        Tuple<A>: From<Key<N>>,
    {
        if let Some(fate) = store.fate(slot) {
            let (bytes, packet) = (frame.layout.total_len(), frame.packet_mut());
            let verdict = self.follow::<A>(&fate, packet, bytes);
            store.add(slot, part, self.stats);
            return Outcome::Done(verdict);
        }
        if let Err(reason) = store.hold(slot, frame.bytes(), self.stats) {
            store.forget_if_empty(slot);
            return Outcome::dropped(reason);
        }
        store.add(slot, part, self.stats);
        self.stats.add(Counter::FragmentsHeld, 1);
        frame.set_len(0);
        Outcome::Held
    }

    fn first_fragment<A: Address>(
        &mut self,
        frame: &mut Frame,
        hash: Hash,
        store: &mut Store<N>,
        slot: Slot,
        part: &Part,
    ) -> Outcome
    where
        Key<N>: From<Tuple<A>>,
        Tuple<A>: From<Key<N>>,
    {
        let arrived = frame.layout;
        let key =
            matches!(arrived.kind(), Kind::Flow(_)).then(|| Key::from(arrived.tuple::<A>(frame.packet())));
        let outcome = self.whole::<A>(frame, hash);
        let fate = match outcome {
            Outcome::Raced | Outcome::Held => {
                store.forget_if_empty(slot);
                return outcome;
            }
            Outcome::Done(Verdict::Passed) => Fate::Passed,
            Outcome::Done(Verdict::Dropped(reason)) => Fate::Dropped(reason),
            Outcome::Done(Verdict::Replied) | Outcome::Answer(_) => {
                Fate::Dropped(DropReason::FragmentRefused)
            }
            Outcome::Done(Verdict::Translated) => match key {
                Some(key) => Fate::Translated {
                    to: Key::from(arrived.tuple::<A>(frame.packet())),
                    flow: self.table.lookup(hash, &key),
                },
                // Only errors are translated without a tuple, and never one in fragments.
                None => Fate::Dropped(DropReason::BadIcmpError),
            },
        };
        let held = store.settle(slot, fate);
        self.release::<A>(store, &fate, held);
        store.add(slot, part, self.stats);
        outcome
    }

    /// Gives fragments that waited the fate of their first one.
    fn release<A: Address>(&mut self, store: &mut Store<N>, fate: &Fate<N>, mut held: Queue)
    where
        Tuple<A>: From<Key<N>>,
    {
        if let Fate::Dropped(reason) = fate {
            (0..store.pool.clear(&mut held)).for_each(|_| self.stats.verdict(Verdict::Dropped(*reason)));
            return;
        }
        let verdict = if matches!(fate, Fate::Passed) { Verdict::Passed } else { Verdict::Translated };
        store.pool.settle(&held, verdict, |beginning, len| {
            let packet = beginning.get_mut(VNET_LEN..).unwrap_or_default();
            let _ = self.follow::<A>(fate, packet, len - VNET_LEN);
        });
        store.pool.append(&mut self.due.0, held);
    }

    /// Does to a fragment of `bytes` bytes what was done to its first one; its verdict.
    fn follow<A: Address>(&mut self, fate: &Fate<N>, packet: &mut [u8], bytes: usize) -> Verdict
    where
        Tuple<A>: From<Key<N>>,
    {
        match fate {
            Fate::Passed => Verdict::Passed,
            Fate::Dropped(reason) => Verdict::Dropped(*reason),
            Fate::Translated { to, flow } => {
                let to = Tuple::<A>::from(*to);
                readdress(packet, to.src, to.dst);
                give_back_hop::<A>(packet);
                if self.choices.accounting
                    && let Some(flow) = flow
                {
                    self.tally.add(self.table, flow, bytes);
                }
                Verdict::Translated
            }
        }
    }
}
