//! Packets that get no service: what is answered, with what, and what is not.

use crate::engine::EngineConfig;
use crate::engine::testkit::*;
use crate::packet::tuple::Proto;
use crate::service::Policy;
use crate::service::World;
use crate::stats::Counter;
use crate::verdict::DropReason;

fn with_rst() -> EngineConfig {
    EngineConfig { reject_with_rst: true, ..EngineConfig::default() }
}

fn loose() -> EngineConfig {
    EngineConfig { tcp_loose: true, ..EngineConfig::default() }
}

/// Fails unless it is a port unreachable from where the packet went to where it came from, quoting it.
#[track_caller]
fn assert_unreachable(answer: &[u8], packet: &[u8]) {
    let (src, dst) = endpoints(packet);
    let (from, to) = endpoints(answer);
    assert_eq!((from.ip(), to.ip()), (dst.ip(), src.ip()));
    let (at, protocol, kind) = if src.is_ipv4() { (20, answer[9], [3, 3]) } else { (40, answer[6], [1, 4]) };
    assert_eq!((protocol, [answer[at], answer[at + 1]]), (if src.is_ipv4() { 1 } else { 58 }, kind));
    assert_eq!(answer[at + 8..], packet[..answer.len() - at - 8]);
}

/// Fails unless it is a RST from where the packet went to where it came from.
#[track_caller]
fn assert_reset(answer: &[u8], packet: &[u8]) {
    let (src, dst) = endpoints(packet);
    assert_eq!(endpoints(answer), (dst, src));
    let at = if src.is_ipv4() { 20 } else { 40 };
    assert_eq!(answer[at + 13] & RST, RST);
}

#[test]
fn a_service_without_endpoints_and_a_wrong_port_are_unreachable_for_tcp_too() {
    let mut rig = Rig::new();
    for packet in [
        tcp(CLIENT, DEAD, SYN),
        tcp(CLIENT6, DEAD6, SYN),
        tcp(CLIENT, "10.96.0.10:81", SYN),
        udp(CLIENT, "10.96.0.10:80"),
        tcp(CLIENT, "10.96.0.53:53", SYN),
        udp(CLIENT6, "[fd00:96::10]:7"),
    ] {
        assert_unreachable(&rig.answered(&packet), &packet);
    }
    assert_eq!(rig.totals().get(Counter::FlowsOpened), 0);
}

#[test]
fn with_rst_tcp_is_reset_and_all_else_unreachable() {
    let mut rig = Rig::with(with_rst(), world(&[]));
    for packet in [tcp(CLIENT, DEAD, SYN), tcp(CLIENT6, DEAD6, SYN), tcp(CLIENT, "10.96.0.10:81", SYN)] {
        assert_reset(&rig.answered(&packet), &packet);
    }
    let packet = udp(CLIENT, "10.96.0.10:80");
    assert_unreachable(&rig.answered(&packet), &packet);
}

#[test]
fn tcp_that_does_not_begin_is_reset_and_a_rst_never_answered() {
    for config in [EngineConfig::default(), with_rst()] {
        let mut rig = Rig::with(config, world(&[]));
        for vip in [WEB, DEAD] {
            for flags in [ACK, FIN | ACK, SYN | ACK, SYN | FIN, 0] {
                let packet = tcp(CLIENT, vip, flags);
                assert_reset(&rig.answered(&packet), &packet);
            }
            for flags in [RST, RST | ACK, RST | SYN] {
                rig.one(&tcp(CLIENT, vip, flags)).dropped(DropReason::NotAnswerable);
            }
        }
        assert_eq!(rig.totals().get(Counter::FlowsOpened), 0);
    }
}

#[test]
fn loose_picks_up_an_ack_and_nothing_that_ends_or_answers() {
    let mut rig = Rig::with(loose(), world(&[]));
    for flags in [FIN | ACK, SYN | ACK, SYN | FIN, 0] {
        let packet = tcp(CLIENT, WEB, flags);
        assert_reset(&rig.answered(&packet), &packet);
    }
    rig.one(&tcp(CLIENT, WEB, RST | ACK)).dropped(DropReason::NotAnswerable);
    assert_eq!(rig.totals().get(Counter::FlowsOpened), 0);
    let sent = rig.open(&tcp(CLIENT, WEB, ACK));
    assert_eq!(rig.flows()[0].state, "PICKED_UP");
    // The endpoint does not know it: its RST reaches the client and ends the flow.
    let back = rig.one(&tcp(sent.dst(), sent.src(), RST)).translated();
    assert_eq!((back.src(), back.dst()), (addr(WEB), addr(CLIENT)));
    assert_eq!(rig.flows().len(), 0);
    // Without an endpoint there is nothing to pick up.
    let packet = tcp(CLIENT, DEAD, ACK);
    assert_unreachable(&rig.answered(&packet), &packet);
}

#[test]
fn what_has_no_port_is_unreachable_at_a_vip() {
    let mut rig = Rig::new();
    let (client, client6) = (ip("10.1.0.7"), ip("fd00:1::7"));
    for packet in [
        icmp(client, addr(WEB).ip(), [8, 0], [1, 2, 3, 4], b"ping"),
        icmp(client6, addr(WEB6).ip(), [128, 0], [1, 2, 3, 4], b"ping"),
        protocol(47, client, addr(DEAD).ip()),
        protocol(47, client6, addr(DEAD6).ip()),
    ] {
        assert_unreachable(&rig.answered(&packet), &packet);
    }
    // Unallocated, and our own.
    rig.one(&icmp(client, ip("10.97.0.1"), [8, 0], [0; 4], b"")).dropped(DropReason::UnallocatedVip);
    rig.one(&protocol(47, client, ip(SNAT))).dropped(DropReason::NoFlow);
    // An ICMP type nobody knows could be an error.
    rig.one(&icmp(client, addr(WEB).ip(), [40, 0], [0; 4], b"")).dropped(DropReason::NotAnswerable);
}

#[test]
fn forged_sources_are_neither_served_nor_answered() {
    let mut rig = Rig::new();
    for source in ["10.96.0.53:53", "10.96.0.99:80", "192.168.9.1:700"] {
        for vip in [WEB, DEAD] {
            rig.one(&tcp(source, vip, SYN)).dropped(DropReason::Martian);
            rig.one(&udp(source, vip)).dropped(DropReason::Martian);
        }
        let src = addr(source).ip();
        rig.one(&icmp(src, addr(WEB).ip(), [8, 0], [0; 4], b"")).dropped(DropReason::Martian);
    }
    rig.one(&tcp("[fd00:31::1]:9", WEB6, SYN)).dropped(DropReason::Martian);
    assert_eq!(rig.totals().get(Counter::FlowsOpened), 0);
}

#[test]
fn a_broken_packet_is_not_answered() {
    let mut rig = Rig::new();
    let mut packet = tcp(CLIENT, DEAD, SYN);
    packet[36] ^= 1;
    rig.one(&packet).dropped(DropReason::NotAnswerable);
}

#[test]
fn a_local_policy_without_an_endpoint_here_says_nothing() {
    let mut local = service(1, Proto::Tcp, WEB, 1, &["10.244.0.1:8080"]);
    local.internal = Policy::Local;
    let mut rig = Rig::with(with_rst(), world(&[local]));
    rig.one(&tcp(CLIENT, WEB, SYN)).dropped(DropReason::NoLocalEndpoint);
}

#[test]
fn unallocated_addresses_and_our_own_get_silence() {
    let mut rig = Rig::new();
    rig.one(&tcp(CLIENT, "10.97.1.2:80", SYN)).dropped(DropReason::UnallocatedVip);
    rig.one(&udp(CLIENT6, "[fd00:96::abc]:80")).dropped(DropReason::UnallocatedVip);
    rig.one(&tcp(CLIENT, "192.168.9.1:80", ACK)).dropped(DropReason::NoFlow);
    rig.one(&udp("10.244.0.3:5353", "192.168.9.1:80")).dropped(DropReason::NoFlow);
}

#[test]
fn the_first_world_ends_the_silence() {
    let mut rig = Rig::with(EngineConfig::default(), World::NotReady);
    rig.one(&tcp(CLIENT, WEB, SYN)).dropped(DropReason::NotReady);
    rig.world = world(&[]);
    rig.open(&tcp(CLIENT, WEB, SYN));
}
