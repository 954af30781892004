//! Models: the real code over loom's atomics, every interleaving within a bound of preemptions.
//!
//! Each prints how many executions it explored and which outcomes occurred, and has a *broken twin* that
//! leaves one rule out ([`Twin`]) and must fail: a model that cannot fail proves nothing. All actors are
//! spawned: loom does not explore the thread of the closure itself. Small sizes (two slots a bucket, two
//! buckets, two records a chunk) come from `cfg(tunway_loom)` in the modules themselves.
//!
//! Run with `RUSTFLAGS='--cfg tunway_loom' cargo test -p tunway-dataplane --profile loom --lib loom`.

mod claim;
mod count;
mod life;
mod open;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use super::arena::Chunks;
use super::hash::{Hash, SEED_WORDS, Seed};
use super::index::Bucket;
use super::loads::Loads;
use super::map::Slots;
use super::open::{Met, NewFlow, Opened};
use super::record::Draft;
use super::region::Parts;
use super::state::State;
use super::table::{Hit, Table};
use super::tcp::Flags;
use super::{Key, Tops, Ttls};
use crate::clock::Time;
use crate::ids::{EndpointId, ServiceId, WorkerId};
use crate::packet::layout::L4Flags;
use crate::sync::Twin;
use crate::sync::twin::leave_out;

/// Runs a model through; the model returns its outcome.
fn explore(name: &str, preemptions: usize, least: usize, model: impl Fn() -> String + Send + Sync + 'static) {
    let (executions, outcomes) = run(preemptions, model);
    println!("{name}: {executions} executions, {preemptions} preemptions");
    for (outcome, times) in &outcomes {
        println!("    {times:>8}  {outcome}");
    }
    assert!(outcomes.len() >= least, "{name} explored too little: {outcomes:?}");
}

/// Runs a model without one of the rules; it must fail with this message.
fn fails(
    name: &str,
    twin: Twin,
    message: &str,
    preemptions: usize,
    model: impl Fn() -> String + Send + Sync + 'static,
) {
    leave_out(Some(twin));
    // Loom prints the failure it finds: that is what we are after.
    let outcome = catch_unwind(AssertUnwindSafe(|| run(preemptions, model)));
    leave_out(None);
    let failure = outcome.expect_err("a model without its rule must fail");
    let text = failure.downcast_ref::<String>().cloned();
    let text =
        text.or_else(|| failure.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
    assert!(text.contains(message), "{name} without {twin:?} failed, but with {text:?}");
    println!("{name} without {twin:?} fails as it must: {}", text.lines().next().unwrap_or_default());
}

fn run(
    preemptions: usize,
    model: impl Fn() -> String + Send + Sync + 'static,
) -> (usize, BTreeMap<String, usize>) {
    let outcomes: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let seen = Arc::clone(&outcomes);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(move || {
        let outcome = model();
        *seen.lock().unwrap().entry(outcome).or_default() += 1;
    });
    let outcomes = outcomes.lock().unwrap().clone();
    (outcomes.values().sum(), outcomes)
}

/// A table of two buckets, all of whose tuples meet in them, and so many chunks of two records.
fn table(chunks: usize) -> Arc<Table<2>> {
    let parts = Parts::<2>::fresh(2 * chunks);
    let buckets = Slots::fresh((0..2).map(|_| Bucket::unused()));
    let mut secret = [0; SEED_WORDS];
    for (n, word) in secret.iter_mut().enumerate() {
        *word = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    // Loom knows nothing of the standard library's cells that counters come out of: they are there already.
    let loads: Arc<Loads> = Arc::default();
    (0..8).map(EndpointId).for_each(|endpoint| loads.reserve(endpoint));
    Arc::new(Table::of(Parts { buckets, ..parts }, Seed::new(secret), 1, loads, Ttls::default()))
}

const UDP: u64 = 17 << 24;
const TCP: u64 = 6 << 24;

fn key(n: u64, proto: u64) -> Key<2> {
    Key([n, proto])
}

fn at(secs: u64) -> Time {
    Time::from_secs(secs)
}

fn new(forward: Key<2>, now: u64) -> NewFlow<2> {
    let (service, endpoint, seen) = (ServiceId(1), EndpointId(1), L4Flags::SYN);
    NewFlow {
        forward,
        service,
        endpoint,
        epoch: 1,
        masquerade: false,
        tops: None,
        pickup: false,
        seen,
        now: at(now),
    }
}

/// One worker: the table, and own chunks.
struct Worker {
    table: Arc<Table<2>>,
    own: Chunks<2>,
}

impl Worker {
    fn new(table: &Arc<Table<2>>, id: u8) -> Self {
        Self { table: Arc::clone(table), own: table.chunks(WorkerId(id)) }
    }

    /// One with a chunk already, so that taking one is no part of the model.
    fn ready(table: &Arc<Table<2>>, id: u8) -> Self {
        let mut worker = Self::new(table, id);
        let ix = worker.own.pop().unwrap();
        worker.own.push(ix);
        worker
    }

    /// Fills what is free with flows nothing finds and nobody ends: the next record freed is the next one
    /// used.
    fn keep_busy(&mut self) {
        let (forward, reply) = (key(90, TCP), key(11, TCP));
        let tops = Tops::as_they_arrive(&forward, &reply);
        let (service, endpoint) = (ServiceId(1), EndpointId(1));
        let draft = Draft { forward, reply, service, endpoint, incarnation: 1, tops };
        while self.own.free() > 0 {
            let ix = self.own.pop().unwrap();
            let live = |generation| State::new(generation, at(100).tick(), 1, Flags::EST);
            let _ = self.table.record(ix).write(&draft, live);
        }
    }

    fn open(&mut self, new: &NewFlow<2>, replies: &[Key<2>]) -> (Opened<2>, u32) {
        let mut met = Met::default();
        let opened = self.table.open(&mut self.own, new, replies.iter().copied(), &mut met);
        (opened, met.clashes)
    }

    /// One whole turn of the hand at once.
    fn turn(&mut self, now: u64) -> super::Swept {
        self.own.hand.last = Some(at(now - 8));
        self.own.hand.due = 0;
        self.table.sweep(&mut self.own, at(now), false, |_| false)
    }
}

fn find(table: &Table<2>, key: Key<2>) -> Option<Hit<2>> {
    table.lookup(table.hash(&key), &key)
}

fn name(opened: &Opened<2>) -> &'static str {
    match opened {
        Opened::New(_) => "New",
        Opened::Existing(_) => "Existing",
        Opened::Raced => "Raced",
        Opened::TableFull => "TableFull",
        Opened::BucketFull => "BucketFull",
        Opened::PortsExhausted => "PortsExhausted",
    }
}

/// No undecided word is left, and no committed one that nothing answers to.
fn assert_settled(table: &Table<2>, keys: &[Key<2>]) {
    let words = table.index.words([0, 1]);
    assert!(words.iter().all(|word| word.is_committed()), "a tentative word is left");
    let serving = keys.iter().filter(|key| find(table, **key).is_some()).count();
    assert_eq!(words.len(), serving, "words that serve nobody: {words:?}");
}

const _: fn(Hash) -> u64 = |hash| hash.0;
