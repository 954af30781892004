//! Clients that get the endpoint they had, through the whole packet path.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::clock::Tick;
use crate::engine::EngineConfig;
use crate::engine::testkit::*;
use crate::ids::ServiceId;
use crate::packet::tuple::Proto;
use crate::service::{Service, SnapshotBuilder, Sticky, World};
use crate::verdict::Verdict;

/// The Services of the usual world, each with eight endpoints and sticky for 100 s.
fn sticky() -> [Service; 4] {
    let of = |id, proto, vip, endpoint: fn(u32) -> String| {
        let endpoints: Vec<String> = (1..=8).map(endpoint).collect();
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        Service { affinity: Some(Sticky::new(100)), ..service(id, proto, vip, 1, &endpoints) }
    };
    [
        of(1, Proto::Tcp, WEB, |n| format!("10.244.0.{n}:8080")),
        of(2, Proto::Udp, DNS, |n| format!("10.244.0.{n}:5353")),
        of(4, Proto::Tcp, WEB6, |n| format!("[fd00:244::{n}]:8080")),
        of(5, Proto::Udp, DNS6, |n| format!("[fd00:244::{n}]:5353")),
    ]
}

fn rig() -> Rig {
    Rig::with(EngineConfig::default(), world(&sticky()))
}

/// The world after a change of one Service.
fn change(rig: &mut Rig, service: Service) {
    let World::Ready(before) = &rig.world else { unreachable!() };
    let mut builder = SnapshotBuilder::from(before);
    builder.upsert(service);
    rig.world = World::Ready(builder.build().unwrap());
}

/// The first packet of client `n` from `port` to each of the four Services.
fn openings(n: u16, port: u16) -> [Vec<u8>; 4] {
    let v4 = SocketAddr::new([10, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]].into(), port);
    let v6 = SocketAddr::new(IpAddr::V6((0xfd01_u128 << 112 | u128::from(n)).into()), port);
    [tcp(v4, addr(WEB), SYN), udp(v4, addr(DNS)), tcp(v6, addr(WEB6), SYN), udp(v6, addr(DNS6))]
}

fn last(rig: &Rig, client: &str) -> Option<Tick> {
    rig.tables.affinity.recall(ServiceId(1), ip(client)).map(|seat| seat.last())
}

#[test]
fn a_client_gets_one_endpoint_from_every_port_and_clients_spread() {
    let mut rig = rig();
    let mut reached = [const { BTreeSet::new() }; 4];
    for n in 0..40 {
        let first: Vec<_> = openings(n, 1_000).iter().map(|packet| rig.open(packet).dst()).collect();
        for port in 1_001..1_016 {
            for (packet, first) in openings(n, port).iter().zip(&first) {
                assert_eq!(rig.open(packet).dst(), *first, "client {n} from port {port}");
            }
        }
        for (reached, first) in reached.iter_mut().zip(first) {
            reached.insert(first);
        }
    }
    let counts = reached.map(|reached| reached.len());
    assert!(counts.iter().all(|n| *n == 8), "{counts:?}");
    assert_eq!(rig.tables.affinity.len(), 4 * 40);
}

#[test]
fn only_new_flows_renew_the_memory() {
    let mut rig = rig();
    let begun = rig.now.tick();
    let sent = rig.open(&tcp(CLIENT, WEB, SYN));
    rig.later(60);
    rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
    rig.one(&tcp(CLIENT, WEB, ACK)).translated();
    assert_eq!(last(&rig, "10.1.0.7"), Some(begun), "neither side's packets count");
    assert_eq!(rig.open(&tcp("10.1.0.7:2", WEB, SYN)).dst(), sent.dst());
    assert_eq!(last(&rig, "10.1.0.7"), Some(rig.now.tick()));
    rig.later(100);
    rig.one(&tcp(CLIENT, WEB, ACK)).translated();
    let moved = (0..40).any(|port| {
        rig.later(101);
        rig.open(&tcp(addr(&format!("10.1.0.7:{}", 100 + port)), addr(WEB), SYN)).dst() != sent.dst()
    });
    assert!(moved, "a pick each time, and always the same of eight");
    assert_eq!(rig.one(&tcp(CLIENT, WEB, ACK)).translated().dst(), sent.dst(), "the old flow goes on");
}

#[test]
fn what_was_not_served_is_not_remembered() {
    let mut rig = rig();
    change(&mut rig, Service { affinity: Some(Sticky::new(100)), ..service(1, Proto::Tcp, WEB, 2, &[]) });
    rig.answered(&tcp(CLIENT, WEB, SYN));
    assert_eq!(rig.one(&tcp(CLIENT, "10.96.0.10:81", SYN)).verdict, Some(Verdict::Replied));
    rig.world = World::NotReady;
    rig.one(&tcp(CLIENT, WEB, SYN));
    assert!(rig.tables.affinity.is_empty());
}

#[test]
fn a_reopened_connection_stays_and_a_withdrawn_endpoint_moves_its_clients_for_good() {
    let mut rig = rig();
    let web = rig.open(&tcp(CLIENT, WEB, SYN));
    rig.one(&tcp(web.dst(), web.src(), SYN | ACK)).translated();
    rig.one(&tcp(CLIENT, WEB, RST)).translated();
    assert_eq!(rig.open(&tcp(CLIENT, WEB, SYN)).dst(), web.dst());

    let asked = rig.open(&udp(CLIENT, DNS));
    let all: Vec<String> = (1..=8).map(|n| format!("10.244.0.{n}:5353")).collect();
    let left: Vec<&str> = all.iter().map(String::as_str).filter(|at| addr(at) != asked.dst()).collect();
    change(&mut rig, Service { affinity: Some(Sticky::new(100)), ..service(2, Proto::Udp, DNS, 2, &left) });
    let moved = rig.open(&udp(CLIENT, DNS));
    assert_ne!(moved.dst(), asked.dst());
    change(&mut rig, sticky()[1].clone());
    for port in 1..20 {
        let again = rig.open(&udp(addr(&format!("10.1.0.7:{port}")), addr(DNS)));
        assert_eq!(again.dst(), moved.dst(), "the old one is back, and nobody asks for it");
    }
}

#[test]
fn turned_off_and_on_it_is_for_new_flows() {
    let mut rig = rig();
    let first = rig.open(&tcp("10.1.0.7:1", WEB, SYN));
    let spread = |rig: &mut Rig, ports: std::ops::Range<u16>| {
        let open = |port| rig.open(&tcp(addr(&format!("10.1.0.7:{port}")), addr(WEB), SYN)).dst();
        ports.map(open).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(spread(&mut rig, 100..115), 1);
    change(&mut rig, Service { affinity: None, ..sticky()[0].clone() });
    assert!(spread(&mut rig, 200..240) > 3);
    change(&mut rig, sticky()[0].clone());
    assert_eq!(spread(&mut rig, 300..315), 1);
    assert_eq!(rig.one(&tcp("10.1.0.7:1", WEB, ACK)).translated().dst(), first.dst(), "old flows stay");
}
