//! The device's own settings: what must be true of it, and making it true.
//!
//! IPv4 settings go over rtnetlink (`IFLA_INET_CONF`), which works where /proc/sys is read-only; two IPv6 ones have
//! no such way and are files.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use nix::libc::{RT_SCOPE_HOST, RT_SCOPE_LINK};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};

use super::netlink::Netlink;
use super::rt::{Address, Family, Link};

/// The device's address. Without one the kernel drops everything the device emits as soon as the effective
/// `rp_filter` is not 0; removing it would flush every IPv4 route over the device.
pub(crate) const DEVICE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 77, 2));
/// Largest MTU a TUN device takes: packets come in whatever size the host has them.
const DEVICE_MTU: u32 = 65_535;
/// One setting that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Mtu,
    /// Packets, of up to 64 KiB each.
    QueueLength(u32),
    /// `net.ipv4.conf.DEV.NAME`, its number in `IPV4_DEVCONF_*`, the value it must have.
    Ipv4(&'static str, u16, u32),
    /// The kernel would give the device a link-local IPv6 address and send router solicitations into our queue.
    AddressGeneration,
    /// `net.ipv6.conf.DEV.NAME` and the value it must have.
    Ipv6File(&'static str, u32),
    Address,
    /// An IPv6 link-local address from before address generation was turned off.
    LinkLocal(IpAddr),
    Down,
}

/// What is wrong with the device, in the order to put it right: IPv6's address generation before it goes up.
pub(crate) fn faults(link: &Link, addresses: &[Address], queue_length: u32) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut must = |right: bool, fault: Fault| {
        if !right {
            faults.push(fault);
        }
    };
    must(link.mtu == DEVICE_MTU, Fault::Mtu);
    must(link.queue_length == queue_length, Fault::QueueLength(queue_length));
    if let Some(now) = link.ipv4 {
        // What we emit has a source that lies behind another device: strict filtering (1) would drop it, and 2 on
        // the device wins over `all` = 1, since the larger of the two counts.
        must(now.rp_filter == 2, Fault::Ipv4("rp_filter", 8, 2));
        // What we emit may have the node's own address as its source.
        must(now.accept_local == 1, Fault::Ipv4("accept_local", 23, 1));
        must(now.send_redirects == 0, Fault::Ipv4("send_redirects", 6, 0));
        must(now.forwarding == 1, Fault::Ipv4("forwarding", 1, 1));
        // While no process is attached the device has no carrier, and its routes must still match.
        must(now.ignore_routes_with_linkdown == 0, Fault::Ipv4("ignore_routes_with_linkdown", 29, 0));
    }
    if let Some(now) = link.ipv6 {
        must(now.addr_gen_mode == 1, Fault::AddressGeneration);
        must(now.accept_ra == 0, Fault::Ipv6File("accept_ra", 0));
        must(now.ignore_routes_with_linkdown == 0, Fault::Ipv6File("ignore_routes_with_linkdown", 0));
    }
    let own = || addresses.iter().filter(|address| address.link == link.index);
    must(own().any(|a| a.address == DEVICE_ADDRESS && a.scope == RT_SCOPE_HOST), Fault::Address);
    for address in own().filter(|a| a.address.is_ipv6() && a.scope == RT_SCOPE_LINK) {
        must(false, Fault::LinkLocal(address.address));
    }
    must(link.up, Fault::Down);
    faults
}

impl Fault {
    /// Puts it right.
    pub(crate) fn mend(&self, netlink: &mut Netlink, link: &Link) -> io::Result<()> {
        let set = |netlink: &mut Netlink, attribute: LinkAttribute| {
            let message = LinkUnspec::new_with_index(link.index).append_extra_attribute(attribute).build();
            netlink.change(RouteNetlinkMessage::SetLink(message), 0)
        };
        match self {
            Self::Mtu => set(netlink, LinkAttribute::Mtu(DEVICE_MTU)),
            Self::QueueLength(packets) => set(netlink, LinkAttribute::TxQueueLen(*packets)),
            Self::Ipv4(_, number, value) => set(netlink, ipv4_setting(*number, *value)),
            Self::AddressGeneration => {
                let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
                set(netlink, LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]))
            }
            Self::Ipv6File(name, value) => {
                fs::write(format!("/proc/sys/net/ipv6/conf/{}/{name}", link.name), value.to_string())
            }
            Self::Address => {
                let mut message = address_message(link.index, DEVICE_ADDRESS, 32);
                message.header.scope = AddressScope::Host;
                netlink.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            }
            Self::LinkLocal(address) => {
                netlink.change(RouteNetlinkMessage::DelAddress(address_message(link.index, *address, 64)), 0)
            }
            Self::Down => {
                let message = LinkUnspec::new_with_index(link.index).up().build();
                netlink.change(RouteNetlinkMessage::SetLink(message), 0)
            }
        }
    }

    /// Whether the device does its work without it.
    pub(crate) fn is_minor(&self) -> bool {
        matches!(self, Self::Ipv6File(..))
    }

    /// What was put right, for people.
    pub(crate) fn text(&self, device: &str) -> String {
        match self {
            Self::Mtu => format!("{device}: mtu {DEVICE_MTU}"),
            Self::QueueLength(packets) => format!("{device}: txqueuelen {packets}"),
            Self::Ipv4(name, _, value) => format!("net.ipv4.conf.{device}.{name}={value}"),
            Self::AddressGeneration => format!("net.ipv6.conf.{device}.addr_gen_mode=1"),
            Self::Ipv6File(name, value) => format!("net.ipv6.conf.{device}.{name}={value}"),
            Self::Address => format!("{device}: address {DEVICE_ADDRESS}/32"),
            Self::LinkLocal(address) => format!("{device}: without address {address}"),
            Self::Down => format!("{device}: up"),
        }
    }
}

/// The request that takes an address from a device.
pub(crate) fn remove_address(index: u32, address: IpAddr, prefix: u8) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelAddress(address_message(index, address, prefix))
}

fn address_message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = Family::of(address).code();
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

/// One `IPV4_DEVCONF_*` value as the kernel's `inet_set_link_af` wants it. (The ready-made request type leaves out
/// zeros, and one of ours is a zero.)
fn ipv4_setting(number: u16, value: u32) -> LinkAttribute {
    let setting = DefaultNla::new(number, value.to_ne_bytes().to_vec());
    let mut bytes = vec![0; setting.buffer_len()];
    setting.emit(&mut bytes);
    let all = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, bytes));
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![all])])
}

/// `linux/if_link.h`.
const IFLA_INET_CONF: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::rt::{Ipv4Settings, Ipv6Settings};

    #[test]
    fn a_fresh_device_needs_everything_and_address_generation_stops_before_it_goes_up() {
        let fresh = Link {
            index: 9,
            mtu: 1500,
            queue_length: 500,
            ipv4: Some(Ipv4Settings { send_redirects: 1, ..Ipv4Settings::default() }),
            ipv6: Some(Ipv6Settings { accept_ra: 1, ..Ipv6Settings::default() }),
            ..Link::default()
        };
        let faults = faults(&fresh, &[], 1000);
        let at = |fault: &Fault| faults.iter().position(|found| found == fault);
        assert!(at(&Fault::AddressGeneration) < at(&Fault::Down) && at(&Fault::AddressGeneration).is_some());
        assert!(at(&Fault::Ipv4("send_redirects", 6, 0)).is_some());
        assert_eq!(faults.len(), 10, "{faults:?}");
    }

    #[test]
    fn a_device_as_it_should_be_needs_nothing_also_without_ipv6() {
        let mut link = Link {
            index: 9,
            up: true,
            mtu: 65_535,
            queue_length: 1000,
            ipv4: Some(Ipv4Settings {
                rp_filter: 2,
                accept_local: 1,
                forwarding: 1,
                ..Ipv4Settings::default()
            }),
            ipv6: Some(Ipv6Settings { addr_gen_mode: 1, ..Ipv6Settings::default() }),
            ..Link::default()
        };
        let own = Address {
            link: 9,
            address: DEVICE_ADDRESS,
            prefix: 32,
            scope: RT_SCOPE_HOST,
            flags: 0x80,
            broadcast: None,
        };
        assert_eq!(faults(&link, std::slice::from_ref(&own), 1000), []);
        link.ipv6 = None;
        assert_eq!(faults(&link, std::slice::from_ref(&own), 1000), []);
        let elsewhere = Address { link: 8, ..own.clone() };
        assert_eq!(
            faults(&link, &[elsewhere], 1000),
            [Fault::Address],
            "the address of another device does not count"
        );
        let global = Address { scope: 0, ..own };
        assert_eq!(
            faults(&link, &[global], 1000),
            [Fault::Address],
            "global scope would make it a source address"
        );
    }
}
