//! What is inside a namespace: veth pairs, links, addresses, routes, sysctls.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{Namespace, NetnsError, step};
use crate::node::netlink::Netlink;
use crate::node::rt::Family;

impl Namespace {
    /// Joins this namespace's new device `device` to `other`'s new device `other_device` by a veth pair with an MTU
    /// of `mtu` bytes, both ends up.
    ///
    /// A veth drops what is longer than the *receiver's* MTU without a word: make a narrow path by a route's `mtu`,
    /// not by narrowing one end.
    ///
    /// # Errors
    /// A name is taken, or the kernel refuses.
    pub fn connect(
        &self,
        device: &str,
        other: &Self,
        other_device: &str,
        mtu: u32,
    ) -> Result<(), NetnsError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(other_device)
            .mtu(mtu)
            .setns_by_fd(other.fd.as_raw_fd())
            .build();
        let pair = LinkVeth::new(device, other_device)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(mtu)
            .up()
            .build();
        self.netlink(|netlink| {
            netlink.change(RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL)
        })?
        .map_err(step(|| {
            format!("join {device} in {} to {other_device} in {}", self.name(), other.name())
        }))?;
        other.set_up(other_device)
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    pub fn set_up(&self, device: &str) -> Result<(), NetnsError> {
        let index = self.index_of(device)?;
        let message = LinkUnspec::new_with_index(index).up().build();
        self.netlink(|netlink| netlink.change(RouteNetlinkMessage::SetLink(message), 0))?
            .map_err(step(|| format!("set {device} up in {}", self.name())))
    }

    /// Gives a device an address. An IPv6 one can be used at once (no duplicate address detection).
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    pub fn add_address(&self, device: &str, address: IpAddr, prefix: u8) -> Result<(), NetnsError> {
        let mut message = AddressMessage::default();
        message.header.family = Family::of(address).code();
        message.header.prefix_len = prefix;
        message.header.index = self.index_of(device)?;
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let change = RouteNetlinkMessage::NewAddress(message);
        self.netlink(|netlink| netlink.change(change, NLM_F_CREATE | NLM_F_REPLACE))?
            .map_err(step(|| format!("give {device} in {} the address {address}/{prefix}", self.name())))
    }

    /// Adds a route to the main table: through `gateway`, or straight out of `device`.
    /// The default route is `(0.0.0.0, 0)` or `(::, 0)`.
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    pub fn add_route(
        &self,
        destination: (IpAddr, u8),
        gateway: Option<IpAddr>,
        device: Option<&str>,
    ) -> Result<(), NetnsError> {
        let (address, prefix) = destination;
        let mut message = RouteMessage::default();
        message.header.address_family = Family::of(address).code();
        message.header.destination_prefix_length = prefix;
        message.header.table = rtnetlink::packet_route::route::RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Destination(address.into()));
        if let Some(gateway) = gateway {
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        if let Some(device) = device {
            message.attributes.push(RouteAttribute::Oif(self.index_of(device)?));
        }
        self.netlink(|netlink| {
            netlink.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
        })?
        .map_err(step(|| format!("add the route {address}/{prefix} in {}", self.name())))
    }

    /// Writes a network sysctl of this namespace, named by its path below `/proc/sys`: `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// There is no such setting, or it cannot be written.
    pub fn set_sysctl(&self, path: &str, value: &str) -> Result<(), NetnsError> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| fs::write(format!("/proc/sys/{path}"), value))?
            .map_err(step(|| format!("set {path} to {value} in {}", self.name())))
    }

    fn index_of(&self, device: &str) -> Result<u32, NetnsError> {
        let found = self
            .netlink(|netlink| netlink.link_by_name(device))?
            .map_err(step(|| format!("look for {device} in {}", self.name())))?;
        found.map(|link| link.index).ok_or_else(|| NetnsError::NoDevice {
            namespace: self.name().to_owned(),
            device: device.to_owned(),
        })
    }

    /// Runs `work` with an rtnetlink socket of this namespace.
    fn netlink<T: Send>(
        &self,
        work: impl FnOnce(&mut Netlink) -> io::Result<T> + Send,
    ) -> Result<io::Result<T>, NetnsError> {
        self.run(|| Netlink::open().and_then(|mut netlink| work(&mut netlink)))
    }
}
