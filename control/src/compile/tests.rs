//! What comes out of objects: sets, ids, sharing, refusals, contests, and recovery from a failed build.

mod balance;
mod contests;
mod epochs;
mod fabric;
pub(crate) mod law;
mod nowhere;
mod outside;

use dataplane::service::{Policy, Service as Compiled, Set, SvcPort};

use super::*;
use crate::fixtures::{HERE, desired, endpoint, ip, key, port, says, says_slice, service, slice};
use crate::model::{Endpoint, Node, Service, Slice, SlicePort};
use crate::source::Event;
use dataplane::packet::tuple::Proto;

fn fabric() -> Fabric {
    Fabric { snat: vec![ip("192.0.2.1")], service_cidrs: vec![(ip("10.96.0.0"), 16)], ..Fabric::default() }
}

/// A compiler with its objects and a counter of purge epochs.
struct Bench {
    compiler: Compiler,
    desired: Desired,
    epoch: u16,
}

impl Bench {
    fn new(services: &[Service], slices: &[Slice]) -> Self {
        Self { compiler: Compiler::new(fabric()), desired: desired(services, slices), epoch: 40 }
    }

    /// Compiles and says how often the epoch was advanced.
    fn step(&mut self) -> (Option<Arc<World>>, u32) {
        let (mut calls, epoch) = (0, &mut self.epoch);
        let world = self.compiler.compile(&mut self.desired, &mut || {
            calls += 1;
            *epoch += 1;
            *epoch
        });
        assert!(calls <= 1, "the epoch was advanced {calls} times");
        (world.unwrap(), calls)
    }

    /// Compiles, something must have changed.
    fn next(&mut self) -> Snapshot {
        snapshot(&self.step().0.expect("nothing changed"))
    }

    fn apply(&mut self, event: Event) -> Snapshot {
        self.desired.apply(event);
        self.next()
    }

    fn told(&self) -> Vec<String> {
        self.compiler.problems().values().flatten().map(ToString::to_string).collect()
    }
}

fn snapshot(world: &World) -> Snapshot {
    match world {
        World::Ready(snapshot) => snapshot.clone(),
        World::NotReady => panic!("a compile never unmakes a world"),
    }
}

fn tcp(world: &Snapshot, addr: &str) -> Option<Arc<Compiled>> {
    world.frontend(ip(addr), SvcPort { port: 80, proto: Proto::Tcp }).map(|(_, service)| Arc::clone(service))
}

fn backends(service: &Compiled, set: Set) -> Vec<String> {
    let members = service.members(set).iter().map(|n| &service.backends[*n as usize]);
    members.map(|b| format!("{}:{}", b.addr, b.port)).collect()
}

#[test]
fn nothing_before_both_lists_and_then_a_world_even_without_services() {
    let mut compiler = Compiler::new(fabric());
    let mut early = Desired::new(HERE);
    early.apply(says(service("web", &["10.96.0.1"])));
    let never = &mut || panic!("no epoch before the first world");
    assert!(compiler.compile(&mut early, never).unwrap().is_none());
    assert!(early.is_dirty(), "what was said meanwhile is not lost");
    let mut bench = Bench::new(&[], &[]);
    let (world, advanced) = bench.step();
    let world = snapshot(&world.unwrap());
    assert_eq!((world.generation(), world.service_count(), advanced), (1, 0, 1));
    assert!(world.is_snat(ip("192.0.2.1")) && world.in_service_cidr(ip("10.96.3.4")));
    assert!(bench.step().0.is_none());
}

#[test]
fn an_sctp_port_is_served_beside_the_others_of_its_number() {
    let mut web = service("web", &["10.96.0.1"]);
    web.ports = [Proto::Sctp, Proto::Tcp, Proto::Udp].map(|proto| port("p", 80, proto)).into();
    let mut pods = slice("web-1", "web", &["10.1.0.1"]);
    pods.ports = vec![SlicePort { name: "p".into(), proto: Proto::Sctp, port: 3868 }];
    let world = Bench::new(&[web], &[pods]).next();
    assert_eq!((world.service_count(), tcp(&world, "10.96.0.1").is_some()), (3, true));
    let (_, sctp) = world.frontend(ip("10.96.0.1"), SvcPort { port: 80, proto: Proto::Sctp }).unwrap();
    assert_eq!(
        sctp.backends.iter().map(|one| (one.addr, one.port)).collect::<Vec<_>>(),
        [(ip("10.1.0.1"), 3868)]
    );
    assert!(sctp.any && !tcp(&world, "10.96.0.1").unwrap().any, "its slice has no port for TCP");
}

#[test]
fn a_service_with_its_slices() {
    let mut web = service("web", &["10.96.0.1", "fd00::1"]);
    web.ports = vec![port("http", 80, Proto::Tcp), port("dns", 53, Proto::Udp)];
    let named = |name: &str, number| SlicePort { name: name.into(), proto: Proto::Tcp, port: number };
    let mut one = slice("web-1", "web", &["10.1.0.2", "10.1.0.1"]);
    one.ports = vec![named("http", 8080), named("unused", 1)];
    one.endpoints[0].node = Some(HERE.into());
    let mut two = slice("web-2", "web", &["10.1.0.3"]);
    two.ports = vec![named("http", 9090), SlicePort { proto: Proto::Udp, ..named("dns", 5353) }];
    let mut six = slice("web-6", "web", &["fd00:1::1"]);
    six.ports = vec![named("http", 8080)];
    let world = Bench::new(&[web], &[one, two, six]).next();
    assert_eq!(world.service_count(), 4);
    let http = tcp(&world, "10.96.0.1").unwrap();
    assert_eq!((&*http.name, http.internal, http.any), ("default/web:http", Policy::Cluster, true));
    assert_eq!(backends(&http, Set::Cluster), ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:9090"]);
    assert_eq!(backends(&http, Set::Local), [""; 0], "policy Cluster has no use for it");
    assert_eq!(http.backends.iter().map(|b| b.local).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(backends(&tcp(&world, "fd00::1").unwrap(), Set::Cluster), ["fd00:1::1:8080"]);
    let udp = SvcPort { port: 53, proto: Proto::Udp };
    assert_eq!(backends(world.frontend(ip("10.96.0.1"), udp).unwrap().1, Set::Cluster), ["10.1.0.3:5353"]);
    let (_, empty) = world.frontend(ip("fd00::1"), udp).unwrap();
    assert!(!empty.any && empty.backends.is_empty(), "live, but without endpoints of its family");
    let ids: BTreeSet<_> = world.services().map(|s| s.id).collect();
    let endpoints: BTreeSet<_> = world.services().flat_map(|s| s.backends.iter().map(|b| b.id)).collect();
    assert_eq!((ids.len(), endpoints.len()), (4, 5));
}

#[test]
fn policy_local_and_what_serves_without_being_in_a_set() {
    let web = Service { internal: Policy::Local, ..service("web", &["10.96.0.1"]) };
    let mut pods = slice("web-1", "web", &["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"]);
    pods.endpoints[1].node = Some(HERE.into());
    pods.endpoints[2].ready = false;
    (pods.endpoints[3].ready, pods.endpoints[3].serving) = (false, false);
    let mut bench = Bench::new(&[web], &[pods.clone()]);
    let service = tcp(&bench.next(), "10.96.0.1").unwrap();
    assert_eq!(backends(&service, Set::Local), ["10.1.0.2:8080"]);
    assert!(service.cluster.is_empty() && service.any);
    let all: Vec<_> = service.backends.iter().map(|b| b.addr.to_string()).collect();
    assert_eq!(all, ["10.1.0.1", "10.1.0.2", "10.1.0.3"], "ready or serving, on any node, in a set or not");
    pods.endpoints.remove(1);
    let service = tcp(&bench.apply(says_slice(pods)), "10.96.0.1").unwrap();
    assert!(service.local.is_empty() && service.any, "a gap in the policy, not a dead Service");
}

#[test]
fn one_address_twice_the_running_pod_beats_the_terminating() {
    let old = Endpoint { ready: false, terminating: true, ..endpoint("10.1.0.1") };
    let new = Endpoint { node: Some(HERE.into()), ..endpoint("10.1.0.1") };
    for (first, second) in [(&old, &new), (&new, &old)] {
        let mut slices = [slice("web-1", "web", &[]), slice("web-2", "web", &[])];
        slices[0].endpoints = vec![first.clone()];
        slices[1].endpoints = vec![second.clone()];
        let world = Bench::new(&[service("web", &["10.96.0.1"])], &slices).next();
        let service = tcp(&world, "10.96.0.1").unwrap();
        assert_eq!(service.backends.len(), 1);
        assert!(service.backends[0].local && service.cluster.len() == 1, "the running one is here");
    }
}

#[test]
fn what_comes_out_the_same_is_not_published_and_the_rest_is_shared() {
    let mut bench = Bench::new(
        &[service("a", &["10.96.0.1"]), service("b", &["10.96.0.2"])],
        &[slice("a-1", "a", &["10.1.0.1"])],
    );
    let first = bench.next();
    let mut noted = service("a", &["10.96.0.1"]);
    noted.created = 7;
    bench.desired.apply(says(noted));
    assert!(bench.desired.is_dirty());
    assert_eq!(bench.step().1, 0);
    let mut unready = slice("a-1", "a", &["10.1.0.1", "10.1.0.2"]);
    (unready.endpoints[1].ready, unready.endpoints[1].serving) = (false, false);
    bench.desired.apply(says_slice(unready));
    assert!(bench.step().0.is_none(), "an endpoint that is of no use changes nothing");
    let second = bench.apply(says_slice(slice("a-1", "a", &["10.1.0.1", "10.1.0.2"])));
    assert_eq!((first.generation(), second.generation()), (1, 2));
    assert!(Arc::ptr_eq(&tcp(&first, "10.96.0.2").unwrap(), &tcp(&second, "10.96.0.2").unwrap()));
    let (before, after) = (tcp(&first, "10.96.0.1").unwrap(), tcp(&second, "10.96.0.1").unwrap());
    assert_eq!((before.id, before.backends[0].id), (after.id, after.backends[0].id));
}

#[test]
fn ids_survive_deletion_and_flapping() {
    let pods = |addrs: &[&str]| says_slice(slice("web-1", "web", addrs));
    let mut bench =
        Bench::new(&[service("web", &["10.96.0.1"])], &[slice("web-1", "web", &["10.1.0.1", "10.1.0.2"])]);
    let first = tcp(&bench.next(), "10.96.0.1").unwrap();
    bench.apply(pods(&["10.1.0.2"]));
    let gone = bench.apply(Event::ServiceGone(key("web")));
    assert_eq!((gone.service_count(), gone.service(first.id).is_none()), (0, true));
    bench.apply(says(service("other", &["10.96.0.1"])));
    bench.apply(Event::ServiceGone(key("other")));
    bench.desired.apply(pods(&["10.1.0.2", "10.1.0.1"]));
    let back = bench.apply(says(service("web", &["10.96.0.1"])));
    let back = tcp(&back, "10.96.0.1").unwrap();
    assert_eq!((back.id, &back.backends), (first.id, &first.backends));
}

#[test]
fn a_contested_frontend_goes_to_the_older_and_then_to_the_next_in_line() {
    let made = |name: &str, created| Service { created, ..service(name, &["10.96.0.1"]) };
    let holder = |world: &Snapshot| tcp(world, "10.96.0.1").unwrap().name.clone();
    let mut bench = Bench::new(&[made("z-old", 100), made("b", 0), made("young", 300)], &[]);
    assert_eq!(&*holder(&bench.next()), "default/z-old");
    let told = bench.told();
    assert_eq!(told.len(), 2);
    assert!(
        told[0].starts_with(
            "Service default/b: spec.ports[0]: 10.96.0.1 port 80/TCP belongs to Service default/z-old"
        ),
        "{told:?}"
    );
    let taken = bench.apply(says(made("older", 50)));
    assert_eq!(&*holder(&taken), "default/older");
    assert!(bench.told().iter().all(|told| told.contains("belongs to Service default/older")));
    assert_eq!(bench.told().len(), 3);
    bench.apply(Event::ServiceGone(key("older")));
    let third = bench.apply(Event::ServiceGone(key("z-old")));
    assert_eq!(&*holder(&third), "default/young", "an unknown age comes last");
    let last = bench.apply(Event::ServiceGone(key("young")));
    assert_eq!((&*holder(&last), bench.told().len(), last.service_count()), ("default/b", 0, 1));
    bench.apply(says(made("a", 0)));
    assert_eq!(bench.told().len(), 1);
    let apart = bench.apply(says(service("b", &["10.96.0.2"])));
    assert_eq!((&*holder(&apart), apart.service_count(), bench.told().len()), ("default/a", 2, 0));
}

#[test]
fn a_service_may_contradict_itself() {
    let mut web = service("web", &["10.96.0.1"]);
    web.ports = vec![
        port("a", 80, Proto::Tcp),
        port("b", 80, Proto::Tcp),
        port("c", 1, Proto::Tcp),
        port("c", 81, Proto::Tcp),
    ];
    web.ports.push(port("d", 0, Proto::Tcp));
    let mut bench = Bench::new(&[web], &[]);
    let world = bench.next();
    assert_eq!((&*tcp(&world, "10.96.0.1").unwrap().name, world.service_count()), ("default/web:a", 2));
    let told = bench.told().join("\n");
    for (field, what) in
        [("[1]", "belongs to another port of the same Service"), ("[2]", "a later port"), ("[4]", "port 0")]
    {
        assert!(told.contains(&format!("spec.ports{field}: ")) && told.contains(what), "{field}: {told}");
    }
}

#[test]
fn endpoints_that_would_loop_are_refused_and_reported_once_per_reason() {
    let refused = [
        "127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "169.254.1.1",
        "224.0.0.1",
        "10.96.7.7",
        "10.96.0.1",
        "192.0.2.1",
    ];
    let mut pods = slice("web-1", "web", &refused);
    pods.endpoints.push(endpoint("10.1.0.1"));
    let mut two_ports = service("web", &["10.96.0.1"]);
    two_ports.ports.push(port("more", 81, Proto::Tcp));
    let mut bench = Bench::new(&[two_ports], &[pods.clone(), slice("web-2", "web", &["fe80::1", "::1"])]);
    let world = bench.next();
    assert_eq!(backends(&tcp(&world, "10.96.0.1").unwrap(), Set::Cluster), ["10.1.0.1:8080"]);
    let problems = bench.compiler.problems();
    let object = &problems["EndpointSlice default/web-1"];
    assert_eq!((object.len(), problems["EndpointSlice default/web-2"].len(), problems.len()), (7, 2, 2));
    assert!(object.iter().all(|p| p.field == "endpoints[*].addresses[0]" && !p.remedy.is_empty()));
    assert!(object.iter().any(|p| p.what == "127.0.0.1 is a loopback address, and so do 1 more: not used"));
    pods.endpoints.retain(|e| e.addr == ip("10.1.0.1"));
    bench.desired.apply(says_slice(pods));
    assert!(bench.step().0.is_none(), "nothing is served differently");
    assert_eq!(bench.compiler.problems().len(), 1, "but the complaint is gone");
}

#[test]
fn a_new_frontend_unmakes_endpoints_and_its_end_makes_them_again() {
    let mut bench = Bench::new(
        &[service("web", &["198.51.100.1"])],
        &[slice("web-1", "web", &["198.51.100.2", "10.1.0.1"])],
    );
    let both = ["10.1.0.1:8080", "198.51.100.2:8080"];
    let served = |world: &Snapshot| backends(&tcp(world, "198.51.100.1").unwrap(), Set::Cluster);
    assert_eq!(served(&bench.next()), both);
    let looped = bench.apply(says(service("other", &["198.51.100.2"])));
    assert_eq!(served(&looped), ["10.1.0.1:8080"]);
    assert!(bench.told()[0].contains("198.51.100.2 is the address of a Service"), "{:?}", bench.told());
    let mut second = service("second", &["198.51.100.2"]);
    second.ports = vec![port("", 81, Proto::Tcp)];
    bench.apply(says(second));
    bench.apply(Event::ServiceGone(key("other")));
    assert_eq!(bench.told().len(), 1, "another Service still has the address");
    let healed = bench.apply(Event::ServiceGone(key("second")));
    assert_eq!((served(&healed), bench.told().len()), (both.map(String::from).to_vec(), 0));
}

#[test]
fn a_frontend_that_cannot_be_is_reported_and_the_rest_of_the_service_serves() {
    let mut bench =
        Bench::new(&[service("web", &["192.0.2.1", "fd00::1"]), service("lo", &["127.0.0.1"])], &[]);
    let world = bench.next();
    assert_eq!((world.service_count(), tcp(&world, "fd00::1").is_some()), (1, true));
    let told = bench.told().join("\n");
    assert!(
        told.contains("Service default/web: spec.clusterIPs: 192.0.2.1 is one of tunway's SNAT addresses"),
        "{told}"
    );
    assert!(told.contains("Service default/lo: spec.clusterIPs: 127.0.0.1 is a loopback address"), "{told}");
}

#[test]
fn a_zone_label_recomputes_the_sets() {
    let mut pods = slice("web-1", "web", &["10.1.0.1", "10.1.0.2"]);
    for (endpoint, zone) in pods.endpoints.iter_mut().zip(["a", "b"]) {
        endpoint.zone_hints.insert(zone.into());
    }
    let mut bench = Bench::new(&[service("web", &["10.96.0.1"])], &[pods]);
    assert_eq!(tcp(&bench.next(), "10.96.0.1").unwrap().cluster.len(), 2);
    let node = Node { name: HERE.into(), zone: Some("b".into()), ..Node::default() };
    let near = bench.apply(Event::Node(Box::new(node)));
    assert_eq!(backends(&tcp(&near, "10.96.0.1").unwrap(), Set::Cluster), ["10.1.0.2:8080"]);
}

#[test]
fn a_failed_build_leaves_the_old_world_and_the_next_one_makes_up_for_it() {
    let dns = Service { ports: vec![port("", 53, Proto::Udp)], ..service("dns", &["10.96.0.10"]) };
    let mut bench =
        Bench::new(&[service("web", &["10.96.0.1"]), dns.clone(), service("x", &["10.96.0.3"])], &[]);
    let first = bench.next();
    // An epoch of 0 is none: the only way to make a build fail from outside.
    bench.desired.apply(says(Service { cluster_ips: vec![ip("10.96.0.11")], ..dns }));
    bench.desired.apply(says(service("web", &["10.96.0.2"])));
    bench.desired.apply(Event::ServiceGone(key("x")));
    let failed = bench.compiler.compile(&mut bench.desired, &mut || 0);
    assert!(matches!(failed, Err(BuildError::Service { .. })), "{failed:?}");
    assert!(!bench.desired.is_dirty());
    let healed = bench.next();
    assert_eq!((healed.generation(), healed.service_count()), (first.generation() + 1, 2));
    assert!(
        healed.is_cluster_ip(ip("10.96.0.11"))
            && tcp(&healed, "10.96.0.2").is_some()
            && !healed.is_cluster_ip(ip("10.96.0.3"))
    );
    assert!(bench.step().0.is_none());
    let mut hopeless =
        Compiler::new(Fabric { service_cidrs: vec![(ip("10.0.0.0"), 99)], ..Fabric::default() });
    let said = hopeless.compile(&mut bench.desired, &mut || 1);
    assert_eq!(said.unwrap_err(), BuildError::ServiceCidr(ip("10.0.0.0"), 99));
}
