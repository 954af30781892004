//! Opening flows: both directions, ports, reopening, room.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use crate::engine::EngineConfig;
use crate::engine::testkit::*;
use crate::flow::FlowView;
use crate::packet::frame::BATCH;
use crate::packet::tuple::{Proto, Tuple};
use crate::service::{Fabric, Service, World};
use crate::stats::Counter;
use crate::verdict::{DropReason, Verdict};

/// Client number `n`, on the same port as every other.
fn client(n: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from_bits(0x0a01_0000 + n).into(), 40_000)
}

/// A world whose web and DNS Services have one endpoint each.
fn single() -> World {
    world(&single_services())
}

fn single_services() -> [Service; 2] {
    [
        service(1, Proto::Tcp, WEB, 1, &["10.244.0.1:8080"]),
        service(2, Proto::Udp, DNS, 1, &["10.244.0.3:5353"]),
    ]
}

#[test]
fn both_directions_of_a_flow_are_translated() {
    for (from, vip) in [(CLIENT, WEB), (CLIENT6, WEB6)] {
        let mut rig = Rig::new();
        let sent = rig.open(&tcp(from, vip, SYN));
        assert_valid(&sent.bytes);
        assert_eq!(sent.src().port(), 40_000, "its own port while it is free");
        let back = rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
        assert_valid(&back.bytes);
        assert_eq!((back.src(), back.dst()), (addr(vip), addr(from)));
        let again = rig.one(&tcp(from, vip, ACK)).translated();
        assert_eq!((again.src(), again.dst()), (sent.src(), sent.dst()));
    }
}

#[test]
fn a_client_that_is_its_own_endpoint_sees_the_snat_address() {
    let mut rig = Rig::with(EngineConfig::default(), single());
    let sent = rig.open(&tcp("10.244.0.1:40000", WEB, SYN));
    assert_eq!((sent.src(), sent.dst()), (addr("192.168.9.1:40000"), addr("10.244.0.1:8080")));
    let back = rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
    assert_eq!((back.src(), back.dst()), (addr(WEB), addr("10.244.0.1:40000")));
}

#[test]
fn all_endpoints_get_flows_and_each_keeps_its_own() {
    let mut rig = Rig::new();
    let mut reached = BTreeSet::new();
    for n in 0..40 {
        let sent = rig.open(&tcp(client(n), WEB, SYN));
        reached.insert(sent.dst());
        assert_eq!(rig.one(&tcp(client(n), WEB, ACK)).translated().dst(), sent.dst());
    }
    assert_eq!(reached, [addr("10.244.0.1:8080"), addr("10.244.0.2:8080")].into());
}

#[test]
fn a_port_that_is_taken_is_replaced_and_replies_find_their_own() {
    let mut rig = Rig::with(EngineConfig::default(), single());
    let mut sources = BTreeSet::new();
    for n in 0..100 {
        let sent = rig.open(&udp(client(n), DNS));
        assert_valid(&sent.bytes);
        assert_eq!(sent.dst(), addr("10.244.0.3:5353"));
        assert_eq!(sent.src().ip(), ip(SNAT));
        assert!(sent.src().port() >= 1024);
        assert!(sources.insert(sent.src()), "{} twice", sent.src());
        let back = rig.one(&udp(sent.dst(), sent.src())).translated();
        assert_eq!((back.src(), back.dst()), (addr(DNS), client(n)));
    }
    assert!(rig.totals().get(Counter::PortClashes) >= 99);
    // Another endpoint has its own ports.
    let sent = rig.open(&tcp(client(500), WEB, SYN));
    assert_eq!(sent.src().port(), 40_000);
}

#[test]
fn privileged_ports_run_out_the_next_address_is_used_and_then_none_is_left() {
    // 511 ports below 512, of which one flow tries 249 at most: with every port taken nothing is found.
    let two = Fabric { snat: vec![ip(SNAT), ip("192.168.9.2")], ..fabric() };
    let mut rig = Rig::with(EngineConfig::default(), world_of(two, &single_services()));
    let mut used: BTreeSet<SocketAddr> = BTreeSet::new();
    let mut exhausted = 0;
    for n in 0..1_400_u32 {
        let from = SocketAddr::new(client(n).ip(), 53);
        let end = rig.one(&udp(from, DNS));
        if end.verdict == Some(Verdict::Translated) {
            assert!((1..512).contains(&end.src().port()));
            assert!(used.insert(end.src()));
        } else {
            end.dropped(DropReason::PortsExhausted);
            exhausted += 1;
        }
    }
    let first = used.iter().filter(|addr| addr.ip() == ip(SNAT)).count();
    let second = used.len() - first;
    assert!(first > 500 && second > 400 && exhausted > 0, "{first} {second} {exhausted}");
    assert_eq!(rig.totals().drops(DropReason::PortsExhausted), exhausted);
    // The record of a refused flow is free again: the rest of the table can still be filled.
    assert_eq!(rig.tables.v4.live(), used.len());
    rig.open(&udp(client(5_000), DNS));
}

#[test]
fn without_a_snat_address_of_the_family_nothing_opens() {
    let none = Fabric { snat: vec![ip(SNAT)], ..fabric() };
    let mut rig = Rig::with(EngineConfig::default(), world_of(none, &[]));
    rig.one(&tcp(CLIENT6, WEB6, SYN)).dropped(DropReason::PortsExhausted);
    rig.open(&tcp(CLIENT, WEB, SYN));
}

/// Through the handshake; what left first.
fn establish(rig: &mut Rig) -> Sent {
    let sent = rig.open(&tcp(CLIENT, WEB, SYN));
    rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
    rig.one(&tcp(CLIENT, WEB, ACK)).translated();
    sent
}

#[test]
fn a_syn_reopens_a_flow_that_was_reset_or_closed_and_no_other() {
    let mut rig = Rig::new();
    let sent = establish(&mut rig);
    rig.one(&tcp(CLIENT, WEB, SYN)).translated();
    assert_eq!(rig.totals().get(Counter::FlowsReopened), 0, "the endpoint answers a SYN on a live flow");
    rig.one(&tcp(CLIENT, WEB, RST)).translated();
    // Neither a segment with more than SYN nor the endpoint's SYN reopens.
    rig.one(&tcp(CLIENT, WEB, SYN | ACK)).translated();
    rig.one(&tcp(sent.dst(), sent.src(), SYN)).translated();
    assert_eq!(rig.totals().get(Counter::FlowsReopened), 0);
    rig.open(&tcp(CLIENT, WEB, SYN));
    assert_eq!((rig.totals().get(Counter::FlowsReopened), rig.flows().len()), (1, 1));
    assert_eq!(rig.flows()[0].state, "SYN_SENT");
}

#[test]
fn a_closed_flow_is_reopened_with_a_fresh_choice() {
    let mut reached = BTreeSet::new();
    for _ in 0..20 {
        let mut rig = Rig::new();
        for _ in 0..10 {
            let sent = establish(&mut rig);
            reached.insert(sent.dst());
            rig.one(&tcp(CLIENT, WEB, FIN | ACK)).translated();
            rig.one(&tcp(sent.dst(), sent.src(), FIN | ACK)).translated();
            rig.one(&tcp(CLIENT, WEB, ACK)).translated();
            assert!(rig.flows().iter().any(|flow| flow.state == "TIME_WAIT"));
            rig.later(1);
        }
        assert_eq!(rig.totals().get(Counter::FlowsReopened), 9);
    }
    assert_eq!(reached.len(), 2);
}

#[test]
fn a_rst_as_the_only_answer_ends_the_flow_behind_it() {
    let mut rig = Rig::new();
    let sent = rig.open(&tcp(CLIENT, WEB, SYN));
    let back = rig.one(&tcp(sent.dst(), sent.src(), RST | ACK)).translated();
    assert_eq!((back.src(), back.dst()), (addr(WEB), addr(CLIENT)));
    assert_eq!(rig.flows().len(), 0);
    rig.open(&tcp(CLIENT, WEB, SYN));
}

#[test]
fn two_workers_serve_one_flow() {
    let mut rig = Rig::new();
    rig.engine(EngineConfig::default());
    let sent = rig.open(&tcp(CLIENT, WEB, SYN));
    rig.engines.swap(0, 1);
    let again = rig.one(&tcp(CLIENT, WEB, SYN)).translated();
    assert_eq!(again.bytes, sent.bytes);
    let back = rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
    assert_eq!(back.dst(), addr(CLIENT));
    assert_eq!(rig.totals().get(Counter::FlowsOpened), 1);
}

/// Fills the IPv4 table with half-open flows.
fn full() -> Rig {
    let mut rig = Rig::new();
    for first in (0..4_096).step_by(BATCH) {
        let syns: Vec<_> = (first..first + 32).map(|n| tcp(client(n), WEB, SYN)).collect();
        for frame in rig.send(&syns) {
            frame.translated();
        }
    }
    assert_eq!(rig.tables.v4.live(), 4_096);
    rig
}

#[test]
fn a_full_table_evicts_half_open_flows_in_one_sweep_a_batch() {
    let mut rig = full();
    rig.later(1);
    rig.open(&tcp(client(10_000), WEB, SYN));
    let evicted = rig.totals().get(Counter::FlowsEvicted);
    assert!((1..=64).contains(&evicted), "{evicted}");
    // The room made serves the next ones, too.
    for n in 1..evicted {
        rig.open(&tcp(client(10_000 + u32::try_from(n).unwrap()), WEB, SYN));
    }
    assert_eq!(rig.totals().get(Counter::FlowsEvicted), evicted);
}

/// Both ends of a flow on the endpoint's side, and its client.
fn ends(flow: &FlowView<2>) -> (SocketAddr, SocketAddr, SocketAddr) {
    let (reply, forward) = (Tuple::<Ipv4Addr>::from(flow.reply), Tuple::<Ipv4Addr>::from(flow.forward));
    let at = |addr: Ipv4Addr, port| SocketAddr::new(addr.into(), port);
    (at(reply.src, reply.sport), at(reply.dst, reply.dport), at(forward.src, forward.sport))
}

fn establish_all(rig: &mut Rig, flows: &[FlowView<2>]) {
    for flow in flows {
        let (endpoint, snat, client) = ends(flow);
        rig.send(&[tcp(endpoint, snat, SYN | ACK), tcp(client, WEB, ACK)]);
    }
}

#[test]
fn an_established_flow_is_never_evicted_and_the_refusal_is_counted() {
    let mut rig = full();
    let flows = rig.flows();
    establish_all(&mut rig, &flows);
    for _ in 0..80 {
        let refused: Vec<_> = (0..32).map(|n| tcp(client(20_000 + n), WEB, SYN)).collect();
        for frame in rig.send(&refused) {
            frame.dropped(DropReason::TableFull);
        }
        rig.now = rig.now.plus_nanos(10_000_000);
    }
    assert_eq!(rig.totals().get(Counter::FlowsEvicted), 0);
    assert_eq!(rig.tables.v4.live(), 4_096);
    assert_eq!(rig.totals().drops(DropReason::TableFull), 80 * 32);
    // IPv6 has its own table.
    rig.open(&tcp(CLIENT6, WEB6, SYN));
}

#[test]
fn a_record_whose_flow_ended_by_a_rst_is_room_as_well() {
    let mut rig = full();
    let mut flows = rig.flows();
    let (endpoint, snat, _) = ends(&flows.remove(10));
    establish_all(&mut rig, &flows);
    rig.one(&tcp(endpoint, snat, RST | ACK)).translated();
    assert_eq!(rig.tables.v4.live(), 4_095);
    rig.open(&tcp(client(10_000), WEB, SYN));
    assert_eq!(rig.totals().get(Counter::FlowsEvicted), 0);
}
