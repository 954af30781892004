//! What we want the kernel to have, and the difference to what it has: rules and routes. Pure.
//!
//! ```text
//! 100  iif DEVICE goto 200   what we emit goes past 110 to whatever else the host has
//! 110  lookup 7701           Service CIDRs, other virtual addresses, SNAT addresses → DEVICE
//! 200  nop                   where 100 goes
//! ```
//! A `goto`, not `lookup main`: where main has no match a lookup falls through to 110 and the packet comes back to us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::netlink::Change;
use super::rt::{Family, Prefix, Route, Rule};
use super::view::HostView;
use crate::model::ip::{contains, network};

/// Our routing table.
pub(crate) const TABLE: u32 = 7701;
/// A second table tunway keeps for itself; nothing is in it.
pub(crate) const MARK_TABLE: u32 = 7702;
/// The routing protocol number on everything of ours, so that it can be told from other people's.
pub(crate) const PROTOCOL: u8 = 77;

/// One of our three rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OurRule {
    /// 200 `nop`.
    End,
    /// 100 `iif DEVICE goto 200`.
    Skip,
    /// 110 `lookup 7701`.
    Lookup,
}

/// What every route of ours says besides its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Preferred source of host processes.
    pub(crate) source: Option<IpAddr>,
    /// `mtu` metric.
    pub(crate) mtu: u32,
}

/// What to do to the routes of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteDiff {
    /// Missing, or there in another form.
    pub(crate) add: Vec<(Prefix, Way)>,
    /// Ours and not wanted any more.
    pub(crate) remove: Vec<Prefix>,
}

impl OurRule {
    /// Its `ip rule` preference.
    pub(crate) fn preference(self) -> u32 {
        match self {
            Self::Skip => 100,
            Self::Lookup => 110,
            Self::End => 200,
        }
    }

    /// Whether `rule` does what this rule does, whoever made it.
    pub(crate) fn is(self, rule: &Rule, device: &str) -> bool {
        let plain = rule.preference == self.preference() && !rule.selective && rule.mark.is_none();
        let input = rule.input.as_deref();
        plain
            && match self {
                Self::Skip => {
                    rule.action == RuleAction::Goto && rule.goto == Some(200) && input == Some(device)
                }
                Self::Lookup => rule.action == RuleAction::ToTable && rule.table == TABLE && input.is_none(),
                Self::End => rule.action == RuleAction::Nop && input.is_none(),
            }
    }

    /// The request that makes it.
    pub(crate) fn add(self, family: Family, device: &str) -> Change {
        (RouteNetlinkMessage::NewRule(self.message(family, device)), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The request that removes it.
    pub(crate) fn remove(self, family: Family, device: &str) -> Change {
        (RouteNetlinkMessage::DelRule(self.message(family, device)), 0)
    }

    /// In `ip rule` words.
    pub(crate) fn text(self, family: Family, device: &str) -> String {
        let words = match self {
            Self::Skip => format!("iif {device} goto 200"),
            Self::Lookup => format!("lookup {TABLE}"),
            Self::End => "nop".to_owned(),
        };
        format!("rule {}: {words} ({})", self.preference(), family_name(family))
    }

    fn message(self, family: Family, device: &str) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family.code();
        message.attributes.push(RuleAttribute::Priority(self.preference()));
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        match self {
            Self::Skip => {
                message.header.action = RuleAction::Goto;
                message.attributes.push(RuleAttribute::Iifname(device.to_owned()));
                message.attributes.push(RuleAttribute::Goto(200));
            }
            Self::Lookup => {
                message.header.action = RuleAction::ToTable;
                message.attributes.push(RuleAttribute::Table(TABLE));
            }
            Self::End => message.header.action = RuleAction::Nop,
        }
        message
    }
}

/// The destinations of one family that must lead to the device: SNAT addresses always; Service CIDRs, and those of
/// `vips` that no CIDR covers and that this host does not have itself, once there are `vips`.
pub(crate) fn destinations(
    family: Family,
    snat: &[IpAddr],
    service_cidrs: &[Prefix],
    vips: Option<&BTreeSet<IpAddr>>,
    view: &HostView,
) -> BTreeSet<Prefix> {
    let host = |address: &IpAddr| (*address, family.bits());
    let mut wanted: BTreeSet<Prefix> = snat.iter().filter(|a| Family::of(**a) == family).map(host).collect();
    if let Some(vips) = vips {
        let cidrs = service_cidrs.iter().filter(|cidr| Family::of(cidr.0) == family);
        wanted.extend(cidrs.map(|cidr| network(*cidr)));
        let local = view.local_among(vips);
        let outside = outside_cidrs(vips, service_cidrs).filter(|vip| Family::of(**vip) == family);
        wanted.extend(outside.filter(|vip| !local.contains(vip)).map(host));
    }
    wanted
}

/// Those of `vips` that no Service CIDR covers.
pub(crate) fn outside_cidrs<'a>(
    vips: &'a BTreeSet<IpAddr>,
    service_cidrs: &[Prefix],
) -> impl Iterator<Item = &'a IpAddr> {
    vips.iter().filter(move |vip| !service_cidrs.iter().any(|cidr| contains(*cidr, **vip)))
}

/// What is missing among, wrong with, and too much in `existing` (all of table 7701, one family).
pub(crate) fn diff(existing: &[Route], wanted: &BTreeSet<Prefix>, way: Way, device: u32) -> RouteDiff {
    let mut right: BTreeMap<Prefix, bool> = BTreeMap::new();
    for route in existing.iter().filter(|route| route.protocol == PROTOCOL) {
        let same = route.unicast
            && route.link == Some(device)
            && route.gateway.is_none()
            && route.source == way.source
            && route.mtu == way.mtu;
        *right.entry(route.destination).or_default() |= same;
    }
    RouteDiff {
        add: wanted
            .iter()
            .filter(|prefix| right.get(prefix) != Some(&true))
            .map(|prefix| (*prefix, way))
            .collect(),
        remove: right.into_keys().filter(|prefix| !wanted.contains(prefix)).collect(),
    }
}

/// The request that makes or corrects a route to `device` (its index).
pub(crate) fn add_route((prefix, way): (Prefix, Way), device: u32) -> Change {
    let mut message = route_message(prefix);
    // A link-scope route, as `ip route add … dev …` makes it; IPv6 has no such scope.
    message.header.scope = if prefix.0.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(device));
    message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(way.mtu)]));
    if let Some(source) = way.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// The request that removes our route to a destination.
pub(crate) fn remove_route(prefix: Prefix) -> Change {
    let mut message = route_message(prefix);
    message.header.scope = RouteScope::NoWhere; // whatever its scope
    (RouteNetlinkMessage::DelRoute(message), 0)
}

/// `10.96.0.0/12 → tunway0`.
pub(crate) fn route_text((address, length): Prefix, device: &str) -> String {
    format!("route {address}/{length} dev {device} table {TABLE}")
}

/// `IPv4` or `IPv6`.
pub(crate) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn route_message((address, length): Prefix) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = Family::of(address).code();
    message.header.destination_prefix_length = length;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.attributes.push(RouteAttribute::Table(TABLE));
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message
}

#[cfg(test)]
mod tests {
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
}
