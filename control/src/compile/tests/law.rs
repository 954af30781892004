//! The law of compiling in steps: whatever the events and wherever the compiles fall between them, the world is
//! the one that compiling the final objects from scratch gives, and so is what people are told.

use proptest::prelude::*;

use super::*;
use crate::model::{ObjectKey, Port, Problem};
use crate::source::Kind;
use dataplane::service::ReturnPath;

/// Addresses that are frontends, endpoints, or both.
pub(crate) const ADDRS: [&str; 6] =
    ["10.96.0.1", "198.51.100.1", "198.51.100.2", "10.1.0.1", "10.1.0.2", "fd00::1"];

#[derive(Clone, Debug)]
enum Step {
    Service(Service),
    ServiceGone(u8),
    Slice(Slice),
    SliceGone(u8),
    Zone(bool),
    Relist(Vec<Service>, Vec<Slice>),
    Fabric(u8),
    Rules(u8),
    Compile,
}

/// Fabrics that refuse now these, now those of [`ADDRS`].
fn any_fabric(which: u8) -> Fabric {
    let cidr = |addr: &str, len| (ip(addr), len);
    match which {
        0 => fabric(),
        1 => Fabric { masquerade_all: true, ..fabric() },
        2 => Fabric { service_cidrs: vec![cidr("10.96.0.0", 16), cidr("10.1.0.2", 32)], ..fabric() },
        3 => Fabric { service_cidrs: vec![cidr("10.1.0.0", 16), cidr("fd00::", 64)], ..fabric() },
        4 => Fabric { return_path: ReturnPath::ConnMark, ..fabric() },
        5 => {
            let node_addresses = vec![ip("198.51.100.1"), ip("198.51.100.2"), ip("fd00::1")];
            Fabric { return_path: ReturnPath::ConnMark, node_addresses, ..fabric() }
        }
        _ => Fabric { snat: vec![ip("198.51.100.2")], ..fabric() },
    }
}

fn any_rules(which: u8) -> Rules {
    let prefixes = [(ip("198.51.100.0"), 24), (ip("::"), 0)];
    let external_ips = Prefixes::new(&prefixes[..usize::from(which)]).unwrap();
    let algorithm = [Algorithm::Random, Algorithm::Maglev, Algorithm::RoundRobin][usize::from(which)];
    // Room for some of the tables.
    Rules { external_ips, algorithm, maglev_memory: 700, ..Rules::default() }
}

pub(crate) fn any_service() -> impl Strategy<Value = Service> {
    let some = |least| prop::sample::subsequence(ADDRS.to_vec(), least..3);
    let ports = prop::collection::vec((0_u8..2, 80_u16..83, any::<bool>(), 0_u16..3), 0..3);
    let outside = (some(0), some(0), 0_u8..4);
    (0_u8..4, some(1), outside, ports, any::<[bool; 2]>(), 0_i64..3).prop_map(
        |(name, vips, outside, ports, local, created)| {
            let policy = |local| if local { Policy::Local } else { Policy::Cluster };
            let mut service =
                Service { created, internal: policy(local[0]), ..service(&format!("s{name}"), &vips) };
            service.external = policy(local[1]);
            service.balance.algorithm = local[0].then_some(Algorithm::Maglev);
            service.external_ips = outside.0.into_iter().map(ip).collect();
            service.load_balancer_ips = outside.1.into_iter().map(ip).collect();
            service.source_ranges =
                [(ip("192.0.2.0"), 24), (ip("fd00::"), 8)][..usize::from(outside.2 / 2)].to_vec();
            service.health_check_port =
                local[1].then_some(30_000 + u16::from(outside.2)).filter(|port| *port != 30_000);
            service.ports = ports
                .into_iter()
                .map(|(name, number, udp, outside)| {
                    // One of the numbers is a node port's as well.
                    let number = if number == 82 { 30_001 } else { number };
                    let mut port =
                        port(["", "b"][usize::from(name)], number, if udp { Proto::Udp } else { Proto::Tcp });
                    port.node_port = (outside > 0).then_some(30_000 + outside);
                    port
                })
                .collect();
            service
        },
    )
}

pub(crate) fn any_slice() -> impl Strategy<Value = Slice> {
    let any_endpoint = (prop::sample::select(ADDRS.to_vec()), any::<[bool; 4]>(), any::<bool>());
    let ports = prop::collection::vec((0_u8..2, 8080_u16..8082, any::<bool>()), 1..3);
    (0_u8..4, 0_u8..4, prop::collection::vec(any_endpoint, 0..4), ports).prop_map(
        |(name, of, endpoints, ports)| {
            let mut slice = slice(&format!("e{name}"), &format!("s{of}"), &[]);
            slice.ports = ports
                .into_iter()
                .map(|(name, port, udp)| SlicePort {
                    name: ["", "b"][usize::from(name)].into(),
                    proto: if udp { Proto::Udp } else { Proto::Tcp },
                    port,
                })
                .collect();
            slice.endpoints = endpoints
                .into_iter()
                .map(|(addr, [ready, serving, terminating, here], hinted)| {
                    let node = Some(if here { HERE } else { "there" }.to_owned());
                    let mut endpoint = Endpoint { ready, serving, terminating, node, ..endpoint(addr) };
                    if hinted {
                        endpoint.zone_hints.insert("a".into());
                    }
                    endpoint
                })
                .collect();
            slice
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let services = prop::collection::vec(any_service(), 0..4);
    prop_oneof![
        6 => any_service().prop_map(Step::Service),
        3 => (0_u8..4).prop_map(Step::ServiceGone),
        6 => any_slice().prop_map(Step::Slice),
        3 => (0_u8..4).prop_map(Step::SliceGone),
        1 => any::<bool>().prop_map(Step::Zone),
        1 => (services, prop::collection::vec(any_slice(), 0..4)).prop_map(|(a, b)| Step::Relist(a, b)),
        1 => (0_u8..7).prop_map(Step::Fabric),
        1 => (0_u8..3).prop_map(Step::Rules),
        5 => Just(Step::Compile),
    ]
}

fn apply(desired: &mut Desired, step: Step) {
    match step {
        Step::Service(service) => desired.apply(says(service)),
        Step::ServiceGone(name) => desired.apply(Event::ServiceGone(key(&format!("s{name}")))),
        Step::Slice(slice) => desired.apply(says_slice(slice)),
        Step::SliceGone(name) => desired.apply(Event::SliceGone(key(&format!("e{name}")))),
        Step::Zone(on) => {
            let zone = on.then(|| "a".to_owned());
            desired.apply(Event::Node(Box::new(Node { name: HERE.into(), zone, ..Node::default() })));
        }
        Step::Relist(services, slices) => {
            desired.apply(Event::Restart(Kind::Service));
            desired.apply(Event::Restart(Kind::Slice));
            services.into_iter().for_each(|service| desired.apply(says(service)));
            desired.apply(Event::Done(Kind::Service));
            slices.into_iter().for_each(|slice| desired.apply(says_slice(slice)));
            desired.apply(Event::Done(Kind::Slice));
        }
        Step::Fabric(_) | Step::Rules(_) | Step::Compile => {}
    }
}

type Plain = BTreeMap<(Box<str>, bool, SvcPort), Compiled>;

/// A world by service port, without ids and epochs, which tell how it came about.
fn plain(world: &Snapshot) -> Plain {
    let bare = |service: &Arc<Compiled>| {
        let mut service = Compiled::clone(service);
        (service.id, service.purge_epoch) = (ServiceId(0), 0);
        service.backends.iter_mut().for_each(|backend| backend.id.0 = 0);
        ((service.name.clone(), service.cluster_ip.is_ipv4(), service.port), service)
    };
    world.services().map(bare).collect()
}

type Scratch = (Plain, BTreeMap<String, Vec<Problem>>, BTreeMap<ObjectKey, Health>);

fn from_scratch(desired: &Desired, fabric: &Fabric, rules: &Rules) -> Scratch {
    let services: Vec<_> = desired.services().values().cloned().collect();
    let slices: Vec<_> = services.iter().flat_map(|s| desired.slices(&s.key)).cloned().collect();
    let mut fresh = Bench::new(&services, &slices);
    fresh.compiler.set_fabric(fabric.clone());
    fresh.compiler.set_rules(rules.clone());
    fresh.desired.apply(Event::Node(Box::new(desired.node().clone())));
    let world = plain(&fresh.next());
    (world, fresh.compiler.problems().clone(), fresh.compiler.health().clone())
}

/// Steps in worlds where nearly everything is claimed more than once and endpoints come and go.
fn shared_step() -> impl Strategy<Value = Step> {
    let claimed = ["198.51.100.1", "198.51.100.2", "10.96.0.1"];
    let services = (0_u8..3, prop::sample::subsequence(claimed.to_vec(), 1..3), 0_i64..3, any::<[bool; 4]>());
    let services = services.prop_map(move |(name, shared, created, [local, here, udp, twin])| {
        let policy = |local| if local { Policy::Local } else { Policy::Cluster };
        let vip = format!("10.96.0.{}", name + 1);
        let mut service = Service { created, ..service(&format!("s{name}"), &[&vip]) };
        (service.internal, service.external) = (policy(here), policy(local));
        service.load_balancer_ips = shared.into_iter().map(ip).collect();
        let proto = if udp { Proto::Udp } else { Proto::Tcp };
        let number = if twin { 30_001 } else { 80 };
        service.ports = vec![Port { node_port: Some(30_001), ..port("", number, proto) }];
        service.health_check_port = twin.then_some(30_001);
        service
    });
    let slices =
        (0_u8..3, any::<[bool; 4]>(), any::<bool>()).prop_map(|(of, [some, ready, here, looped], udp)| {
            let mut slice = slice(&format!("e{of}"), &format!("s{of}"), &[]);
            slice.ports[0].proto = if udp { Proto::Udp } else { Proto::Tcp };
            // Refused while the address is a ClusterIP.
            let addr = if looped { "10.96.0.3" } else { "10.1.0.1" };
            let node = Some(if here { HERE } else { "there" }.to_owned());
            let endpoint = Endpoint { ready, serving: ready, node, ..endpoint(addr) };
            slice.endpoints = some.then_some(endpoint).into_iter().collect();
            slice
        });
    prop_oneof![
        4 => services.prop_map(Step::Service),
        1 => (0_u8..3).prop_map(Step::ServiceGone),
        8 => slices.prop_map(Step::Slice),
        1 => (0_u8..3).prop_map(Step::SliceGone),
        1 => (3_u8..7).prop_map(Step::Fabric),
        6 => Just(Step::Compile),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn steps_lead_where_one_leap_leads(steps in prop::collection::vec(any_step(), 0..40)) {
        walk(steps)?;
    }

    #[test]
    fn endpoints_move_frontends_as_one_leap_does(steps in prop::collection::vec(shared_step(), 0..40)) {
        walk([Step::Fabric(5)].into_iter().chain(steps).collect())?;
    }
}

/// Compares every compile on the way with one of everything.
fn walk(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut bench = Bench::new(&[], &[]);
    let mut world = bench.next();
    let (mut fabric, mut rules) = (fabric(), Rules::default());
    for step in steps.into_iter().chain([Step::Compile]) {
        let compiles = matches!(step, Step::Compile);
        if let Step::Fabric(which) = step {
            fabric = any_fabric(which);
            bench.compiler.set_fabric(fabric.clone());
        }
        if let Step::Rules(which) = step {
            rules = any_rules(which);
            bench.compiler.set_rules(rules.clone());
        }
        apply(&mut bench.desired, step);
        if !compiles {
            continue;
        }
        let before = world.clone();
        if let Some(next) = bench.step().0 {
            world = snapshot(&next);
            prop_assert_eq!(world.generation(), before.generation() + 1);
        }
        let (expected, problems, health) = from_scratch(&bench.desired, &fabric, &rules);
        prop_assert_eq!(bench.compiler.health(), &health);
        prop_assert_eq!(world.fabric(), &fabric);
        prop_assert_eq!(plain(&world), expected);
        prop_assert_eq!(bench.compiler.problems(), &problems);
        for service in world.services() {
            if let Some(old) = before.service(service.id) {
                prop_assert_eq!(&old.name, &service.name, "an id changed hands");
                prop_assert!(old == service || !Arc::ptr_eq(old, service));
            }
        }
    }
    for service in bench.desired.services().keys().cloned().collect::<Vec<_>>() {
        bench.desired.apply(Event::ServiceGone(service));
    }
    bench.step();
    let compiler = &bench.compiler;
    prop_assert!(compiler.objects.is_empty() && compiler.by_endpoint.is_empty() && compiler.slots.is_empty());
    prop_assert!(
        compiler.problems.is_empty() && compiler.claims.addrs().is_empty() && compiler.health.is_empty()
    );
    prop_assert!(compiler.claims.health_ports.is_empty());
    Ok(())
}
