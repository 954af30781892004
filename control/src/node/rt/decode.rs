//! rtnetlink messages as tunway's own types. Attributes nobody here needs are passed over.

use std::net::IpAddr;

use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags, LinkInfo,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMetric, RouteType};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleFlags};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Address, Family, Ipv4Settings, Ipv6Settings, Link, Route, Rule};

pub(super) fn link(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::TxQueueLen(length) = attribute {
            link.queue_length = *length;
        } else if let LinkAttribute::Address(mac) = attribute
            && mac.len() == 6
        {
            let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            link.mac = bytes.join(":");
        } else if let LinkAttribute::Controller(master) = attribute {
            link.master = Some(*master).filter(|master| *master != 0);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    link.kind = kind.to_string();
                }
            }
        } else if let LinkAttribute::AfSpecUnspec(specs) = attribute {
            for spec in specs {
                if let AfSpecUnspec::Inet(parts) = spec {
                    link.ipv4 = parts.iter().find_map(ipv4_settings);
                } else if let AfSpecUnspec::Inet6(parts) = spec {
                    link.ipv6 = Some(ipv6_settings(parts));
                }
            }
        }
    }
    Some(link)
}

fn ipv4_settings(part: &AfSpecInet) -> Option<Ipv4Settings> {
    let AfSpecInet::DevConf(conf) = part else { return None };
    Some(Ipv4Settings {
        forwarding: conf.forwarding,
        send_redirects: conf.send_redirects,
        rp_filter: conf.rp_filter,
        accept_local: conf.accept_local,
        ignore_routes_with_linkdown: conf.ignore_routes_with_linkdown,
    })
}

fn ipv6_settings(parts: &[AfSpecInet6]) -> Ipv6Settings {
    let mut settings = Ipv6Settings::default();
    for part in parts {
        if let AfSpecInet6::DevConf(conf) = part {
            settings.accept_ra = conf.accept_ra;
            settings.ignore_routes_with_linkdown = conf.ignore_routes_with_linkdown;
        } else if let AfSpecInet6::AddrGenMode(mode) = part {
            settings.addr_gen_mode = mode.into();
        }
    }
    settings
}

pub(super) fn address(message: &RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut remote, mut local, mut broadcast) = (None, None, None);
    let mut flags = u32::from(message.header.flags.bits());
    for attribute in &message.attributes {
        if let AddressAttribute::Address(address) = attribute {
            remote = Some(*address);
        } else if let AddressAttribute::Local(address) = attribute {
            local = Some(*address);
        } else if let AddressAttribute::Broadcast(address) = attribute {
            broadcast = Some(IpAddr::V4(*address));
        } else if let AddressAttribute::Flags(all) = attribute {
            flags = all.bits();
        }
    }
    Some(Address {
        link: message.header.index,
        // On a point-to-point link IFA_ADDRESS is the peer; IPv6 has no IFA_LOCAL without one.
        address: local.or(remote)?,
        prefix: message.header.prefix_len,
        scope: u8::from(message.header.scope),
        flags,
        broadcast,
    })
}

pub(super) fn rule(message: &RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = message else { return None };
    let family = family(message.header.family)?;
    let mut rule = Rule {
        family,
        preference: 0,
        action: message.header.action,
        table: u32::from(message.header.table),
        goto: None,
        input: None,
        mark: None,
        protocol: 0,
        selective: message.header.src_len != 0
            || message.header.dst_len != 0
            || message.header.tos != 0
            || message.header.flags.contains(RuleFlags::Invert),
    };
    let (mut mark, mut mask) = (None, None);
    for attribute in &message.attributes {
        if let RuleAttribute::Priority(preference) = attribute {
            rule.preference = *preference;
        } else if let RuleAttribute::Table(table) = attribute {
            rule.table = *table;
        } else if let RuleAttribute::Goto(target) = attribute {
            rule.goto = Some(*target);
        } else if let RuleAttribute::Iifname(name) = attribute {
            rule.input = Some(name.clone());
        } else if let RuleAttribute::FwMark(value) = attribute {
            mark = Some(*value);
        } else if let RuleAttribute::FwMask(value) = attribute {
            mask = Some(*value);
        } else if let RuleAttribute::Protocol(protocol) = attribute {
            rule.protocol = u8::from(*protocol);
        } else if let RuleAttribute::SuppressPrefixLen(length) = attribute {
            rule.selective |= *length != u32::MAX;
        } else if matches!(
            attribute,
            RuleAttribute::Source(_)
                | RuleAttribute::Destination(_)
                | RuleAttribute::Oifname(_)
                | RuleAttribute::UidRange(_)
                | RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_)
                | RuleAttribute::TunId(_)
                | RuleAttribute::L3MDev(true)
        ) {
            rule.selective = true;
        }
    }
    rule.mark = mark.or(mask.map(|_| 0)).map(|mark| (mark, mask.unwrap_or(u32::MAX)));
    Some(rule)
}

pub(super) fn route(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let any: IpAddr = match family(message.header.address_family)? {
        Family::V4 => [0u8; 4].into(),
        Family::V6 => [0u8; 16].into(),
    };
    let mut route = Route {
        table: u32::from(message.header.table),
        destination: (any, message.header.destination_prefix_length),
        link: None,
        source: None,
        gateway: None,
        mtu: 0,
        protocol: u8::from(message.header.protocol),
        unicast: message.header.kind == RouteType::Unicast,
    };
    for attribute in &message.attributes {
        if let RouteAttribute::Table(table) = attribute {
            route.table = *table;
        } else if let RouteAttribute::Destination(address) = attribute {
            route.destination.0 = ip(address)?;
        } else if let RouteAttribute::PrefSource(address) = attribute {
            route.source = ip(address);
        } else if let RouteAttribute::Gateway(address) = attribute {
            route.gateway = ip(address);
        } else if let RouteAttribute::Oif(link) = attribute {
            route.link = Some(*link);
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            for metric in metrics {
                if let RouteMetric::Mtu(mtu) = metric {
                    route.mtu = *mtu;
                }
            }
        }
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some(IpAddr::V4(*address))
    } else if let RouteAddress::Inet6(address) = address {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}

fn family(code: AddressFamily) -> Option<Family> {
    Family::ALL.into_iter().find(|family| family.code() == code)
}
