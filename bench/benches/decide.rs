//! One decision about the first packet of a flow, ns, in clusters of 10 to 100,000 service ports: to a ClusterIP, to a
//! node port, to a live address on a port nobody serves, to an address that is none of ours. `hot` asks for the same ten
//! Services over and over: what a decision computes, whatever the size of the cluster. `cold` asks for another Service's
//! address every time, in an order no cache can guess: what a decision costs at most, which is cache lines not there.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::Criterion;
use dataplane::ids::{EndpointId, ServiceId};
use dataplane::packet::tuple::{Proto, Tuple};
use dataplane::service::{
    Backend, Decision, Fabric, NoReasons, Origin, ReturnPath, Service, Snapshot, SnapshotBuilder, SvcPort,
    decide,
};

/// Node ports there are at most: as many as the range has.
const NODE_PORTS: u32 = 2_768;
/// Services that `hot` asks for.
const HOT: usize = 10;
const FIRST_NODE_PORT: u16 = 30_000;
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);

/// Where the packet about a Service of this number goes.
type Destination<'a> = &'a dyn Fn(u32) -> (Ipv4Addr, u16);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for services in [10, 1_000, 100_000] {
        bench(&mut criterion, services);
    }
    criterion.final_summary();
}

fn bench(c: &mut Criterion, services: u32) {
    let world = world(services);
    // Odd, and no power of two shares a factor with it.
    let scattered =
        (0..services).map(|n| u32::try_from(u64::from(n) * 0x9e37_79b1 % u64::from(services)).unwrap_or(0));
    let order: Vec<u32> = scattered.collect();
    let node_port = |n: u32| FIRST_NODE_PORT + u16::try_from(n % services.min(NODE_PORTS)).unwrap_or(0);
    let cases: [(&str, Destination<'_>); 4] = [
        ("cluster_ip", &|n| (vip(n), 80)),
        ("node_port", &|n| (NODE, node_port(n))),
        ("wrong_port", &|n| (vip(n), 81)),
        ("not_ours", &|n| (Ipv4Addr::from_bits(vip(n).to_bits() ^ 0x8000_0000), 80)),
    ];
    for (case, to) in cases {
        for (heat, asked) in [("hot", HOT), ("cold", order.len())] {
            let packets: Vec<_> = order.iter().take(asked).map(|n| packet(to(*n))).collect();
            let mut turn = packets.iter().cycle();
            c.bench_function(&format!("decide/{case}/{heat}/{services}"), |b| {
                b.iter(|| {
                    let tuple = turn.next().expect("an endless walk");
                    let decision = decide(&world, tuple, &Origin::default(), &mut NoReasons);
                    assert!(is_right(case, &black_box(decision)), "{case}: {decision:?}");
                });
            });
        }
    }
}

fn is_right(case: &str, decision: &Decision<'_>) -> bool {
    match decision {
        Decision::Serve { .. } => matches!(case, "cluster_ip" | "node_port"),
        Decision::Reject => case == "wrong_port",
        Decision::NotOurs => case == "not_ours",
        Decision::Drop(_) => false,
    }
}

fn packet((dst, dport): (Ipv4Addr, u16)) -> Tuple<IpAddr> {
    let src = Ipv4Addr::new(10, 244, 1, 9).into();
    Tuple { src, dst: dst.into(), sport: 40_000, dport, proto: Proto::Tcp }
}

fn vip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + n)
}

/// Service ports with an address and an endpoint each, and a node port as long as there are any.
fn world(services: u32) -> Snapshot {
    let mut builder = SnapshotBuilder::new(Fabric {
        return_path: ReturnPath::ConnMark,
        node_addresses: vec![NODE.into()],
        ..Fabric::default()
    });
    for n in 0..services {
        let port = SvcPort { port: 80, proto: Proto::Tcp };
        let node_port = u16::try_from(n).ok().filter(|_| n < NODE_PORTS).map(|n| FIRST_NODE_PORT + n);
        builder.upsert(Service {
            backends: Box::new([Backend {
                id: EndpointId(n + 1),
                addr: Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 1).to_bits() + n).into(),
                port: 8080,
                local: false,
                ready_or_serving: true,
            }]),
            cluster: Box::new([0]),
            any: true,
            node_port,
            ..Service::bare(ServiceId(n + 1), &format!("bench/s{n}"), vip(n).into(), port)
        });
    }
    builder.build().expect("a valid world")
}
