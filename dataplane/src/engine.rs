//! One worker's packet path: a batch of frames in, a verdict for each. No clock; and for known flows no syscall,
//! no lock, no allocation.
//!
//! A packet reaches one of three tiers, and each may cost no more than this:
//!
//! 1. *Known flow*: no lock, and in the common case no read-modify-write on an index or record line. The flow's
//!    clock is refreshed once a second, its ledger once a batch.
//! 2. *Known UDP flow after a Service change*: one look-up in the snapshot, one compare-and-swap.
//! 3. *New flow*: a decision, a choice, two claims in the index; with session affinity one shard's lock, and room in
//!    it for a client that was never seen.
//!
//! A fragment of a datagram costs a lock more (`nat/fragment.rs`); for every other packet that is one branch.
//!
//! The batch is walked three times: validate and start loading index lines; start loading record lines; translate.
//! So the memory a packet needs is on its way while the packets before it are handled.

mod park;

#[cfg(test)]
#[cfg(not(tunway_loom))]
pub(crate) mod testkit;
#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use crate::clock::Time;
use crate::flow::{Chunks, Hash, Hit, Key, Table};
use crate::ids::WorkerId;
use crate::nat::fragment::{Due, Fragments};
use crate::nat::prng::Prng;
use crate::nat::reject::{Limiter, answer};
use crate::nat::tally::Tally;
use crate::nat::{Choices, Nat, Outcome, may_go_on};
use crate::packet::alias;
use crate::packet::frame::{BATCH, Batch, Frame};
use crate::packet::layout::{Kind, Layout};
use crate::packet::tuple::{Address, Family, Tuple};
use crate::service::{Affinity, World};
use crate::stats::{Counter, WorkerStats};
use crate::verdict::{DropReason, Verdict};
use park::{PATIENCE, Park};

/// How often datagrams in fragments are looked through for those whose time is up, ns.
const FRAGMENT_SWEEP: u64 = 1_000_000_000;

/// What an engine does where the rules leave a choice.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Refuse TCP with a RST instead of ICMP port unreachable.
    pub reject_with_rst: bool,
    /// Take up TCP flows whose start was not seen, instead of answering with a RST.
    pub tcp_loose: bool,
    /// ICMP errors and RSTs a worker may send per second; a tenth of it (at least 10) at once.
    pub replies_per_second: u32,
    /// Count packets and bytes of every flow.
    pub accounting: bool,
    /// The host steers packets here by aliases of their destinations, and unmasks what is written; see [`alias`].
    pub alias: bool,
    /// What is none of ours goes on: the host's rules keep it from coming straight back.
    pub passes: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            reject_with_rst: false,
            tcp_loose: false,
            replies_per_second: 1_000,
            accounting: true,
            alias: false,
            passes: true,
        }
    }
}

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Tables {
    /// IPv4 flows.
    pub v4: Arc<Table<2>>,
    /// IPv6 flows.
    pub v6: Arc<Table<5>>,
    /// Which client has which endpoint, where session affinity asks for it.
    pub affinity: Arc<Affinity>,
    /// Datagrams in fragments.
    pub fragments: Arc<Fragments>,
}

impl Tables {
    /// These tables, and no datagram in fragments.
    #[must_use]
    pub fn new(v4: Table<2>, v6: Table<5>, affinity: Affinity) -> Self {
        Self { v4: Arc::new(v4), v6: Arc::new(v6), affinity: Arc::new(affinity), fragments: Arc::default() }
    }
}

/// One worker's packet path.
#[derive(Debug)]
pub struct Engine {
    v4: Side<2>,
    v6: Side<5>,
    choices: Choices,
    prng: Prng,
    affinity: Arc<Affinity>,
    limiter: Limiter,
    park: Park,
    fragments: Arc<Fragments>,
    /// When datagrams were last looked through for those whose time is up.
    fragments_swept: Time,
    stats: Arc<CachePadded<WorkerStats>>,
    hashes: [Hash; BATCH],
    waited: [Option<Time>; BATCH],
}

/// What belongs to one family.
#[derive(Debug)]
struct Side<const N: usize> {
    table: Arc<Table<N>>,
    own: Chunks<N>,
    tally: Tally<N>,
    may_evict: bool,
    due: Due,
}

impl<const N: usize> Side<N> {
    fn new(table: Arc<Table<N>>, id: WorkerId) -> Self {
        Self { own: table.chunks(id), table, tally: Tally::default(), may_evict: true, due: Due::default() }
    }

    fn sweep<A: Address>(&mut self, world: &World, now: Time, stats: &WorkerStats) -> bool
    where
        Tuple<A>: From<Key<N>>,
    {
        let table = &*self.table;
        let stale = |hit: &Hit<N>| match world {
            World::NotReady => false,
            World::Ready(snapshot) => !may_go_on::<A, N>(table, snapshot, hit),
        };
        let swept = table.sweep(&mut self.own, now, false, stale);
        stats.swept(swept.expired, swept.evicted, swept.purged);
        swept.behind
    }
}

impl Engine {
    /// An engine for worker `id`. `seed` makes its draws of ports and endpoints reproducible.
    #[must_use]
    pub fn new(
        id: WorkerId,
        tables: Tables,
        config: EngineConfig,
        stats: Arc<CachePadded<WorkerStats>>,
        seed: u64,
    ) -> Self {
        let EngineConfig { reject_with_rst, tcp_loose, replies_per_second, accounting, alias, passes } =
            config;
        Self {
            v4: Side::new(tables.v4, id),
            v6: Side::new(tables.v6, id),
            choices: Choices { reject_with_rst, tcp_loose, accounting, alias, passes },
            prng: Prng::new(seed),
            affinity: tables.affinity,
            limiter: Limiter::new(replies_per_second),
            park: Park::default(),
            fragments: tables.fragments,
            fragments_swept: Time::default(),
            stats,
            hashes: [Hash::default(); BATCH],
            waited: [None; BATCH],
        }
    }

    /// Gives every frame of the batch its verdict and fills the reply frames.
    ///
    /// A frame whose flow another worker is opening is taken out and waits: in its place an empty frame without
    /// verdict remains. It comes back as an additional frame of a later batch; see [`Engine::parked`]. So does a
    /// fragment whose datagram's first one did not come yet, with whichever worker that comes.
    pub fn process(&mut self, batch: &mut Batch, world: &World, now: Time) {
        let fresh = batch.frames().len();
        self.unpark(batch, fresh);
        for index in 0..batch.frames().len() {
            let frame = &mut batch.frames_mut()[index];
            if index < fresh {
                self.waited[index] = None;
                self.stats.add(Counter::Received, 1);
                self.stats.add(Counter::ReceivedBytes, frame.packet().len() as u64);
                if let Err(reason) = validate(frame) {
                    self.end(frame, Verdict::Dropped(reason));
                    continue;
                }
            }
            self.hashes[index] = self.start_loading(frame);
        }
        for (frame, hash) in batch.frames().iter().zip(self.hashes) {
            if frame.verdict.is_none() && matches!(frame.layout.kind(), Kind::Flow(_)) {
                match frame.layout.family() {
                    Family::V4 => self.v4.table.prefetch_record(hash),
                    Family::V6 => self.v6.table.prefetch_record(hash),
                }
            }
        }
        self.v4.may_evict = true;
        self.v6.may_evict = true;
        for index in 0..batch.frames().len() {
            self.one(batch, index, world, now);
        }
        self.v4.tally.write_out(&self.v4.table);
        self.v6.tally.write_out(&self.v6.table);
        self.emit_due(batch);
        if self.choices.alias {
            mask(batch);
        }
    }

    /// Housekeeping in its budget; call it between batches. True when the clock hand is behind its plan: then idle
    /// for 50 ms at most instead of 250.
    pub fn sweep(&mut self, world: &World, now: Time) -> bool {
        if now.since(self.fragments_swept) >= FRAGMENT_SWEEP {
            self.fragments_swept = now;
            self.fragments.expire(now, &self.stats);
        }
        let v4 = self.v4.sweep::<Ipv4Addr>(world, now, &self.stats);
        let v6 = self.v6.sweep::<Ipv6Addr>(world, now, &self.stats);
        v4 || v6
    }

    /// Frames that wait for another worker, or for room in a batch. While there are any, call [`Engine::process`]
    /// again soon, also with an empty batch.
    #[must_use]
    pub const fn parked(&self) -> usize {
        self.park.len() + self.v4.due.len() + self.v6.due.len()
    }

    /// Gives every fragment that waits for its datagram's first one its end, also those other workers read: this
    /// worker ends, and then nobody may be left to do it.
    pub fn abandon_fragments(&self) {
        self.fragments.abandon(&self.stats);
    }

    /// Sends fragments whose first one came, behind the frames of the batch.
    fn emit_due(&mut self, batch: &mut Batch) {
        let Self { v4, v6, fragments, stats, .. } = self;
        if v4.due.len() > 0 {
            fragments.v4().emit(&mut v4.due, batch, stats);
        }
        if v6.due.len() > 0 {
            fragments.v6().emit(&mut v6.due, batch, stats);
        }
    }

    /// Puts waiting frames behind the fresh ones, as far as there is room.
    fn unpark(&mut self, batch: &mut Batch, fresh: usize) {
        for index in fresh..BATCH {
            let Some(frame) = batch.spare() else { return };
            let Some(since) = self.park.take(frame) else { return };
            frame.verdict = None;
            self.waited[index] = Some(since);
            batch.push();
        }
    }

    fn start_loading(&self, frame: &Frame) -> Hash {
        if !matches!(frame.layout.kind(), Kind::Flow(_)) {
            return Hash::default();
        }
        match frame.layout.family() {
            Family::V4 => load_bucket::<Ipv4Addr, 2>(&self.v4.table, frame),
            Family::V6 => load_bucket::<Ipv6Addr, 5>(&self.v6.table, frame),
        }
    }

    fn one(&mut self, batch: &mut Batch, index: usize, world: &World, now: Time) {
        let Some(frame) = batch.frames_mut().get_mut(index) else { return };
        if frame.verdict.is_some() {
            return;
        }
        let hash = self.hashes[index];
        let Self { v4, v6, choices, prng, affinity, stats, fragments, .. } = self;
        let (choices, affinity, stats) = (*choices, &**affinity, &***stats);
        let outcome = match frame.layout.family() {
            Family::V4 => {
                let Side { table, own, tally, may_evict, due } = v4;
                let fragments = fragments.v4();
                Nat {
                    table,
                    own,
                    tally,
                    world,
                    now,
                    choices,
                    prng,
                    affinity,
                    stats,
                    may_evict,
                    fragments,
                    due,
                }
                .translate::<Ipv4Addr>(frame, hash)
            }
            Family::V6 => {
                let Side { table, own, tally, may_evict, due } = v6;
                let fragments = fragments.v6();
                Nat {
                    table,
                    own,
                    tally,
                    world,
                    now,
                    choices,
                    prng,
                    affinity,
                    stats,
                    may_evict,
                    fragments,
                    due,
                }
                .translate::<Ipv6Addr>(frame, hash)
            }
        };
        self.conclude(batch, index, outcome, now);
    }

    /// Gives a frame the end its packet's way came to, or lets it wait.
    fn conclude(&mut self, batch: &mut Batch, index: usize, outcome: Outcome, now: Time) {
        let Some((frame, reply)) = batch.frame_and_reply(index) else { return };
        let verdict = match outcome {
            Outcome::Done(verdict) => verdict,
            Outcome::Raced => {
                let since = self.waited[index].unwrap_or(now);
                if now.since(since) <= PATIENCE && self.park.put(frame, since) {
                    if self.waited[index].is_none() {
                        self.stats.add(Counter::Parked, 1);
                    }
                    return;
                }
                Verdict::Dropped(DropReason::Raced)
            }
            Outcome::Held => return,
            Outcome::Answer(due) => {
                let answered = match reply {
                    None => Err(DropReason::ReplyLimited),
                    Some(_) if !self.limiter.take(now) => Err(DropReason::ReplyLimited),
                    Some(reply) => answer(frame, due, reply).map(|()| reply.verdict = Some(Verdict::Replied)),
                };
                match answered {
                    Ok(()) => Verdict::Replied,
                    Err(reason) => Verdict::Dropped(reason),
                }
            }
        };
        self.end(frame, verdict);
        if verdict == Verdict::Replied {
            batch.push_reply();
        }
    }

    fn end(&self, frame: &mut Frame, verdict: Verdict) {
        frame.verdict = Some(verdict);
        self.stats.verdict(verdict);
    }
}

/// Masks the destinations of all that is going to be written.
fn mask(batch: &mut Batch) {
    for frame in batch.written_mut() {
        let family =
            if frame.packet().first().is_some_and(|first| first >> 4 == 4) { Family::V4 } else { Family::V6 };
        alias::mask(frame.packet_mut(), family);
    }
}

fn validate(frame: &mut Frame) -> Result<(), DropReason> {
    let vnet = frame.vnet().ok_or(DropReason::Truncated)?;
    let layout = Layout::of(frame.packet())?;
    frame.csum = vnet.check(&layout, frame.packet())?;
    frame.layout = layout;
    Ok(())
}

fn load_bucket<A: Address, const N: usize>(table: &Table<N>, frame: &Frame) -> Hash
where
    Key<N>: From<Tuple<A>>,
{
    let hash = table.hash(&Key::from(frame.layout.tuple::<A>(frame.packet())));
    table.prefetch_bucket(hash);
    hash
}
