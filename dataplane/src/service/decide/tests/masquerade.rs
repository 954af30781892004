//! Who keeps its address under connection marks: every kind of source to every kind of endpoint.

use super::*;

/// A node with the address `host`, pods 10.244.1.0/24 and fd00:244:1::/64, in a cluster of 10.244.0.0/16 and
/// fd00:244::/32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Pod,
    OtherPod,
    RemotePod,
    Host,
    /// Another address of the same host, out of the pods' prefix, as a bridge has.
    HostToo,
    OtherHost,
    Outside,
}

impl At {
    fn addr(self, v6: bool) -> IpAddr {
        let (four, six) = match self {
            Self::Pod => ("10.244.1.11", "fd00:244:1::11"),
            Self::OtherPod => ("10.244.1.12", "fd00:244:1::12"),
            Self::RemotePod => ("10.244.2.11", "fd00:244:2::11"),
            Self::Host => ("192.168.77.1", "fd00:77::1"),
            Self::HostToo => ("10.244.1.1", "fd00:244:1::1"),
            Self::OtherHost => ("192.168.77.2", "fd00:77::2"),
            Self::Outside => ("203.0.113.9", "2001:db8::9"),
        };
        if v6 { six } else { four }.parse().unwrap()
    }
}

/// How local pods are told from others.
#[derive(Clone, Copy, Debug)]
enum Detector {
    None,
    ClusterCidr,
    /// As `bridge` and `interfacePrefix`.
    NodeCidr,
}

fn local(detector: Detector) -> LocalMap {
    let net = |text: &str, len| (text.parse().unwrap(), len, Place::LocalPod);
    let pods = match detector {
        Detector::None => Vec::new(),
        Detector::ClusterCidr => vec![net("10.244.0.0", 16), net("fd00:244::", 32)],
        Detector::NodeCidr => vec![net("10.244.1.0", 24), net("fd00:244:1::", 64)],
    };
    let hosts = [At::Host, At::HostToo]
        .into_iter()
        .flat_map(|at| [(false, 32), (true, 128)].map(|(v6, len)| (at.addr(v6), len, Place::Host)));
    let both: &[Family] = if pods.is_empty() { &[] } else { &[Family::V4, Family::V6] };
    LocalMap::new(pods.iter().copied().chain(hosts), both).unwrap()
}

/// The snapshot of one Service with one endpoint, and its frontend.
fn world(fabric: Fabric, endpoint: IpAddr, internal: Policy) -> (Snapshot, IpAddr) {
    let vip: IpAddr = if endpoint.is_ipv4() { "10.96.0.1" } else { "fd00:96::1" }.parse().unwrap();
    let mut one = Service { internal, any: true, ..service(1, &vip.to_string(), 80) };
    one.backends = Box::new([Backend { local: true, ..backend(1, &endpoint.to_string(), 8080) }]);
    match internal {
        Policy::Cluster => one.cluster = Box::new([0]),
        Policy::Local => one.local = Box::new([0]),
    }
    let mut builder = SnapshotBuilder::new(fabric);
    builder.upsert(one);
    (builder.build().unwrap(), vip)
}

/// Whether the flow gets a SNAT address, and why.
fn masqueraded(fabric: Fabric, client: IpAddr, endpoint: IpAddr, internal: Policy) -> (bool, Vec<String>) {
    let (world, vip) = world(fabric, endpoint, internal);
    let tuple = Tuple { src: client, dst: vip, sport: 40_000, dport: 80, proto: Proto::Tcp };
    let mut why = Recorded::default();
    let Decision::Serve { service, set, masquerade } = decide(&world, &tuple, &Origin::default(), &mut why)
    else {
        panic!("not served: {:?}", why.steps());
    };
    let backend = choose(service, set, &mut Rng::new(1), &tuple, &mut why).unwrap();
    assert_eq!(backend.addr, endpoint);
    let origin = Origin::default();
    let loud = masquerades(&world, masquerade, client, endpoint, &origin, &mut why);
    assert_eq!(loud, masquerades(&world, masquerade, client, endpoint, &origin, &mut NoReasons));
    (loud, why.steps().to_vec())
}

fn connmark(detector: Detector, masquerade_all: bool) -> Fabric {
    let local = Arc::new(local(detector));
    Fabric { return_path: ReturnPath::ConnMark, masquerade_all, local, ..fabric() }
}

/// Source, endpoint, and whether it is masqueraded: no detector, the cluster's CIDRs, the node's, `masqueradeAll`
/// with and without a detector.
type Row = (At, At, [bool; 5]);

/// kube-proxy's sources, and what was measured on two nodes: pods keep their address, this host gets another
/// always, everybody from outside too unless the endpoint is this host, and whoever reaches itself in any case.
const ROWS: [Row; 26] = [
    (At::Pod, At::Pod, [true, true, true, true, true]),
    (At::Pod, At::OtherPod, [false, false, false, true, true]),
    (At::Pod, At::RemotePod, [false, false, false, true, true]),
    (At::Pod, At::Host, [false, false, false, false, false]),
    (At::Pod, At::HostToo, [false, false, false, false, false]),
    (At::Pod, At::OtherHost, [false, false, false, true, true]),
    (At::Pod, At::Outside, [false, false, false, true, true]),
    (At::RemotePod, At::RemotePod, [true, true, true, true, true]),
    (At::RemotePod, At::Pod, [false, false, true, true, true]),
    (At::RemotePod, At::Host, [false, false, false, false, false]),
    (At::RemotePod, At::OtherHost, [false, false, true, true, true]),
    (At::Host, At::Host, [true, true, true, true, true]),
    (At::Host, At::HostToo, [false, true, true, true, true]),
    (At::Host, At::Pod, [false, true, true, true, true]),
    (At::Host, At::RemotePod, [false, true, true, true, true]),
    (At::Host, At::OtherHost, [false, true, true, true, true]),
    (At::HostToo, At::HostToo, [true, true, true, true, true]),
    (At::HostToo, At::Pod, [false, true, true, true, true]),
    (At::OtherHost, At::Pod, [false, true, true, true, true]),
    (At::OtherHost, At::Host, [false, false, false, false, false]),
    (At::OtherHost, At::RemotePod, [false, true, true, true, true]),
    (At::OtherHost, At::OtherHost, [true, true, true, true, true]),
    (At::Outside, At::Pod, [false, true, true, true, true]),
    (At::Outside, At::RemotePod, [false, true, true, true, true]),
    (At::Outside, At::Host, [false, false, false, false, false]),
    (At::Outside, At::OtherHost, [false, true, true, true, true]),
];

#[test]
fn every_source_to_every_endpoint_by_every_detector() {
    let fabrics = [
        connmark(Detector::None, false),
        connmark(Detector::ClusterCidr, false),
        connmark(Detector::NodeCidr, false),
        connmark(Detector::None, true),
        connmark(Detector::ClusterCidr, true),
    ];
    for (source, endpoint, columns) in ROWS {
        for (fabric, expected) in fabrics.iter().zip(columns) {
            for (v6, internal) in [
                (false, Policy::Cluster),
                (false, Policy::Local),
                (true, Policy::Cluster),
                (true, Policy::Local),
            ] {
                let (client, endpoint) = (source.addr(v6), endpoint.addr(v6));
                let (is, why) = masqueraded(fabric.clone(), client, endpoint, internal);
                assert_eq!(is, expected, "{source:?} {client} > {endpoint} {internal:?}: {why:?}");
            }
        }
    }
}

#[test]
fn the_masquerade_return_path_keeps_nobodys_address() {
    for (source, endpoint, _) in ROWS {
        let fabric = Fabric { return_path: ReturnPath::Masquerade, ..connmark(Detector::ClusterCidr, false) };
        let (client, endpoint) = (source.addr(false), endpoint.addr(false));
        let (is, why) = masqueraded(fabric, client, endpoint, Policy::Cluster);
        assert!(is && why.iter().any(|step| step.contains("every flow")), "{source:?} > {endpoint}: {why:?}");
    }
}

#[test]
fn a_detector_of_one_family_says_nothing_of_the_other() {
    let pods = [("10.244.0.0".parse().unwrap(), 16, Place::LocalPod)];
    let local = Arc::new(LocalMap::new(pods, &[Family::V4]).unwrap());
    let fabric = Fabric { return_path: ReturnPath::ConnMark, local, ..fabric() };
    let ask = |v6| {
        let (client, endpoint) = (At::Outside.addr(v6), At::Pod.addr(v6));
        masqueraded(fabric.clone(), client, endpoint, Policy::Cluster).0
    };
    assert_eq!((ask(false), ask(true)), (true, false));
}

#[test]
fn every_reason_is_given() {
    let because = |fabric: &Fabric, source: At, endpoint: At, text: &str| {
        let (_, why) = masqueraded(fabric.clone(), source.addr(false), endpoint.addr(false), Policy::Cluster);
        assert!(why.iter().any(|step| step.contains(text)), "{source:?} > {endpoint:?}: {why:?}");
    };
    let cidr = connmark(Detector::ClusterCidr, false);
    because(&connmark(Detector::None, false), At::Host, At::Pod, "no detector");
    because(&connmark(Detector::None, true), At::Pod, At::OtherPod, "masqueradeAll");
    because(&cidr, At::Pod, At::OtherPod, "a local pod: it keeps");
    because(&cidr, At::Outside, At::Pod, "not a local pod");
    because(&cidr, At::Pod, At::Pod, "the client itself");
    because(&cidr, At::Outside, At::Host, "the endpoint is this host");
}
