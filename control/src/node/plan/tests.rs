//! Destinations, differences, and our rules among others.

use proptest::prelude::*;

use super::*;
use crate::node::rt::Address;

#[test]
fn cidrs_outside_vips_and_snat_addresses_lead_to_the_device_the_hosts_own_do_not() {
    let view = HostView {
        addresses: vec![Address {
            link: 2,
            address: ip("203.0.113.11"),
            prefix: 24,
            scope: 0,
            flags: 0,
            broadcast: None,
        }],
        ..HostView::default()
    };
    let vips: BTreeSet<IpAddr> =
        ["10.96.0.10", "203.0.113.10", "203.0.113.11", "fd00:96::10", "fd00:203::10"].map(ip).into();
    let cidrs = [(ip("10.97.1.2"), 12), (ip("fd00:96::"), 108)];
    let snat = [ip("169.254.77.1"), ip("fd00:fffe:77::1")];
    let of = |family, vips| destinations(family, &snat, &cidrs, vips, &view);

    assert_eq!(of(Family::V4, None), [(ip("169.254.77.1"), 32)].into());
    assert_eq!(
        of(Family::V4, Some(&vips)),
        [(ip("10.96.0.0"), 12), (ip("169.254.77.1"), 32), (ip("203.0.113.10"), 32)].into()
    );
    assert_eq!(
        of(Family::V6, Some(&vips)),
        [(ip("fd00:96::"), 108), (ip("fd00:203::10"), 128), (ip("fd00:fffe:77::1"), 128)].into()
    );
}

#[test]
fn a_route_that_differs_in_anything_is_written_again_and_foreign_ones_are_left() {
    let wanted: BTreeSet<Prefix> = [(ip("10.96.0.0"), 12)].into();
    let way = Way { source: Some(ip("192.0.2.7")), mtu: 1500 };
    let good = Route {
        table: TABLE,
        destination: (ip("10.96.0.0"), 12),
        link: Some(7),
        source: way.source,
        gateway: None,
        mtu: 1500,
        protocol: PROTOCOL,
        unicast: true,
    };
    assert_eq!(diff(std::slice::from_ref(&good), &wanted, way, 7), RouteDiff::default());
    for bad in [
        Route { link: Some(8), ..good.clone() },
        Route { source: None, ..good.clone() },
        Route { source: Some(ip("192.0.2.8")), ..good.clone() },
        Route { mtu: 0, ..good.clone() },
        Route { unicast: false, link: None, ..good.clone() },
        Route { gateway: Some(ip("192.0.2.1")), ..good.clone() },
        Route { protocol: 4, ..good.clone() },
    ] {
        let found = diff(&[bad], &wanted, way, 7);
        assert_eq!((found.add.len(), found.remove.len()), (1, 0));
    }
    let other = Route { destination: (ip("10.200.0.0"), 16), ..good.clone() };
    let found = diff(&[good.clone(), other.clone()], &wanted, way, 7);
    assert_eq!(found, RouteDiff { add: vec![], remove: vec![other.destination] });
    let foreign = Route { protocol: 3, ..other };
    assert_eq!(diff(&[good, foreign], &wanted, way, 7), RouteDiff::default());
}

#[test]
fn our_rules_are_known_by_what_they_do() {
    let rule = Rule {
        family: Family::V4,
        preference: 100,
        action: RuleAction::Goto,
        table: 0,
        goto: Some(200),
        input: Some("tunway0".into()),
        mark: None,
        protocol: PROTOCOL,
        selective: false,
    };
    assert!(OurRule::Skip.is(&rule, "tunway0"));
    for other in [
        Rule { input: Some("tunway1".into()), ..rule.clone() },
        Rule { input: None, ..rule.clone() },
        Rule { goto: Some(300), ..rule.clone() },
        Rule { mark: Some((1, 1)), ..rule.clone() },
        Rule { selective: true, ..rule.clone() },
        Rule { preference: 101, ..rule.clone() },
    ] {
        assert!(!OurRule::Skip.is(&other, "tunway0"), "{other:?}");
    }
}

proptest! {
    /// Doing what the difference says gives what is wanted, and then there is no difference.
    #[test]
    fn a_diff_leads_to_the_goal(have in prefixes(), want in prefixes(), stale in any::<bool>()) {
        let way = Way { source: Some(ip("192.0.2.7")), mtu: 1500 };
        let old = Way { source: stale.then(|| ip("192.0.2.6")).or(way.source), mtu: 1500 };
        let mut kernel: BTreeMap<Prefix, Way> = have.into_iter().map(|prefix| (prefix, old)).collect();
        let read = |kernel: &BTreeMap<Prefix, Way>| -> Vec<Route> {
            kernel.iter().map(|(destination, way)| Route {
                table: TABLE, destination: *destination, link: Some(3), source: way.source, gateway: None,
                mtu: way.mtu, protocol: PROTOCOL, unicast: true,
            }).collect()
        };
        let found = diff(&read(&kernel), &want, way, 3);
        kernel.extend(found.add.iter().copied());
        found.remove.iter().for_each(|prefix| { kernel.remove(prefix); });
        prop_assert_eq!(kernel.keys().copied().collect::<BTreeSet<_>>(), want.clone());
        prop_assert_eq!(diff(&read(&kernel), &want, way, 3), RouteDiff::default());
    }
}

fn prefixes() -> impl Strategy<Value = BTreeSet<Prefix>> {
    prop::collection::btree_set((0u8..40, 24u8..=32), 0..30).prop_map(|set| {
        set.into_iter().map(|(low, length)| network((ip(&format!("198.51.100.{low}")), length))).collect()
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_mark_rule_is_known_by_its_bit_and_an_earlier_ones_by_any() {
    let rule = Rule {
        family: Family::V6,
        preference: 105,
        action: RuleAction::ToTable,
        table: MARK_TABLE,
        goto: None,
        input: None,
        mark: Some((0x1000, 0x1000)),
        protocol: PROTOCOL,
        selective: false,
    };
    let ours = OurRule::Mark(0x1000);
    assert!(ours.is(&rule, "tunway0"));
    for other in [
        Rule { mark: None, ..rule.clone() },
        Rule { mark: Some((0x1000, u32::MAX)), ..rule.clone() },
        Rule { mark: Some((0x2000, 0x2000)), ..rule.clone() },
        Rule { table: TABLE, ..rule.clone() },
        Rule { input: Some("tunway0".into()), ..rule.clone() },
    ] {
        assert!(!ours.is(&other, "tunway0"), "{other:?}");
    }
    let earlier = Rule { mark: Some((0x20, 0x20)), ..rule.clone() };
    assert_eq!(OurRule::marked(&earlier), Some(OurRule::Mark(0x20)));
    assert_eq!(OurRule::marked(&Rule { protocol: 3, ..rule.clone() }), None, "somebody else's");
    assert_eq!(OurRule::marked(&Rule { preference: 104, ..rule }), None);
}
