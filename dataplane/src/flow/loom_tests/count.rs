//! An endpoint's counter under several hands: whatever they do to a flow, the counter is its COUNTED.

use super::*;
use crate::flow::state::StateWord;

const FLOW: Key<2> = Key([1, TCP]);
const REPLY: Key<2> = Key([11, TCP]);
const ENDPOINT: EndpointId = EndpointId(1);

/// An established TCP flow of worker 0.
fn established() -> (Arc<Table<2>>, Worker, Hit<2>) {
    let table = table(1);
    let mut owner = Worker::ready(&table, 0);
    let (Opened::New(_), _) = owner.open(&new(FLOW, 100), &[REPLY]) else { panic!("not opened") };
    for (key, seen) in [(REPLY, L4Flags(0x12)), (FLOW, L4Flags::ACK)] {
        table.touch(&find(&table, key).unwrap(), at(100).tick(), seen);
    }
    let hit = find(&table, FLOW).unwrap();
    assert_eq!(table.loads().active(ENDPOINT), 1);
    (table, owner, hit)
}

fn assert_counted_once(table: &Table<2>, hit: &Hit<2>) -> i32 {
    let state = table.record(hit.ix).state.state();
    let active = table.loads().balance(ENDPOINT);
    assert_eq!(active, i32::from(state.flags().has(Flags::COUNTED)), "the counter is not the flows'");
    active
}

/// The client closes while another worker ends the flow.
fn close_beside_kill() -> String {
    let (table, _owner, hit) = established();
    let worker = Arc::clone(&table);
    let closer = loom::thread::spawn(move || {
        worker.touch(&hit, at(100).tick(), L4Flags(0x11));
    });
    let worker = Arc::clone(&table);
    let killer = loom::thread::spawn(move || worker.kill(&hit));
    closer.join().unwrap();
    let killed = killer.join().unwrap();
    let active = assert_counted_once(&table, &hit);
    format!("killed {killed}, {active} active")
}

#[test]
fn loom_counted_close_beside_kill() {
    explore("close/kill counted", 4, 2, close_beside_kill);
    fails("close/kill counted", Twin::CountBeside, "the counter is not", 4, close_beside_kill);
}

/// A RST and what undoes it, beside the server's FIN.
fn reset_beside_close() -> String {
    let (table, _owner, hit) = established();
    let worker = Arc::clone(&table);
    let client = loom::thread::spawn(move || {
        for seen in [L4Flags::RST, L4Flags::ACK] {
            worker.touch(&hit, at(100).tick(), seen);
        }
    });
    let worker = Arc::clone(&table);
    let server = loom::thread::spawn(move || {
        let back = find(&worker, REPLY).expect("it is there");
        worker.touch(&back, at(100).tick(), L4Flags(0x11));
    });
    client.join().unwrap();
    server.join().unwrap();
    let active = assert_counted_once(&table, &hit);
    assert_eq!(active, 0, "it is closing");
    table.record(hit.ix).state.state().flags().0.to_string()
}

#[test]
fn loom_counted_reset_beside_close() {
    explore("reset/close counted", 4, 1, reset_beside_close);
}

/// Two workers open one flow; the one that does not takes its own count back.
fn open_beside_open() -> String {
    let table = table(2);
    let actors = [0, 1].map(|id| {
        let mut worker = Worker::ready(&table, id);
        loom::thread::spawn(move || (worker.open(&new(FLOW, 100), &[REPLY]).0, worker))
    });
    let opened = actors.map(|actor| actor.join().unwrap());
    let live = i32::from(find(&table, FLOW).is_some());
    assert_eq!(table.loads().balance(ENDPOINT), live, "the counter is not the flows'");
    format!("{} {}", name(&opened[0].0), name(&opened[1].0))
}

#[test]
fn loom_counted_open_beside_open() {
    explore("open/open counted", 3, 2, open_beside_open);
}
