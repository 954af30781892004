//! What we want the kernel to have, and the difference to what it has: rules and routes. Pure.
//!
//! ```text
//!   0  lookup local          the kernel's; away while addresses of this host are served
//!  40  iif DEVICE goto 60    while they are: what we emit goes past 50
//!  50  fwmark M/M lookup 7702   while they are: before the local table, which has these addresses
//!  60  lookup local          while they are: in the place of 0
//! 100  iif DEVICE goto 200   what we emit goes past 105 and 110 to whatever else the host has
//! 105  fwmark M/M lookup 7702   else, with connection marks: replies → DEVICE
//! 110  lookup 7701           Service CIDRs, other virtual addresses, SNAT addresses → DEVICE
//! 200  nop                   where 100 goes
//! ```
//! A `goto`, not `lookup main`: where main has no match a lookup falls through to 110 and the packet comes back to us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
/// Where marked packets are routed: a default route to the device, and nothing else.
pub(crate) const MARK_TABLE: u32 = 7702;
/// `RT_TABLE_LOCAL`.
pub(crate) const LOCAL_TABLE: u32 = 255;
/// The routing protocol number on everything of ours, so that it can be told from other people's.
pub(crate) const PROTOCOL: u8 = 77;

/// One of our rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OurRule {
    /// 200 `nop`.
    End,
    /// 100 `iif DEVICE goto 200`.
    Skip,
    /// 105 `fwmark BIT/BIT lookup 7702`.
    Mark(u32),
    /// 40 `iif DEVICE goto 60`.
    SkipMark,
    /// 50 `fwmark BIT/BIT lookup 7702`.
    EarlyMark(u32),
    /// 60 `lookup local`.
    Local,
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
            Self::SkipMark => 40,
            Self::EarlyMark(_) => 50,
            Self::Local => 60,
            Self::Skip => 100,
            Self::Mark(_) => 105,
            Self::Lookup => 110,
            Self::End => 200,
        }
    }

    /// Whether `rule` does what this rule does, whoever made it.
    pub(crate) fn is(self, rule: &Rule, device: &str) -> bool {
        let input = rule.input.as_deref();
        let looks_up = |table| rule.action == RuleAction::ToTable && rule.table == table && input.is_none();
        let (mark, does) = match self {
            Self::Skip | Self::SkipMark => {
                let leads_on = rule.action == RuleAction::Goto && rule.goto == self.target();
                (None, leads_on && input == Some(device))
            }
            Self::Mark(bit) | Self::EarlyMark(bit) => (Some((bit, bit)), looks_up(MARK_TABLE)),
            Self::Local => (None, looks_up(LOCAL_TABLE)),
            Self::Lookup => (None, looks_up(TABLE)),
            Self::End => (None, rule.action == RuleAction::Nop && input.is_none()),
        };
        does && rule.preference == self.preference() && !rule.selective && rule.mark == mark
    }

    /// Our rule 50 or 105 with whatever bit an earlier process had.
    pub(crate) fn marked(rule: &Rule) -> Option<Self> {
        let bit = rule.mark?.0;
        let ours = [Self::Mark(bit), Self::EarlyMark(bit)].into_iter().find(|ours| ours.is(rule, ""));
        ours.filter(|_| rule.protocol == PROTOCOL)
    }

    /// Where a `goto` goes.
    const fn target(self) -> Option<u32> {
        match self {
            Self::Skip => Some(200),
            Self::SkipMark => Some(60),
            Self::Mark(_) | Self::EarlyMark(_) | Self::Local | Self::Lookup | Self::End => None,
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
            Self::SkipMark => format!("iif {device} goto 60"),
            Self::Mark(bit) | Self::EarlyMark(bit) => {
                format!("fwmark {bit:#x}/{bit:#x} lookup {MARK_TABLE}")
            }
            Self::Local => "lookup local".to_owned(),
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
            Self::Skip | Self::SkipMark => {
                message.header.action = RuleAction::Goto;
                message.attributes.push(RuleAttribute::Iifname(device.to_owned()));
                message.attributes.extend(self.target().map(RuleAttribute::Goto));
            }
            Self::Local => {
                message.header.action = RuleAction::ToTable;
                message.attributes.push(RuleAttribute::Table(LOCAL_TABLE));
            }
            Self::Mark(bit) | Self::EarlyMark(bit) => {
                message.header.action = RuleAction::ToTable;
                message.attributes.push(RuleAttribute::Table(MARK_TABLE));
                message.attributes.push(RuleAttribute::FwMark(bit));
                message.attributes.push(RuleAttribute::FwMask(bit));
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

/// The kernel's own rule 0, `lookup local`, or one just like it.
pub(crate) fn is_rule_zero(rule: &Rule) -> bool {
    rule.preference == 0 && looks_up_local(rule)
}

/// A rule that sends everything to the local table first.
pub(crate) fn looks_up_local(rule: &Rule) -> bool {
    let plain = rule.input.is_none() && rule.mark.is_none() && !rule.selective;
    plain && rule.action == RuleAction::ToTable && rule.table == LOCAL_TABLE
}

/// The request that makes rule 0, as the kernel makes it.
pub(crate) fn add_rule_zero(family: Family) -> Change {
    let mut message = rule_zero(family);
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Kernel));
    (RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// The request that removes rule 0, whoever made it.
pub(crate) fn remove_rule_zero(family: Family) -> Change {
    (RouteNetlinkMessage::DelRule(rule_zero(family)), 0)
}

fn rule_zero(family: Family) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family.code();
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(0));
    message.attributes.push(RuleAttribute::Table(LOCAL_TABLE));
    message
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

/// The one destination of table 7702: everything, as long as there are marks.
pub(crate) fn mark_destination(family: Family, marks: bool) -> BTreeSet<Prefix> {
    let everything = match family {
        Family::V4 => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        Family::V6 => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    };
    marks.then_some(everything).into_iter().collect()
}

/// What is missing among, wrong with, and too much in `existing` (all of one table of ours, one family).
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

/// The request that makes or corrects a route of `table` to `device` (its index).
pub(crate) fn add_route((prefix, way): (Prefix, Way), table: u32, device: u32) -> Change {
    let mut message = route_message(prefix, table);
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
pub(crate) fn remove_route(prefix: Prefix, table: u32) -> Change {
    let mut message = route_message(prefix, table);
    message.header.scope = RouteScope::NoWhere; // whatever its scope
    (RouteNetlinkMessage::DelRoute(message), 0)
}

/// `10.96.0.0/12 → tunway0`.
pub(crate) fn route_text((address, length): Prefix, table: u32, device: &str) -> String {
    format!("route {address}/{length} dev {device} table {table}")
}

/// `IPv4` or `IPv6`.
pub(crate) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

pub(crate) fn route_message((address, length): Prefix, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = Family::of(address).code();
    message.header.destination_prefix_length = length;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.attributes.push(RouteAttribute::Table(table));
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message
}

#[cfg(test)]
mod tests;
