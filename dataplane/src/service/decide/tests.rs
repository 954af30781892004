//! The truth table of ClusterIP, what lies beside it, and that reasons change nothing.

use proptest::prelude::*;

use super::super::testing::{Rng, backend, service};
use super::super::{
    Backend, Fabric, Frontend, LocalMap, NoReasons, Prefixes, Recorded, SnapshotBuilder, choose,
};
use super::*;
use crate::packet::tuple::Proto;

mod external;
mod masquerade;

/// A decision without its borrow, and with the service port's id for its pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    Serve(u32, Set, bool),
    Reject,
    Drop(DropReason),
    NotOurs,
}

fn plain(decision: Decision<'_>) -> Plain {
    match decision {
        Decision::Serve { service, set, masquerade } => Plain::Serve(service.id.0, set, masquerade),
        Decision::Reject => Plain::Reject,
        Decision::Drop(reason) => Plain::Drop(reason),
        Decision::NotOurs => Plain::NotOurs,
    }
}

fn to(dst: &str, dport: u16, proto: Proto) -> Tuple<IpAddr> {
    Tuple { src: "10.0.0.9".parse().unwrap(), dst: dst.parse().unwrap(), sport: 40_000, dport, proto }
}

fn fabric() -> Fabric {
    Fabric {
        snat: ["10.96.255.1", "192.0.2.1", "169.254.77.1"].map(|addr| addr.parse().unwrap()).to_vec(),
        service_cidrs: vec![("10.96.0.0".parse().unwrap(), 12)],
        ..Fabric::default()
    }
}

/// E: a usable endpoint anywhere, L: one on this node.
fn port(id: u32, addr: &str, internal: Policy, endpoint: bool, here: bool) -> Service {
    let mut service = Service { internal, any: endpoint, ..service(id, addr, 80) };
    if endpoint {
        service.backends = Box::new([Backend { local: here, ..backend(1, "10.1.0.1", 8080) }]);
        service.cluster = if internal == Policy::Cluster { Box::new([0]) } else { Box::default() };
        service.local = if internal == Policy::Local && here { Box::new([0]) } else { Box::default() };
    }
    service
}

#[test]
fn the_cluster_ip_rows_of_the_truth_table() {
    let rows = [
        (Policy::Cluster, false, false, Plain::Reject),
        (Policy::Cluster, true, false, Plain::Serve(1, Set::Cluster, true)),
        (Policy::Cluster, true, true, Plain::Serve(1, Set::Cluster, true)),
        (Policy::Local, false, false, Plain::Reject),
        (Policy::Local, true, false, Plain::Drop(DropReason::NoLocalEndpoint)),
        (Policy::Local, true, true, Plain::Serve(1, Set::Local, true)),
    ];
    for (internal, endpoint, here, expected) in rows {
        let mut builder = SnapshotBuilder::new(fabric());
        builder.upsert(port(1, "10.96.0.1", internal, endpoint, here));
        let world = builder.build().unwrap();
        let mut why = Recorded::default();
        let said = decide(&world, &to("10.96.0.1", 80, Proto::Tcp), &Origin::default(), &mut why);
        assert_eq!(plain(said), expected, "{internal:?} E={endpoint} L={here}: {:?}", why.steps());
    }
}

#[test]
fn what_is_no_frontend() {
    let mut builder = SnapshotBuilder::new(fabric());
    builder.upsert(port(1, "10.96.0.1", Policy::Cluster, true, true));
    builder.upsert(port(2, "198.51.100.7", Policy::Cluster, false, false));
    let world = builder.build().unwrap();
    let rows = [
        (to("10.96.0.1", 80, Proto::Udp), Plain::Reject, "not a port"),
        (to("10.96.0.1", 81, Proto::Tcp), Plain::Reject, "not a port"),
        (to("198.51.100.7", 81, Proto::Sctp), Plain::Reject, "not a port"),
        (to("10.96.0.2", 80, Proto::Tcp), Plain::Drop(DropReason::UnallocatedVip), "no Service has"),
        (to("10.96.255.1", 80, Proto::Tcp), Plain::Drop(DropReason::NoFlow), "SNAT"),
        (to("192.0.2.1", 80, Proto::Udp), Plain::Drop(DropReason::NoFlow), "SNAT"),
        (to("10.1.0.1", 8080, Proto::Tcp), Plain::NotOurs, "none of our"),
        (to("fd00::1", 80, Proto::Tcp), Plain::NotOurs, "none of our"),
        (to("169.254.77.1", 80, Proto::Tcp), Plain::Drop(DropReason::NoFlow), "SNAT"),
        (to("169.254.77.2", 80, Proto::Udp), Plain::NotOurs, "none of our"),
        (to("fe80::1", 80, Proto::Udp), Plain::NotOurs, "none of our"),
    ];
    for (tuple, expected, because) in rows {
        let mut why = Recorded::default();
        assert_eq!(plain(decide(&world, &tuple, &Origin::default(), &mut why)), expected, "{tuple}");
        assert!(why.steps().last().unwrap().contains(because), "{tuple}: {:?}", why.steps());
        assert_eq!(plain(decide_portless(&world, tuple.dst, &mut why)), expected, "{tuple} without ports");
    }
    let served = decide_portless(&world, "10.96.0.1".parse().unwrap(), &mut NoReasons);
    assert_eq!(plain(served), Plain::Reject, "an echo to a ClusterIP that serves");
}

/// A local pod, and this host.
fn somewhere() -> Arc<LocalMap> {
    let pod = ("10.2.0.0".parse().unwrap(), 24, Place::LocalPod);
    let host = ("10.3.0.1".parse().unwrap(), 32, Place::Host);
    Arc::new(LocalMap::new([pod, host], &[Family::V4]).unwrap())
}

/// Address, port, over UDP, policies Local, ways in from outside, backends (host, here, usable).
type AnyService = (u8, u16, bool, [bool; 2], (u8, u8, u8), Vec<(u8, bool, bool)>);

fn any_service() -> impl Strategy<Value = AnyService> {
    let backends = prop::collection::vec((0_u8..20, any::<bool>(), any::<bool>()), 0..6);
    // Another address and what it is, and a node port: 0 is none.
    let outside = (0_u8..12, 0_u8..4, 0_u8..4);
    (0_u8..12, 80_u16..83, any::<bool>(), any::<[bool; 2]>(), outside, backends)
}

proptest! {
    /// Taking reasons down changes neither the verdict nor the endpoint, and is never silent.
    #[test]
    fn reasons_change_nothing(
        services in prop::collection::vec(any_service(), 0..12), seed in any::<u64>(),
        packets in prop::collection::vec((0_u8..16, 79_u16..87, any::<bool>(), 0_u8..3), 1..40), marked in any::<bool>(),
    ) {
        let mut builder = SnapshotBuilder::new(Fabric {
            return_path: if marked { ReturnPath::ConnMark } else { ReturnPath::Masquerade },
            local: somewhere(),
            node_addresses: vec!["10.96.0.12".parse().unwrap()],
            ..fabric()
        });
        let mut taken = std::collections::BTreeSet::new();
        for (id, (vip, number, udp, local, outside, backends)) in (1_u32..).zip(services) {
            let mut new = service(id, &format!("10.96.0.{vip}"), number);
            if udp { new.port.proto = Proto::Udp; }
            if !taken.insert((vip, new.port)) { continue; }
            let policy = |local| if local { Policy::Local } else { Policy::Cluster };
            (new.internal, new.external) = (policy(local[0]), policy(local[1]));
            let (other, kind, node_port) = outside;
            let kinds = [FrontendKind::ExternalIp, FrontendKind::LoadBalancer];
            let other = kinds.get(usize::from(kind)).filter(|_| taken.insert((other, new.port))).map(|kind| {
                Frontend { addr: format!("10.96.0.{other}").parse().unwrap(), kind: *kind }
            });
            let mut frontends: Vec<_> = new.frontends.iter().copied().chain(other).collect();
            frontends.sort();
            new.frontends = frontends.into();
            let at_node = SvcPort { port: 83 + u16::from(node_port), proto: new.port.proto };
            new.node_port = (node_port > 0 && taken.insert((255, at_node))).then_some(at_node.port);
            if kind == 1 {
                let some = [("10.0.0.8".parse().unwrap(), 31)];
                new.sources = Some(Arc::new(Prefixes::new(&some).unwrap()));
            }
            let unique: std::collections::BTreeMap<_, _> = backends.iter().map(|b| (b.0, b)).collect();
            new.backends = unique.values().map(|&&(host, local, usable)| {
                let id = u32::from(host) + 1;
                Backend { local, ready_or_serving: usable, ..backend(id, &format!("10.1.0.{host}"), 8080) }
            }).collect();
            let usable = |keep: &dyn Fn(&Backend) -> bool| (0_u32..).zip(&new.backends)
                .filter(|(_, b)| b.ready_or_serving && keep(b)).map(|(n, _)| n).collect::<Box<[u32]>>();
            (new.cluster, new.local) = (usable(&|_| true), usable(&|b| b.local));
            new.any = !new.cluster.is_empty();
            if local[0] && !new.is_external() { new.cluster = Box::default(); }
            builder.upsert(new);
        }
        let world = builder.build().unwrap();
        for (vip, number, udp, client) in packets {
            let dst = if vip < 14 { format!("10.96.0.{vip}") } else { format!("192.0.2.{vip}") };
            let mut tuple = to(&dst, number, if udp { Proto::Udp } else { Proto::Tcp });
            tuple.src = ["10.0.0.9", "10.2.0.1", "10.3.0.1"][usize::from(client)].parse().unwrap();
            let mut why = Recorded::default();
            let quiet = decide(&world, &tuple, &Origin::default(), &mut NoReasons);
            let loud = decide(&world, &tuple, &Origin::default(), &mut why);
            prop_assert!(!why.steps().is_empty());
            if let (Decision::Serve { service, set, .. }, Decision::Serve { .. }) = (quiet, loud) {
                let a = choose(service, set, &mut Rng::new(seed), &tuple, &mut NoReasons);
                let b = choose(service, set, &mut Rng::new(seed), &tuple, &mut why);
                prop_assert!(a.is_some(), "a set that is served from is never empty");
                prop_assert_eq!(a, b);
            }
            prop_assert_eq!(plain(quiet), plain(loud));
        }
    }
}
