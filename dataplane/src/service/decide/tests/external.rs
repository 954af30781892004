//! The truth table of every way in but the ClusterIP: external policies, their short-circuits, source ranges, node
//! ports, and the order in which a destination is looked for.

use super::*;

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Pod,
    RemotePod,
    Host,
    OtherHost,
    Outside,
}

const EVERYBODY: [At; 5] = [At::Pod, At::RemotePod, At::Host, At::OtherHost, At::Outside];

impl At {
    fn addr(self, v6: bool) -> IpAddr {
        let (four, six) = match self {
            Self::Pod => ("10.244.1.11", "fd00:244:1::11"),
            Self::RemotePod => ("10.244.2.11", "fd00:244:2::11"),
            Self::Host => ("192.168.77.1", "fd00:77::1"),
            Self::OtherHost => ("192.168.77.2", "fd00:77::2"),
            Self::Outside => ("203.0.113.9", "2001:db8::9"),
        };
        if v6 { six } else { four }.parse().unwrap()
    }
}

const CLUSTER_IP: [&str; 2] = ["10.96.0.1", "fd00:96::1"];
const EXTERNAL_IP: [&str; 2] = ["198.51.100.10", "2001:db8:10::10"];
const LB_VIP: [&str; 2] = ["198.51.100.20", "2001:db8:20::20"];
/// One that takes node ports, and one of the same host that does not.
const NODE: [[&str; 2]; 2] = [["192.168.77.1", "192.168.88.1"], ["fd00:77::1", "fd00:88::1"]];
const NODE_PORT: u16 = 30_080;

fn addr(of: [&str; 2], v6: bool) -> IpAddr {
    of[usize::from(v6)].parse().unwrap()
}

/// A node that knows the pods of its own CIDR, or none.
fn node(detector: bool) -> Fabric {
    let hosts = NODE.iter().flatten().map(|host| {
        let host: IpAddr = host.parse().unwrap();
        (host, if host.is_ipv4() { 32 } else { 128 }, Place::Host)
    });
    let pods: [(IpAddr, u8, Place); 2] = [("10.244.1.0", 24), ("fd00:244:1::", 64)]
        .map(|(net, len)| (net.parse().unwrap(), len, Place::LocalPod));
    let pods = pods.into_iter().filter(|_| detector);
    let detectors: &[Family] = if detector { &[Family::V4, Family::V6] } else { &[] };
    Fabric {
        return_path: ReturnPath::ConnMark,
        service_cidrs: vec![("10.96.0.0".parse().unwrap(), 12), ("fd00:96::".parse().unwrap(), 112)],
        local: Arc::new(LocalMap::new(pods.chain(hosts), detectors).unwrap()),
        node_addresses: vec![addr([NODE[0][0], NODE[1][0]], false), addr([NODE[0][0], NODE[1][0]], true)],
        ..fabric()
    }
}

/// A Service with every kind of frontend; E: a usable endpoint anywhere, L: one on this node.
fn everywhere(v6: bool, proto: Proto, external: Policy, endpoint: bool, here: bool) -> Service {
    let mut service = service(1, CLUSTER_IP[usize::from(v6)], 80);
    service.port.proto = proto;
    service.external = external;
    service.node_port = Some(NODE_PORT);
    let frontend = |of, kind| Frontend { addr: addr(of, v6), kind };
    let mut frontends = vec![
        frontend(CLUSTER_IP, FrontendKind::ClusterIp),
        frontend(EXTERNAL_IP, FrontendKind::ExternalIp),
        frontend(LB_VIP, FrontendKind::LoadBalancer),
    ];
    frontends.sort();
    service.frontends = frontends.into();
    if endpoint {
        let at = if v6 { "fd00:244:9::1" } else { "10.244.9.1" };
        service.backends = Box::new([Backend { local: here, ..backend(1, at, 8080) }]);
        service.any = true;
        service.cluster = Box::new([0]);
        service.local = if here { Box::new([0]) } else { Box::default() };
    }
    service
}

fn world(fabric: Fabric, services: impl IntoIterator<Item = Service>) -> Snapshot {
    let mut builder = SnapshotBuilder::new(fabric);
    services.into_iter().for_each(|service| builder.upsert(service));
    builder.build().unwrap()
}

fn ask(world: &Snapshot, src: IpAddr, dst: IpAddr, dport: u16, proto: Proto) -> (Plain, Vec<String>) {
    let tuple = Tuple { src, dst, sport: 40_000, dport, proto };
    let mut why = Recorded::default();
    let loud = plain(decide(world, &tuple, &Origin::default(), &mut why));
    assert_eq!(loud, plain(decide(world, &tuple, &Origin::default(), &mut NoReasons)));
    (loud, why.steps().to_vec())
}

const NOBODY_HERE: Plain = Plain::Drop(DropReason::NoLocalEndpoint);

/// What a client of an external frontend gets: no endpoint, one elsewhere, one here.
fn expected(external: Policy, detector: bool, client: At) -> [Plain; 3] {
    let cluster = |masquerade| Plain::Serve(1, Set::Cluster, masquerade);
    match (external, client) {
        (Policy::Cluster, _) => [Plain::Reject, cluster(true), cluster(true)],
        (Policy::Local, At::Pod) if detector => [Plain::Reject, cluster(false), cluster(false)],
        (Policy::Local, At::Host) => [Plain::Reject, cluster(true), cluster(true)],
        (Policy::Local, At::Pod | At::RemotePod | At::OtherHost | At::Outside) => {
            [Plain::Reject, NOBODY_HERE, Plain::Serve(1, Set::Local, false)]
        }
    }
}

#[test]
fn the_external_rows_of_the_truth_table() {
    for v6 in [false, true] {
        for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
            for (external, detector) in [
                (Policy::Cluster, true),
                (Policy::Cluster, false),
                (Policy::Local, true),
                (Policy::Local, false),
            ] {
                for ((endpoint, here), column) in
                    [(false, false), (true, false), (true, true)].into_iter().zip(0..)
                {
                    let world = world(node(detector), [everywhere(v6, proto, external, endpoint, here)]);
                    for client in EVERYBODY {
                        let wanted = &expected(external, detector, client)[column];
                        for (dst, dport) in [
                            (addr(EXTERNAL_IP, v6), 80),
                            (addr(LB_VIP, v6), 80),
                            (addr([NODE[0][0], NODE[1][0]], v6), NODE_PORT),
                        ] {
                            let (is, why) = ask(&world, client.addr(v6), dst, dport, proto);
                            assert_eq!(is, *wanted, "{client:?} {dst} {external:?}: {why:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn internal_and_external_policies_are_apart() {
    let mut both = everywhere(false, Proto::Tcp, Policy::Local, true, false);
    both.internal = Policy::Cluster;
    let one = world(node(true), [both.clone()]);
    let outside = At::Outside.addr(false);
    assert_eq!(
        ask(&one, outside, addr(CLUSTER_IP, false), 80, Proto::Tcp).0,
        Plain::Serve(1, Set::Cluster, true)
    );
    assert_eq!(ask(&one, outside, addr(LB_VIP, false), 80, Proto::Tcp).0, NOBODY_HERE);
    (both.internal, both.external) = (Policy::Local, Policy::Cluster);
    let other = world(node(true), [both]);
    assert_eq!(ask(&other, outside, addr(CLUSTER_IP, false), 80, Proto::Tcp).0, NOBODY_HERE);
    assert_eq!(
        ask(&other, outside, addr(LB_VIP, false), 80, Proto::Tcp).0,
        Plain::Serve(1, Set::Cluster, true)
    );
}

#[test]
fn source_ranges_close_load_balancer_addresses_and_nothing_else() {
    for (endpoint, allowed) in [(true, Plain::Serve(1, Set::Cluster, true)), (false, Plain::Reject)] {
        let mut closed = everywhere(false, Proto::Tcp, Policy::Cluster, endpoint, false);
        let ranges = [("203.0.113.0".parse().unwrap(), 24)];
        closed.sources = Some(Arc::new(Prefixes::new(&ranges).unwrap()));
        let world = world(node(true), [closed]);
        let closed = Plain::Drop(DropReason::SourceRange);
        for client in EVERYBODY {
            let inside = client == At::Outside;
            let get = |dst, port| ask(&world, client.addr(false), dst, port, Proto::Tcp).0;
            assert_eq!(get(addr(LB_VIP, false), 80), if inside { allowed } else { closed });
            assert_eq!(get(addr(EXTERNAL_IP, false), 80), allowed, "{client:?}");
            assert_eq!(get(NODE[0][0].parse().unwrap(), NODE_PORT), allowed, "{client:?}");
            assert!(!matches!(get(addr(CLUSTER_IP, false), 80), Plain::Drop(_)), "{client:?}");
        }
    }
}

#[test]
fn a_cluster_ip_that_is_a_load_balancers_address_as_well_is_closed_like_one() {
    for (guarded, expected) in [(false, Plain::Reject), (true, Plain::Drop(DropReason::SourceRange))] {
        let mut web = everywhere(false, Proto::Tcp, Policy::Cluster, false, false);
        web.sources = Some(Arc::new(Prefixes::new(&[("192.0.2.0".parse().unwrap(), 24)]).unwrap()));
        web.guarded = guarded;
        let world = world(node(true), [web]);
        let outside = At::Outside.addr(false);
        assert_eq!(ask(&world, outside, addr(CLUSTER_IP, false), 80, Proto::Tcp).0, expected);
        let allowed = "192.0.2.9".parse().unwrap();
        assert_eq!(ask(&world, allowed, addr(CLUSTER_IP, false), 80, Proto::Tcp).0, Plain::Reject);
        assert_eq!(ask(&world, outside, addr(EXTERNAL_IP, false), 80, Proto::Tcp).0, Plain::Reject);
    }
}

#[test]
fn frontends_come_before_node_ports_and_both_before_refusals() {
    let v4 = |text: &str| -> IpAddr { text.parse().unwrap() };
    let by_node_port = everywhere(false, Proto::Tcp, Policy::Cluster, true, true);
    // Its external IP is the node's own address, and its port is the other one's node port.
    let mut by_address = service(2, "10.96.0.2", NODE_PORT);
    by_address.frontends = Box::new([
        Frontend::cluster_ip(v4("10.96.0.2")),
        Frontend { addr: v4(NODE[0][0]), kind: FrontendKind::ExternalIp },
    ]);
    let world = world(node(true), [by_node_port, by_address]);
    let outside = At::Outside.addr(false);
    let rows = [
        (NODE[0][0], NODE_PORT, Proto::Tcp, Plain::Reject, "ExternalIP of default/s2"),
        (NODE[0][0], NODE_PORT, Proto::Udp, Plain::NotOurs, "none of our"),
        (NODE[0][0], NODE_PORT + 1, Proto::Tcp, Plain::NotOurs, "none of our"),
        (NODE[0][1], NODE_PORT, Proto::Tcp, Plain::NotOurs, "none of our"),
        ("192.168.77.2", NODE_PORT, Proto::Tcp, Plain::NotOurs, "none of our"),
        // A wrong port of an address that may be somebody else's, too.
        (EXTERNAL_IP[0], 81, Proto::Tcp, Plain::NotOurs, "none of our"),
        (LB_VIP[0], NODE_PORT, Proto::Tcp, Plain::NotOurs, "none of our"),
        (CLUSTER_IP[0], NODE_PORT, Proto::Tcp, Plain::Reject, "not a port"),
        ("10.96.0.3", NODE_PORT, Proto::Tcp, Plain::Drop(DropReason::UnallocatedVip), "no Service has"),
    ];
    for (dst, dport, proto, wanted, because) in rows {
        let (is, why) = ask(&world, outside, v4(dst), dport, proto);
        assert_eq!(is, wanted, "{dst} {dport}: {why:?}");
        assert!(why.iter().any(|step| step.contains(because)), "{dst} {dport}: {why:?}");
    }
    assert_eq!(plain(decide_portless(&world, v4(EXTERNAL_IP[0]), &mut NoReasons)), Plain::NotOurs);
    assert_eq!(plain(decide_portless(&world, v4(NODE[0][0]), &mut NoReasons)), Plain::NotOurs);
}

#[test]
fn an_interface_that_is_named_says_better_who_asks() {
    let world = world(node(true), [everywhere(false, Proto::Tcp, Policy::Local, true, false)]);
    let tuple = Tuple {
        src: At::Outside.addr(false),
        dst: addr(LB_VIP, false),
        sport: 40_000,
        dport: 80,
        proto: Proto::Tcp,
    };
    let by = |place| plain(decide(&world, &tuple, &Origin { place }, &mut NoReasons));
    assert_eq!(by(None), NOBODY_HERE);
    assert_eq!(by(Some(Place::LocalPod)), Plain::Serve(1, Set::Cluster, false));
    assert_eq!(by(Some(Place::Host)), Plain::Serve(1, Set::Cluster, true));
}
