//! Packets judged by `etherparse`: every length and every checksum, independent of the code under test.

use std::net::{IpAddr, SocketAddr};

use dataplane::packet::vnet::VnetHdr;
use etherparse::{Icmpv4Slice, Icmpv6Slice, IpNumber, IpSlice, TcpSlice, UdpSlice, checksum::Sum16BitWords};

use crate::packets::{Wire, crc32c, pseudo_sum, read_sctp};

/// A valid packet, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Source address and port; port 0 where there are none.
    pub src: SocketAddr,
    /// Destination address and port; port 0 where there are none.
    pub dst: SocketAddr,
    /// Layer 4.
    pub l4: L4,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The bytes with everything zeroed that NAT may change: addresses, ports, checksums, also of a packet quoted
    /// by an ICMP error.
    pub frozen: Vec<u8>,
}

/// Layer 4 of a [`View`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp {
        /// The flags byte.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgment number.
        ack: u32,
        /// Payload bytes.
        payload: usize,
    },
    /// UDP.
    Udp {
        /// The checksum field.
        checksum: u16,
        /// Payload bytes.
        payload: usize,
    },
    /// SCTP.
    Sctp {
        /// Verification tag.
        tag: u32,
        /// The types of its chunks.
        chunks: Vec<u8>,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum.
        rest: [u8; 4],
        /// What is quoted, when it is an error.
        quoted: Option<Quoted>,
    },
    /// Anything else, by IP protocol number.
    Other(u8),
}

/// The beginning of a packet inside an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Source address and port.
    pub src: SocketAddr,
    /// Destination address and port.
    pub dst: SocketAddr,
    /// IP protocol number.
    pub number: u8,
}

/// Reads a packet and checks every length and every checksum in it.
///
/// # Errors
/// What is wrong, in words.
pub fn valid(wire: &Wire) -> Result<View, String> {
    let bytes = &*wire.bytes;
    let ip = IpSlice::from_slice(bytes).map_err(|error| format!("not an IP packet: {error:?}"))?;
    let (src, dst) = (ip.source_addr(), ip.destination_addr());
    let (ttl, total) = match (ip.ipv4(), ip.ipv6()) {
        (Some(v4), _) => {
            let header = v4.header();
            let want = header.to_header().calc_header_checksum();
            equal("IPv4 header checksum", header.header_checksum(), want)?;
            (header.ttl(), usize::from(header.total_len()))
        }
        (None, Some(v6)) => (v6.header().hop_limit(), 40 + usize::from(v6.header().payload_length())),
        (None, None) => return Err("neither IPv4 nor IPv6".into()),
    };
    equal("IP total length", total, bytes.len())?;
    let mut frozen = bytes.to_vec();
    freeze_addresses(&mut frozen);
    let payload = ip.payload();
    let start = bytes.len() - payload.payload.len();
    let mut ports = (0, 0);
    let l4 = if payload.fragmented {
        L4::Other(payload.ip_number.0)
    } else {
        let l4 = match payload.ip_number {
            IpNumber::TCP => tcp(payload.payload, src, dst, &wire.vnet, start)?,
            IpNumber::UDP => udp(payload.payload, src, dst, &wire.vnet, start)?,
            IpNumber::ICMP | IpNumber::IPV6_ICMP => icmp(payload.payload, src, dst)?,
            IpNumber::SCTP if wire.vnet.flags & VnetHdr::NEEDS_CSUM != 0 => {
                return Err("SCTP whose checksum nobody finishes".into());
            }
            IpNumber::SCTP => {
                let (tag, chunks) = read_sctp(payload.payload)?;
                L4::Sctp { tag, chunks }
            }
            number => L4::Other(number.0),
        };
        if matches!(l4, L4::Tcp { .. } | L4::Udp { .. } | L4::Sctp { .. }) {
            ports = (be16(bytes, start), be16(bytes, start + 2));
        }
        freeze_l4(&mut frozen, start, &l4);
        l4
    };
    if !matches!(l4, L4::Tcp { .. } | L4::Udp { .. }) && wire.vnet.gso_type != 0 {
        return Err(format!("GSO type {} on {l4:?}", wire.vnet.gso_type));
    }
    Ok(View { src: SocketAddr::new(src, ports.0), dst: SocketAddr::new(dst, ports.1), l4, ttl, frozen })
}

/// As [`valid`], failing the test.
///
/// # Panics
/// When anything is wrong with the packet.
pub fn assert_valid(wire: &Wire) -> View {
    valid(wire).unwrap_or_else(|what| panic!("{what} in {:?} {:02x?}", wire.vnet, &wire.bytes))
}

/// The packet as the device puts it on the wire: checksum completed. Segments are not cut; see [`segments`].
///
/// # Panics
/// When the virtio-net header points outside the packet.
#[must_use]
pub fn completed(wire: &Wire) -> Vec<u8> {
    let mut bytes = wire.bytes.clone();
    if wire.vnet.flags & VnetHdr::NEEDS_CSUM != 0 {
        let start = usize::from(wire.vnet.csum_start);
        let at = start + usize::from(wire.vnet.csum_offset);
        let sum = Sum16BitWords::new().add_slice(&bytes[start..]).to_ones_complement_with_no_zero().to_be();
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// The packets a device makes of one TCP super-packet: as the kernel's software segmentation does.
///
/// # Panics
/// When the packet is not a valid TCP packet.
#[must_use]
pub fn segments(wire: &Wire) -> Vec<Vec<u8>> {
    let size = usize::from(wire.vnet.gso_size);
    let view = assert_valid(wire);
    let L4::Tcp { payload, seq, flags, .. } = view.l4 else { return vec![completed(wire)] };
    if wire.vnet.gso_type == 0 || payload <= size {
        return vec![completed(wire)];
    }
    let head = wire.bytes.len() - payload;
    let start = usize::from(wire.vnet.csum_start);
    let pieces = wire.bytes[head..].chunks(size);
    let last = pieces.len() - 1;
    let cut = |(index, piece): (usize, &[u8])| {
        let mut bytes = [&wire.bytes[..head], piece].concat();
        let offset = u32::try_from(index * size).expect("below 64 KiB");
        bytes[start + 4..start + 8].copy_from_slice(&seq.wrapping_add(offset).to_be_bytes());
        if index != last {
            // FIN and PSH belong to the last one.
            bytes[start + 13] = flags & !0x09;
        }
        finish(&mut bytes, start, view.src.ip(), view.dst.ip());
        bytes
    };
    pieces.enumerate().map(cut).collect()
}

fn finish(bytes: &mut [u8], start: usize, src: IpAddr, dst: IpAddr) {
    let total = u16::try_from(bytes.len()).expect("below 64 KiB");
    if src.is_ipv4() {
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[10..12].fill(0);
        let sum = Sum16BitWords::new().add_slice(&bytes[..start]).ones_complement().to_be();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        bytes[4..6].copy_from_slice(&(total - 40).to_be_bytes());
    }
    let pseudo = pseudo_sum(src, dst, 6, bytes.len() - start);
    bytes[start + 16..start + 18].copy_from_slice(&pseudo.to_be_bytes());
    let sum = Sum16BitWords::new().add_slice(&bytes[start..]).to_ones_complement_with_no_zero().to_be();
    bytes[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
}

fn tcp(bytes: &[u8], src: IpAddr, dst: IpAddr, vnet: &VnetHdr, start: usize) -> Result<L4, String> {
    let tcp = TcpSlice::from_slice(bytes).map_err(|error| format!("not TCP: {error:?}"))?;
    if vnet.flags & VnetHdr::NEEDS_CSUM != 0 {
        partial(vnet, start, 16, tcp.checksum(), pseudo_sum(src, dst, 6, bytes.len()))?;
    } else if !sums_up(src, dst, 6, bytes) {
        return Err(format!("TCP checksum {:#06x} is wrong", tcp.checksum()));
    }
    if vnet.gso_type != 0 {
        equal("GSO type", vnet.gso_type & 0x7f, if src.is_ipv4() { 1 } else { 4 })?;
    }
    let (flags, payload) = (bytes[13], tcp.payload().len());
    Ok(L4::Tcp { flags, seq: tcp.sequence_number(), ack: tcp.acknowledgment_number(), payload })
}

fn udp(bytes: &[u8], src: IpAddr, dst: IpAddr, vnet: &VnetHdr, start: usize) -> Result<L4, String> {
    let udp = UdpSlice::from_slice(bytes).map_err(|error| format!("not UDP: {error:?}"))?;
    equal("UDP length", usize::from(udp.length()), bytes.len())?;
    let checksum = udp.checksum();
    if vnet.flags & VnetHdr::NEEDS_CSUM != 0 {
        partial(vnet, start, 6, checksum, pseudo_sum(src, dst, 17, bytes.len()))?;
    } else if checksum != 0 && !sums_up(src, dst, 17, bytes) {
        return Err(format!("UDP checksum {checksum:#06x} is wrong"));
    }
    if vnet.gso_type != 0 {
        equal("GSO type", vnet.gso_type & 0x7f, 5)?;
    }
    Ok(L4::Udp { checksum, payload: udp.payload().len() })
}

/// As a receiver verifies: the sum over pseudo-header and segment, checksum included, is all ones.
fn sums_up(src: IpAddr, dst: IpAddr, number: u8, bytes: &[u8]) -> bool {
    let pseudo = pseudo_sum(src, dst, number, bytes.len()).to_be_bytes();
    Sum16BitWords::new().add_2bytes(pseudo).add_slice(bytes).ones_complement() == 0
}

fn icmp(bytes: &[u8], src: IpAddr, dst: IpAddr) -> Result<L4, String> {
    if bytes.len() < 8 {
        return Err("ICMP shorter than its header".into());
    }
    let right = if src.is_ipv4() {
        Icmpv4Slice::from_slice(bytes).map_err(|error| format!("not ICMP: {error:?}"))?;
        Sum16BitWords::new().add_slice(bytes).ones_complement() == 0
    } else {
        let icmp = Icmpv6Slice::from_slice(bytes).map_err(|error| format!("not ICMPv6: {error:?}"))?;
        icmp.is_checksum_valid(octets(src), octets(dst))
    };
    if !right {
        return Err("ICMP checksum".into());
    }
    let kind = bytes[0];
    let error = if src.is_ipv4() { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { matches!(kind, 1..=4) };
    let quoted = if error { quoted(&bytes[8..])? } else { None };
    Ok(L4::Icmp { kind, code: bytes[1], rest: [bytes[4], bytes[5], bytes[6], bytes[7]], quoted })
}

/// Reads what an error quotes; its checksum is verified when the whole packet is there.
fn quoted(bytes: &[u8]) -> Result<Option<Quoted>, String> {
    let Some((src, dst, number, start)) = quoted_layout(bytes) else { return Ok(None) };
    if src.is_ipv4() && Sum16BitWords::new().add_slice(&bytes[..start]).ones_complement() != 0 {
        return Err("quoted IPv4 header checksum".into());
    }
    let total = if src.is_ipv4() { usize::from(be16(bytes, 2)) } else { 40 + usize::from(be16(bytes, 4)) };
    if !matches!(number, 6 | 17 | 132) || bytes.len() < start + 8 {
        return Ok(None);
    }
    let l4 = &bytes[start..];
    // A fragment's checksum covers more than the fragment.
    let fragment = if src.is_ipv4() { be16(bytes, 6) & 0x3fff != 0 } else { is_fragment(bytes) };
    let unsummed = fragment || number == 17 && be16(l4, 6) == 0;
    if number == 132 && bytes.len() == total && !unsummed {
        if l4[8..12] != crc32c(&[&l4[..8], &[0; 4], &l4[12..]].concat()).to_le_bytes() {
            return Err("quoted SCTP checksum".into());
        }
    } else if bytes.len() == total && !unsummed {
        let field = be16(l4, if number == 6 { 16 } else { 6 });
        // A quoted packet may have left its host with a partial checksum.
        if !sums_up(src, dst, number, l4) && field != pseudo_sum(src, dst, number, l4.len()) {
            return Err("quoted layer-4 checksum".into());
        }
    }
    let at = |addr, offset| SocketAddr::new(addr, be16(l4, offset));
    Ok(Some(Quoted { src: at(src, 0), dst: at(dst, 2), number }))
}

/// Whether an IPv6 packet says that it is a fragment.
fn is_fragment(bytes: &[u8]) -> bool {
    let start = if bytes[6] == 0 { 40 + 8 * (usize::from(bytes[41]) + 1) } else { 40 };
    (if start > 40 { bytes[40] } else { bytes[6] }) == 44
}

/// Addresses, protocol and layer-4 offset of a quoted packet; options, routing and fragment headers are stepped over.
fn quoted_layout(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, usize)> {
    let v4 = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).ok().map(IpAddr::from);
    let v6 = |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).ok().map(IpAddr::from);
    match bytes.first()? >> 4 {
        4 if bytes.len() >= 20 => Some((v4(12)?, v4(16)?, bytes[9], usize::from(bytes[0] & 15) * 4)),
        6 if bytes.len() >= 40 => {
            let (mut number, mut at) = (bytes[6], 40);
            while matches!(number, 0 | 43 | 44 | 60) {
                let header = bytes.get(at..at + 2)?;
                at += if number == 44 { 8 } else { 8 * (usize::from(header[1]) + 1) };
                number = header[0];
            }
            Some((v6(8)?, v6(24)?, number, at))
        }
        _ => None,
    }
}

fn freeze_addresses(bytes: &mut [u8]) {
    if bytes[0] >> 4 == 4 {
        bytes[10..20].fill(0);
    } else {
        bytes[8..40].fill(0);
    }
}

fn freeze_l4(bytes: &mut [u8], start: usize, l4: &L4) {
    let mut zero = |at: usize, len: usize| {
        let end = (start + at + len).min(bytes.len());
        bytes[(start + at).min(end)..end].fill(0);
    };
    match l4 {
        L4::Tcp { .. } => {
            zero(0, 4);
            zero(16, 2);
        }
        L4::Udp { .. } => {
            zero(0, 4);
            zero(6, 2);
        }
        L4::Sctp { .. } => {
            zero(0, 4);
            zero(8, 4);
        }
        L4::Icmp { quoted, .. } => {
            zero(2, 2);
            if quoted.is_some()
                && let Some((_, _, number, inner)) = quoted_layout(&bytes[start + 8..])
            {
                freeze_addresses(&mut bytes[start + 8..]);
                let at = start + 8 + inner;
                bytes[at..at + 4].fill(0);
                // A part of a checksum stays what it was.
                let field = match number {
                    6 => at + 16..at + 18,
                    132 => at + 8..at + 12,
                    _ => at + 6..at + 8,
                };
                if let Some(field) = bytes.get_mut(field) {
                    field.fill(0);
                }
            }
        }
        L4::Other(_) => {}
    }
}

fn partial(vnet: &VnetHdr, start: usize, offset: u16, field: u16, want: u16) -> Result<(), String> {
    equal("checksum start", usize::from(vnet.csum_start), start)?;
    equal("checksum offset", vnet.csum_offset, offset)?;
    // 0 and 0xffff are one number in one's complement; both lead to the same final checksum.
    equal("partial checksum", field % 0xffff, want % 0xffff)
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, is: T, want: T) -> Result<(), String> {
    if is == want { Ok(()) } else { Err(format!("{what} is {is:?}, should be {want:?}")) }
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V6(addr) => addr.octets(),
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
