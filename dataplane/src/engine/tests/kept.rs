//! Flows that keep their client's address: both directions, clashes, hairpin, and the link-local SNAT address of
//! those that do not keep it.

use std::sync::Arc;

use crate::engine::EngineConfig;
use crate::engine::testkit::*;
use crate::packet::tuple::{Family, Proto};
use crate::service::{Fabric, LocalMap, Place, ReturnPath, SnapshotBuilder, World};
use crate::stats::Counter;
use crate::verdict::{DropReason, Verdict};

const POD: &str = "10.244.0.9:40000";
const POD6: &str = "[fd00:244::9]:40000";
const MARK_SNAT: &str = "169.254.77.1";

/// Connection marks on a host whose pods are 10.244.0.0/24 and fd00:244::/64.
fn rig() -> Rig {
    let pods = [(ip("10.244.0.0"), 24, Place::LocalPod), (ip("fd00:244::"), 64, Place::LocalPod)];
    let local = LocalMap::new(pods, &[Family::V4, Family::V6]).unwrap();
    let fabric = Fabric {
        return_path: ReturnPath::ConnMark,
        snat: vec![ip(MARK_SNAT), ip("fd00:fffe:77::1")],
        local: Arc::new(local),
        ..fabric()
    };
    let one_endpoint = [
        service(1, Proto::Tcp, WEB, 1, &["10.244.0.1:8080"]),
        // The same endpoint behind another frontend.
        service(9, Proto::Tcp, "10.96.0.11:8080", 1, &["10.244.0.1:8080"]),
    ];
    Rig::with(EngineConfig::default(), world_of(fabric, &one_endpoint))
}

#[test]
fn a_pods_flow_keeps_its_address_both_ways_and_in_errors() {
    for (pod, vip, router) in [(POD, WEB, "10.200.0.1"), (POD6, WEB6, "fd00:200::1")] {
        let mut rig = rig();
        let first = tcp(pod, vip, SYN);
        let sent = rig.open(&first);
        assert_valid(&sent.bytes);
        assert_eq!(sent.src(), addr(pod));
        let answer = tcp(sent.dst(), sent.src(), SYN | ACK);
        let back = rig.one(&answer).translated();
        assert_valid(&back.bytes);
        assert_eq!((back.src(), back.dst()), (addr(vip), addr(pod)));
        // A router near the endpoint: the pod must see the VIP.
        let unreachable = if ip(router).is_ipv4() { [3, 1] } else { [1, 3] };
        let error = icmp(ip(router), addr(pod).ip(), unreachable, [0; 4], &sent.bytes);
        let got = rig.one(&error).translated().bytes;
        assert_valid(&got);
        let (from, to) = endpoints(&got);
        assert_eq!((from.ip(), to.ip()), (addr(vip).ip(), addr(pod).ip()));
        // A router near the pod: nothing of its own is translated.
        let error = icmp(ip(router), addr(vip).ip(), unreachable, [0; 4], &back.bytes);
        let got = rig.one(&error).translated().bytes;
        assert_valid(&got);
        let (from, to) = endpoints(&got);
        assert_eq!((from.ip(), to.ip()), (ip(router), sent.dst().ip()));
    }
}

#[test]
fn a_clash_changes_the_port_alone_and_replies_find_their_own() {
    let mut rig = rig();
    let first = rig.open(&tcp(POD, WEB, SYN));
    let second = rig.open(&tcp(POD, "10.96.0.11:8080", SYN));
    assert_eq!((first.src(), first.dst()), (addr(POD), second.dst()));
    assert_eq!(second.src().ip(), addr(POD).ip(), "the address stays");
    assert!(second.src().port() != 40_000 && second.src().port() >= 1024, "{}", second.src());
    assert_eq!(rig.totals().get(Counter::PortClashes), 1);
    for (sent, vip) in [(&first, WEB), (&second, "10.96.0.11:8080")] {
        let back = rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
        assert_eq!((back.src(), back.dst()), (addr(vip), addr(POD)));
    }
    // Another pod has its own ports.
    assert_eq!(rig.open(&tcp("10.244.0.8:40000", WEB, SYN)).src(), addr("10.244.0.8:40000"));
}

#[test]
fn hairpin_and_outside_get_the_link_local_snat_address_and_replies_to_it_come_back() {
    for client in ["10.244.0.1:40000", CLIENT] {
        let mut rig = rig();
        let sent = rig.open(&tcp(client, WEB, SYN));
        assert_valid(&sent.bytes);
        assert_eq!((sent.src(), sent.dst()), (addr("169.254.77.1:40000"), addr("10.244.0.1:8080")));
        let back = rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
        assert_valid(&back.bytes);
        assert_eq!((back.src(), back.dst()), (addr(WEB), addr(client)));
        let error = icmp(ip("10.200.0.1"), sent.src().ip(), [3, 4], [0, 0, 5, 120], &sent.bytes);
        let got = endpoints(&rig.one(&error).translated().bytes);
        assert_eq!((got.0.ip(), got.1.ip()), (addr(WEB).ip(), addr(client).ip()));
    }
}

#[test]
fn what_no_flow_knows_ends_where_it_must() {
    let mut rig = rig();
    // To the SNAT address.
    rig.one(&tcp("10.244.0.1:8080", "169.254.77.1:40000", ACK)).dropped(DropReason::NoFlow);
    rig.one(&icmp(ip("10.244.0.1"), ip(MARK_SNAT), [8, 0], [0; 4], b"")).dropped(DropReason::NoFlow);
    // To other link-local addresses.
    rig.one(&udp("10.244.0.1:53", "169.254.77.3:53")).dropped(DropReason::NotUnicast);
    rig.one(&icmp(ip("10.244.0.1"), ip("169.254.1.1"), [8, 0], [0; 4], b"")).dropped(DropReason::NotUnicast);
    // Errors about no flow: to a VIP or the SNAT address they end, to a pod they go on as they are.
    let quote = udp("10.244.0.9:99", "10.3.0.1:7");
    let error = |to: &str| icmp(ip("10.3.0.1"), ip(to), [3, 3], [0; 4], &quote);
    rig.one(&error("10.96.0.10")).dropped(DropReason::UnmatchedIcmpError);
    rig.one(&error(MARK_SNAT)).dropped(DropReason::UnmatchedIcmpError);
    rig.one(&error("169.254.1.1")).dropped(DropReason::NotUnicast);
    for foreign in [error("10.244.0.9"), tcp("10.244.0.1:8080", POD, ACK), udp("10.3.0.1:7", POD)] {
        let end = rig.one(&foreign);
        assert_eq!((end.verdict, end.bytes), (Some(Verdict::Passed), foreign));
    }
    // Nobody sends from the SNAT address: it is ours, and link-local besides.
    rig.one(&tcp("169.254.77.1:40000", WEB, SYN)).dropped(DropReason::NotUnicast);
    rig.one(&tcp("[fd00:fffe:77::1]:40000", WEB6, SYN)).dropped(DropReason::Martian);
    rig.one(&tcp("10.96.0.11:40000", WEB, SYN)).dropped(DropReason::Martian);
}

/// Opens, and closes by the server first; how long the flow then keeps its reply tuple.
fn seconds_after_a_reset(client: &str) -> u32 {
    let mut rig = rig();
    let sent = rig.open(&tcp(client, WEB, SYN));
    let (server, seen) = (sent.dst(), sent.src());
    rig.one(&tcp(server, seen, SYN | ACK)).translated();
    rig.one(&tcp(client, WEB, ACK)).translated();
    rig.one(&tcp(server, seen, FIN | ACK)).translated();
    rig.one(&tcp(client, WEB, RST | ACK)).translated();
    rig.flows()[0].expires
}

#[test]
fn only_a_snat_address_lingers_a_clients_own_port_is_its_own_business() {
    assert_eq!(seconds_after_a_reset(CLIENT), 60);
    assert_eq!(seconds_after_a_reset(POD), 10);
}

#[test]
fn the_ladder_is_climbed_with_the_address_kept_and_ends() {
    let mut rig = rig();
    let World::Ready(snapshot) = &rig.world else { unreachable!() };
    // A port below 512 is replaced by one below 512: 511 flows of one client to one endpoint, at most.
    let mut builder = SnapshotBuilder::from(snapshot);
    for n in 0..600_u32 {
        let vip = format!("10.97.{}.{}:80", n / 250, n % 250 + 1);
        builder.upsert(service(100 + n, Proto::Udp, &vip, 1, &["10.244.0.1:5353"]));
    }
    rig.world = World::Ready(builder.build().unwrap());
    let mut used = std::collections::BTreeSet::new();
    let mut exhausted = 0_u32;
    for n in 0..600_u32 {
        let vip = format!("10.97.{}.{}:80", n / 250, n % 250 + 1);
        let end = rig.one(&udp("10.244.0.9:53", vip.as_str()));
        if end.verdict == Some(Verdict::Translated) {
            assert_eq!(end.src().ip(), ip("10.244.0.9"));
            assert!((1..512).contains(&end.src().port()) && used.insert(end.src()), "{}", end.src());
        } else {
            end.dropped(DropReason::PortsExhausted);
            exhausted += 1;
        }
    }
    assert!(used.len() > 450 && exhausted > 0, "{} {exhausted}", used.len());
}
