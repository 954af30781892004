//! Who gets a frontend that several Services claim: a ClusterIP, then who has endpoints, then the oldest.

use dataplane::service::{FrontendKind, ReturnPath};

use super::*;

const SHARED: &str = "198.51.100.60";
const NODE: &str = "192.168.0.1";

fn made(name: &str, vip: u8, created: i64) -> Service {
    Service { created, ..service(name, &[&format!("10.96.30.{vip}")]) }
}

fn bench(services: &[Service], slices: &[Slice]) -> Bench {
    let mut bench = Bench::new(services, slices);
    bench.compiler = Compiler::new(Fabric {
        return_path: ReturnPath::ConnMark,
        node_addresses: vec![ip(NODE)],
        ..fabric()
    });
    let external_ips = Prefixes::new(&[(ip("0.0.0.0"), 0)]).unwrap();
    bench.compiler.set_rules(Rules { external_ips, ..Rules::default() });
    bench
}

/// Whose it is, and as what.
fn at(world: &Snapshot, addr: &str, port: u16) -> (String, FrontendKind) {
    let (kind, service) = world.frontend(ip(addr), SvcPort { port, proto: Proto::Tcp }).unwrap();
    (service.name.trim_start_matches("default/").to_owned(), kind)
}

fn not_ready(name: &str, of: &str) -> Slice {
    let mut pods = slice(name, of, &["10.244.0.9"]);
    (pods.endpoints[0].ready, pods.endpoints[0].serving) = (false, false);
    pods
}

#[test]
fn a_service_without_endpoints_hides_none_that_has_some() {
    type Shares = fn(&mut Service);
    let rows: [(&str, Shares, u16, FrontendKind); 3] = [
        (SHARED, |service| service.external_ips.push(ip(SHARED)), 80, FrontendKind::ExternalIp),
        (SHARED, |service| service.load_balancer_ips.push(ip(SHARED)), 80, FrontendKind::LoadBalancer),
        (NODE, |service| service.ports[0].node_port = Some(30_080), 30_080, FrontendKind::NodePort),
    ];
    for (addr, share, number, kind) in rows {
        let (mut blue, mut green) = (made("blue", 1, 100), made("green", 2, 200));
        share(&mut blue);
        share(&mut green);
        let pods = slice("green-1", "green", &["10.244.0.66"]);
        let mut bench = bench(&[blue, green], &[pods.clone(), slice("blue-1", "blue", &[])]);
        let world = bench.next();
        assert_eq!(at(&world, addr, number), ("green".into(), kind));
        assert_eq!(
            (at(&world, "10.96.30.1", 80).0, at(&world, "10.96.30.2", 80).0),
            ("blue".into(), "green".into())
        );
        let told = bench.told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("Service default/blue: "), "{told:?}");
        assert!(told[0].contains("belongs to Service default/green, which has endpoints"), "{told:?}");

        // Each change of endpoints moves the frontend, although no Service changed.
        let steps = [
            (not_ready("blue-1", "blue"), None),
            (slice("blue-1", "blue", &["10.244.0.9"]), Some("blue")),
            (not_ready("blue-1", "blue"), Some("green")),
            (not_ready("green-1", "green"), Some("blue")),
            (pods, Some("green")),
        ];
        for (says, now) in steps {
            bench.desired.apply(says_slice(says));
            let world = bench.step().0;
            assert_eq!(world.map(|world| at(&snapshot(&world), addr, number).0).as_deref(), now);
        }
        bench.desired.apply(Event::SliceGone(key("green-1")));
        let world = bench.next();
        assert_eq!(at(&world, addr, number).0, "blue", "of two with nothing behind them the older refuses");
        assert!(!tcp(&world, "10.96.30.1").unwrap().any);
        assert!(
            bench.told()[0].contains("belongs to Service default/blue, which is older"),
            "{:?}",
            bench.told()
        );
    }
}

#[test]
fn a_policy_that_leaves_nothing_here_is_no_lack_of_endpoints() {
    let (mut blue, mut green) = (made("blue", 1, 100), made("green", 2, 200));
    for service in [&mut blue, &mut green] {
        service.load_balancer_ips.push(ip(SHARED));
    }
    blue.external = Policy::Local;
    let pods = [slice("blue-1", "blue", &["10.244.0.9"]), slice("green-1", "green", &["10.244.0.66"])];
    let mut bench = bench(&[blue, green], &pods);
    let world = bench.next();
    assert_eq!(
        at(&world, SHARED, 80).0,
        "blue",
        "it serves this node's pods, and every node agrees whose it is"
    );
    bench.desired.apply(Event::SliceGone(key("blue-1")));
    assert_eq!(at(&bench.next(), SHARED, 80).0, "green");
}

#[test]
fn a_cluster_ip_is_nobody_elses_whatever_the_ages() {
    let mut thief = made("thief", 9, 1);
    thief.external_ips.push(ip("10.96.30.2"));
    thief.load_balancer_ips.push(ip("10.96.30.3"));
    let pods = slice("thief-1", "thief", &["10.244.0.66"]);
    let mut bench = bench(&[thief, made("dns", 2, 300), made("web", 3, 0)], &[pods]);
    let world = bench.next();
    assert_eq!(
        at(&world, "10.96.30.2", 80),
        ("dns".into(), FrontendKind::ClusterIp),
        "although nothing is behind it"
    );
    assert_eq!(at(&world, "10.96.30.3", 80), ("web".into(), FrontendKind::ClusterIp));
    let told = bench.told();
    assert_eq!(told.len(), 2, "{told:?}");
    for words in [
        "spec.externalIPs: 10.96.30.2 port 80/TCP belongs to Service default/dns, whose ClusterIP it is",
        "status.loadBalancer.ingress: 10.96.30.3 port 80/TCP belongs to Service default/web, whose ClusterIP it is",
    ] {
        assert!(told.iter().any(|told| told.contains(words)), "{told:?}");
    }
}

#[test]
fn a_load_balancer_at_a_nodes_address_and_a_node_port_of_its_number() {
    let mut balanced = made("balanced", 1, 100);
    balanced.load_balancer_ips.push(ip(NODE));
    balanced.ports[0].port = 30_080;
    let mut web = made("web", 2, 200);
    web.ports[0].node_port = Some(30_080);
    let of = |name: &str| slice(&format!("{name}-1"), name, &["10.244.0.9"]);
    let mut bench = bench(&[balanced, web], &[of("web")]);
    assert_eq!(at(&bench.next(), NODE, 30_080), ("web".into(), FrontendKind::NodePort));
    let lost = "Service default/balanced: status.loadBalancer.ingress: 192.168.0.1 port 30080/TCP belongs to Service \
                default/web, which has endpoints";
    assert!(bench.told().iter().any(|told| told.starts_with(lost)), "{:?}", bench.told());

    bench.desired.apply(says_slice(of("balanced")));
    assert_eq!(at(&bench.next(), NODE, 30_080), ("balanced".into(), FrontendKind::LoadBalancer));
    let hidden = "Service default/web: spec.ports[0].nodePort: at 192.168.0.1 port 30080/TCP belongs to Service \
                  default/balanced: not served there";
    assert_eq!(bench.told().len(), 1);
    assert!(bench.told()[0].starts_with(hidden), "{:?}", bench.told());

    // The host's addresses decide, too.
    let mut elsewhere = bench.compiler.snapshot().unwrap().fabric().clone();
    elsewhere.node_addresses = vec![ip("192.168.0.2")];
    bench.compiler.set_fabric(elsewhere);
    let world = bench.next();
    assert_eq!(at(&world, NODE, 30_080), ("balanced".into(), FrontendKind::LoadBalancer));
    assert_eq!(at(&world, "192.168.0.2", 30_080), ("web".into(), FrontendKind::NodePort));
    assert!(bench.told().is_empty(), "{:?}", bench.told());
}

#[test]
fn a_node_port_with_the_number_of_a_health_check_is_told_to_who_is_checked() {
    let mut checked = made("checked", 1, 100);
    checked.health_check_port = Some(31_000);
    let mut web = made("web", 2, 200);
    web.ports[0].node_port = Some(31_000);
    let mut bench = bench(&[checked], &[]);
    bench.next();
    assert!(bench.told().is_empty());
    bench.apply(says(web));
    let words =
        "Service default/checked: spec.healthCheckNodePort: 31000 is a node port of Service default/web";
    assert!(bench.told().len() == 1 && bench.told()[0].starts_with(words), "{:?}", bench.told());
    bench.apply(Event::ServiceGone(key("web")));
    assert!(bench.told().is_empty());
}

#[test]
fn udp_flows_are_judged_anew_where_endpoints_move_a_frontend() {
    let dns = |name: &str, vip, created| {
        let mut service = made(name, vip, created);
        service.ports = vec![port("", 53, Proto::Udp)];
        service.load_balancer_ips.push(ip(SHARED));
        service
    };
    let pods = |name: &str, addrs: &[&str]| {
        let mut slice = slice(&format!("{name}-1"), name, addrs);
        slice.ports[0] = SlicePort { name: String::new(), proto: Proto::Udp, port: 53 };
        slice
    };
    let slices = [pods("blue", &["10.244.0.9"]), pods("green", &["10.244.0.66"])];
    let mut bench = bench(&[dns("blue", 1, 100), dns("green", 2, 200)], &slices);
    bench.next();
    bench.desired.apply(says_slice(pods("blue", &[])));
    let (world, advanced) = bench.step();
    let world = snapshot(&world.unwrap());
    assert_eq!(advanced, 1);
    let epochs: Vec<_> = world.services().map(|service| service.purge_epoch).collect();
    assert_eq!(epochs, [42, 42], "who lost it and who got it");
}
