//! Two workers at once, each with some of the fragments of every datagram.

use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use crossbeam::utils::CachePadded;
use dataplane::clock::Time;
use dataplane::engine::{Engine, EngineConfig};
use dataplane::ids::WorkerId;
use dataplane::packet::frame::Batch;
use dataplane::stats::{Counter, Totals, WorkerStats};
use dataplane::verdict::Verdict;
use tests::check::valid;
use tests::cluster::addr;
use tests::packets::{Reassembler, Wire, fragments, udp};

const DATAGRAMS: u32 = 2_000;

#[test]
fn whichever_worker_a_fragment_comes_to_its_datagram_goes_through_once() {
    let gateway = super::gateway();
    let tables = gateway.tables.clone();
    let left = Mutex::new(Vec::new());
    let start = Barrier::new(2);
    let mut totals = Totals::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..2_u8)
            .map(|worker| {
                let stats = Arc::new(CachePadded::new(WorkerStats::default()));
                // Beside those of the gateway, which do nothing.
                let id = WorkerId(super::WORKERS + worker);
                let engine =
                    Engine::new(id, tables.clone(), EngineConfig::default(), Arc::clone(&stats), id.0.into());
                let (left, start, world, now) = (&left, &start, &gateway.world, gateway.now);
                scope.spawn(move || {
                    work(engine, worker, (world, now), start, left);
                    stats.read()
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| totals.merge(&worker.join().unwrap()));
    });
    assert_eq!((tables.fragments.held(), tables.fragments.datagrams()), (0, 0));
    assert_eq!(totals.get(Counter::DatagramsComplete), u64::from(DATAGRAMS));
    assert_eq!(totals.get(Counter::Received), totals.get(Counter::Translated));
    println!(
        "measured: {} of {} fragments waited",
        totals.get(Counter::FragmentsHeld),
        totals.get(Counter::Received)
    );
    let (mut reassembler, mut whole) = (Reassembler::default(), 0);
    for bytes in left.into_inner().unwrap() {
        if let Some(packet) = reassembler.take(&bytes).unwrap() {
            valid(&Wire::plain(packet)).unwrap();
            whole += 1;
        }
    }
    assert_eq!((whole, reassembler.pending()), (DATAGRAMS, 0));
}

/// Sends every other fragment of all datagrams, in batches of ten.
fn work(
    mut engine: Engine,
    worker: u8,
    (world, now): (&dataplane::service::World, Time),
    start: &Barrier,
    left: &Mutex<Vec<Vec<u8>>>,
) {
    let mut batch = Batch::default();
    let mut turn = |engine: &mut Engine, wires: &[Wire]| {
        batch.clear();
        wires.iter().for_each(|wire| assert!(wire.put(&mut batch)));
        engine.process(&mut batch, world, now);
        let leaves = batch.frames().iter().filter(|frame| frame.verdict == Some(Verdict::Translated));
        left.lock().unwrap().extend(leaves.map(|frame| frame.packet().to_vec()));
    };
    for block in 0..DATAGRAMS / 10 {
        let mut wires = Vec::new();
        for n in block * 10..(block + 1) * 10 {
            let (client, vip) = super::ROADS[n as usize % 2];
            let packet = udp(addr(client), addr(vip)).payload(vec![n.to_le_bytes()[0]; 900]).bytes();
            let pieces = fragments(&packet, n, 200);
            let own = pieces
                .into_iter()
                .enumerate()
                .filter(|(at, _)| (*at + n as usize) % 2 == usize::from(worker));
            wires.extend(own.map(|(_, bytes)| Wire::plain(bytes)));
        }
        // Workers are out of step.
        let ahead = usize::from(worker) * 7 % wires.len();
        wires.rotate_left(ahead);
        // As closely together as two cores allow.
        start.wait();
        wires.chunks(10).for_each(|wires| turn(&mut engine, wires));
        while engine.parked() > 0 {
            turn(&mut engine, &[]);
        }
    }
}
