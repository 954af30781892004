//! The hand: its pace, what it ends, what it spares, and what pressure takes.

use std::cell::Cell;

use super::kit::*;
use super::*;
use crate::packet::tuple::Proto;
use Dir::{Forward as C, Reply as S};
use Proto::{Tcp, Udp};

/// Opens flows 0..n; their reply ports are their numbers.
fn fill(worker: &mut Worker<'_>, proto: Proto, flows: std::ops::Range<u32>, secs: u64) {
    for n in flows {
        worker.open(&new(forward(proto, n), at(secs)), u16::try_from(n).unwrap());
    }
}

fn establish(table: &Table<2>, n: u32, secs: u64) {
    drive(table, forward(Tcp, n), reply(Tcp, u16::try_from(n).unwrap()), at(secs), &HANDSHAKE);
}

#[test]
fn a_flow_expires_after_its_time_and_not_before() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    fill(&mut worker, Udp, 0..10, 100);
    drive(&table, forward(Udp, 3), reply(Udp, 3), at(120), &[(C, Default::default())]);
    assert_eq!(worker.turn(122).expired, 0, "30 s old at the end of the turn");
    let swept = worker.turn(131);
    assert_eq!((swept.expired, swept.freed), (9, 9));
    assert_eq!((table.live(), worker.own.free()), (1, worker.own.owned() - 1));
    assert!(find(&table, forward(Udp, 3)).is_some() && find(&table, reply(Udp, 4)).is_none());
    assert_eq!(worker.turn(151).expired, 1);
}

#[test]
fn the_hand_goes_round_in_eight_seconds_however_often_it_is_called() {
    const FLOWS: u32 = 16_384;
    let table = table(FLOWS);
    let mut worker = Worker::new(&table, 0);
    fill(&mut worker, Tcp, 0..FLOWS, 100);
    worker.sweep(at(100), false);
    let mut scanned = 0;
    for step in 1..=800 {
        let swept = worker.sweep(at(100).plus_nanos(step * 10_000_000), false);
        assert!(!swept.behind);
        scanned += swept.scanned;
    }
    assert_eq!(scanned, FLOWS);
    // A long pause costs one turn, in slices that say so.
    let first = worker.sweep(at(220), false);
    assert!(first.behind && first.scanned < FLOWS && first.expired == 0, "{first:?}");
    let (mut scanned, mut behind) = (first.scanned, true);
    while behind {
        let swept = worker.sweep(at(220), false);
        (scanned, behind) = (scanned + swept.scanned, swept.behind);
    }
    assert_eq!(scanned, FLOWS);
}

#[test]
fn the_hand_spares_what_others_touch_and_frees_what_others_end() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    fill(&mut worker, Udp, 0..5, 100);
    assert!(table.kill(&find(&table, forward(Udp, 2)).unwrap()));
    let swept = worker.turn(101);
    assert_eq!((swept.freed, swept.expired), (1, 0));
    // A newer tick than the sweeper's now is no age.
    drive(&table, forward(Udp, 1), reply(Udp, 1), at(500), &[(S, Default::default())]);
    worker.turn(150);
    assert!(find(&table, forward(Udp, 1)).is_some());
    assert_eq!(table.live(), 1);
}

#[test]
fn stale_udp_flows_are_purged_and_tcp_is_never_asked_about() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    fill(&mut worker, Udp, 0..4, 100);
    fill(&mut worker, Tcp, 10..14, 100);
    let asked = Cell::new(0);
    worker.sweep(at(101), false);
    let swept = table.sweep(&mut worker.own, at(110), false, |hit| {
        asked.set(asked.get() + 1);
        assert_eq!((hit.out.proto(), hit.dir), (Udp, C));
        let stale = hit.out == reply(Udp, 2).reversed();
        if !stale {
            table.keep(hit, 5);
        }
        stale
    });
    assert_eq!((swept.purged, swept.expired, asked.get()), (1, 0, 4));
    assert!(find(&table, forward(Udp, 2)).is_none());
    assert_eq!(find(&table, forward(Udp, 1)).unwrap().epoch(), 5, "kept flows were stamped by the judge");
    assert_eq!(find(&table, forward(Tcp, 11)).unwrap().epoch(), 1);
}

#[test]
fn pressure_takes_half_open_first_and_established_never() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let capacity = u32::try_from(table.capacity()).unwrap();
    fill(&mut worker, Tcp, 0..capacity, 100);
    for n in (0..capacity).filter(|n| n % 8 != 0) {
        establish(&table, n, 100);
    }
    let late = |n: u32| new(forward(Tcp, capacity + n), at(101));
    assert!(matches!(worker.try_open(&late(0), [60_000]), Opened::TableFull));
    assert_eq!(worker.sweep(at(101), false).evicted, 0, "only under pressure");
    let swept = worker.sweep(at(101), true);
    assert_eq!((swept.evicted, swept.freed), (8, 8), "every eighth of a window of 64");
    worker.open(&late(0), 60_000);
    assert_eq!(worker.sweep(at(101), true).evicted, 0, "there is room already");
    // All half-open ones go before anything else, however hard it presses.
    let mut evicted = swept.evicted;
    for n in 1..2000 {
        if !matches!(worker.try_open(&late(n), [60_000 + u16::try_from(n).unwrap()]), Opened::New(_)) {
            let swept = worker.sweep(at(101), true);
            evicted += swept.evicted;
            if swept.evicted == 0 {
                break;
            }
            worker.open(&late(n), 60_000 + u16::try_from(n).unwrap());
            establish_late(&table, capacity + n, 60_000 + u16::try_from(n).unwrap());
        } else {
            establish_late(&table, capacity + n, 60_000 + u16::try_from(n).unwrap());
        }
    }
    assert!(evicted >= capacity / 8, "{evicted}");
    for n in (0..capacity).filter(|n| n % 8 != 0) {
        assert!(find(&table, forward(Tcp, n)).is_some(), "established flow {n} was evicted");
    }
}

fn establish_late(table: &Table<2>, n: u32, port: u16) {
    drive(table, forward(Tcp, n), reply(Tcp, port), at(101), &HANDSHAKE);
}

#[test]
fn a_cycle_that_finds_nothing_is_remembered_for_a_tenth_of_a_second() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let capacity = u32::try_from(table.capacity()).unwrap();
    fill(&mut worker, Tcp, 0..capacity, 100);
    (0..capacity).for_each(|n| establish(&table, n, 100));
    let now = at(101);
    worker.sweep(now, false);
    let scanned: u32 = (0..200).map(|_| worker.sweep(now, true).scanned).sum();
    assert_eq!(scanned, capacity, "one cycle, then rest");
    assert_eq!(worker.sweep(now.plus_nanos(99_000_000), true).evicted, 0);
    assert!(worker.sweep(now.plus_nanos(101_000_000), true).scanned >= 64);
    assert_eq!(table.live(), table.capacity());
}

/// Opens masqueraded flows 0..n and closes them, the server last.
fn fill_closed(worker: &mut Worker<'_>, flows: std::ops::Range<u32>, secs: u64) {
    for n in flows {
        let port = u16::try_from(n).unwrap();
        worker.open(&NewFlow { masquerade: true, ..new(forward(Tcp, n), at(secs)) }, port);
        establish(worker.table, n, secs);
        let end = [(S, FIN_ACK), (C, FIN_ACK), (S, ACK)];
        drive(worker.table, forward(Tcp, n), reply(Tcp, port), at(secs), &end);
    }
}

#[test]
fn closed_connections_make_room_and_their_tuples_stay_held() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let capacity = u32::try_from(table.capacity()).unwrap();
    fill_closed(&mut worker, 0..capacity, 100);
    worker.sweep(at(101), false);
    let swept = worker.sweep(at(101), true);
    assert_eq!((swept.evicted, swept.freed), (32, 32), "not only after a minute");
    let gone: Vec<u16> = (0..64).filter(|n| find(&table, reply(Tcp, *n)).is_none()).collect();
    assert_eq!(gone.len(), 32);
    // Another client gets none of the tuples that servers remember, but another one.
    let other = NewFlow { masquerade: true, ..new(forward(Tcp, capacity), at(102)) };
    let Opened::New(hit) = worker.try_open(&other, gone.iter().copied().chain([50_000])) else { panic!() };
    assert_eq!(table.tuples(&hit).unwrap()[1], reply(Tcp, 50_000));
    assert_eq!(worker.met.clashes, 32);
    assert!(worker.met.abandoned.is_none());
    // The client itself may have its tuple again, and after a minute so may anybody.
    let mine = u32::from(gone[0]);
    worker.open(&NewFlow { masquerade: true, ..new(forward(Tcp, mine), at(102)) }, gone[0]);
    worker.open(&NewFlow { masquerade: true, ..new(forward(Tcp, capacity + 1), at(160)) }, gone[1]);
}

#[test]
fn a_handshake_under_way_outlives_a_crowd_of_closed_connections() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let capacity = u32::try_from(table.capacity()).unwrap();
    fill_closed(&mut worker, 0..capacity - 1, 100);
    fill(&mut worker, Tcp, capacity - 1..capacity, 101);
    worker.sweep(at(102), false);
    let mut evicted = 0;
    for n in 0..capacity {
        if let swept @ Swept { evicted: 1.., .. } = worker.sweep(at(102), true) {
            evicted += swept.evicted;
        }
        let next = NewFlow { masquerade: true, ..new(forward(Tcp, capacity + n), at(102)) };
        if matches!(worker.try_open(&next, [10_000 + u16::try_from(n).unwrap()]), Opened::New(_)) {
            establish_late(&table, capacity + n, 10_000 + u16::try_from(n).unwrap());
        }
    }
    assert!(evicted > capacity / 2, "{evicted}");
    assert!(find(&table, forward(Tcp, capacity - 1)).is_some(), "1 s old and not answered yet");
}

#[test]
fn flows_that_only_hold_their_tuple_count_and_are_listed() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    fill_closed(&mut worker, 0..1, 100);
    assert!(table.kill(&find(&table, forward(Tcp, 0)).unwrap()), "its client opens it anew");
    assert_eq!(table.live(), 1, "it has its record for a minute");
    let mut listed = Vec::new();
    table.for_each(tick(110), |flow| listed.push((flow.state, flow.active, flow.expires)));
    assert_eq!(listed, [("HELD", false, 50)]);
    worker.turn(161);
    assert_eq!(table.live(), 0);
}

#[test]
fn without_a_free_port_the_oldest_half_open_flow_makes_room_and_no_other() {
    let table = table(4_097);
    let (mut owner, mut worker) = (Worker::new(&table, 0), Worker::new(&table, 1));
    fill(&mut owner, Tcp, 0..3, 100);
    fill(&mut owner, Tcp, 3..4, 99);
    fill(&mut owner, Udp, 4..5, 90);
    establish(&table, 2, 100);
    let exhausted = |worker: &mut Worker<'_>, n: u32, secs, ports: &[u16]| {
        worker.met = Met::default();
        let opened = worker.try_open(&new(forward(Tcp, n), at(secs)), ports.iter().copied());
        assert!(matches!(opened, Opened::PortsExhausted), "{opened:?}");
        worker.met.abandoned
    };
    assert!(exhausted(&mut worker, 100, 101, &[0, 1, 2, 3]).is_none(), "handshakes may still be under way");
    assert!(exhausted(&mut worker, 101, 104, &[2]).is_none(), "an established flow keeps its tuple");
    let abandoned = exhausted(&mut worker, 101, 104, &[0, 1, 2, 3]).unwrap();
    assert_eq!(abandoned.reply, reply(Tcp, 3), "the longest idle");
    assert!(table.abandon(&abandoned, tick(104)) && !table.abandon(&abandoned, tick(104)));
    worker.open(&new(forward(Tcp, 101), at(104)), 3);
    assert!(find(&table, forward(Tcp, 3)).is_none());
    assert!([0, 1, 2].iter().all(|n| find(&table, forward(Tcp, *n)).is_some()));
    // What came to life since it was found is not ended.
    let revived = exhausted(&mut worker, 102, 104, &[1]).unwrap();
    establish(&table, 1, 104);
    assert!(!table.abandon(&revived, tick(104)));
    owner.turn(105);
    assert_eq!(table.live(), 5, "the record went back to its owner");
}

#[test]
fn a_search_for_a_port_is_short_when_an_abandoned_flow_is_found() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    fill(&mut worker, Tcp, 0..200, 100);
    let opened = worker.try_open(&new(forward(Tcp, 300), at(110)), 0..200);
    assert!(matches!(opened, Opened::PortsExhausted), "{opened:?}");
    assert_eq!(worker.met.clashes, 64);
    assert!(worker.met.abandoned.is_some());
}

#[test]
fn a_gone_workers_flows_expire_all_the_same() {
    let table = table(1);
    let mut gone = Worker::new(&table, 0);
    fill(&mut gone, Udp, 0..100, 100);
    drop(gone);
    let mut heir = Worker::new(&table, 1);
    assert!(find(&table, forward(Udp, 5)).is_some(), "they are served meanwhile");
    heir.sweep(at(120), false);
    assert_eq!(heir.own.owned(), 4096);
    assert_eq!(heir.turn(140).expired, 100);
    assert_eq!(heir.own.free(), 4096);
}

#[test]
fn a_worker_with_records_to_spare_shares_them_also_when_every_chunk_has_a_long_lived_flow() {
    const CHUNK: u32 = 4_096;
    let table = table(2 * CHUNK);
    let (mut rich, mut dry) = (Worker::new(&table, 0), Worker::new(&table, 1));
    fill(&mut rich, Tcp, 0..2 * CHUNK, 100);
    let long_lived = [0, 2 * CHUNK - 1];
    for n in long_lived {
        establish(&table, n, 101);
    }
    let next = 2 * CHUNK;
    let refused = dry.try_open(&new(forward(Tcp, next), at(102)), [9_000]);
    assert!(matches!(refused, Opened::TableFull), "{refused:?}");
    assert_eq!(rich.turn(230).expired, 2 * CHUNK - 2);
    // The hand has come round by now; the next time it does, the other one may help itself.
    rich.turn(240);
    dry.open(&new(forward(Tcp, next), at(250)), 9_000);
    assert_eq!((rich.own.owned(), dry.own.owned()), (CHUNK as usize, CHUNK as usize));
    assert!(long_lived.iter().all(|n| find(&table, forward(Tcp, *n)).is_some()), "they live on in either");
    assert_eq!(dry.turn(86_600).expired + rich.turn(86_600).expired, 3, "and expire in either");
}
