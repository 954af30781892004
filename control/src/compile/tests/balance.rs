//! Which algorithm a Service gets, by annotation and by default, with which weights, and what when tables find no room.

use dataplane::service::{HashBy, Selector};

use super::*;
use crate::model::service::{self as read_service, balance::BALANCING};

/// A Service with these annotations, made so many seconds after the epoch.
fn annotated(name: &str, addr: &str, created: i64, annotations: &[(&str, &str)]) -> Service {
    let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
    let object = serde_json::json!({"metadata": {"name": name, "annotations": annotations},
        "spec": {"clusterIP": addr, "ports": [{"port": 80}]}});
    let object = serde_json::from_value(object).unwrap();
    Service { created, ..read_service::read(&object).value.unwrap() }
}

fn selector(world: &Snapshot, addr: &str) -> Selector {
    tcp(world, addr).unwrap().balancing.selector()
}

#[test]
fn the_annotation_comes_before_the_configuration() {
    let services = [
        annotated("a", "10.96.0.1", 0, &[]),
        annotated("b", "10.96.0.2", 0, &[("tunway.dev/balancing", "least-connections")]),
        annotated("c", "10.96.0.3", 0, &[("tunway.dev/hash-by", "client")]),
        annotated("d", "10.96.0.4", 0, &[("tunway.dev/balancing", "nonsense")]),
    ];
    let mut bench = Bench::new(&services, &[]);
    let of = |world: &Snapshot| [1, 2, 3, 4].map(|n| selector(world, &format!("10.96.0.{n}")));
    assert_eq!(
        of(&bench.next()),
        [Selector::Random, Selector::LeastConn, Selector::Random, Selector::Random]
    );
    bench.compiler.set_rules(Rules { algorithm: Algorithm::Rendezvous, ..Rules::default() });
    let by = |by| Selector::Hrw(by);
    assert_eq!(
        of(&bench.next()),
        [by(HashBy::Tuple), Selector::LeastConn, by(HashBy::Client), by(HashBy::Tuple)]
    );
}

#[test]
fn weights_are_those_of_the_endpoints_and_slices_of_the_sets() {
    let weights = "nodeName=there:2, zone=z1:0, labels.track=canary:5, targetRef.name=web-*:7";
    let web = annotated("web", "10.96.0.1", 0, &[("tunway.dev/weights", weights)]);
    let nowhere = |addr: &str| Endpoint { node: None, ..endpoint(addr) };
    let first = Slice {
        endpoints: vec![
            endpoint("10.1.0.1"),
            Endpoint { zone: Some("z1".into()), ..nowhere("10.1.0.2") },
            Endpoint { target: Some("web-1".into()), ..nowhere("10.1.0.3") },
            nowhere("10.1.0.4"),
            Endpoint { ready: false, serving: true, ..nowhere("10.1.0.5") },
        ],
        ..slice("web-1", "web", &[])
    };
    let second = Slice {
        labels: [("track".to_owned(), "canary".to_owned())].into(),
        endpoints: vec![nowhere("10.1.0.6")],
        ..slice("web-2", "web", &[])
    };
    let world = Bench::new(&[web], &[first, second]).next();
    let web = tcp(&world, "10.96.0.1").unwrap();
    assert_eq!(backends(&web, Set::Cluster).len(), 5);
    let of = |position| web.balancing.weight(Set::Cluster, position).unwrap();
    assert_eq!([0, 1, 2, 3, 4].map(of), [(2, 15), (0, 15), (7, 15), (1, 15), (5, 15)]);
}

#[test]
fn tables_go_to_the_oldest_and_who_gets_none_is_told_until_there_is_room() {
    let maglev = [(BALANCING, "maglev")];
    let services = [annotated("new", "10.96.0.1", 9, &maglev), annotated("old", "10.96.0.2", 5, &maglev)];
    let slices = [
        slice("new-1", "new", &["10.1.0.1", "10.1.0.2"]),
        slice("old-1", "old", &["10.1.0.3", "10.1.0.4", "10.1.0.5"]),
    ];
    let (small, large) = (2 * 211, 2 * 401);
    let mut bench = Bench::new(&services, &slices);
    let room = |bytes| Rules { maglev_memory: bytes, ..Rules::default() };
    bench.compiler.set_rules(room(large + small - 1));
    let world = bench.next();
    let (table, hrw) = (Selector::Maglev(HashBy::Tuple), Selector::Hrw(HashBy::Tuple));
    let of = |world: &Snapshot| [selector(world, "10.96.0.1"), selector(world, "10.96.0.2")];
    assert_eq!(of(&world), [hrw, table]);
    assert_eq!(tcp(&world, "10.96.0.2").unwrap().balancing.table_bytes(), large);
    assert_eq!(bench.told().len(), 1);
    assert!(bench.told()[0].contains("default/new") && bench.told()[0].contains("maglevMemory"));
    // The old one becomes smaller: room for both.
    let world = bench.apply(says_slice(slice("old-1", "old", &["10.1.0.3"])));
    assert_eq!((of(&world), bench.told().len()), ([table, table], 0));
    // And without any room none has one, but for what needs none.
    bench.compiler.set_rules(room(0));
    assert_eq!((of(&bench.next()), bench.told().len()), ([hrw, hrw], 2));
}
