//! What tunway asks rtnetlink for, in its own plain types: links, addresses, rules, routes, and the questions about
//! them. Nothing above this file knows the shape of a netlink message.

use std::io;
use std::net::IpAddr;

use nix::libc;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAction, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use self::decode::{address, link, route, rule};
use super::netlink::{Netlink, is_absent};

mod decode;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

/// An address and a prefix length, host bits not necessarily zero.
pub(crate) type Prefix = (IpAddr, u8);

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) mtu: u32,
    pub(crate) queue_length: u32,
    /// `IFLA_INFO_KIND`: "tun", "veth", …; empty for hardware.
    pub(crate) kind: String,
    /// Its hardware address, lower case with colons; empty for a device without one of six bytes.
    pub(crate) mac: String,
    /// The bridge (or other device) it is a port of.
    pub(crate) master: Option<u32>,
    /// IPv4 settings; `None` where the kernel keeps none.
    pub(crate) ipv4: Option<Ipv4Settings>,
    /// IPv6 settings; `None` where IPv6 is off.
    pub(crate) ipv6: Option<Ipv6Settings>,
}

/// The per-device IPv4 sysctls tunway cares for (`net.ipv4.conf.DEV.*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ipv4Settings {
    pub(crate) forwarding: i32,
    pub(crate) send_redirects: i32,
    pub(crate) rp_filter: i32,
    pub(crate) accept_local: i32,
    pub(crate) ignore_routes_with_linkdown: i32,
}

/// The per-device IPv6 sysctls tunway cares for (`net.ipv6.conf.DEV.*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ipv6Settings {
    pub(crate) accept_ra: i32,
    pub(crate) addr_gen_mode: u8,
    pub(crate) ignore_routes_with_linkdown: i32,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    /// `RT_SCOPE_*`: 0 global, 253 link, 254 host.
    pub(crate) scope: u8,
    /// `IFA_F_*`.
    pub(crate) flags: u32,
    pub(crate) broadcast: Option<IpAddr>,
}

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) family: Family,
    pub(crate) preference: u32,
    pub(crate) action: RuleAction,
    /// 0 when the action names no table.
    pub(crate) table: u32,
    pub(crate) goto: Option<u32>,
    pub(crate) input: Option<String>,
    /// Mark and mask.
    pub(crate) mark: Option<(u32, u32)>,
    /// `RTPROT_*`.
    pub(crate) protocol: u8,
    /// It selects by something else too (addresses, ports, an output device, users, …).
    pub(crate) selective: bool,
}

/// A route as far as tunway compares routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) table: u32,
    pub(crate) destination: Prefix,
    /// Output device; `None` for a route over several or over none.
    pub(crate) link: Option<u32>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) gateway: Option<IpAddr>,
    /// The `mtu` metric, 0 when it has none.
    pub(crate) mtu: u32,
    /// `RTPROT_*`.
    pub(crate) protocol: u8,
    pub(crate) unicast: bool,
}

impl Family {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family an address belongs to.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// netlink's word for it.
    pub(crate) fn code(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }

    /// The length of a host prefix.
    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The option that makes `ip` talk about this family.
    pub(crate) fn ip_option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

impl Netlink {
    /// Every link.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let found = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(found.iter().filter_map(link).collect())
    }

    /// The link of this name.
    pub(crate) fn link_by_name(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut ask = LinkMessage::default();
        ask.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.get(RouteNetlinkMessage::GetLink(ask)) {
            Ok(found) => Ok(found.iter().find_map(link)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every address of both families.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let found = self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(found.iter().filter_map(address).collect())
    }

    /// The rules of a family; none where the kernel has no such family.
    pub(crate) fn rules(&mut self, family: Family) -> io::Result<Vec<Rule>> {
        let mut ask = RuleMessage::default();
        ask.header.family = family.code();
        match self.dump(&RouteNetlinkMessage::GetRule(ask)) {
            Ok(found) => Ok(found.iter().filter_map(rule).collect()),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The routes of one table and family, filtered by the kernel.
    pub(crate) fn routes(&mut self, family: Family, table: u32) -> io::Result<Vec<Route>> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = family.code();
        ask.attributes.push(RouteAttribute::Table(table));
        match self.dump(&RouteNetlinkMessage::GetRoute(ask)) {
            Ok(found) => Ok(found.iter().filter_map(route).filter(|route| route.table == table).collect()),
            // A table that nobody put anything into does not exist.
            Err(error) if is_absent(&error) || error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// How this host would send a packet to `destination`: device and source address. `None` without a route.
    pub(crate) fn way_to(&mut self, destination: IpAddr) -> io::Result<Option<(u32, Option<IpAddr>)>> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = Family::of(destination).code();
        ask.header.destination_prefix_length = Family::of(destination).bits();
        ask.attributes.push(RouteAttribute::Destination(destination.into()));
        let unreachable =
            [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::EAFNOSUPPORT];
        match self.get(RouteNetlinkMessage::GetRoute(ask)) {
            Ok(found) => Ok(found
                .iter()
                .filter_map(route)
                .find_map(|way| way.link.filter(|_| way.unicast).map(|link| (link, way.source)))),
            Err(error) if error.raw_os_error().is_some_and(|code| unreachable.contains(&code)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
