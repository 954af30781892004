//! What the kernel tells about changes: rtnetlink's and nftables' multicast groups, as "something that may be of
//! ours has changed". What exactly is found out by looking, so a lost or misread message costs a look and no more.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol};
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::host::NFT_TABLE;
use super::netlink::messages;
use super::plan::PROTOCOL;

/// What may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Links, addresses, routes, rules, or a device's settings.
    Network,
    /// Firewall rules.
    Firewall,
}

/// Which changes of firewall rules are worth a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Nothing,
    /// Those of the table named as ours is.
    OurTable,
    Everything,
}

/// Subscriptions of the network namespace they were made in.
pub(crate) struct Watch {
    network: TokioSocket,
    firewall: Option<TokioSocket>,
    interest: Interest,
}

impl Watch {
    /// Subscribes. nftables' group is optional: a kernel without nftables has none.
    pub(crate) fn open(interest: Interest) -> io::Result<Self> {
        let network = subscribe(NETLINK_ROUTE, GROUPS.iter().map(|group| *group as u32))?;
        let firewall = match interest {
            Interest::Nothing => None,
            Interest::OurTable | Interest::Everything => {
                subscribe(NETLINK_NETFILTER, [NFNLGRP_NFTABLES].into_iter()).ok()
            }
        };
        Ok(Self { network, firewall, interest })
    }

    /// Waits for the next hint. Cancel-safe: a hint is either returned or still waiting in the socket.
    pub(crate) async fn changed(&mut self) -> io::Result<Hint> {
        loop {
            let mut network = Vec::with_capacity(LARGEST_MESSAGE);
            let mut firewall = Vec::with_capacity(LARGEST_MESSAGE);
            let mut from_network = self.network.recv(&mut network);
            let mut from_firewall = self.firewall.as_mut().map(|socket| socket.recv(&mut firewall));
            let (hint, result) = std::future::poll_fn(|cx: &mut Context<'_>| {
                if let Poll::Ready(result) = Pin::new(&mut from_network).poll(cx) {
                    return Poll::Ready((Hint::Network, result));
                }
                match from_firewall.as_mut().map(|receive| Pin::new(receive).poll(cx)) {
                    Some(Poll::Ready(result)) => Poll::Ready((Hint::Firewall, result)),
                    Some(Poll::Pending) | None => Poll::Pending,
                }
            })
            .await;
            match result {
                Ok(()) if hint == Hint::Network && !concerns_us(&network) => {}
                Ok(()) if hint == Hint::Firewall && !self.interest.is_in(&firewall) => {}
                Ok(()) => return Ok(hint),
                // Messages were lost: that is a change too.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(hint),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Interest {
    /// Every message about a table, or about anything in one, carries the table's name.
    fn is_in(self, datagram: &[u8]) -> bool {
        let named = |name: &str| {
            let name = [name.as_bytes(), &[0]].concat();
            datagram.windows(name.len()).any(|bytes| bytes == name)
        };
        self == Self::Everything || named(NFT_TABLE)
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("firewall", &self.firewall.is_some()).finish_non_exhaustive()
    }
}

/// A socket that hears these multicast groups.
pub(super) fn subscribe(protocol: isize, groups: impl Iterator<Item = u32>) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    let mask = groups.fold(0, |mask, group| mask | 1 << (group - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
    Ok(socket)
}

/// Whether a datagram may mean work. On a host with a full BGP table most messages are routes of other tables.
fn concerns_us(datagram: &[u8]) -> bool {
    let known = messages(datagram);
    // What cannot be decoded (RTM_NEWNETCONF: a device's settings) is looked into.
    known.is_empty()
        || known.iter().any(|message| {
            if let NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
            ) = &message.payload
            {
                return route_concerns_us(route);
            }
            true
        })
}

fn route_concerns_us(route: &RouteMessage) -> bool {
    // A default route decides the node's address.
    route.header.destination_prefix_length == 0 || route.header.protocol == RouteProtocol::Other(PROTOCOL)
}

/// What we subscribe to.
const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];
/// `linux/netfilter/nfnetlink.h`.
const NFNLGRP_NFTABLES: u32 = 7;
/// `NLMSG_GOODSIZE` is 8 KiB at most; a longer datagram would only be cut.
const LARGEST_MESSAGE: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::NetlinkMessage;
    use rtnetlink::packet_route::link::LinkMessage;

    use super::*;

    #[test]
    fn routes_of_others_are_nothing_to_us() {
        let mut route = RouteMessage::default();
        route.header.destination_prefix_length = 24;
        route.header.table = 254;
        assert!(!concerns_us(&datagram(RouteNetlinkMessage::NewRoute(route.clone()))));
        route.header.protocol = RouteProtocol::Other(PROTOCOL);
        assert!(concerns_us(&datagram(RouteNetlinkMessage::DelRoute(route.clone()))));
        let mut default = RouteMessage::default();
        default.header.table = 254;
        assert!(concerns_us(&datagram(RouteNetlinkMessage::NewRoute(default))));
        assert!(concerns_us(&datagram(RouteNetlinkMessage::DelLink(LinkMessage::default()))));
        assert!(concerns_us(b"what is this?"), "what cannot be read is looked into");
    }

    fn datagram(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }
}
