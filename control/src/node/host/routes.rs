//! Routes of the local table: what there must be, and the difference to what there is. Pure, but for
//! [`belongs_to_another`].

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use dataplane::packet::alias::{RANGE_V4, RANGES_V6};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteType};

use super::super::netlink::{Change, Netlink};
use super::super::plan::{self, LOCAL_TABLE, PROTOCOL, Way};
use super::super::rt::{Family, Link, Prefix, Route};

/// One thing to do to the local table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A route to the device, new or corrected.
    Route(Prefix, Way),
    /// What stands behind it while the device is away.
    Backstop(Prefix),
    NoRoute(Prefix),
    NoBackstop(Prefix),
}

/// The ranges of aliases.
pub(in super::super) fn aliases(family: Family) -> Vec<Prefix> {
    match family {
        Family::V4 => vec![(IpAddr::V4(RANGE_V4.0), RANGE_V4.1)],
        Family::V6 => RANGES_V6.iter().map(|(addr, len)| (IpAddr::V6(*addr), *len)).collect(),
    }
}

/// What makes `existing` (the local table's, of one family) lead exactly `wanted` to the device: what is added before
/// what is removed, and backstops around routes.
pub(super) fn diff(existing: &[Route], wanted: &BTreeSet<Prefix>, way: Way, device: u32) -> Vec<Step> {
    let ours = || existing.iter().filter(|route| route.protocol == PROTOCOL);
    let right = |route: &&Route| {
        let same = route.link == Some(device) && route.gateway.is_none();
        route.unicast && same && route.source == way.source && route.mtu == way.mtu
    };
    let routed: BTreeSet<Prefix> =
        ours().filter(|route| route.unicast).map(|route| route.destination).collect();
    let rightly: BTreeSet<Prefix> = ours().filter(right).map(|route| route.destination).collect();
    let stopped: BTreeSet<Prefix> =
        ours().filter(|route| !route.unicast).map(|route| route.destination).collect();
    let mut steps = Vec::new();
    for prefix in wanted {
        if !stopped.contains(prefix) {
            steps.push(Step::Backstop(*prefix));
        }
        if !rightly.contains(prefix) {
            steps.push(Step::Route(*prefix, way));
        }
    }
    steps.extend(routed.difference(wanted).map(|prefix| Step::NoRoute(*prefix)));
    steps.extend(stopped.difference(wanted).map(|prefix| Step::NoBackstop(*prefix)));
    steps
}

/// What makes a route to the device, in `ip route` words and as requests.
pub(in super::super) fn with_backstop(prefix: Prefix, way: Way, device: &Link) -> [(String, Change); 2] {
    [Step::Backstop(prefix), Step::Route(prefix, way)]
        .map(|step| (step.text(&device.name), step.change(device.index)))
}

impl Step {
    /// It takes something away.
    pub(super) fn removes(self) -> bool {
        matches!(self, Self::NoRoute(_) | Self::NoBackstop(_))
    }

    /// The request.
    pub(super) fn change(self, device: u32) -> Change {
        match self {
            Self::Route(prefix, way) => plan::add_route((prefix, way), LOCAL_TABLE, device),
            Self::NoRoute(prefix) => plan::remove_route(prefix, LOCAL_TABLE),
            Self::Backstop(prefix) => {
                let mut message = plan::route_message(prefix, LOCAL_TABLE);
                message.header.kind = RouteType::BlackHole;
                message.attributes.push(RouteAttribute::Priority(BEHIND));
                (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            }
            Self::NoBackstop(prefix) => {
                let (request, flags) = plan::remove_route(prefix, LOCAL_TABLE);
                let RouteNetlinkMessage::DelRoute(mut message) = request else { return (request, flags) };
                message.header.kind = RouteType::BlackHole;
                message.attributes.push(RouteAttribute::Priority(BEHIND));
                (RouteNetlinkMessage::DelRoute(message), flags)
            }
        }
    }

    /// In `ip route` words.
    pub(super) fn text(self, device: &str) -> String {
        let route = |(address, length)| format!("{address}/{length} table local");
        match self {
            Self::Route(prefix, _) => format!("route {} dev {device}", route(prefix)),
            Self::Backstop(prefix) => format!("route blackhole {}", route(prefix)),
            Self::NoRoute(prefix) => format!("no route {} dev {device}", route(prefix)),
            Self::NoBackstop(prefix) => format!("no route blackhole {}", route(prefix)),
        }
    }
}

/// The device that routes of ours in the local table lead to, if it is not the one of index `device`.
pub(in super::super) fn belongs_to_another(netlink: &mut Netlink, device: Option<u32>) -> io::Result<bool> {
    for family in Family::ALL {
        let routes = netlink.routes(family, LOCAL_TABLE)?;
        let mut ours = routes.iter().filter(|route| route.protocol == PROTOCOL && route.unicast);
        if ours.any(|route| route.link != device) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The metric of a backstop: behind whatever leads to the device.
const BEHIND: u32 = 4_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn way() -> Way {
        Way { source: Some(ip("10.1.0.1")), mtu: 1500 }
    }

    fn route(prefix: Prefix, unicast: bool) -> Route {
        let (link, mtu, source) = if unicast { (Some(7), 1500, way().source) } else { (None, 0, None) };
        Route {
            table: LOCAL_TABLE,
            destination: prefix,
            link,
            source,
            gateway: None,
            mtu,
            protocol: PROTOCOL,
            unicast,
        }
    }

    #[test]
    fn additions_come_first_and_a_backstop_before_its_route() {
        let (new, old) = ((ip("10.96.0.10"), 32), (ip("10.96.0.9"), 32));
        let existing = [route(old, true), route(old, false)];
        let steps = diff(&existing, &[new].into(), way(), 7);
        let wanted =
            [Step::Backstop(new), Step::Route(new, way()), Step::NoRoute(old), Step::NoBackstop(old)];
        assert_eq!(steps, wanted);
        assert!(steps.iter().map(|step| step.removes()).eq([false, false, true, true]));
    }

    #[test]
    fn what_is_right_is_left_and_what_is_not_ours_is_never_touched() {
        let here = (ip("240.0.0.0"), 4);
        let kernel = Route { protocol: 2, ..route((ip("10.1.0.1"), 32), false) };
        let existing = [route(here, true), route(here, false), kernel];
        assert_eq!(diff(&existing, &[here].into(), way(), 7), []);
        assert_eq!(diff(&existing, &[here].into(), way(), 8), [Step::Route(here, way())], "another device");
        let moved = Way { source: None, mtu: 1500 };
        assert_eq!(diff(&existing, &[here].into(), moved, 7), [Step::Route(here, moved)]);
    }
}
