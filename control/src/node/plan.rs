//! What we want the kernel to have: routes of the local table, and their messages. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::RuleAction;

use super::netlink::Change;
use super::rt::{Family, Prefix, Rule};
use super::view::HostView;
use crate::model::ip::{contains, network};

/// `RT_TABLE_LOCAL`.
pub(crate) const LOCAL_TABLE: u32 = 255;
/// The routing protocol number on everything of ours, so that it can be told from other people's.
pub(crate) const PROTOCOL: u8 = 77;

/// What every route of ours says besides its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Preferred source of host processes.
    pub(crate) source: Option<IpAddr>,
    /// `mtu` metric.
    pub(crate) mtu: u32,
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

/// A rule that sends everything to the local table first.
pub(crate) fn looks_up_local(rule: &Rule) -> bool {
    let plain = rule.input.is_none() && rule.mark.is_none() && !rule.selective;
    plain && rule.action == RuleAction::ToTable && rule.table == LOCAL_TABLE
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
