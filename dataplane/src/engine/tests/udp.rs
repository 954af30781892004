//! The one way a Service change touches a living flow.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::fragments::{cut, long_udp};
use crate::engine::EngineConfig;
use crate::engine::testkit::*;
use crate::flow::{Hash, Key};
use crate::ids::WorkerId;
use crate::nat::fragment::Due;
use crate::nat::prng::Prng;
use crate::nat::tally::Tally;
use crate::nat::{Choices, Fate, Nat, Outcome};
use crate::packet::frame::Frame;
use crate::packet::layout::{L4Flags, Layout};
use crate::packet::tuple::{Proto, Tuple};
use crate::packet::vnet::VnetHdr;
use crate::service::{Service, SnapshotBuilder, World};
use crate::stats::{Counter, WorkerStats};
use crate::verdict::{DropReason, Verdict};

fn dns(epoch: u16, endpoints: &[&str]) -> Service {
    service(2, Proto::Udp, DNS, epoch, endpoints)
}

/// A flow to an endpoint that the next world withdraws, and that endpoint's two ends.
fn withdrawn() -> (Rig, Sent) {
    let mut rig = Rig::with(EngineConfig::default(), world(&[dns(1, &["10.244.0.3:5353"])]));
    let sent = rig.open(&udp(CLIENT, DNS));
    assert_eq!(sent.dst(), addr("10.244.0.3:5353"));
    rig.one(&udp(sent.dst(), sent.src())).translated();
    rig.world = world(&[dns(2, &["!10.244.0.3:5353", "10.244.0.4:5353"])]);
    (rig, sent)
}

#[test]
fn the_clients_next_packet_goes_to_another_endpoint() {
    let (mut rig, old) = withdrawn();
    let sent = rig.open(&udp(CLIENT, DNS));
    assert_eq!(sent.dst(), addr("10.244.0.4:5353"));
    assert_eq!(rig.totals().get(Counter::FlowsPurged), 1);
    assert_eq!(rig.flows().len(), 1);
    rig.one(&udp(old.dst(), old.src())).dropped(DropReason::NoFlow);
    let back = rig.one(&udp(sent.dst(), sent.src())).translated();
    assert_eq!((back.src(), back.dst()), (addr(DNS), addr(CLIENT)));
}

#[test]
fn a_withdrawn_endpoints_packet_is_dropped_and_ends_the_flow() {
    let (mut rig, old) = withdrawn();
    rig.one(&udp(old.dst(), old.src())).dropped(DropReason::StaleEndpoint);
    assert_eq!((rig.totals().get(Counter::FlowsPurged), rig.flows().len()), (1, 0));
    assert_eq!(rig.open(&udp(CLIENT, DNS)).dst(), addr("10.244.0.4:5353"));
}

#[test]
fn an_idle_flow_is_judged_by_the_sweep() {
    let (mut rig, _) = withdrawn();
    for _ in 0..3 {
        rig.engines[0].0.sweep(&rig.world, rig.now);
        rig.later(5);
    }
    assert_eq!((rig.totals().get(Counter::FlowsPurged), rig.flows().len()), (1, 0));
    let (mut rig, _) = withdrawn();
    rig.world = World::NotReady;
    for _ in 0..3 {
        rig.engines[0].0.sweep(&rig.world, rig.now);
        rig.later(5);
    }
    assert_eq!(rig.flows().len(), 1, "nobody judges without a world");
    rig.one(&udp(CLIENT, DNS)).translated();
}

#[test]
fn a_flow_that_was_kept_is_stamped_and_not_judged_again() {
    let mut rig = Rig::with(EngineConfig::default(), world(&[dns(1, &["10.244.0.3:5353"])]));
    rig.open(&udp(CLIENT, DNS));
    // Judged and kept under epoch 2.
    rig.world = world(&[dns(2, &["10.244.0.3:5353", "10.244.0.4:5353"])]);
    rig.one(&udp(CLIENT, DNS)).translated();
    // The same epoch with the endpoint gone cannot be: it shows that nobody looked.
    rig.world = world(&[dns(2, &["10.244.0.4:5353"])]);
    assert_eq!(rig.one(&udp(CLIENT, DNS)).translated().dst(), addr("10.244.0.3:5353"));
    // Nor by a worker whose world is older than the last judge's.
    rig.world = world(&[dns(1, &["10.244.0.4:5353"])]);
    assert_eq!(rig.one(&udp(CLIENT, DNS)).translated().dst(), addr("10.244.0.3:5353"));
    rig.world = world(&[dns(3, &["10.244.0.4:5353"])]);
    assert_eq!(rig.open(&udp(CLIENT, DNS)).dst(), addr("10.244.0.4:5353"));
}

#[test]
fn a_new_flow_is_as_new_as_its_world() {
    // Another port of the world is at epoch 9: this one's flows need no judging up to there.
    let other = service(7, Proto::Udp, "10.96.0.77:77", 9, &["10.244.0.9:77"]);
    let mut rig = Rig::with(EngineConfig::default(), world(&[dns(1, &["10.244.0.3:5353"]), other.clone()]));
    rig.open(&udp(CLIENT, DNS));
    rig.world = world(&[dns(9, &["10.244.0.4:5353"]), other.clone()]);
    assert_eq!(rig.one(&udp(CLIENT, DNS)).translated().dst(), addr("10.244.0.3:5353"));
    rig.world = world(&[dns(10, &["10.244.0.4:5353"]), other]);
    assert_eq!(rig.open(&udp(CLIENT, DNS)).dst(), addr("10.244.0.4:5353"));
}

#[test]
fn flows_are_kept_when_there_is_nowhere_better() {
    let (mut rig, _) = withdrawn();
    rig.world = world(&[dns(3, &["!10.244.0.3:5353"])]);
    assert_eq!(rig.one(&udp(CLIENT, DNS)).translated().dst(), addr("10.244.0.3:5353"));
    rig.world = world(&[dns(4, &[])]);
    assert_eq!(rig.one(&udp(CLIENT, DNS)).translated().dst(), addr("10.244.0.3:5353"));
    rig.world = without(2);
    assert_eq!(rig.one(&udp(CLIENT, DNS)).translated().dst(), addr("10.244.0.3:5353"));
    rig.one(&udp("10.1.0.8:1", DNS)).dropped(DropReason::UnallocatedVip);
}

/// The world in which another Service, which never had an id before, has the frontend.
fn made_again(endpoints: &[&str]) -> World {
    let World::Ready(without) = without(2) else { unreachable!() };
    let mut builder = SnapshotBuilder::from(&without);
    builder.upsert(service(9, Proto::Udp, DNS, 2, endpoints));
    World::Ready(builder.build().unwrap())
}

#[test]
fn who_has_the_frontend_now_judges_the_flows_of_who_had_it() {
    let (mut rig, old) = withdrawn();
    rig.world = made_again(&["10.244.0.4:5353"]);
    let sent = rig.open(&udp(CLIENT, DNS));
    assert_eq!((sent.dst(), rig.flows()[0].service.0), (addr("10.244.0.4:5353"), 9));
    rig.one(&udp(old.dst(), old.src())).dropped(DropReason::NoFlow);

    let (mut rig, old) = withdrawn();
    rig.world = made_again(&["10.244.0.4:5353"]);
    rig.one(&udp(old.dst(), old.src())).dropped(DropReason::StaleEndpoint);
    assert_eq!(rig.flows().len(), 0);

    let (mut rig, _) = withdrawn();
    rig.world = made_again(&["10.244.0.4:5353"]);
    for _ in 0..3 {
        rig.engines[0].0.sweep(&rig.world, rig.now);
        rig.later(5);
    }
    assert_eq!((rig.totals().get(Counter::FlowsPurged), rig.flows().len()), (1, 0));

    let (mut rig, old) = withdrawn();
    rig.world = made_again(&["10.244.0.3:5353", "10.244.0.4:5353"]);
    assert_eq!(rig.one(&udp(CLIENT, DNS)).translated().dst(), old.dst(), "its endpoint is there, too");
    assert_eq!(rig.flows()[0].service.0, 2);
}

#[test]
fn a_service_that_moved_does_not_judge_the_flows_of_its_old_address() {
    let (mut rig, old) = withdrawn();
    rig.world = world(&[service(2, Proto::Udp, "10.96.0.54:53", 2, &["10.244.0.4:5353"])]);
    assert_eq!(rig.one(&udp(CLIENT, DNS)).translated().dst(), old.dst());
    rig.one(&udp(old.dst(), old.src())).translated();
    assert_eq!(rig.open(&udp(CLIENT, "10.96.0.54:53")).dst(), addr("10.244.0.4:5353"));
    assert_eq!(rig.totals().get(Counter::FlowsPurged), 0);
}

#[test]
fn a_client_refused_while_there_was_nowhere_to_go_is_served_from_the_same_port_later() {
    let mut rig = Rig::with(EngineConfig::default(), world(&[dns(1, &[])]));
    for _ in 0..3 {
        rig.answered(&udp(CLIENT, DNS));
    }
    assert_eq!(rig.flows().len(), 0, "nothing is kept of it");
    rig.world = world(&[dns(2, &["10.244.0.4:5353"])]);
    assert_eq!(rig.open(&udp(CLIENT, DNS)).dst(), addr("10.244.0.4:5353"));
}

#[test]
fn another_target_port_of_the_same_endpoint_is_another_endpoint() {
    let (mut rig, old) = withdrawn();
    rig.world = world(&[dns(2, &["10.244.0.3:5354"])]);
    assert_eq!(rig.open(&udp(CLIENT, DNS)).dst(), addr("10.244.0.3:5354"));
    rig.one(&udp(old.dst(), old.src())).dropped(DropReason::NoFlow);
}

#[test]
fn tcp_is_never_judged() {
    let web = |epoch, endpoints: &[&str]| service(1, Proto::Tcp, WEB, epoch, endpoints);
    let mut rig = Rig::with(EngineConfig::default(), world(&[web(1, &["10.244.0.1:8080"])]));
    let sent = rig.open(&tcp(CLIENT, WEB, SYN));
    for next in [world(&[web(5, &["10.244.0.2:8080"])]), world(&[web(6, &[])]), without(1)] {
        rig.world = next;
        assert_eq!(rig.one(&tcp(CLIENT, WEB, ACK)).translated().dst(), addr("10.244.0.1:8080"));
        rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
        for _ in 0..3 {
            rig.engines[0].0.sweep(&rig.world, rig.now);
            rig.later(5);
        }
    }
    assert_eq!(rig.flows().len(), 1);
}

#[test]
fn a_flow_that_changed_while_it_was_judged_makes_its_packet_come_back() {
    let (mut rig, _) = withdrawn();
    let (table, tuple) = (Arc::clone(&rig.tables.v4), question());
    let key = Key::from(tuple);
    let judged = table.lookup(table.hash(&key), &key).unwrap();
    table.touch(&judged, rig.now.plus_nanos(1_000_000_000).tick(), L4Flags::default());
    with_nat(&mut rig, |nat| {
        // Used all the same it would send the client's packet to the withdrawn endpoint.
        assert!(matches!(nat.fate::<Ipv4Addr>(&judged, Proto::Udp, L4Flags::default()), Fate::Changed));
        assert_eq!(nat.stats.read().get(Counter::FlowsPurged), 0);
        let again = table.lookup(table.hash(&key), &key).unwrap();
        assert!(matches!(nat.fate::<Ipv4Addr>(&again, Proto::Udp, L4Flags::default()), Fate::OpensAnew));
        assert_eq!(nat.stats.read().get(Counter::FlowsPurged), 1);
    });
}

#[test]
fn a_flow_found_only_while_opening_is_judged_as_any_hit() {
    let (mut rig, _) = withdrawn();
    let mut frame = Frame::default();
    frame.fill(VnetHdr::default(), &udp(CLIENT, DNS));
    frame.layout = Layout::of(frame.packet()).unwrap();
    with_nat(&mut rig, |nat| {
        // As if the look-up had missed it: the new choice meets the old flow when it claims the forward tuple.
        assert_eq!(nat.new_flow(&mut frame, &question(), &question(), L4Flags::default()), Outcome::Raced);
        assert_eq!(nat.stats.read().get(Counter::FlowsPurged), 1);
        assert_eq!(frame.packet(), udp(CLIENT, DNS));
        assert_eq!(
            nat.new_flow(&mut frame, &question(), &question(), L4Flags::default()),
            Outcome::TRANSLATED
        );
        assert_eq!(endpoints(frame.packet()).1, addr("10.244.0.4:5353"));
    });
}

#[test]
fn a_first_fragment_that_raced_is_tried_again_as_if_it_had_not_come() {
    let (mut rig, _) = withdrawn();
    let pieces = cut(&long_udp(CLIENT, DNS, 2_000), 7, 1_000);
    let mut frame = Frame::default();
    let fragments = Arc::clone(&rig.tables.fragments);
    with_nat(&mut rig, |nat| {
        for (piece, outcome, datagrams) in [
            // As above: the stale flow is met while opening.
            (&pieces[0], Outcome::Raced, 0),
            (&pieces[1], Outcome::Held, 1),
            (&pieces[0], Outcome::TRANSLATED, 1),
            (&pieces[2], Outcome::TRANSLATED, 0),
        ] {
            frame.fill(VnetHdr::default(), piece);
            frame.layout = Layout::of(frame.packet()).unwrap();
            assert_eq!(nat.translate::<Ipv4Addr>(&mut frame, Hash::default()), outcome);
            assert_eq!(fragments.datagrams(), datagrams);
        }
        assert_eq!((nat.due.len(), nat.stats.read().get(Counter::Fragments)), (1, 3));
        assert_eq!(endpoints(frame.packet()).1.ip(), ip("10.244.0.4"));
    });
}

/// What the client's packets to the DNS Service have.
fn question() -> Tuple<Ipv4Addr> {
    let (src, dst) = (Ipv4Addr::new(10, 1, 0, 7), Ipv4Addr::new(10, 96, 0, 53));
    Tuple { src, dst, sport: 40_000, dport: 53, proto: Proto::Udp }
}

/// Another worker's hands on the IPv4 flows, after the first one has left them.
fn with_nat(rig: &mut Rig, f: impl FnOnce(&mut Nat<'_, 2>)) {
    rig.engines.clear();
    let table = &*rig.tables.v4;
    f(&mut Nat {
        table,
        own: &mut table.chunks(WorkerId(1)),
        tally: &mut Tally::default(),
        world: &rig.world,
        now: rig.now,
        choices: Choices {
            reject_with_rst: false,
            tcp_loose: false,
            accounting: true,
            alias: false,
            passes: true,
        },
        prng: &mut Prng::new(1),
        affinity: &rig.tables.affinity,
        stats: &WorkerStats::default(),
        may_evict: &mut true,
        fragments: rig.tables.fragments.v4(),
        due: &mut Due::default(),
    });
}

#[test]
fn what_follows_a_datagram_in_its_packet_is_served_and_kept() {
    for (client, vip) in [(CLIENT, DNS), (CLIENT6, DNS6)] {
        let mut rig = Rig::new();
        // RFC 9868: the packet's length is beyond the datagram's, whose checksum is over itself alone.
        let mut packet = udp(client, vip);
        let surplus = [0x5a; 12];
        packet.extend(surplus);
        let at = if packet[0] >> 4 == 4 { 2 } else { 4 };
        let longer = u16::from_be_bytes([packet[at], packet[at + 1]]) + 12;
        packet[at..at + 2].copy_from_slice(&longer.to_be_bytes());
        if at == 2 {
            let sum = u16::from_be_bytes([packet[10], packet[11]]);
            packet[10..12].copy_from_slice(&(sum - 12).to_be_bytes());
        }
        let sent = rig.open(&packet);
        assert_eq!((sent.bytes.len(), &sent.bytes[packet.len() - 12..]), (packet.len(), &surplus[..]));
        let mut datagram = sent.bytes[..packet.len() - 12].to_vec();
        datagram[at..at + 2].copy_from_slice(&(longer - 12).to_be_bytes());
        if at == 2 {
            let sum = u16::from_be_bytes([datagram[10], datagram[11]]);
            datagram[10..12].copy_from_slice(&(sum + 12).to_be_bytes());
        }
        assert_valid(&datagram);
    }
}

#[test]
fn the_way_through_costs_no_hop_of_its_own() {
    for (client, vip) in [(CLIENT, DNS), (CLIENT6, DNS6)] {
        let mut rig = Rig::new();
        let packet = udp(client, vip);
        let at = if packet[0] >> 4 == 4 { 8 } else { 7 };
        let sent = rig.open(&packet);
        let back = rig.one(&udp(sent.dst(), sent.src())).translated();
        assert_eq!((packet[at], sent.bytes[at], back.bytes[at]), (63, 64, 64));
        let stranger = udp(client, if at == 8 { "10.3.0.1:53" } else { "[fd00:3::1]:53" });
        let passed = rig.one(&stranger);
        assert_eq!(
            (passed.verdict, passed.bytes[at]),
            (Some(Verdict::Passed), 63),
            "what we do not translate"
        );
    }
}
