//! Two workers open flows at once: the same one, two that want one reply tuple, and one whose tuple lingers.

use super::*;
use crate::flow::index::Claim;
use crate::flow::tcp::Flags;
use crate::flow::word::Dir;
use crate::ids::FlowIx;
use crate::sync::Ordering;

const FIRST: Key<2> = Key([1, UDP]);
const SECOND: Key<2> = Key([2, UDP]);
const REPLIES: [Key<2>; 2] = [Key([11, UDP]), Key([12, UDP])];

/// Two workers, two flows (or twice the same), and the reply tuples each may have.
fn both(
    forward: [Key<2>; 2],
    replies: [&'static [Key<2>]; 2],
) -> (Arc<Table<2>>, [(Opened<2>, u32); 2], [Worker; 2]) {
    let table = table(2);
    let open = |id: u8| {
        let mut worker = Worker::ready(&table, id);
        let (forward, replies) = (forward[usize::from(id)], replies[usize::from(id)]);
        loom::thread::spawn(move || (worker.open(&new(forward, 100), replies), worker))
    };
    let (a, b) = (open(0), open(1));
    let ((a, first), (b, second)) = (a.join().unwrap(), b.join().unwrap());
    (table, [a, b], [first, second])
}

fn same_flow(replies: [&'static [Key<2>]; 2]) -> String {
    let (table, [a, b], [_first, mut second]) = both([FIRST, FIRST], replies);
    assert_eq!((a.1, b.1), (0, 0), "a port changed without a clash");
    let outcome = format!("{} {}", name(&a.0), name(&b.0));
    let opened = [&a.0, &b.0].iter().filter(|opened| matches!(opened, Opened::New(_))).count();
    assert_eq!(opened, 1, "opened {opened} times: {outcome}");
    let hit = find(&table, FIRST).expect("it is found");
    assert_eq!(find(&table, hit.out.reversed()).map(|back| back.ix), Some(hit.ix), "and so is its way back");
    assert_settled(&table, &[FIRST, REPLIES[0], REPLIES[1]]);
    for opened in [&a.0, &b.0] {
        if let Opened::New(named) | Opened::Existing(named) = opened {
            assert_eq!((named.ix, named.generation), (hit.ix, hit.generation));
        }
    }
    // After the park: it is there.
    let (again, _) = second.open(&new(FIRST, 100), &REPLIES);
    assert!(matches!(again, Opened::Raced | Opened::Existing(_)), "opened twice");
    outcome
}

#[test]
fn loom_open_the_same_flow_twice() {
    let equal = || same_flow([&REPLIES, &REPLIES]);
    explore("open/open, same flow", 4, 2, equal);
    fails("open/open, same flow", Twin::ClashUnjudged, "a port changed without a clash", 3, equal);
}

/// As above, but the workers chose two endpoints.
#[test]
fn loom_open_the_same_flow_to_two_endpoints() {
    let differ = || same_flow([&REPLIES[..1], &REPLIES[1..]]);
    explore("open/open, same flow, two endpoints", 3, 4, differ);
    fails("open/open, same flow, two endpoints", Twin::NoFence, "opened 2 times", 3, differ);
}

fn one_tuple_for_two() -> String {
    let (table, [a, b], _workers) = both([FIRST, SECOND], [&REPLIES[..1], &REPLIES[..1]]);
    let outcome = format!("{} {}", name(&a.0), name(&b.0));
    let found = [FIRST, SECOND].map(|forward| find(&table, forward));
    let holders = found.iter().flatten().count();
    assert!(holders <= 1, "two flows on one reply tuple: {outcome}");
    assert_eq!(holders, 1, "nobody got it: {outcome}");
    let owner = found.iter().flatten().next().map(|hit| hit.ix);
    assert_eq!(find(&table, REPLIES[0]).map(|back| back.ix), owner, "the reply finds its flow");
    assert_settled(&table, &[FIRST, SECOND, REPLIES[0]]);
    outcome
}

#[test]
fn loom_open_two_flows_that_want_one_reply_tuple() {
    explore("open/open, real clash", 4, 2, one_tuple_for_two);
    fails("open/open, real clash", Twin::NoReplyClaim, "two flows on one reply tuple", 3, one_tuple_for_two);
}

fn masqueraded(forward: Key<2>) -> NewFlow<2> {
    NewFlow { masquerade: true, ..new(forward, 100) }
}

/// A masqueraded flow its server closed and its client ended.
fn closed(mine: Key<2>, tuple: Key<2>) -> (Arc<Table<2>>, Worker, FlowIx) {
    let table = table(2);
    let mut first = Worker::ready(&table, 0);
    let (Opened::New(hit), _) = first.open(&masqueraded(mine), &[tuple]) else { panic!("not opened") };
    table.record(hit.ix).state.fetch_or(u64::from(Flags::FIN_REV.0), Ordering::AcqRel);
    assert!(table.kill(&find(&table, mine).unwrap()));
    (table, first, hit.ix)
}

/// Its client comes again, and another client wants the tuple.
fn lingering() -> String {
    let (mine, other, tuple) = (key(1, TCP), key(2, TCP), key(11, TCP));
    let (table, mut first, _) = closed(mine, tuple);
    let mut second = Worker::ready(&table, 1);

    // The record of the lingering flow is freed at once.
    let a = loom::thread::spawn(move || (first.open(&masqueraded(mine), &[tuple]).0, first.turn(100), first));
    let b = loom::thread::spawn(move || {
        let taken = find(&second.table, tuple).is_some();
        (second.open(&masqueraded(other), &[tuple]).0, taken, second)
    });
    let ((a, swept, _first), (b, taken, _second)) = (a.join().unwrap(), b.join().unwrap());
    assert!(
        !matches!(b, Opened::New(_)) || matches!(a, Opened::PortsExhausted),
        "another client got the tuple too"
    );
    assert!(matches!(a, Opened::New(_)), "the client's own tuple went to another: {a:?}");
    assert_eq!(find(&table, tuple).map(|hit| hit.out), Some(mine.reversed()));
    assert_eq!(swept.freed, 1);
    assert_settled(&table, &[mine, other, tuple]);
    format!("{} {}, tuple {} before", name(&a), name(&b), if taken { "taken" } else { "lingering" })
}

#[test]
fn loom_open_over_a_lingering_tuple() {
    explore("open/open, lingering tuple", 4, 2, lingering);
    fails("open/open, lingering tuple", Twin::FreeFirst, "the client's own tuple", 4, lingering);
}

/// As above, but the other client's worker is past its look at who has the tuple, and claims it.
fn hand_over() -> String {
    let (mine, tuple) = (key(1, TCP), key(11, TCP));
    let (table, mut first, old) = closed(mine, tuple);
    let mut second = Worker::ready(&table, 1);
    second.keep_busy();
    let (ix, generation) = (FlowIx(2), table.record(FlowIx(2)).generation());
    let a = loom::thread::spawn(move || (first.open(&masqueraded(mine), &[tuple]).0, first.turn(100), first));
    let claiming = Arc::clone(&table);
    // The record of the claim has this reply tuple.
    let reply = table.record(ix).key(generation, Dir::Reply).unwrap();
    let b = loom::thread::spawn(move || claiming.claim(&reply, generation, Dir::Reply, ix, at(100)));
    let ((opened, _, _first), claim) = (a.join().unwrap(), b.join().unwrap());
    assert!(claim != Claim::Won, "two flows on one reply tuple");
    let met = match claim {
        Claim::Existing(word) if word.ix() == old => "the lingering flow",
        Claim::Existing(_) => "the new flow",
        Claim::Won | Claim::Raced(_) | Claim::Full => "a race",
    };
    let words = table.index.words([0, 1]);
    assert!(words.iter().all(|word| word.is_committed()), "a tentative word is left");
    format!("{}, claim met {met}", name(&opened))
}

#[test]
fn loom_claim_beside_a_hand_over() {
    explore("claim/hand over", 4, 2, hand_over);
    fails("claim/hand over", Twin::MovedIsGone, "two flows on one reply tuple", 4, hand_over);
}
