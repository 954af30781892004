//! Node ports that nobody reaches, because no address of this host takes any.

use dataplane::service::ReturnPath;

use super::*;
use crate::source::Kind;

/// A Service of both families with a node port and an address of a load balancer that asks for its health.
fn outside() -> Service {
    let mut web = service("web", &["10.96.0.1", "fd00::1"]);
    web.ports[0].node_port = Some(30_080);
    web.load_balancer_ips = vec![ip("198.51.100.1")];
    web.health_check_port = Some(31_000);
    web
}

fn fabric_at(node_addresses: &[&str]) -> Fabric {
    let node_addresses = node_addresses.iter().map(|addr| ip(addr)).collect();
    Fabric { return_path: ReturnPath::ConnMark, node_addresses, ..fabric() }
}

fn node_ports(world: &Snapshot) -> Vec<(bool, Option<u16>)> {
    let mut ports: Vec<_> = world.services().map(|one| (one.cluster_ip.is_ipv4(), one.node_port)).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn a_node_port_at_no_address_is_not_served_and_told() {
    let mut bench = Bench::new(&[outside()], &[]);
    bench.compiler = Compiler::new(fabric_at(&[]));
    assert_eq!(node_ports(&bench.next()), [(false, None), (true, None)]);
    assert!(bench.compiler.node_ports().is_empty());
    assert!(bench.told().is_empty(), "nobody knows yet which addresses the Node has");
    bench.desired.apply(Event::Done(Kind::Node));
    assert!(bench.step().0.is_none());
    let told = bench.told().join("\n");
    for words in [
        "Service default/web: spec.ports[0].nodePort: node port 30080 is at no address of this host: not served",
        "Service default/web: spec.healthCheckNodePort: health check node port 31000 is at no address",
    ] {
        assert!(told.contains(words) && told.contains("nodePortAddresses"), "{told}");
    }
    // One family has an address: the other is told.
    bench.compiler.set_fabric(fabric_at(&["192.168.0.1"]));
    let world = bench.next();
    assert_eq!(node_ports(&world), [(false, None), (true, Some(30_080))]);
    let told = bench.told();
    assert!(told.len() == 2 && told.iter().all(|told| told.contains("IPv6 ")), "{told:?}");
    bench.compiler.set_fabric(fabric_at(&["192.168.0.1", "fd00:1::1"]));
    assert_eq!(node_ports(&bench.next()), [(false, Some(30_080)), (true, Some(30_080))]);
    assert!(bench.told().is_empty(), "{:?}", bench.told());
    bench.compiler.set_fabric(fabric_at(&["192.168.0.1"]));
    assert_eq!(node_ports(&bench.next()), [(false, None), (true, Some(30_080))]);
    assert_eq!(bench.told().len(), 2);
}
