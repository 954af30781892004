//! The law of explaining: whatever the world and the packet, the explanation is what the packet path does without a
//! word, drawing from the very set that is named.

use std::collections::BTreeSet;
use std::sync::Arc;

use dataplane::packet::tuple::Family;
use dataplane::service::{
    Decision, Fabric, LocalMap, NoReasons, Origin, Place, Prefixes, ReturnPath, Set, World, decide,
    masquerades,
};
use proptest::prelude::*;

use super::*;
use crate::compile::Rules;
use crate::compile::tests::law::{ADDRS, any_service, any_slice};
use crate::fixtures::{HERE, desired, ip};

/// A node among the addresses of the random world: pods, itself, and node ports at it.
fn fabric(marked: bool, all: bool, detector: bool) -> Fabric {
    let places = [
        ("10.1.0.0", 24, Place::LocalPod),
        ("198.51.100.2", 32, Place::Host),
        ("fd00::", 64, Place::LocalPod),
    ];
    let places = places.map(|(addr, len, place)| (ip(addr), len, place));
    let places = places.into_iter().filter(|(.., place)| detector || *place == Place::Host);
    let detectors: &[Family] = if detector { &[Family::V4] } else { &[] };
    Fabric {
        return_path: if marked { ReturnPath::ConnMark } else { ReturnPath::Masquerade },
        snat: vec![ip("192.0.2.1"), ip("fd00:9::1")],
        service_cidrs: vec![(ip("10.96.0.0"), 16)],
        masquerade_all: all,
        local: Arc::new(LocalMap::new(places, detectors).unwrap()),
        node_addresses: vec![ip("198.51.100.2")],
        ..Fabric::default()
    }
}

/// Destinations of the random world and near it, ports with and without a Service.
fn any_question() -> impl Strategy<Value = Question> {
    let addr = || prop_oneof![4 => prop::sample::select(ADDRS.to_vec()), 1 => Just("10.96.7.7"), 1 => Just("203.0.113.9"), 1 => Just("192.0.2.1")];
    let port = prop_oneof![3 => 80_u16..82, 2 => 30_000_u16..30_003, 1 => any::<u16>()];
    (addr(), addr(), port, 0_usize..4).prop_filter_map("of one family", |(src, dst, dport, proto)| {
        let proto = ["tcp", "udp", "sctp", "icmp"][proto];
        Question::of(src, &SocketAddr::new(ip(dst), dport).to_string(), proto, None).ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn an_explanation_is_what_the_packet_gets(
        services in prop::collection::vec(any_service(), 0..5), slices in prop::collection::vec(any_slice(), 0..5),
        switches in any::<[bool; 3]>(), questions in prop::collection::vec(any_question(), 1..30),
    ) {
        let mut desired = desired(&services, &slices);
        let mut compiler = Compiler::new(fabric(switches[0], switches[1], switches[2]));
        compiler.set_rules(Rules { external_ips: Prefixes::new(&[(ip("0.0.0.0"), 0)]).unwrap(), ..Rules::default() });
        let world = compiler.compile(&mut desired, &mut || 1).unwrap().unwrap();
        let World::Ready(world) = &*world else { panic!("no world") };
        prop_assert_eq!(&desired.node().name, HERE);
        let detect = DetectLocal::default();
        let ground = Ground { world, desired: &desired, compiler: &compiler, detect: &detect, hosts: &BTreeSet::new() };
        for question in questions {
            let said = explain(&ground, &question);
            let (origin, quiet) = (Origin::default(), &mut NoReasons);
            let Some(tuple) = question.tuple() else {
                prop_assert!(said.verdict != Verdict::Dnat && said.endpoints.is_empty());
                continue;
            };
            match decide(world, &tuple, &origin, quiet) {
                Decision::Serve { service, set, masquerade } => {
                    prop_assert_eq!(said.verdict, Verdict::Dnat);
                    prop_assert_eq!(said.service.as_deref(), Some(&*service.name));
                    let members = service.members(set).iter().map(|n| &service.backends[*n as usize]);
                    let members: Vec<_> = members.map(|b| SocketAddr::new(b.addr, b.port)).collect();
                    prop_assert_eq!(&said.endpoints, &members);
                    let masked = members.iter().filter(|to| masquerades(world, masquerade, tuple.src, to.ip(), &origin, quiet)).count();
                    let wanted = match masked {
                        n if n == members.len() || (n == 0 && masquerade) => Masquerade::All,
                        0 => Masquerade::None,
                        _ => Masquerade::Some,
                    };
                    prop_assert_eq!(said.masquerade, wanted);
                    // Every endpoint that is in is said to be in, and no other.
                    let kept = said.steps.iter().filter(|step| step.what.contains(": kept, "));
                    let kept: BTreeSet<_> = kept.map(|step| step.what.split([' ', ',']).next().unwrap().trim_end_matches(':').to_owned()).collect();
                    let wanted: BTreeSet<_> = members.iter().map(ToString::to_string).collect();
                    prop_assert_eq!(kept, wanted, "{:?} {:?}", set == Set::Local, said.steps);
                }
                Decision::Reject => prop_assert_eq!(said.verdict, Verdict::Reject),
                Decision::Drop(_) => prop_assert_eq!(said.verdict, Verdict::Drop),
                Decision::NotOurs => prop_assert_eq!(said.verdict, Verdict::Pass),
            }
            prop_assert!(!said.reason.is_empty());
        }
    }
}
