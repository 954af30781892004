//! A host with a real TCP/IP stack (smoltcp) whose network card is two queues in memory.
//!
//! The card leaves the TCP checksum to "hardware", and segmentation too when asked to, so that the host emits the
//! packets a virtio card would: super-packets with partial checksums.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use dataplane::packet::vnet::VnetHdr;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use crate::packets::{Wire, pseudo_sum};

/// A host.
pub struct Host {
    /// Its addresses, at most one a family.
    pub addrs: Vec<IpAddr>,
    /// Every packet it received and nobody read yet, newest last, for a look at ICMP errors.
    pub seen: Vec<Vec<u8>>,
    iface: Interface,
    card: Card,
    sockets: SocketSet<'static>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host {:?}", self.addrs)
    }
}

/// A TCP socket of a host.
#[derive(Clone, Copy, Debug)]
pub struct Tcp(SocketHandle);

/// A UDP socket of a host.
#[derive(Clone, Copy, Debug)]
pub struct Udp(SocketHandle);

const BUFFER: usize = 128 * 1024;

impl Host {
    /// A host with these addresses. With `offload` its card takes super-packets.
    #[must_use]
    pub fn new(addrs: &[IpAddr], offload: bool, seed: u64) -> Self {
        let mut card = Card { rx: VecDeque::new(), tx: VecDeque::new(), offload };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut card, Instant::ZERO);
        iface.update_ip_addrs(|list| {
            for addr in addrs {
                let full = if addr.is_ipv4() { 32 } else { 128 };
                list.push(IpCidr::new(IpAddress::from(*addr), full)).expect("at most two addresses");
            }
        });
        for addr in addrs {
            // Everything is reached through the wire; the next hop's address means nothing on it.
            let added = match addr {
                IpAddr::V4(addr) => iface.routes_mut().add_default_ipv4_route(*addr),
                IpAddr::V6(addr) => iface.routes_mut().add_default_ipv6_route(*addr),
            };
            added.expect("room for two routes");
        }
        Self { addrs: addrs.to_vec(), seen: Vec::new(), iface, card, sockets: SocketSet::new(Vec::new()) }
    }

    /// Hands the host a packet.
    pub fn receive(&mut self, bytes: Vec<u8>) {
        self.seen.push(bytes.clone());
        self.card.rx.push_back(bytes);
    }

    /// Lets the stack work; what it wants to send is in [`Host::sent`].
    pub fn poll(&mut self, now: Instant) {
        self.iface.poll(now, &mut self.card, &mut self.sockets);
    }

    /// When the stack wants to work next.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.iface.poll_at(now, &self.sockets)
    }

    /// The next packet it wants to send. smoltcp does not segment IPv6 in the card, so with offload the segments of
    /// one stream are merged here, as a receiving card would.
    pub fn sent(&mut self) -> Option<Wire> {
        let mut first = self.card.tx.pop_front()?;
        while self.card.offload
            && let Some(next) = self.card.tx.front()
            && merge(&mut first, next)
        {
            self.card.tx.pop_front();
        }
        Some(first)
    }

    /// A TCP socket that waits for a connection.
    ///
    /// # Panics
    /// When the port is 0.
    pub fn listen(&mut self, port: u16) -> Tcp {
        let mut socket = new_tcp();
        socket.listen(port).expect("a port");
        Tcp(self.sockets.add(socket))
    }

    /// A TCP socket that connects.
    ///
    /// # Panics
    /// When the host has no address of that family.
    pub fn connect(&mut self, to: SocketAddr, from_port: u16) -> Tcp {
        let own = self.own(to);
        let mut socket = new_tcp();
        let local = IpListenEndpoint { addr: Some(IpAddress::from(own)), port: from_port };
        socket.connect(self.iface.context(), (IpAddress::from(to.ip()), to.port()), local).expect("connects");
        Tcp(self.sockets.add(socket))
    }

    /// A UDP socket on a port.
    ///
    /// # Panics
    /// When the port is 0.
    pub fn bind_udp(&mut self, port: u16) -> Udp {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 64 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a port");
        Udp(self.sockets.add(socket))
    }

    /// The TCP socket itself.
    pub fn tcp(&mut self, handle: Tcp) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle.0)
    }

    /// The UDP socket itself.
    pub fn udp(&mut self, handle: Udp) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle.0)
    }

    /// Forgets a TCP socket, so that its port can be used again.
    pub fn forget(&mut self, handle: Tcp) {
        self.sockets.remove(handle.0);
    }

    fn own(&self, to: SocketAddr) -> IpAddr {
        let same = |addr: &&IpAddr| addr.is_ipv4() == to.is_ipv4();
        *self.addrs.iter().find(same).expect("an address of that family")
    }
}

fn new_tcp() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket
}

/// The MTU of every link.
pub const MTU: usize = 1_500;

struct Card {
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Wire>,
    offload: bool,
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.rx.pop_front()?;
        Some((Received(packet), Sending { queue: &mut self.tx, meta: PacketMeta::default() }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        Some(Sending { queue: &mut self.tx, meta: PacketMeta::default() })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ip;
        caps.max_transmission_unit = MTU;
        // Received checksums are verified; those of TCP packets sent are left to the card.
        caps.checksum.tcp = Checksum::Rx;
        if self.offload {
            caps.segmentation.tcpv4 = NonZeroUsize::new(65_535);
        }
        caps
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a> {
    queue: &'a mut VecDeque<Wire>,
    meta: PacketMeta,
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.queue.push_back(with_partial_checksum(bytes, self.meta));
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

/// What the host's driver does: TCP packets get the pseudo-header's sum and a virtio header that says so.
fn with_partial_checksum(mut bytes: Vec<u8>, meta: PacketMeta) -> Wire {
    let v4 = bytes[0] >> 4 == 4;
    let (number, start) = if v4 { (bytes[9], usize::from(bytes[0] & 15) * 4) } else { (bytes[6], 40) };
    if number != 6 {
        return Wire::plain(bytes);
    }
    let (src, dst): (IpAddr, IpAddr) = if v4 {
        let at = |n: usize| <[u8; 4]>::try_from(&bytes[n..n + 4]).expect("four bytes").into();
        (at(12), at(16))
    } else {
        let at = |n: usize| <[u8; 16]>::try_from(&bytes[n..n + 16]).expect("sixteen bytes").into();
        (at(8), at(24))
    };
    let sum = pseudo_sum(src, dst, 6, bytes.len() - start);
    bytes[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
    let mut vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        csum_start: u16::try_from(start).expect("a header"),
        csum_offset: 16,
        ..VnetHdr::default()
    };
    if let Some(size) = meta.segmentation_offload_size {
        vnet.gso_type = if v4 { 1 } else { 4 };
        vnet.gso_size = size.get();
        let header = start + usize::from(bytes[start + 12] >> 4) * 4;
        vnet.hdr_len = u16::try_from(header).expect("a header");
    }
    Wire { vnet, bytes }
}

/// Appends an IPv6 TCP segment to the one before it, if it continues it and nothing but length, place and PSH differ.
fn merge(first: &mut Wire, next: &Wire) -> bool {
    let tcp6 = |bytes: &[u8]| bytes[0] >> 4 == 6 && bytes[6] == 6;
    if !tcp6(&first.bytes) || !tcp6(&next.bytes) {
        return false;
    }
    let seq = |bytes: &[u8]| u32::from_be_bytes([bytes[44], bytes[45], bytes[46], bytes[47]]);
    let head = 40 + usize::from(first.bytes[52] >> 4) * 4;
    let (have, more) = (first.bytes.len() - head, next.bytes.len().saturating_sub(head));
    let size = if first.vnet.gso_size == 0 { have } else { usize::from(first.vnet.gso_size) };
    let alike = |range: std::ops::Range<usize>| first.bytes[range.clone()] == next.bytes[range];
    let continues = more > 0
        && more <= size
        && have % size == 0
        && first.bytes.len() + more <= usize::from(u16::MAX)
        && seq(&next.bytes) == seq(&first.bytes).wrapping_add(u32::try_from(have).expect("below 64 KiB"))
        // ACK alone, and the last one may have PSH too.
        && first.bytes[53] == 0x10
        && next.bytes[53] & !0x08 == 0x10
        && alike(0..4)
        && alike(6..44)
        && alike(48..53)
        && alike(54..56)
        && alike(58..head);
    if !continues {
        return false;
    }
    first.bytes.extend_from_slice(&next.bytes[head..]);
    first.bytes[53] = next.bytes[53];
    let length = u16::try_from(first.bytes.len() - 40).expect("below 64 KiB");
    first.bytes[4..6].copy_from_slice(&length.to_be_bytes());
    first.vnet.gso_type = VnetHdr::GSO_TCPV6;
    first.vnet.gso_size = u16::try_from(size).expect("one segment");
    first.vnet.hdr_len = u16::try_from(head).expect("a header");
    let at = |n: usize| <[u8; 16]>::try_from(&first.bytes[n..n + 16]).expect("sixteen bytes").into();
    let sum = pseudo_sum(at(8), at(24), 6, usize::from(length));
    first.bytes[56..58].copy_from_slice(&sum.to_be_bytes());
    true
}
