//! Destinations that arrive as aliases: replies, this host's own addresses, frontends that are gone, and what leaves
//! masked.

use crate::engine::EngineConfig;
use crate::engine::testkit::*;
use crate::packet::alias;
use crate::packet::tuple::Proto;
use crate::service::{Fabric, FrontendKind, ReturnPath, Service, SnapshotBuilder, World};
use crate::verdict::{DropReason, Verdict};

const KEPT_SNAT: &str = "169.254.77.1";
const NODE: &str = "10.1.0.1";
const NODE6: &str = "fd00:1::1";

fn config() -> EngineConfig {
    EngineConfig { alias: true, passes: false, ..EngineConfig::default() }
}

fn kept_fabric(aliased: &[&str]) -> Fabric {
    let mut aliased: Vec<_> = aliased.iter().map(|addr| (alias::of(ip(addr)), ip(addr))).collect();
    aliased.sort_unstable();
    Fabric {
        return_path: ReturnPath::ConnMark,
        snat: vec![ip(KEPT_SNAT), ip("fd00:fffe:77::1")],
        node_addresses: vec![ip(NODE), ip(NODE6)],
        aliased,
        ..fabric()
    }
}

fn services() -> [Service; 3] {
    let node_port = |id, proto, vip, number, endpoints: &[&str]| Service {
        node_port: Some(number),
        ..service(id, proto, vip, 1, endpoints)
    };
    [
        node_port(1, Proto::Tcp, WEB, 30_080, &["10.244.0.1:8080"]),
        node_port(4, Proto::Tcp, WEB6, 30_080, &["[fd00:244::1]:8080"]),
        node_port(3, Proto::Tcp, DEAD, 30_099, &[]),
    ]
}

fn rig() -> Rig {
    Rig::with(config(), world_of(kept_fabric(&[NODE, NODE6]), &services()))
}

/// A first packet and its reply, which comes by the alias; what the client gets.
#[track_caller]
fn exchange(rig: &mut Rig, first: Vec<u8>) -> (Sent, Sent) {
    let sent = rig.open(&first);
    assert_valid(&sent.bytes);
    let back = rig.one(&up(tcp(sent.dst(), sent.src(), SYN | ACK))).translated();
    assert_valid(&back.bytes);
    (sent, back)
}

#[test]
fn replies_come_by_the_alias_of_the_source_and_leave_whole() {
    for (client, vip, endpoint) in [
        (CLIENT, WEB, "10.244.0.1:8080"),
        (CLIENT6, WEB6, "[fd00:244::1]:8080"),
        ("200.1.2.3:99", WEB, "10.244.0.1:8080"),
    ] {
        let mut rig = rig();
        let (sent, back) = exchange(&mut rig, tcp(client, vip, SYN));
        assert_eq!(sent.dst(), addr(endpoint));
        assert_eq!((back.src(), back.dst()), (addr(vip), addr(client)));
        let ack = rig.one(&tcp_with(client, vip, ACK, b"odd")).translated();
        assert_valid(&ack.bytes);
        assert_eq!((ack.src(), ack.dst()), (sent.src(), sent.dst()));
    }
}

#[test]
fn what_leaves_is_masked_in_its_ip_header_alone() {
    let mut rig = rig();
    let sent = rig.open(&tcp(CLIENT, WEB, SYN));
    let mut masked = sent.bytes.clone();
    unmask(&mut masked);
    assert_eq!(endpoints(&masked).1.ip(), ip("138.244.0.1"));
    assert_eq!(masked[20..], sent.bytes[20..]);
}

#[test]
fn an_address_of_this_host_is_asked_by_its_alias_and_answers_by_itself() {
    for (client, node, other) in [(CLIENT, NODE, "10.1.0.1:80"), (CLIENT6, NODE6, "[fd00:1::1]:80")] {
        let mut rig = rig();
        let at = std::net::SocketAddr::new(ip(node), 30_080).to_string();
        let (_, back) = exchange(&mut rig, up(tcp(client, at.as_str(), SYN)));
        assert_eq!((back.src(), back.dst()), (addr(&at), addr(client)));
        let again = rig.one(&up(tcp_with(client, at.as_str(), ACK, b"data"))).translated();
        assert_valid(&again.bytes);
        // A port no Service has: refused as the host would.
        let refused = rig.answered(&up(tcp(client, other, SYN)));
        assert_eq!(endpoints(&refused), (addr(other), addr(client)));
        rig.one(&up(tcp(client, other, ACK))).dropped(DropReason::NoFlow);
    }
    // A Service without endpoints: from the node's address, to the client, about what it sent.
    let mut rig = rig();
    let refused = rig.answered(&up(tcp(CLIENT, "10.1.0.1:30099", SYN)));
    let (from, to) = endpoints(&refused);
    assert_eq!((from.ip(), to.ip()), (ip(NODE), addr(CLIENT).ip()));
    assert_eq!(endpoints(&refused[28..]), (addr(CLIENT), addr("10.1.0.1:30099")));
    assert_valid(&refused);
}

#[test]
fn clients_that_differ_in_the_top_bits_alone_are_told_apart_by_port() {
    let mut rig = rig();
    let (one, two) = ("10.1.0.7:40000", "26.1.0.7:40000");
    let first = rig.open(&tcp(one, WEB, SYN));
    let second = rig.open(&tcp(two, WEB, SYN));
    assert_eq!(first.src(), addr(one));
    assert_eq!(second.src().ip(), addr(two).ip());
    assert_ne!(second.src().port(), 40_000, "the alias of its reply is the other's");
    for (sent, client) in [(first, one), (second, two)] {
        let back = rig.one(&up(tcp(sent.dst(), sent.src(), SYN | ACK))).translated();
        assert_eq!((back.src(), back.dst()), (addr(WEB), addr(client)));
    }
}

#[test]
fn errors_come_by_the_alias_too() {
    for (client, vip, router) in [(CLIENT, WEB, "10.200.0.1"), (CLIENT6, WEB6, "fd00:200::1")] {
        let mut rig = rig();
        let (sent, back) = exchange(&mut rig, tcp(client, vip, SYN));
        let unreachable = if ip(router).is_ipv4() { [3, 1] } else { [1, 3] };
        // From near the endpoint, to the source it saw.
        let error = icmp(ip(router), sent.src().ip(), unreachable, [0; 4], &sent.bytes);
        let got = rig.one(&up(error)).translated().bytes;
        assert_valid(&got);
        assert_eq!(endpoints(&got).1.ip(), addr(client).ip());
        // From near the client, to the VIP.
        let error = icmp(ip(router), addr(vip).ip(), unreachable, [0; 4], &back.bytes);
        let got = rig.one(&error).translated().bytes;
        assert_valid(&got);
        assert_eq!(endpoints(&got).1.ip(), sent.dst().ip());
        // About nothing of ours.
        let stranger = std::net::SocketAddr::new(ip(router), 1);
        let error =
            icmp(ip(router), addr(client).ip(), unreachable, [0; 4], &tcp(addr(client), stranger, SYN));
        rig.one(&up(error)).dropped(DropReason::NoFlow);
    }
}

#[test]
fn an_error_about_a_node_ports_answer_finds_its_flow() {
    let mut rig = rig();
    let (sent, back) = exchange(&mut rig, up(tcp(CLIENT, "10.1.0.1:30080", SYN)));
    let error = icmp(ip("10.200.0.1"), ip(NODE), [3, 4], [0, 0, 5, 0], &back.bytes);
    let got = rig.one(&up(error)).translated().bytes;
    assert_valid(&got);
    assert_eq!(endpoints(&got).1.ip(), sent.dst().ip());
}

#[test]
fn a_frontend_that_is_gone_serves_its_open_flows_by_the_alias() {
    for (client, vip) in [(CLIENT, WEB), (CLIENT6, WEB6)] {
        let mut rig = rig();
        let (sent, _) = exchange(&mut rig, tcp(client, vip, SYN));
        // The Service is gone, and its address belongs to nobody here.
        let gone = addr(vip).ip().to_string();
        rig.world = World::Ready(SnapshotBuilder::new(kept_fabric(&[&gone])).build().unwrap());
        let on = rig.one(&up(tcp_with(client, vip, ACK, b"goes on"))).translated();
        assert_valid(&on.bytes);
        assert_eq!((on.src(), on.dst()), (sent.src(), sent.dst()));
        let back = rig.one(&up(tcp_with(sent.dst(), sent.src(), ACK, b"and back"))).translated();
        assert_eq!((back.src(), back.dst()), (addr(vip), addr(client)));
    }
}

#[test]
fn nothing_goes_on_that_would_come_straight_back() {
    let mut rig = rig();
    rig.one(&udp(CLIENT, "192.0.2.77:99")).dropped(DropReason::NotServed);
    rig.one(&up(tcp("10.244.0.1:8080", CLIENT, ACK))).dropped(DropReason::NoFlow);
    rig.one(&up(icmp(ip("10.9.9.9"), ip("10.1.0.7"), [8, 0], [0; 4], b""))).dropped(DropReason::NoFlow);
    rig.world = World::NotReady;
    rig.one(&up(tcp(CLIENT, "10.1.0.1:30080", SYN))).dropped(DropReason::NotReady);
}

#[test]
fn fragments_follow_their_first_one_by_the_alias() {
    let mut rig = rig();
    let question = udp_with(CLIENT, DNS, &[7; 100]);
    let sent = rig.open(&question);
    let answer = up(udp_with(sent.dst(), sent.src(), &[9; 64]));
    let (mut first, mut last) = (answer[..20 + 40].to_vec(), [&answer[..20], &answer[20 + 40..]].concat());
    for (part, flags) in [(&mut first, 0x2000_u16), (&mut last, 5)] {
        let len = u16::try_from(part.len()).unwrap();
        part[2..4].copy_from_slice(&len.to_be_bytes());
        part[6..8].copy_from_slice(&flags.to_be_bytes());
        part[10..12].fill(0);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&part[..20]).ones_complement();
        part[10..12].copy_from_slice(&sum.to_ne_bytes());
    }
    for part in [first, last] {
        let back = rig.one(&part);
        assert_eq!(back.verdict, Some(Verdict::Translated));
        let (from, to) = endpoints(&back.bytes);
        assert_eq!((from.ip(), to.ip()), (addr(DNS).ip(), addr(CLIENT).ip()));
        let header = etherparse::Ipv4HeaderSlice::from_slice(&back.bytes).unwrap();
        assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
    }
}

#[test]
fn flows_are_shown_with_their_real_addresses() {
    let mut rig = rig();
    rig.open(&up(tcp(CLIENT, "10.1.0.1:30080", SYN)));
    let flow = rig.flows().remove(0);
    let tuple = |key| crate::packet::tuple::Tuple::<std::net::Ipv4Addr>::from(key).any().to_string();
    assert_eq!(tuple(flow.forward), format!("TCP {CLIENT} > 10.1.0.1:30080"));
    assert!(tuple(flow.reply).starts_with("TCP 10.244.0.1:8080 > 169.254.77.1:"), "{}", tuple(flow.reply));
    let World::Ready(snapshot) = &rig.world else { unreachable!() };
    let at = crate::service::SvcPort { port: 30_080, proto: Proto::Tcp };
    assert!(snapshot.frontend(ip(NODE), at).is_some_and(|(kind, _)| kind == FrontendKind::NodePort));
}
