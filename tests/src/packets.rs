//! Packets built with `etherparse`: an author independent of the code under test.
//!
//! A [`Spec`] describes one TCP, UDP or SCTP packet of either family, with options, extension headers, offloads;
//! [`Spec::wire`] makes the bytes and the virtio-net header a TUN device would hand over with them.

use std::net::{IpAddr, SocketAddr};

use dataplane::packet::frame::Batch;
use dataplane::packet::vnet::VnetHdr;
use etherparse::{
    IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, Ipv6RawExtHeader, TcpHeader,
    UdpHeader, checksum::Sum16BitWords,
};

mod fragment;
mod icmp;
mod sctp;

pub use fragment::{Cut, Reassembler, fragment, fragments, head};
pub use icmp::{IcmpError, echo, icmp, icmp_error};
pub use sctp::{chunks, crc32c, read as read_sctp};

/// TCP flags as the header has them.
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// A packet as it crosses a TUN queue: the virtio-net header and the IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The header in front.
    pub vnet: VnetHdr,
    /// The IP packet.
    pub bytes: Vec<u8>,
}

impl Wire {
    /// A packet without offloads.
    #[must_use]
    pub fn plain(bytes: Vec<u8>) -> Self {
        Self { vnet: VnetHdr::default(), bytes }
    }

    /// Puts the packet into the batch's next frame; false when the batch is full.
    pub fn put(&self, batch: &mut Batch) -> bool {
        let Some(frame) = batch.spare() else { return false };
        frame.fill(self.vnet, &self.bytes);
        batch.push();
        true
    }
}

/// What a packet leaves to the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Nothing: the checksum is complete.
    #[default]
    None,
    /// The checksum: the field holds the pseudo-header's sum.
    Checksum,
    /// The checksum, and cutting into segments of this many payload bytes.
    Gso(u16),
}

#[derive(Clone, Debug)]
enum L4 {
    Tcp(Box<TcpHeader>),
    Udp { checksum: bool },
    Sctp { chunks: Vec<u8> },
}

/// A TCP, UDP or SCTP packet to be built.
#[derive(Clone, Debug)]
pub struct Spec {
    src: SocketAddr,
    dst: SocketAddr,
    l4: L4,
    payload: Vec<u8>,
    ttl: u8,
    tos: u8,
    ip_options: Vec<u8>,
    extensions: Vec<(IpNumber, Vec<u8>)>,
    offload: Offload,
}

/// A TCP packet with these flags, no payload, a window of 64,240.
///
/// # Panics
/// When the two addresses are of different families.
#[must_use]
pub fn tcp(src: SocketAddr, dst: SocketAddr, tcp_flags: u8) -> Spec {
    let mut header = TcpHeader::new(src.port(), dst.port(), 1_000, 64_240);
    header.fin = tcp_flags & flags::FIN != 0;
    header.syn = tcp_flags & flags::SYN != 0;
    header.rst = tcp_flags & flags::RST != 0;
    header.psh = tcp_flags & flags::PSH != 0;
    header.ack = tcp_flags & flags::ACK != 0;
    if header.ack {
        header.acknowledgment_number = 2_000;
    }
    Spec::new(src, dst, L4::Tcp(Box::new(header)))
}

/// A UDP packet without payload.
///
/// # Panics
/// When the two addresses are of different families.
#[must_use]
pub fn udp(src: SocketAddr, dst: SocketAddr) -> Spec {
    Spec::new(src, dst, L4::Udp { checksum: true })
}

/// An SCTP packet with chunks of these types, of which the last has the payload.
///
/// # Panics
/// When the two addresses are of different families.
#[must_use]
pub fn sctp(src: SocketAddr, dst: SocketAddr, chunks: &[u8]) -> Spec {
    Spec::new(src, dst, L4::Sctp { chunks: chunks.to_vec() })
}

impl Spec {
    fn new(src: SocketAddr, dst: SocketAddr, l4: L4) -> Self {
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "one packet, one family");
        Self {
            src,
            dst,
            l4,
            payload: Vec::new(),
            ttl: 64,
            tos: 0,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            offload: Offload::None,
        }
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// With this TCP sequence number.
    #[must_use]
    pub fn seq(mut self, seq: u32) -> Self {
        if let L4::Tcp(header) = &mut self.l4 {
            header.sequence_number = seq;
        }
        self
    }

    /// With this TCP acknowledgment number; the ACK flag is not touched.
    #[must_use]
    pub fn ack(mut self, ack: u32) -> Self {
        if let L4::Tcp(header) = &mut self.l4 {
            header.acknowledgment_number = ack;
        }
        self
    }

    /// With these TCP options, padded to a multiple of four.
    ///
    /// # Panics
    /// When they are longer than 40 bytes.
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        if let L4::Tcp(header) = &mut self.l4 {
            header.set_options_raw(options).expect("at most 40 bytes of options");
        }
        self
    }

    /// UDP without a checksum.
    #[must_use]
    pub fn no_checksum(mut self) -> Self {
        if let L4::Udp { checksum } = &mut self.l4 {
            *checksum = false;
        }
        self
    }

    /// With this TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With this type of service or traffic class.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// With these IPv4 options, a multiple of four bytes.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options = options.to_vec();
        self
    }

    /// With one more IPv6 extension header; `body` is 6 bytes plus a multiple of 8.
    #[must_use]
    pub fn extension(mut self, number: IpNumber, body: &[u8]) -> Self {
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// Leaves work to the device.
    #[must_use]
    pub fn offload(mut self, offload: Offload) -> Self {
        self.offload = offload;
        self
    }

    /// The packet and its virtio-net header.
    ///
    /// # Panics
    /// SCTP is to be cut into segments.
    #[must_use]
    pub fn wire(&self) -> Wire {
        let l4 = self.l4_bytes();
        let (number, csum_offset) = match self.l4 {
            L4::Tcp(_) => (IpNumber::TCP, 16),
            L4::Udp { .. } => (IpNumber::UDP, 6),
            L4::Sctp { .. } => (IpNumber::SCTP, 8),
        };
        let mut bytes = self.ip_header(number, l4.len());
        let start = bytes.len();
        bytes.extend_from_slice(&l4);
        let vnet = match self.offload {
            Offload::None => VnetHdr::default(),
            Offload::Checksum => partial(start, csum_offset),
            Offload::Gso(size) => VnetHdr {
                gso_type: match (&self.l4, self.src) {
                    (L4::Tcp(_), SocketAddr::V4(_)) => 1,
                    (L4::Tcp(_), SocketAddr::V6(_)) => 4,
                    (L4::Udp { .. }, _) => 5,
                    (L4::Sctp { .. }, _) => panic!("a TUN gets no super-packets of SCTP"),
                },
                gso_size: size,
                hdr_len: fit(bytes.len() - self.payload.len()),
                ..partial(start, csum_offset)
            },
        };
        if vnet.flags & VnetHdr::NEEDS_CSUM != 0 {
            let sum = pseudo_sum(self.src.ip(), self.dst.ip(), number.0, bytes.len() - start);
            let at = start + usize::from(csum_offset);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Wire { vnet, bytes }
    }

    /// The packet alone.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.wire().bytes
    }

    fn l4_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(60 + self.payload.len());
        match &self.l4 {
            L4::Tcp(header) => {
                let mut header = header.clone();
                header.checksum = match (self.src.ip(), self.dst.ip()) {
                    (IpAddr::V4(src), IpAddr::V4(dst)) => {
                        header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &self.payload)
                    }
                    (src, dst) => header.calc_checksum_ipv6_raw(v6(src), v6(dst), &self.payload),
                }
                .expect("a payload that fits");
                out.extend_from_slice(&header.to_bytes());
            }
            L4::Udp { checksum } => {
                let mut header = UdpHeader {
                    source_port: self.src.port(),
                    destination_port: self.dst.port(),
                    length: fit(UdpHeader::LEN + self.payload.len()),
                    checksum: 0,
                };
                if *checksum {
                    header.checksum = match (self.src.ip(), self.dst.ip()) {
                        (IpAddr::V4(src), IpAddr::V4(dst)) => {
                            header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &self.payload)
                        }
                        (src, dst) => header.calc_checksum_ipv6_raw(v6(src), v6(dst), &self.payload),
                    }
                    .expect("a payload that fits");
                }
                out.extend_from_slice(&header.to_bytes());
            }
            L4::Sctp { chunks } => return sctp::build(self.src, self.dst, chunks, &self.payload),
        }
        out.extend_from_slice(&self.payload);
        out
    }

    fn ip_header(&self, number: IpNumber, l4_len: usize) -> Vec<u8> {
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = Ipv4Header::new(0, self.ttl, number, src.octets(), dst.octets())
                    .expect("an empty payload fits");
                header.options =
                    Ipv4Options::try_from(&*self.ip_options).expect("a multiple of 4, at most 40");
                header.set_payload_len(l4_len).expect("a packet of at most 65,535 bytes");
                header.dscp = IpDscp::try_new(self.tos >> 2).expect("six bits");
                header.ecn = IpEcn::try_new(self.tos & 3).expect("two bits");
                header.identification = 0x4242;
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            (src, dst) => {
                let mut chain = Vec::new();
                let followers = self.extensions.iter().skip(1).map(|(number, _)| *number).chain([number]);
                for ((_, body), next) in self.extensions.iter().zip(followers) {
                    let header = Ipv6RawExtHeader::new_raw(next, body).expect("6 bytes plus a multiple of 8");
                    chain.extend_from_slice(&header.to_bytes());
                }
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: Ipv6FlowLabel::try_new(0x12345).expect("twenty bits"),
                    payload_length: fit(chain.len() + l4_len),
                    next_header: self.extensions.first().map_or(number, |(number, _)| *number),
                    hop_limit: self.ttl,
                    source: v6(src),
                    destination: v6(dst),
                };
                let mut bytes = header.to_bytes().to_vec();
                bytes.extend_from_slice(&chain);
                bytes
            }
        }
    }
}

/// The folded, uncomplemented sum of a pseudo-header: what a partial checksum field holds.
///
/// # Panics
/// When the addresses are of different families.
#[must_use]
pub fn pseudo_sum(src: IpAddr, dst: IpAddr, number: u8, length: usize) -> u16 {
    let mut sum = Sum16BitWords::new();
    sum = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum.add_4bytes(src.octets()).add_4bytes(dst.octets()),
        (src, dst) => sum.add_16bytes(v6(src)).add_16bytes(v6(dst)),
    };
    // Big-endian, as the checksum field is; etherparse sums in native order and complements.
    !sum.add_2bytes([0, number]).add_2bytes(fit(length).to_be_bytes()).ones_complement().to_be()
}

fn partial(start: usize, csum_offset: u16) -> VnetHdr {
    VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: fit(start), csum_offset, ..VnetHdr::default() }
}

fn v6(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V6(addr) => addr.octets(),
        IpAddr::V4(addr) => panic!("{addr} in an IPv6 packet"),
    }
}

fn fit(n: usize) -> u16 {
    u16::try_from(n).expect("a length below 65,536")
}
