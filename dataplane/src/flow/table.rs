//! The table of one family: look-up, touch, kill, and what tables print.

use std::sync::Arc;

use super::arena::Chunks;
use super::hash::{Hash, Seed};
use super::held::Held;
use super::index::Index;
use super::key::Key;
use super::ledger::Ledger;
use super::loads::Loads;
use super::map::Slots;
use super::prefetch::prefetch;
use super::record::{Expected, Record, Seen};
use super::region::{Parts, Region};
use super::sctp::sctp;
use super::state::{State, StateWord, Touched};
use super::tcp::{Class, Effect, Flags, tcp, udp};
use super::ttl::{Ttls, holds_tuple};
use super::word::{Dir, Word};
use crate::clock::Tick;
use crate::ids::{EndpointId, FlowIx, ServiceId, WorkerId};
use crate::packet::checksum::Delta;
use crate::packet::layout::L4Flags;
use crate::packet::tuple::Proto;
use crate::sync::{AtomicU8, AtomicU64, Twin, broken};

/// A look-up's answer: everything a packet of a known flow needs.
#[derive(Clone, Copy, Debug)]
pub struct Hit<const N: usize> {
    /// The flow's record.
    pub ix: FlowIx,
    /// The record's generation, 14 bits: another one is another flow.
    pub generation: u16,
    /// Which of its tuples matched.
    pub dir: Dir,
    /// The tuple the packet leaves with: rewrite it to exactly this.
    pub out: Key<N>,
    /// What that changes in checksums.
    pub delta: Delta,
    /// Whose it is.
    pub service: ServiceId,
    /// Where it goes. 0 when the process that opened it is gone.
    pub endpoint: EndpointId,
    /// What a TCP segment's numbers are compared with; see [`Table::believed`].
    pub expected: Expected,
    /// The state word as read: what [`Table::kill`] judges by.
    pub state: u64,
}

impl<const N: usize> Hit<N> {
    /// TCP in TIME_WAIT or after a RST, or a closed SCTP association, seen from the client: its SYN or INIT ends the
    /// flow and opens a new one.
    #[must_use]
    pub fn reopenable(&self) -> bool {
        self.dir == Dir::Forward && Class::of(self.out.proto(), State(self.state).flags()).reopenable()
    }

    /// The purge epoch it was last judged under.
    #[must_use]
    pub const fn epoch(&self) -> u16 {
        State(self.state).epoch()
    }

    /// Whether the source address is translated too.
    #[must_use]
    pub const fn masquerade(&self) -> bool {
        State(self.state).flags().has(Flags::MASQ)
    }

    /// The state's name, as [`FlowView::state`].
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        Class::of(self.out.proto(), State(self.state).flags()).name()
    }
}

/// A flow as tables print it.
#[derive(Clone, Debug)]
pub struct FlowView<const N: usize> {
    /// Client to VIP.
    pub forward: Key<N>,
    /// Endpoint to the client or to the SNAT address.
    pub reply: Key<N>,
    /// For instance `ESTABLISHED`, `UNREPLIED`.
    pub state: &'static str,
    /// Counted at its endpoint; see [`Loads`].
    pub active: bool,
    /// Whose it is.
    pub service: ServiceId,
    /// Where it goes; 0 when the process that opened it is gone.
    pub endpoint: EndpointId,
    /// Seconds since the last packet that counted.
    pub idle: u32,
    /// Seconds until it may expire.
    pub expires: u32,
    /// Forward, reply.
    pub packets: [u64; 2],
    /// Forward, reply: as given to [`Table::account`].
    pub bytes: [u64; 2],
}

/// The table all workers share. See [`super`] for the algorithm.
#[derive(Debug)]
pub struct Table<const N: usize> {
    pub(super) index: Index,
    pub(super) records: Slots<Record<N>>,
    pub(super) ledgers: Slots<Ledger>,
    owners: Slots<AtomicU8>,
    seed: Seed<N>,
    pub(super) loads: Arc<Loads>,
    pub(super) held: Held,
    pub(super) ttls: Ttls,
    pub(super) incarnation: u16,
}

impl<const N: usize> Table<N> {
    /// The table of this family in a region.
    #[must_use]
    pub fn new(region: &Arc<Region>, ttls: Ttls) -> Self {
        let (seed, incarnation) = (Seed::new(region.seed::<N>()), region.incarnation());
        Self::of(region.parts(), seed, incarnation, Arc::clone(region.loads()), ttls)
    }

    pub(super) fn of(
        parts: Parts<N>,
        seed: Seed<N>,
        incarnation: u16,
        loads: Arc<Loads>,
        ttls: Ttls,
    ) -> Self {
        let Parts { owners, buckets, records, ledgers } = parts;
        assert!(records.len().is_power_of_two() && records.len() == ledgers.len());
        let held = Held::new(records.len());
        Self { index: Index::new(buckets), records, ledgers, owners, seed, loads, held, ttls, incarnation }
    }

    /// An empty-handed owner for worker `id`: it takes chunks when it needs them, and leaves them when
    /// dropped. One at a time for each `id`.
    #[must_use]
    pub fn chunks(&self, id: WorkerId) -> Chunks<N> {
        Chunks::new(self.owners.clone(), self.records.clone(), id)
    }

    /// The key's hash in this table.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &Key<N>) -> Hash {
        self.seed.hash(key)
    }

    /// Starts loading the index lines of both home buckets.
    #[inline]
    pub fn prefetch_bucket(&self, hash: Hash) {
        for home in self.homes(hash) {
            prefetch(self.index.line(home));
        }
    }

    /// Matches tags in the home buckets and starts loading the record that is most likely the key's.
    #[inline]
    pub fn prefetch_record(&self, hash: Hash) {
        let _ = self.index.find(self.homes(hash), hash.tag(), |word| {
            prefetch(self.record(word.ix()));
            Some(())
        });
    }

    /// The flow one of whose tuples is this key. Wait-free: a record being written or moved on is a miss.
    #[must_use]
    #[inline]
    pub fn lookup(&self, hash: Hash, key: &Key<N>) -> Option<Hit<N>> {
        self.index.find(self.homes(hash), hash.tag(), |word| self.hit(word, key))
    }

    /// Lets a packet refresh and move its flow. `now` may lie behind another worker's.
    #[inline]
    pub fn touch(&self, hit: &Hit<N>, now: Tick, seen: L4Flags) {
        let effect = |flags| self.effect(hit, flags, now, seen).counting(hit.out.proto(), flags);
        loop {
            match self.record(hit.ix).state.touch(hit.generation, now, effect) {
                Touched::Done => return,
                Touched::Counted => return self.loads.add(hit.endpoint),
                Touched::Uncounted => return self.loads.remove(hit.endpoint),
                Touched::Ends(judged) if self.end_judged(hit.ix, judged, hit.endpoint, Flags::DEAD) => {
                    return self.unlink(hit.ix, hit.generation, Flags::DEAD);
                }
                // Touched, or ended, since.
                Touched::Ends(_) => {}
            }
        }
    }

    /// Adds one batch's packets and bytes of the hit's direction to its flow's ledger.
    #[inline]
    pub fn account(&self, hit: &Hit<N>, packets: u32, bytes: u64) {
        if self.record(hit.ix).state.state().generation() == hit.generation {
            self.ledger(hit.ix).add(hit.dir, packets, bytes);
        }
    }

    /// Ends the flow the hit names and unlinks it, so that its forward tuple can be opened anew at once.
    /// `false`: it has changed since, or is another flow by now.
    ///
    /// A masqueraded flow whose server has closed keeps its reply tuple from others for a minute: the server
    /// may still remember it.
    pub fn kill(&self, hit: &Hit<N>) -> bool {
        let judged = State(hit.state);
        let held = holds_tuple(hit.out.proto(), judged.flags());
        let how = if held { Flags::LINGER } else { Flags::DEAD };
        let ended = judged.serves(hit.generation) && self.end_judged(hit.ix, judged, hit.endpoint, how);
        if ended {
            self.unlink(hit.ix, hit.generation, how);
        }
        ended
    }

    /// Both tuples of the hit's flow with their real destinations: forward, reply. `None`: it is over, and its record
    /// another's.
    #[must_use]
    pub fn tuples(&self, hit: &Hit<N>) -> Option<[Key<N>; 2]> {
        self.record(hit.ix).seen(hit.generation).map(|seen| seen.real())
    }

    /// Stamps a newer purge epoch on a flow that was judged under it and kept.
    pub fn keep(&self, hit: &Hit<N>, epoch: u16) {
        self.record(hit.ix).state.keep(hit.generation, epoch);
    }

    /// Every flow that has a record, racy but never torn: also those that have ended and hold their reply tuple.
    pub fn for_each(&self, now: Tick, mut f: impl FnMut(FlowView<N>)) {
        for (record, ledger) in self.records.iter().zip(self.ledgers.iter()) {
            let state = record.state.state();
            if !state.is_in_use() {
                continue;
            }
            let Some(seen) = record.seen(state.generation()) else { continue };
            let [forward, reply] = seen.real();
            let (proto, flags, idle) = (forward.proto(), seen.state.flags(), seen.state.idle(now));
            f(FlowView {
                forward,
                reply,
                state: if flags.has(Flags::LINGER) { "HELD" } else { Class::of(proto, flags).name() },
                active: flags.has(Flags::COUNTED),
                service: seen.service,
                endpoint: seen.endpoint(self.incarnation),
                idle,
                expires: self.ttls.of(proto, flags).saturating_sub(idle),
                packets: ledger.packets(),
                bytes: ledger.bytes(),
            });
        }
    }

    /// Flows that have a record, by a walk over the records: milliseconds for a big table. Those that have ended and
    /// hold their reply tuple take the room of a live one, and count.
    #[must_use]
    pub fn live(&self) -> usize {
        self.records.iter().filter(|record| record.state.state().is_in_use()).count()
    }

    /// Active flows by endpoint, together with those of the region's other table.
    #[must_use]
    pub fn loads(&self) -> &Arc<Loads> {
        &self.loads
    }

    /// Flows there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.records.len()
    }

    /// The record of an index word: masked, whatever the word says.
    #[inline]
    pub(super) fn record(&self, ix: FlowIx) -> &Record<N> {
        &self.records[ix.0 as usize & (self.records.len() - 1)]
    }

    pub(super) fn ledger(&self, ix: FlowIx) -> &Ledger {
        &self.ledgers[ix.0 as usize & (self.ledgers.len() - 1)]
    }

    #[inline]
    pub(super) fn homes(&self, hash: Hash) -> [usize; 2] {
        hash.homes(self.index.mask())
    }

    /// The word of a flow's tuple, not committed.
    pub(super) fn word(&self, hash: Hash, generation: u16, dir: Dir, ix: FlowIx) -> Word {
        let generation = if broken(Twin::NoGeneration) { 0 } else { generation };
        Word::tentative(hash.tag(), generation, dir, ix)
    }

    /// The generation a word speaks of.
    pub(super) fn generation(&self, word: Word) -> u16 {
        if broken(Twin::NoGeneration) { self.record(word.ix()).generation() } else { word.generation() }
    }

    /// The flow behind a word, if the word's tuple is this key and the flow serves packets.
    #[inline]
    pub(super) fn hit(&self, word: Word, key: &Key<N>) -> Option<Hit<N>> {
        let generation = self.generation(word);
        let seen = self.record(word.ix()).seen(generation)?;
        let dir = word.dir();
        let matches = seen.keys[dir as usize] == *key && seen.state.serves(generation);
        matches.then(|| self.hit_of(word.ix(), generation, dir, &seen))
    }

    pub(super) fn hit_of(&self, ix: FlowIx, generation: u16, dir: Dir, seen: &Seen<N>) -> Hit<N> {
        Hit {
            ix,
            generation,
            dir,
            out: seen.out(dir),
            delta: seen.delta_of(dir),
            service: seen.service,
            endpoint: seen.endpoint(self.incarnation),
            expected: seen.expected,
            state: seen.state.0,
        }
    }

    /// Ends a flow from exactly the state it was seen in. `how` is DEAD or LINGER.
    pub(super) fn end(&self, ix: FlowIx, seen: &Seen<N>, how: Flags) -> bool {
        self.end_judged(ix, seen.state, seen.endpoint(self.incarnation), how)
    }

    fn end_judged(&self, ix: FlowIx, judged: State, endpoint: EndpointId, how: Flags) -> bool {
        let ended = self.record(ix).state.end(judged, how);
        if judged.flags().has(Flags::COUNTED) && (ended || broken(Twin::CountBeside)) {
            self.loads.remove(endpoint);
        }
        ended
    }

    /// Removes the words of a flow that is over: both of a dead one's, the forward one of a lingering one's.
    /// If its owner is faster, nothing is left to do.
    pub(super) fn unlink(&self, ix: FlowIx, generation: u16, how: Flags) {
        if let Some(keys) = self.record(ix).keys(generation) {
            self.unlink_key(&keys[0], ix, generation, Dir::Forward);
            if how == Flags::DEAD {
                self.unlink_key(&keys[1], ix, generation, Dir::Reply);
            }
        }
    }

    pub(super) fn unlink_key(&self, key: &Key<N>, ix: FlowIx, generation: u16, dir: Dir) {
        let hash = self.hash(key);
        self.index.unlink(self.homes(hash), self.word(hash, generation, dir, ix));
    }

    fn effect(&self, hit: &Hit<N>, flags: Flags, now: Tick, seen: L4Flags) -> Effect {
        match hit.out.proto() {
            Proto::Tcp => tcp(flags, hit.dir, seen),
            Proto::Sctp => sctp(flags, hit.dir, seen),
            Proto::Udp => udp(flags, hit.dir, || self.ledger(hit.ix).age(now) >= STREAM_AGE),
        }
    }
}

/// Seconds after which a replied UDP flow is a stream; `nf_conntrack_proto_udp.c`.
const STREAM_AGE: u32 = 2;

const _: fn(&AtomicU64) -> State = StateWord::state;
