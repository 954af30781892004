//! Ways in from outside: which frontends a Service gets, which it is refused, who of several gets a contested one, and
//! what load balancers hear.

use dataplane::service::{FrontendKind, ReturnPath};

use super::*;

fn outside() -> Fabric {
    Fabric { return_path: ReturnPath::ConnMark, ..fabric() }
}

fn allowing(cidrs: &[(&str, u8)]) -> Rules {
    let cidrs: Vec<_> = cidrs.iter().map(|(addr, len)| (ip(addr), *len)).collect();
    Rules { external_ips: Prefixes::new(&cidrs).unwrap(), ..Rules::default() }
}

fn bench(services: &[Service], slices: &[Slice]) -> Bench {
    let mut bench = Bench::new(services, slices);
    bench.compiler = Compiler::new(outside());
    bench.compiler.set_rules(allowing(&[("203.0.113.0", 24), ("2001:db8::", 32)]));
    bench
}

/// A Service of both families with a node port, two external and two load-balancer addresses.
fn everywhere(name: &str, vip: u8) -> Service {
    let mut service = service(name, &[&format!("10.96.0.{vip}"), &format!("fd00::{vip}")]);
    service.ports[0].node_port = Some(30_080);
    service.external_ips = vec![ip("203.0.113.1"), ip("2001:db8::1")];
    service.load_balancer_ips = vec![ip("198.51.100.1"), ip("2001:db8:1::1")];
    service
}

fn at(world: &Snapshot, addr: &str, port: u16) -> Option<(FrontendKind, String)> {
    let (kind, service) = world.frontend(ip(addr), SvcPort { port, proto: Proto::Tcp })?;
    Some((kind, service.name.to_string()))
}

#[test]
fn a_service_is_at_every_address_it_names() {
    let world = bench(&[everywhere("web", 1)], &[]).next();
    let is = |addr, port| at(&world, addr, port).map(|(kind, _)| kind);
    for (addr, kind) in [
        ("10.96.0.1", FrontendKind::ClusterIp),
        ("fd00::1", FrontendKind::ClusterIp),
        ("203.0.113.1", FrontendKind::ExternalIp),
        ("2001:db8::1", FrontendKind::ExternalIp),
        ("198.51.100.1", FrontendKind::LoadBalancer),
        ("2001:db8:1::1", FrontendKind::LoadBalancer),
    ] {
        assert_eq!((is(addr, 80), is(addr, 30_080)), (Some(kind), None), "{addr}");
    }
    let mut bench = bench(&[everywhere("web", 1)], &[]);
    let hosts = vec![ip("192.168.0.1"), ip("fd00:1::1")];
    bench.compiler.set_fabric(Fabric { node_addresses: hosts, ..outside() });
    let world = bench.next();
    for (addr, port, served) in [
        ("192.168.0.1", 30_080, true),
        ("fd00:1::1", 30_080, true),
        ("192.168.0.2", 30_080, false),
        ("192.168.0.1", 80, false),
    ] {
        let wanted = served.then(|| (FrontendKind::NodePort, "default/web".to_owned()));
        assert_eq!(at(&world, addr, port), wanted, "{addr} {port}");
    }
    assert_eq!(bench.compiler.frontends().len(), 6);
    assert_eq!(bench.compiler.node_ports().len(), 1);
}

#[test]
fn a_family_without_a_cluster_ip_has_no_ways_in() {
    let mut web = everywhere("web", 1);
    web.cluster_ips.pop();
    let world = bench(&[web], &[]).next();
    assert_eq!(world.service_count(), 1);
    assert!(at(&world, "2001:db8::1", 80).is_none() && at(&world, "2001:db8:1::1", 80).is_none());
    assert!(at(&world, "203.0.113.1", 80).is_some());
}

#[test]
fn an_address_named_twice_is_what_is_closest() {
    let mut web = everywhere("web", 1);
    web.external_ips = vec![ip("203.0.113.1"), ip("10.96.0.1")];
    web.load_balancer_ips = vec![ip("203.0.113.1")];
    let mut bench = bench(&[web], &[]);
    bench.compiler.set_rules(allowing(&[("0.0.0.0", 0)]));
    let world = bench.next();
    assert_eq!(at(&world, "10.96.0.1", 80).unwrap().0, FrontendKind::ClusterIp);
    assert_eq!(at(&world, "203.0.113.1", 80).unwrap().0, FrontendKind::LoadBalancer);
    assert!(bench.told().is_empty(), "{:?}", bench.told());
}

#[test]
fn a_cluster_ip_that_is_its_own_load_balancer_address_has_its_source_ranges() {
    let mut web = everywhere("web", 1);
    web.source_ranges = vec![(ip("192.168.0.0"), 24)];
    web.load_balancer_ips = vec![ip("10.96.0.1")];
    let mut bench = bench(&[web], &[]);
    let world = bench.next();
    let of = |addr: &str| world.services().find(|service| service.cluster_ip == ip(addr)).unwrap();
    assert_eq!(at(&world, "10.96.0.1", 80).unwrap().0, FrontendKind::ClusterIp);
    assert!(of("10.96.0.1").guarded && !of("10.96.0.1").admits(ip("203.0.113.9")));
    assert!(!of("fd00::1").guarded);
    // Another Service's claim to it closes nothing.
    let mut other = everywhere("other", 2);
    other.source_ranges = vec![(ip("192.0.2.0"), 24)];
    other.load_balancer_ips = vec![ip("10.96.0.1")];
    let world = bench.apply(says(other));
    let (_, web) = world.frontend(ip("10.96.0.1"), SvcPort { port: 80, proto: Proto::Tcp }).unwrap();
    assert!(web.admits(ip("192.168.0.9")));
}

#[test]
fn external_ips_are_refused_unless_they_are_allowed() {
    let mut bench = bench(&[everywhere("web", 1)], &[]);
    bench.compiler.set_rules(Rules::default());
    let world = bench.next();
    assert!(at(&world, "203.0.113.1", 80).is_none() && at(&world, "198.51.100.1", 80).is_some());
    let told = bench.told();
    assert_eq!(told.len(), 2, "{told:?}");
    let words = "Service default/web: spec.externalIPs: 203.0.113.1 is an external IP that the configuration does not allow";
    assert!(told.iter().any(|told| told.starts_with(words)), "{told:?}");
    assert!(!bench.compiler.frontends().contains(&ip("203.0.113.1")), "no route either");
    bench.compiler.set_rules(allowing(&[("203.0.113.1", 32)]));
    assert!(bench.compiler.starts_over());
    let world = bench.next();
    assert!(at(&world, "203.0.113.1", 80).is_some() && at(&world, "2001:db8::1", 80).is_none());
    assert_eq!(bench.told().len(), 1);
}

#[test]
fn without_connection_marks_there_are_no_node_ports_and_that_is_told() {
    let mut bench = bench(&[everywhere("web", 1)], &[]);
    bench.compiler.set_fabric(Fabric { node_addresses: vec![ip("192.168.0.1")], ..fabric() });
    let world = bench.next();
    assert!(at(&world, "192.168.0.1", 30_080).is_none() && at(&world, "203.0.113.1", 80).is_some());
    assert!(bench.compiler.node_ports().is_empty());
    assert_eq!(bench.told().len(), 1);
    assert!(
        bench.told()[0].starts_with("Service default/web: spec.ports[0].nodePort: node port 30080 needs")
    );
}

#[test]
fn every_contested_frontend_goes_to_the_older_by_itself() {
    let mut young = Service { created: 200, ..everywhere("young", 2) };
    young.external_ips.push(ip("203.0.113.2"));
    let old = Service { created: 100, ..everywhere("old", 1) };
    let mut bench = bench(&[young, old], &[]);
    let node_addresses = vec![ip("192.168.0.1"), ip("fd00:1::1")];
    bench.compiler.set_fabric(Fabric { node_addresses, ..outside() });
    let world = bench.next();
    let holder = |world: &Snapshot, addr, port| at(world, addr, port).unwrap().1;
    assert_eq!(holder(&world, "203.0.113.1", 80), "default/old");
    assert_eq!(holder(&world, "198.51.100.1", 80), "default/old");
    assert_eq!(holder(&world, "192.168.0.1", 30_080), "default/old");
    assert_eq!(holder(&world, "203.0.113.2", 80), "default/young");
    assert_eq!(holder(&world, "10.96.0.2", 80), "default/young");
    let told = bench.told().join("\n");
    for words in [
        "Service default/young: spec.externalIPs: 203.0.113.1 port 80/TCP belongs to Service default/old",
        "Service default/young: status.loadBalancer.ingress: 198.51.100.1 port 80/TCP belongs to",
        "Service default/young: spec.ports[0].nodePort: IPv4 node port 30080/TCP belongs to",
        "Service default/young: spec.ports[0].nodePort: IPv6 node port 30080/TCP belongs to",
    ] {
        assert!(told.contains(words), "{told}");
    }
    let world = bench.apply(Event::ServiceGone(key("old")));
    assert_eq!(holder(&world, "192.168.0.1", 30_080), "default/young");
    assert!(bench.told().is_empty());
}

#[test]
fn an_endpoint_may_be_at_an_external_address_but_at_no_cluster_ip() {
    let mut web = everywhere("web", 1);
    web.external_ips = vec![ip("203.0.113.1")];
    let world = bench(&[web], &[slice("web-1", "web", &["203.0.113.1", "198.51.100.1", "10.96.0.1"])]).next();
    assert_eq!(
        backends(&tcp(&world, "10.96.0.1").unwrap(), Set::Cluster),
        ["198.51.100.1:8080", "203.0.113.1:8080"]
    );
}

#[test]
fn this_node_among_the_sources_lets_in_whoever_has_the_address() {
    let node = |addr| {
        Event::Node(Box::new(Node { name: HERE.into(), addresses: vec![ip(addr)], ..Node::default() }))
    };
    let mut web = everywhere("web", 1);
    web.source_ranges = vec![(ip("192.168.0.0"), 24)];
    let mut bench = bench(&[web], &[]);
    bench.desired.apply(node("192.168.0.1"));
    let world = bench.next();
    let admits = |world: &Snapshot, addr, client: &str| {
        world.frontend(ip(addr), SvcPort { port: 80, proto: Proto::Tcp }).unwrap().1.admits(ip(client))
    };
    assert!(admits(&world, "198.51.100.1", "192.168.0.9") && !admits(&world, "198.51.100.1", "192.168.1.9"));
    assert!(
        admits(&world, "198.51.100.1", "198.51.100.1"),
        "a process of this host, with the address it asks"
    );
    assert!(!admits(&world, "198.51.100.1", "203.0.113.1"), "an external IP is another matter");
    assert!(admits(&world, "2001:db8:1::1", "2001:db8:9::9"), "nothing is said of the other family");
    let world = bench.apply(node("192.168.1.1"));
    assert!(!admits(&world, "198.51.100.1", "198.51.100.1"));
}

#[test]
fn load_balancers_hear_of_ready_endpoints_here_once_an_address() {
    let mut web = everywhere("web", 1);
    web.health_check_port = Some(31_000);
    let here = |addr: &str| Endpoint { node: Some(HERE.into()), ..endpoint(addr) };
    let mut first = slice("web-1", "web", &[]);
    first.endpoints = vec![here("10.1.0.1"), here("10.1.0.2"), endpoint("10.1.0.3")];
    first.endpoints.push(Endpoint { ready: false, terminating: true, ..here("10.1.0.4") });
    let mut second = slice("web-2", "web", &[]);
    second.endpoints = vec![here("10.1.0.1"), here("fd01::1")];
    second.ports[0].port = 9090;
    let mut bench = bench(&[web.clone()], &[first, second]);
    bench.next();
    let health = Health { port: 31_000, ready_v4: 2, ready_v6: 1, families: [true, true] };
    assert_eq!(bench.compiler.health(), &BTreeMap::from([(key("web"), health)]));
    web.health_check_port = None;
    bench.desired.apply(says(web));
    assert!(bench.step().0.is_none(), "no packet goes another way");
    assert!(bench.compiler.health().is_empty());
}
