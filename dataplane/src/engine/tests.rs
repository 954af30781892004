//! What holds for batches: verdicts, counters, waiting frames, answers and their limit, accounts.

mod affinity;
mod alias;
mod belief;
mod errors;
mod fragments;
mod kept;
mod open;
mod pressure;
mod refuse;
mod sctp;
mod udp;

use super::testkit::*;
use std::net::SocketAddr;

use super::*;
use crate::flow::FlowView;
use crate::packet::frame::REPLIES;
use crate::packet::vnet::VnetHdr;

const MILLI: u64 = 1_000_000;

fn verdicts(sent: &[Sent]) -> Vec<Verdict> {
    sent.iter().map(|frame| frame.verdict.unwrap()).collect()
}

#[test]
fn one_batch_may_mix_families_known_and_new_flows_answers_and_strangers() {
    let mut rig = Rig::new();
    let (client, client6) = (CLIENT, CLIENT6);
    let sent = rig.send(&[
        tcp(client, WEB, SYN),
        tcp(client6, WEB6, SYN),
        udp(client, DNS),
        tcp(client, WEB, SYN),
        tcp(client, DEAD, SYN),
        tcp(client6, DEAD6, SYN),
        udp(client6, DNS6),
        tcp(client, "10.3.0.1:80", SYN),
        tcp(client, "10.97.0.1:80", SYN),
    ]);
    let expected = [
        Verdict::Translated,
        Verdict::Translated,
        Verdict::Translated,
        Verdict::Translated,
        Verdict::Replied,
        Verdict::Replied,
        Verdict::Translated,
        Verdict::Passed,
        Verdict::Dropped(DropReason::UnallocatedVip),
    ];
    assert_eq!(verdicts(&sent), expected);
    assert_eq!(sent[0].bytes, sent[3].bytes, "a retransmission takes the way of the first");
    sent.iter().take(4).chain([&sent[6]]).for_each(|frame| assert_valid(&frame.bytes));
    assert_eq!((sent[1].src().ip(), sent[1].dst()), (ip("fd00:31::1"), addr("[fd00:244::1]:8080")));
    assert_eq!(sent[6].dst(), addr("[fd00:244::3]:5353"));
    assert_eq!(rig.totals().get(Counter::FlowsOpened), 4);
    // All the replies in one batch, too.
    let back: Vec<_> = [0, 1, 2, 6]
        .iter()
        .map(|n| match sent[*n].bytes[if *n == 1 || *n == 6 { 6 } else { 9 }] {
            6 => tcp(sent[*n].dst(), sent[*n].src(), SYN | ACK),
            _ => udp(sent[*n].dst(), sent[*n].src()),
        })
        .collect();
    let back = rig.send(&back);
    let ends: Vec<_> = back.into_iter().map(|frame| (frame.src(), frame.dst())).collect();
    assert_eq!(
        ends,
        [(WEB, client), (WEB6, client6), (DNS, client), (DNS6, client6)].map(|(a, b)| (addr(a), addr(b)))
    );
}

#[test]
fn a_frame_that_is_no_packet_is_dropped_for_its_reason_and_harms_no_other() {
    let good = tcp(CLIENT, WEB, SYN);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        (VnetHdr::default(), bytes)
    };
    let checked = |change: &dyn Fn(&mut Vec<u8>)| {
        with(&|bytes| {
            change(bytes);
            bytes[10..12].fill(0);
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[..20]).ones_complement();
            bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
        })
    };
    let lying = VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 9, csum_offset: 1, ..VnetHdr::default() };
    let rows = [
        (with(&|b| b.clear()), DropReason::Truncated),
        (with(&|b| b.truncate(19)), DropReason::Truncated),
        (with(&|b| b[0] = 0x50), DropReason::BadVersion),
        (with(&|b| b[0] = 0x44), DropReason::BadHeaderLength),
        (with(&|b| b[3] = 200), DropReason::BadTotalLength),
        (with(&|b| b[8] ^= 1), DropReason::BadHeaderChecksum),
        (checked(&|b| b[6] = 0x20), DropReason::BadFragment),
        (checked(&|b| b[12] = 127), DropReason::Martian),
        (checked(&|b| b[16] = 224), DropReason::NotUnicast),
        (checked(&|b| b[32] = 0x40), DropReason::BadL4Header),
        ((lying, good.clone()), DropReason::BadVnetHeader),
    ];
    let mut rig = Rig::new();
    let mut frames: Vec<_> = rows.iter().map(|(frame, _)| frame.clone()).collect();
    frames.push((VnetHdr::default(), good));
    let sent = rig.send_frames(&frames);
    for (frame, (_, reason)) in sent.iter().zip(&rows) {
        frame.dropped(*reason);
    }
    assert_eq!(sent[rows.len()].verdict, Some(Verdict::Translated));
    let totals = rig.totals();
    assert_eq!(totals.dropped(), rows.len() as u64);
    assert_eq!(totals.drops(DropReason::Truncated), 2);
    // A frame shorter than its virtio-net header.
    rig.batch.clear();
    rig.batch.spare().unwrap().set_len(9);
    rig.batch.push();
    rig.engines[0].0.process(&mut rig.batch, &rig.world, rig.now);
    assert_eq!(rig.totals().drops(DropReason::Truncated), 3);
    rig.conserved();
}

#[test]
fn a_batch_answers_so_many_and_drops_the_rest_until_the_next() {
    let mut rig = Rig::new();
    let packets: Vec<_> =
        (0..BATCH).map(|n| tcp(addr(&format!("10.1.0.1:{}", 2_000 + n)), DEAD, SYN)).collect();
    for turn in 1..3 {
        let sent = rig.send(&packets);
        let ends = verdicts(&sent);
        assert!(ends[..REPLIES].iter().all(|end| *end == Verdict::Replied));
        assert!(ends[REPLIES..].iter().all(|end| *end == Verdict::Dropped(DropReason::ReplyLimited)));
        assert_eq!(rig.replies.len(), REPLIES);
        for (n, reply) in rig.replies.iter().enumerate() {
            assert_eq!(endpoints(reply).1.ip(), ip("10.1.0.1"));
            assert_eq!(reply[28..28 + 28], packets[n][..28], "each answers its own packet");
        }
        assert_eq!(rig.totals().drops(DropReason::ReplyLimited), turn * (BATCH - REPLIES) as u64);
    }
}

#[test]
fn an_empty_limiter_drops_and_fills_with_time() {
    let config = EngineConfig { replies_per_second: 10, ..EngineConfig::default() };
    let mut rig = Rig::with(config, world(&[]));
    for _ in 0..10 {
        rig.answered(&tcp(CLIENT, DEAD, SYN));
    }
    rig.one(&tcp(CLIENT, DEAD, SYN)).dropped(DropReason::ReplyLimited);
    rig.now = rig.now.plus_nanos(99 * MILLI);
    rig.one(&udp(CLIENT, "10.96.0.10:9")).dropped(DropReason::ReplyLimited);
    rig.now = rig.now.plus_nanos(MILLI);
    rig.answered(&tcp(CLIENT6, DEAD6, SYN));
    rig.one(&tcp(CLIENT, DEAD, SYN)).dropped(DropReason::ReplyLimited);
    // A packet that gets no answer for its own sake is none for the limiter either.
    let silent = EngineConfig { replies_per_second: 0, ..EngineConfig::default() };
    let mut rig = Rig::with(silent, world(&[]));
    rig.one(&tcp(CLIENT, WEB, ACK | RST)).dropped(DropReason::NotAnswerable);
}

/// Lets the frames of the batch wait, as if another worker were opening their flows.
fn race(rig: &mut Rig, packets: &[Vec<u8>]) {
    rig.batch.clear();
    for packet in packets {
        let frame = rig.batch.spare().unwrap();
        frame.fill(VnetHdr::default(), packet);
        validate(frame).unwrap();
        rig.batch.push();
    }
    let Rig { batch, engines, now, .. } = rig;
    let engine = &mut engines[0].0;
    engine.waited = [None; BATCH];
    for index in 0..packets.len() {
        engine.stats.add(Counter::Received, 1);
        engine.conclude(batch, index, Outcome::Raced, *now);
    }
    rig.conserved();
}

/// Another turn in which they race again.
fn race_again(rig: &mut Rig) {
    rig.batch.clear();
    let Rig { batch, engines, now, .. } = rig;
    let engine = &mut engines[0].0;
    engine.unpark(batch, 0);
    for index in 0..batch.frames().len() {
        engine.conclude(batch, index, Outcome::Raced, *now);
    }
    rig.conserved();
}

#[test]
fn a_frame_that_raced_comes_back_and_is_translated() {
    let mut rig = Rig::new();
    let clients: Vec<_> = (0..4).map(|n| addr(&format!("10.1.0.{n}:99{n}"))).collect();
    let packets: Vec<_> = clients.iter().map(|client| udp(*client, DNS)).collect();
    race(&mut rig, &packets);
    assert_eq!(rig.engines[0].0.parked(), 4);
    assert!(rig.batch.frames().iter().all(|frame| frame.verdict.is_none() && frame.packet().is_empty()));
    // Behind the fresh ones of the next batch, each with its own bytes.
    let sent = rig.send(&[tcp(CLIENT, WEB, SYN)]);
    assert_eq!(verdicts(&sent), [Verdict::Translated; 5]);
    for (frame, client) in sent[1..].iter().zip(clients) {
        assert_valid(&frame.bytes);
        assert_eq!((frame.src(), frame.dst().port()), (SocketAddr::new(ip(SNAT), client.port()), 5353));
    }
    assert_eq!(rig.engines[0].0.parked(), 0);
    let totals = rig.totals();
    assert_eq!((totals.get(Counter::Parked), totals.get(Counter::Received)), (4, 5));
}

#[test]
fn a_frame_waits_for_20_milliseconds_and_no_longer() {
    let mut rig = Rig::new();
    race(&mut rig, &[udp(CLIENT, DNS)]);
    for _ in 0..4 {
        rig.now = rig.now.plus_nanos(5 * MILLI);
        race_again(&mut rig);
        assert_eq!(rig.engines[0].0.parked(), 1);
    }
    rig.now = rig.now.plus_nanos(1);
    race_again(&mut rig);
    assert_eq!(rig.engines[0].0.parked(), 0);
    assert_eq!(rig.batch.frames()[0].verdict, Some(Verdict::Dropped(DropReason::Raced)));
    assert_eq!((rig.totals().get(Counter::Parked), rig.totals().drops(DropReason::Raced)), (1, 1));
}

#[test]
fn a_full_park_drops_and_a_full_batch_leaves_frames_waiting() {
    let mut rig = Rig::new();
    let packets: Vec<_> = (900..920).map(|port| udp(addr(&format!("10.1.0.1:{port}")), DNS)).collect();
    race(&mut rig, &packets);
    assert_eq!((rig.engines[0].0.parked(), rig.totals().drops(DropReason::Raced)), (16, 4));
    let full: Vec<_> = (0..BATCH).map(|_| tcp(CLIENT, WEB, SYN)).collect();
    assert_eq!(rig.send(&full).len(), BATCH);
    assert_eq!(rig.engines[0].0.parked(), 16);
    let sent = rig.send(&[]);
    assert_eq!((sent.len(), rig.engines[0].0.parked()), (16, 0));
    // First in, first out: the ports are the clients' own.
    for (n, frame) in (0..).zip(sent) {
        assert_eq!(frame.translated().src().port(), 900 + n);
    }
}

#[test]
fn what_is_not_ours_leaves_as_it_came() {
    let mut rig = Rig::new();
    let (a, b) = (ip("10.1.0.7"), ip("10.3.0.9"));
    let foreign = icmp(a, b, [3, 4], [0, 0, 5, 120], &udp("10.3.0.9:1", "10.1.0.7:2"));
    let mut broken = foreign.clone();
    broken[22] ^= 1;
    let mut padded = udp("10.1.0.7:5", "10.3.0.9:6");
    padded.extend([0xaa; 7]);
    let packets = [
        tcp("10.1.0.7:5", "10.3.0.9:6", SYN),
        tcp("10.1.0.7:5", "10.3.0.9:6", ACK | FIN),
        tcp("10.1.0.7:5", "10.3.0.9:6", RST),
        udp("[fd00:1::7]:5", "[fd00:3::9]:6"),
        padded,
        icmp(a, b, [8, 0], [1, 2, 3, 4], b"ping"),
        protocol(47, a, b),
        foreign,
        broken,
    ];
    let sent = rig.send(&packets);
    for (packet, frame) in packets.iter().zip(sent) {
        assert_eq!((frame.verdict, &frame.bytes), (Some(Verdict::Passed), packet));
    }
    assert_eq!(rig.flows().len(), 0);
}

#[test]
fn nothing_new_is_judged_before_there_is_a_world() {
    let mut rig = Rig::new();
    let sent = rig.open(&tcp(CLIENT, WEB, SYN));
    rig.world = World::NotReady;
    let (a, b) = (ip("10.1.0.7"), ip("10.3.0.9"));
    let packets = [
        tcp(CLIENT, DEAD, SYN),
        tcp("10.1.0.8:1", WEB, SYN),
        tcp("10.1.0.8:1", WEB, ACK),
        udp(CLIENT, "10.3.0.9:7"),
        icmp(a, b, [8, 0], [0; 4], b""),
        icmp(a, b, [3, 1], [0; 4], &udp("10.3.0.9:1", "10.1.0.7:2")),
        protocol(47, a, b),
    ];
    for frame in rig.send(&packets) {
        frame.dropped(DropReason::NotReady);
    }
    rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
    rig.one(&tcp(CLIENT, WEB, ACK)).translated();
    let error = icmp(sent.dst().ip(), sent.src().ip(), [3, 4], [0, 0, 5, 120], &sent.bytes);
    rig.one(&error).translated();
}

#[test]
fn accounts_are_per_flow_and_direction_and_add_up() {
    let mut rig = Rig::new();
    // More flows in a batch than the tally has slots for, so that some share one.
    let clients: Vec<_> = (0..40_u16).map(|n| SocketAddr::new(ip("10.1.0.1"), 5_000 + n)).collect();
    let mut lens = [0; 2];
    let mut snats = Vec::new();
    for client in &clients {
        let sent = rig.open(&udp(*client, DNS));
        lens[0] += sent.bytes.len() as u64;
        snats.push((sent.dst(), sent.src()));
    }
    for round in 0..5 {
        let mut packets = Vec::new();
        for n in 0..BATCH {
            let at = (n * 7 + round) % 40;
            let reply = (n + round) % 3 == 0;
            let packet = if reply { udp(snats[at].0, snats[at].1) } else { udp(clients[at], DNS) };
            lens[usize::from(reply)] += packet.len() as u64;
            packets.push(packet);
        }
        assert!(rig.send(&packets).iter().all(|frame| frame.verdict == Some(Verdict::Translated)));
    }
    let sum = |field: fn(&FlowView<2>) -> [u64; 2]| {
        rig.flows().iter().map(field).fold([0, 0], |sum, more| [sum[0] + more[0], sum[1] + more[1]])
    };
    assert_eq!(sum(|flow| flow.bytes), lens);
    let packets = sum(|flow| flow.packets);
    assert_eq!(packets[0] + packets[1], 40 + 5 * BATCH as u64);
    assert!(packets[1] > 40);
    let silent = EngineConfig { accounting: false, ..EngineConfig::default() };
    let mut rig = Rig::with(silent, world(&[]));
    rig.open(&udp(CLIENT, DNS));
    assert_eq!((rig.flows()[0].packets, rig.flows()[0].bytes), ([0, 0], [0, 0]));
}

#[test]
fn idle_flows_go_by_the_sweep_and_are_counted() {
    let mut rig = Rig::new();
    rig.open(&udp(CLIENT, DNS));
    rig.open(&udp(CLIENT6, DNS6));
    for _ in 0..20 {
        rig.later(5);
        rig.engines[0].0.sweep(&rig.world, rig.now);
    }
    assert_eq!(rig.totals().get(Counter::FlowsExpired), 2);
    assert_eq!((rig.tables.v4.live(), rig.tables.v6.live()), (0, 0));
}
