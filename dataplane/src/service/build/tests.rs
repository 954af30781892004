//! What a builder refuses, shares and keeps.

use std::net::IpAddr;

use super::super::Backend;
use super::super::testing::{backend, service};
use super::*;
use crate::packet::tuple::Proto;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn build(services: impl IntoIterator<Item = Service>) -> Result<Snapshot, BuildError> {
    let mut builder = SnapshotBuilder::new(Fabric::default());
    services.into_iter().for_each(|service| builder.upsert(service));
    builder.build()
}

fn tcp(port: u16) -> SvcPort {
    SvcPort { port, proto: Proto::Tcp }
}

#[test]
fn a_service_is_found_by_id_and_by_frontend_and_only_there() {
    let mut udp = service(2, "10.96.0.1", 80);
    udp.port.proto = Proto::Udp;
    let world = build([service(1, "10.96.0.1", 80), udp, service(3, "fd00::1", 80)]).unwrap();
    assert_eq!(world.frontend(ip("10.96.0.1"), tcp(80)).unwrap().1.id, ServiceId(1));
    let udp = SvcPort { port: 80, proto: Proto::Udp };
    assert_eq!(world.frontend(ip("10.96.0.1"), udp).unwrap().1.id, ServiceId(2));
    assert_eq!(world.frontend(ip("fd00::1"), tcp(80)).unwrap().1.id, ServiceId(3));
    assert!(world.frontend(ip("10.96.0.1"), tcp(81)).is_none() && world.is_cluster_ip(ip("10.96.0.1")));
    assert!(world.frontend(ip("10.96.0.2"), tcp(80)).is_none() && !world.is_cluster_ip(ip("10.96.0.2")));
    assert_eq!((world.generation(), world.service_count(), world.services().count()), (1, 3, 3));
    assert_eq!(&*world.service(ServiceId(3)).unwrap().name, "default/s3");
    assert!(world.service(ServiceId(4)).is_none());
}

#[test]
fn two_services_on_one_frontend_are_an_error_that_names_both() {
    let error = build([service(1, "10.96.0.1", 80), service(2, "10.96.0.1", 80)]).unwrap_err();
    assert_eq!(error.to_string(), "default/s1 and default/s2 both claim 10.96.0.1 80/TCP");
    let first = build([service(1, "10.96.0.1", 80)]).unwrap();
    let mut next = SnapshotBuilder::from(&first);
    next.upsert(service(2, "10.96.0.1", 80));
    assert!(matches!(next.build(), Err(BuildError::DuplicateFrontend { .. })));
}

#[test]
fn frontends_may_change_hands_in_one_step_in_any_order() {
    let first = build([service(1, "10.96.0.1", 80), service(2, "10.96.0.2", 80)]).unwrap();
    let mut swap = SnapshotBuilder::from(&first);
    swap.upsert(service(1, "10.96.0.2", 80));
    swap.upsert(service(2, "10.96.0.1", 80));
    let swapped = swap.build().unwrap();
    assert_eq!(swapped.frontend(ip("10.96.0.2"), tcp(80)).unwrap().1.id, ServiceId(1));
    assert_eq!(swapped.frontend(ip("10.96.0.1"), tcp(80)).unwrap().1.id, ServiceId(2));
    assert_eq!(swapped.generation(), 2);
    let mut moved = SnapshotBuilder::from(&swapped);
    moved.upsert(service(9, "10.96.0.1", 80));
    moved.remove(ServiceId(2));
    moved.remove(ServiceId(77));
    let moved = moved.build().unwrap();
    assert_eq!(moved.frontend(ip("10.96.0.1"), tcp(80)).unwrap().1.id, ServiceId(9));
    assert!(moved.service(ServiceId(2)).is_none());
    assert_eq!(
        first.frontend(ip("10.96.0.1"), tcp(80)).unwrap().1.id,
        ServiceId(1),
        "the old world is unmoved"
    );
}

#[test]
fn an_id_never_changes_its_name() {
    let mut twice = SnapshotBuilder::new(Fabric::default());
    twice.upsert(service(1, "10.96.0.1", 80));
    twice.upsert(Service { name: "default/other".into(), ..service(1, "10.96.0.2", 80) });
    assert_eq!(twice.build().unwrap_err().to_string(), "id 1 names both default/s1 and default/other");
    let first = build([service(1, "10.96.0.1", 80)]).unwrap();
    let mut later = SnapshotBuilder::from(&first);
    later.upsert(Service { name: "default/other".into(), ..service(1, "10.96.0.1", 80) });
    assert!(matches!(later.build(), Err(BuildError::DuplicateId { .. })));
}

#[test]
fn a_service_port_that_contradicts_itself_is_refused() {
    let two = || {
        let mut service = service(1, "10.96.0.1", 80);
        service.backends = Box::new([backend(1, "10.1.0.1", 80), backend(2, "10.1.0.2", 80)]);
        service.cluster = Box::new([0, 1]);
        service.any = true;
        service
    };
    build([two()]).unwrap();
    type Break = fn(&mut Service);
    let cases: [(&str, Break); 14] = [
        ("id 0 is none", |s| s.id = ServiceId(0)),
        ("port 0 is none", |s| s.port.port = 0),
        ("port 0 is none", |s| s.backends[0].port = 0),
        ("not within 1 to 16383", |s| s.purge_epoch = 0),
        ("not within 1 to 16383", |s| s.purge_epoch = 1 << 14),
        ("endpoint id 0", |s| s.backends[0].id.0 = 0),
        ("two backends have one id", |s| s.backends[0].id.0 = 2),
        ("other family", |s| s.backends[1].addr = IpAddr::V6("fd00::1".parse().unwrap())),
        ("not strictly ascending by", |s| s.backends.swap(0, 1)),
        ("not strictly ascending by", |s| {
            s.backends[1] = Backend { id: s.backends[1].id, ..s.backends[0].clone() }
        }),
        ("not there", |s| s.cluster = Box::new([0, 2])),
        ("a set is not strictly", |s| s.cluster = Box::new([1, 1])),
        ("another node", |s| s.local = Box::new([0])),
        ("no endpoint is usable", |s| s.any = false),
    ];
    for (expected, spoil) in cases {
        let mut bad = two();
        spoil(&mut bad);
        let said = build([bad]).unwrap_err().to_string();
        assert!(said.starts_with("default/s1: ") && said.contains(expected), "{said:?} lacks {expected:?}");
    }
}

#[test]
fn the_fabric_is_checked_against_itself_and_the_frontends() {
    let with = |snat: &[&str], cidrs: &[(&str, u8)], vip: &str| {
        let mut builder = SnapshotBuilder::new(Fabric {
            snat: snat.iter().map(|addr| ip(addr)).collect(),
            service_cidrs: cidrs.iter().map(|(addr, len)| (ip(addr), *len)).collect(),
            ..Fabric::default()
        });
        builder.upsert(service(1, vip, 80));
        builder.build()
    };
    let good = with(&["192.0.2.1", "fd00::7"], &[("10.96.0.0", 12)], "10.96.0.1").unwrap();
    assert!(good.is_snat(ip("fd00::7")) && !good.is_snat(ip("10.96.0.1")));
    assert!(good.in_service_cidr(ip("10.111.0.1")) && !good.in_service_cidr(ip("192.0.2.1")));
    for (snat, said) in [(["127.0.0.1", "::1"], "unicast"), (["192.0.2.1"; 2], "twice")] {
        assert!(with(&snat, &[], "10.96.0.1").unwrap_err().to_string().contains(said));
    }
    assert!(with(&["10.96.0.1"], &[], "10.96.0.1").unwrap_err().to_string().contains("frontend"));
    assert_eq!(
        with(&[], &[("10.0.0.0", 40)], "10.96.0.1").unwrap_err(),
        BuildError::ServiceCidr(ip("10.0.0.0"), 40)
    );
}

#[test]
fn one_change_among_many_copies_one_chunk_of_each_collection() {
    let vip = |n: u32| IpAddr::V4((0x0a60_0000 + n).into());
    let first = build((1..=20_000).map(|n| service(n, &vip(n).to_string(), 80))).unwrap();
    let mut next = SnapshotBuilder::from(&first);
    next.upsert(Service { purge_epoch: 2, ..service(7, &vip(7).to_string(), 80) });
    let next = next.build().unwrap();
    assert_eq!(next.services.copied_since(&first.services), 1);
    assert_eq!(next.vips.copied_since(&first.vips), 1);
    assert!(Arc::ptr_eq(next.service(ServiceId(8)).unwrap(), first.service(ServiceId(8)).unwrap()));
    assert_eq!(next.service(ServiceId(7)).unwrap().purge_epoch, 2);
}
