//! A flow's life under several hands: touched, expired, killed, freed, its record used again; and chunks
//! changing hands.

use super::*;
use crate::flow::state::{State, StateWord, Touched};
use crate::flow::tcp::{Effect, Flags};
use crate::ids::FlowIx;
use crate::sync::AtomicU64;

const FLOW: Key<2> = Key([1, UDP]);
const REPLY: Key<2> = Key([11, UDP]);
const OTHER_REPLY: Key<2> = Key([12, UDP]);

fn touch(word: &AtomicU64, now: u64, set: Flags) {
    let effect = Effect { set, refresh: true, ..Effect::default() };
    assert_eq!(word.touch(1, at(now).tick(), |_| effect), Touched::Done);
}

/// One worker sees a FIN, another only a packet, a third a packet of an older second.
fn touch_touch() -> String {
    let word = Arc::new(AtomicU64::new(State::new(1, at(100).tick(), 1, Flags::EST).0));
    let actors = [(101, Flags::FIN_FWD), (103, Flags::NONE), (102, Flags::FIN_REV)];
    let threads = actors.map(|(now, set)| {
        let word = Arc::clone(&word);
        loom::thread::spawn(move || {
            touch(&word, now, set);
            let after = word.state();
            assert!(after.flags().has(set), "a flag was lost");
            after.tick()
        })
    });
    let ticks = threads.map(|thread| thread.join().unwrap().bits());
    let last = word.state();
    assert!(last.flags().has(Flags::EST.with(Flags::FIN_FWD).with(Flags::FIN_REV)), "a flag was lost");
    assert!(last.tick().bits() >= 102, "a tick moved backwards");
    format!("ticks {ticks:?} then {}", last.tick().bits())
}

#[test]
fn loom_touch_beside_touch() {
    explore("touch/touch", 4, 3, touch_touch);
    fails("touch/touch", Twin::FlagOnce, "a flag was lost", 4, touch_touch);
}

/// An open UDP flow of worker 0, last seen at second 100.
fn opened(chunks: usize) -> (Arc<Table<2>>, Worker, Hit<2>) {
    let table = table(chunks);
    let mut owner = Worker::ready(&table, 0);
    let (Opened::New(hit), _) = owner.open(&new(FLOW, 100), &[REPLY]) else { panic!("not opened") };
    (table, owner, hit)
}

/// The hand's `now` lies behind the tick another worker writes.
fn age() -> String {
    let (table, mut owner, hit) = opened(1);
    let worker = Arc::clone(&table);
    let toucher = loom::thread::spawn(move || {
        let hit = find(&worker, FLOW).expect("it is there");
        worker.touch(&hit, at(140).tick(), L4Flags::default());
    });
    let record = Arc::clone(&table);
    let hand = loom::thread::spawn(move || {
        let swept = owner.turn(125);
        (swept, record.record(hit.ix).state.state().tick().bits(), owner)
    });
    toucher.join().unwrap();
    let (swept, tick, _owner) = hand.join().unwrap();
    assert_eq!(swept.expired, 0, "a live flow was judged expired");
    assert!(find(&table, FLOW).is_some() && find(&table, REPLY).is_some());
    format!("the hand passed before or at tick {tick}")
}

#[test]
fn loom_age_is_signed() {
    explore("age", 4, 2, age);
    fails("age", Twin::UnsignedAge, "a live flow was judged expired", 4, age);
}

/// The hand finds a flow past its time while a packet refreshes it.
fn touch_expire() -> String {
    let (table, mut owner, before) = opened(1);
    let worker = Arc::clone(&table);
    let toucher = loom::thread::spawn(move || {
        let hit = find(&worker, FLOW);
        hit.inspect(|hit| worker.touch(hit, at(140).tick(), L4Flags::default())).is_some()
    });
    let hand = loom::thread::spawn(move || (owner.turn(140), owner));
    let found = toucher.join().unwrap();
    let (swept, owner) = hand.join().unwrap();
    let state = table.record(before.ix).state.state();
    let refreshed = state.tick() == at(140).tick() && state.serves(before.generation);
    let there = [FLOW, REPLY].map(|key| find(&table, key).is_some());
    assert!(there == [refreshed; 2], "a refreshed flow was unlinked, or an expired one was not: {there:?}");
    assert_eq!((swept.expired == 1, swept.freed == 1), (!refreshed, !refreshed));
    assert_eq!(owner.own.free(), if refreshed { 1 } else { 2 });
    assert_settled(&table, &[FLOW, REPLY]);
    format!("found {found}, expired {}", swept.expired)
}

#[test]
fn loom_touch_beside_the_hand() {
    explore("touch/expire by the hand", 4, 3, touch_expire);
    fails("touch/expire", Twin::UnlinkOnly, "a refreshed flow was unlinked", 4, touch_expire);
}

/// Another worker's open finds both buckets full and clears what is past its time, while a packet refreshes
/// it.
fn touch_rescue() -> String {
    let (table, mut owner, before) = opened(2);
    let (Opened::New(fresh), _) = owner.open(&new(key(2, UDP), 120), &[key(21, UDP)]) else {
        panic!("not opened")
    };
    let mut opener = Worker::ready(&table, 1);
    let worker = Arc::clone(&table);
    let toucher = loom::thread::spawn(move || worker.touch(&before, at(140).tick(), L4Flags::default()));
    let late = new(key(3, UDP), 140);
    let opener = loom::thread::spawn(move || (opener.open(&late, &[key(31, UDP)]).0, opener));
    toucher.join().unwrap();
    let (opened, _opener) = opener.join().unwrap();
    let refreshed = table.record(before.ix).state.state().serves(before.generation);
    assert_eq!(
        [FLOW, REPLY].map(|key| find(&table, key).is_some()),
        [refreshed; 2],
        "a refreshed flow was unlinked"
    );
    assert!(
        find(&table, key(2, UDP)).is_some_and(|hit| hit.ix == fresh.ix),
        "a flow in its time was unlinked"
    );
    assert_eq!(matches!(opened, Opened::New(_)), !refreshed, "{opened:?}");
    assert_settled(&table, &[FLOW, REPLY, key(2, UDP), key(21, UDP), key(3, UDP), key(31, UDP)]);
    name(&opened).to_owned()
}

#[test]
fn loom_touch_beside_a_rescue() {
    explore("touch/expire by full buckets", 3, 2, touch_rescue);
    fails("touch/expire by full buckets", Twin::UnlinkOnly, "a refreshed flow was unlinked", 3, touch_rescue);
}

/// Worker B ends a flow of A's and opens its tuple anew; A frees the record at once and opens the tuple with
/// it.
fn kill_reap_reopen() -> String {
    let (table, mut a, hit) = opened(2);
    a.keep_busy();
    let mut b = Worker::ready(&table, 1);
    let killer = loom::thread::spawn(move || {
        let killed = b.table.kill(&hit);
        let opened = killed.then(|| b.open(&new(FLOW, 100), &[OTHER_REPLY]).0);
        (opened, b)
    });
    let reaper = loom::thread::spawn(move || {
        let freed = a.turn(100).freed;
        let opened = (freed == 1).then(|| a.open(&new(FLOW, 100), &[REPLY]).0);
        (opened, a)
    });
    let ((by_b, _b), (by_a, _a)) = (killer.join().unwrap(), reaper.join().unwrap());
    let named = |opened: &Option<Opened<2>>| opened.as_ref().map_or("not reached", name);
    let outcome = format!("A {}, B {}", named(&by_a), named(&by_b));
    let won: Vec<_> = [&by_a, &by_b]
        .into_iter()
        .filter_map(|opened| match opened {
            Some(Opened::New(hit)) => Some((hit.ix, hit.generation)),
            _ => None,
        })
        .collect();
    assert!(won.len() <= 1, "two live flows: {outcome}");
    let found = find(&table, FLOW).map(|hit| (hit.ix, hit.generation));
    assert_eq!(found, won.first().copied(), "won but not found: {outcome}");
    let back = [REPLY, OTHER_REPLY].iter().filter_map(|key| find(&table, *key)).map(|hit| hit.ix);
    assert_eq!(
        back.collect::<Vec<_>>(),
        won.iter().map(|won| won.0).collect::<Vec<_>>(),
        "no way back: {outcome}"
    );
    outcome
}

#[test]
fn loom_kill_reap_reopen() {
    explore("kill + reap + reopen", 3, 4, kill_reap_reopen);
    fails("kill + reap + reopen", Twin::NoGeneration, "A New, B", 3, kill_reap_reopen);
}

/// A reader beside an owner that gives the record to another flow.
fn reader_beside_rewrite() -> String {
    let (table, mut owner, hit) = opened(1);
    owner.keep_busy();
    let reader = Arc::clone(&table);
    let reader = loom::thread::spawn(move || reader.hit(table_word(&reader, &hit), &FLOW).map(|hit| hit.out));
    let writer = loom::thread::spawn(move || {
        owner.table.kill(&hit);
        owner.turn(100);
        (owner.open(&new(key(2, UDP), 100), &[key(21, UDP)]).0, owner)
    });
    let seen = reader.join().unwrap();
    let (opened, _owner) = writer.join().unwrap();
    assert!(matches!(opened, Opened::New(hit2) if hit2.ix == hit.ix));
    assert!(seen.is_none_or(|out| out == REPLY.reversed()), "torn: {seen:?}");
    format!("seen {}", seen.is_some())
}

/// The word of a flow's forward tuple, as a reader has it that slept since.
fn table_word(table: &Table<2>, hit: &Hit<2>) -> crate::flow::word::Word {
    table.word(table.hash(&FLOW), hit.generation, hit.dir, hit.ix).committed()
}

#[test]
fn loom_reader_beside_rewrite() {
    explore("reader beside rewrite", 3, 2, reader_beside_rewrite);
    fails("reader beside rewrite", Twin::LookOnce, "torn", 3, reader_beside_rewrite);
}

/// A worker gives a chunk back, with what it wrote into it, while another looks for one.
fn chunk_changes_hands() -> String {
    let table = table(4);
    let mut first = Worker::new(&table, 0);
    let all: Vec<_> = (0..8).map_while(|_| first.own.pop()).collect();
    assert_eq!(all.len(), 8);
    all.iter().for_each(|ix| first.own.push(*ix));
    // Three chunks stay with the first worker; the fourth is for one of two others.
    let giver = loom::thread::spawn(move || {
        first.own.give_back();
        first
    });
    let takers = [1, 2].map(|id| {
        let mut worker = Worker::new(&table, id);
        loom::thread::spawn(move || {
            let records: Vec<FlowIx> = (0..2).map_while(|_| worker.own.pop()).collect();
            (records, worker)
        })
    });
    let first = giver.join().unwrap();
    let [(one, _w1), (two, _w2)] = takers.map(|thread| thread.join().unwrap());
    assert_eq!(first.own.owned(), 6);
    assert!(one.iter().all(|ix| !two.contains(ix)), "two owners: {one:?} {two:?}");
    format!("{} {}", one.len(), two.len())
}

#[test]
fn loom_chunk_give_back_and_take() {
    explore("chunk take / give back", 4, 3, chunk_changes_hands);
    fails("chunk take / give back", Twin::OwnerByStore, "two owners", 4, chunk_changes_hands);
}

/// A worker shares a chunk with a live flow in it; two others look for records, and whoever gets it may use the free
/// one only.
fn chunk_with_a_flow_is_shared() -> String {
    let table = table(2);
    let mut first = Worker::new(&table, 0);
    // A flow and a free record in each of the two chunks there are.
    let mut opened = |n| first.open(&new(key(n, UDP), 100), &[key(20 + n, UDP)]).0;
    let Opened::New(one) = opened(1) else { panic!("not opened") };
    let between = first.own.pop().unwrap();
    let mut opened = |n| first.open(&new(key(n, UDP), 100), &[key(20 + n, UDP)]).0;
    let Opened::New(two) = opened(2) else { panic!("not opened") };
    first.own.push(between);
    let live = [one.ix, two.ix];
    let giver = loom::thread::spawn(move || {
        first.own.share();
        first
    });
    let takers = [1, 2].map(|id| {
        let mut worker = Worker::new(&table, id);
        loom::thread::spawn(move || {
            let records: Vec<FlowIx> = (0..2).map_while(|_| worker.own.pop()).collect();
            (records, worker)
        })
    });
    let first = giver.join().unwrap();
    let [(one, w1), (two, w2)] = takers.map(|thread| thread.join().unwrap());
    assert!(one.iter().all(|ix| !two.contains(ix)), "two owners: {one:?} {two:?}");
    assert!(
        live.iter().all(|ix| !one.contains(ix) && !two.contains(ix)),
        "a live flow's record was given away"
    );
    assert!(first.own.owned() + w1.own.owned() + w2.own.owned() <= 4);
    format!("{} {}", one.len(), two.len())
}

#[test]
fn loom_chunk_shared_and_taken() {
    explore("chunk share / take", 4, 3, chunk_with_a_flow_is_shared);
    fails("chunk share / take", Twin::OwnerByStore, "two owners", 4, chunk_with_a_flow_is_shared);
}
