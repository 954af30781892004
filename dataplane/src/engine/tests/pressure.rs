//! More flows than there are source ports or records.

use std::net::{Ipv4Addr, SocketAddr};

use crate::engine::EngineConfig;
use crate::engine::testkit::*;
use crate::packet::tuple::Proto;
use crate::stats::Counter;
use crate::verdict::{DropReason, Verdict};

/// Client number `n`, on a port of which there are few.
fn client(n: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from_bits(0x0a01_0000 + n).into(), 100)
}

/// A Service with one endpoint and half-open flows on all source ports towards it that a client of these may get.
fn crowded() -> Rig {
    let one = service(1, Proto::Tcp, WEB, 1, &["10.244.0.1:8080"]);
    let mut rig = Rig::with(EngineConfig::default(), world(&[one]));
    for n in 0..2_000 {
        rig.one(&tcp(client(n), WEB, SYN));
    }
    rig
}

#[test]
fn half_open_flows_to_an_endpoint_make_room_for_new_ones() {
    let mut rig = crowded();
    let refused = rig.totals().drops(DropReason::PortsExhausted);
    assert!(refused > 1_000, "{refused}: a handshake under way is not disturbed");
    let live = rig.tables.v4.live();
    rig.later(4);
    for n in 0..200 {
        let sent = rig.open(&tcp(client(5_000 + n), WEB, SYN));
        assert!((1..512).contains(&sent.src().port()));
    }
    let evicted = rig.totals().get(Counter::FlowsEvicted);
    assert_eq!(rig.totals().drops(DropReason::PortsExhausted), refused);
    assert!((190..=200).contains(&evicted), "{evicted}");
    assert!(rig.tables.v4.live() <= live + 10, "each in the place of another");
}

#[test]
fn established_flows_never_do() {
    let mut rig = crowded();
    for flow in rig.flows() {
        let (reply, forward) = (flow.reply, flow.forward);
        let (reply, forward) =
            (crate::packet::tuple::Tuple::from(reply), crate::packet::tuple::Tuple::from(forward));
        let (server, gateway): (SocketAddr, SocketAddr) =
            ((reply.src, reply.sport).into(), (reply.dst, reply.dport).into());
        let (from, vip): (SocketAddr, SocketAddr) =
            ((forward.src, forward.sport).into(), (forward.dst, forward.dport).into());
        rig.one(&tcp(server, gateway, SYN | ACK)).translated();
        rig.one(&tcp(from, vip, ACK)).translated();
    }
    rig.later(4);
    let refused = (0..50).filter(|n| {
        let sent = rig.one(&tcp(client(5_000 + n), WEB, SYN));
        sent.verdict == Some(Verdict::Dropped(DropReason::PortsExhausted))
    });
    assert!(refused.count() > 40);
    assert_eq!(rig.totals().get(Counter::FlowsEvicted), 0);
}
