//! The fabric changes under the Services: published at once, and hardly anything is compiled for it.

use std::sync::Arc;

use dataplane::packet::tuple::Family;
use dataplane::service::{LocalMap, Place, ReturnPath};

use super::*;

fn with_cidrs(cidrs: &[(&str, u8)]) -> Fabric {
    Fabric { service_cidrs: cidrs.iter().map(|(addr, len)| (ip(addr), *len)).collect(), ..fabric() }
}

#[test]
fn an_equal_fabric_is_no_news_and_another_is_published_without_touching_services() {
    let (web, eps) = (service("web", &["10.96.0.1"]), slice("web-1", "web", &["10.1.0.1"]));
    let mut bench = Bench::new(&[web], &[eps]);
    let before = bench.next();
    bench.compiler.set_fabric(fabric());
    assert!(!bench.compiler.has_new_fabric() && bench.step().0.is_none());
    let pods = [(ip("10.1.0.0"), 16, Place::LocalPod)];
    let local = Arc::new(LocalMap::new(pods, &[Family::V4]).unwrap());
    let kept = Fabric { return_path: ReturnPath::ConnMark, masquerade_all: true, local, ..fabric() };
    bench.compiler.set_fabric(kept.clone());
    assert!(bench.compiler.has_new_fabric());
    let (world, advanced) = bench.step();
    let world = snapshot(&world.unwrap());
    assert_eq!((world.generation(), advanced), (before.generation() + 1, 0), "no UDP flow is judged for it");
    assert_eq!(*world.fabric(), kept);
    let shared = |w: &Snapshot| tcp(w, "10.96.0.1").unwrap();
    assert!(Arc::ptr_eq(&shared(&before), &shared(&world)), "not compiled anew");
    assert!(!bench.compiler.has_new_fabric() && bench.step().0.is_none());
    // Back again before anybody compiled: nothing happened.
    bench.compiler.set_fabric(fabric());
    bench.compiler.set_fabric(kept);
    assert!(!bench.compiler.has_new_fabric() && bench.step().0.is_none());
}

#[test]
fn a_service_cidr_that_comes_or_goes_decides_about_the_endpoints_in_it_alone() {
    let services = [service("in", &["10.96.0.1"]), service("out", &["10.96.0.2"])];
    let slices = [slice("in-1", "in", &["10.1.0.1", "10.2.0.1"]), slice("out-1", "out", &["10.2.0.2"])];
    let mut bench = Bench::new(&services, &slices);
    let first = bench.next();
    let of = |world: &Snapshot, addr| backends(&tcp(world, addr).unwrap(), Set::Cluster);
    assert_eq!(of(&first, "10.96.0.1"), ["10.1.0.1:8080", "10.2.0.1:8080"]);
    bench.compiler.set_fabric(with_cidrs(&[("10.96.0.0", 16), ("10.1.0.0", 24)]));
    let second = bench.next();
    assert_eq!(of(&second, "10.96.0.1"), ["10.2.0.1:8080"]);
    assert!(second.in_service_cidr(ip("10.1.0.9")) && bench.told()[0].contains("10.1.0.1"));
    let out = |world: &Snapshot| tcp(world, "10.96.0.2").unwrap();
    assert!(Arc::ptr_eq(&out(&first), &out(&second)), "nothing of it changed");
    bench.compiler.set_fabric(with_cidrs(&[("10.96.0.0", 16)]));
    let third = bench.next();
    assert_eq!(of(&third, "10.96.0.1"), ["10.1.0.1:8080", "10.2.0.1:8080"]);
    assert!(bench.told().is_empty(), "{:?}", bench.told());
}

#[test]
fn an_endpoint_at_this_hosts_address_is_served_and_one_at_a_snat_address_is_not() {
    let (web, eps) = (service("web", &["10.96.0.1"]), slice("web-1", "web", &["192.168.0.7", "192.0.2.1"]));
    let mut bench = Bench::new(&[web], &[eps]);
    let hosts = [(ip("192.168.0.7"), 32, Place::Host)];
    let local = Arc::new(LocalMap::new(hosts, &[]).unwrap());
    bench.compiler.set_fabric(Fabric { return_path: ReturnPath::ConnMark, local, ..fabric() });
    let world = bench.next();
    assert_eq!(backends(&tcp(&world, "10.96.0.1").unwrap(), Set::Cluster), ["192.168.0.7:8080"]);
    assert!(bench.told()[0].contains("192.0.2.1"), "{:?}", bench.told());
}

#[test]
fn a_fabric_that_cannot_be_leaves_the_last_world_and_a_good_one_heals() {
    let mut bench = Bench::new(&[service("web", &["10.96.0.1"])], &[]);
    let first = bench.next();
    bench.compiler.set_fabric(with_cidrs(&[("10.0.0.0", 99)]));
    let mut never = || panic!("no epoch for a fabric");
    assert!(bench.compiler.compile(&mut bench.desired, &mut never).is_err());
    bench.compiler.set_fabric(with_cidrs(&[("10.96.0.0", 16), ("10.97.0.0", 16)]));
    let world = bench.next();
    assert_eq!(world.generation(), first.generation() + 1);
    assert!(world.in_service_cidr(ip("10.97.0.1")));
}
