//! Bytes to [`Layout`]: the one validation. Everything behind it trusts what it found, so every length
//! relation and every reason to drop a packet for its form is here. A plain packet takes no loop.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::checksum::sum;
use super::tuple::{Address, Family, Proto, Tuple};
use super::{exthdr, fragment, sctp};
use crate::verdict::DropReason;

/// What the layer-4 header says to a flow's state. TCP: the flag bits as the header has them. SCTP: the number of the
/// chunk type that matters, see [`sctp::Chunk`]. Other protocols: 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct L4Flags(pub u8);

impl L4Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Opens a connection.
    pub const SYN: Self = Self(0x02);
    /// Aborts a connection.
    pub const RST: Self = Self(0x04);
    /// The acknowledgment number counts.
    pub const ACK: Self = Self(0x10);

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the segment opens a connection: SYN without FIN, RST or ACK.
    #[must_use]
    pub const fn is_syn(self) -> bool {
        self.0 & (Self::FIN.0 | Self::SYN.0 | Self::RST.0 | Self::ACK.0) == Self::SYN.0
    }
}

/// What a packet is, as far as NAT cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// TCP, UDP or SCTP with a whole minimal header (SCTP: and that of its first chunk): it has a tuple.
    Flow(Proto),
    /// An ICMP error or redirect (RFC 792 types 3, 4, 5, 11, 12; RFC 4443 types 1 to 4; RFC 4861 type 137).
    IcmpError,
    /// Any other ICMP or ICMPv6 message (echo, ...).
    Icmp,
    /// Any other protocol, ESP, or nothing behind IPv6 extension headers.
    #[default]
    Other,
}

/// How much of its datagram a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Piece {
    /// All of it.
    #[default]
    Whole,
    /// The first fragment: it has the headers, so it has a [`Kind`].
    First,
    /// Another fragment: it is [`Kind::Other`], and means nothing without the first.
    Later,
}

/// Where things are in a validated packet: addresses that may be on the wire, and the minimal layer-4 header of
/// its [`Kind`] inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    total: u16,
    l4: u16,
    family: Family,
    kind: Kind,
    flags: L4Flags,
    piece: Piece,
}

const _: () = assert!(size_of::<Layout>() == 8, "kept in every frame");

/// How the layer-4 checksum stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Csum {
    /// Complete and (for all we know) right.
    #[default]
    Full,
    /// Only the uncomplemented pseudo-header sum: the device completes it (virtio `NEEDS_CSUM`).
    Partial,
}

/// Both addresses of a packet, from its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
}

impl Default for Layout {
    /// Of no packet: nothing in it.
    fn default() -> Self {
        Self {
            total: 0,
            l4: 0,
            family: Family::V4,
            kind: Kind::Other,
            flags: L4Flags::default(),
            piece: Piece::Whole,
        }
    }
}

impl Layout {
    /// Validates a packet. `bytes` may be longer than the IP total length (padding); never shorter.
    ///
    /// # Errors
    /// Why the packet is dropped. Multicast and broadcast destinations go first (`NotUnicast`: the kernel's
    /// own noise), then impossible addresses (`Martian`), then link-local ones (`NotUnicast`), then lengths;
    /// fragments that can be none (`BadFragment`) or hide their headers (`TinyFragment`). Two link-local IPv4
    /// addresses pass: a destination, because a SNAT address may be one, so that only whoever knows the flows can
    /// tell; and the source of an ICMP error, which numbered tunnels send from 169.254.0.0/16 and whose MTU must not
    /// be lost.
    ///
    /// An atomic IPv6 fragment (RFC 6946) is a whole packet. IPv4 options are allowed.
    #[inline]
    pub fn of(bytes: &[u8]) -> Result<Self, DropReason> {
        match bytes.first().ok_or(DropReason::Truncated)? >> 4 {
            4 => Self::of_v4(bytes),
            6 => Self::of_v6(bytes),
            _ => Err(DropReason::BadVersion),
        }
    }

    /// IP total length in bytes, headers included.
    #[inline]
    #[must_use]
    pub fn total_len(&self) -> usize {
        usize::from(self.total)
    }

    /// Offset of the layer-4 header from the IP header, bytes.
    #[inline]
    #[must_use]
    pub fn l4_offset(&self) -> usize {
        usize::from(self.l4)
    }

    /// The IP version.
    #[inline]
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// What it is.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// TCP flags, or SCTP's chunk; none for other protocols.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> L4Flags {
        self.flags
    }

    /// It is a part of a datagram; see [`fragment::Part`] for which.
    #[inline]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.piece != Piece::Whole
    }

    /// How much of its datagram it is.
    #[inline]
    #[must_use]
    pub fn piece(&self) -> Piece {
        self.piece
    }

    /// The addresses of a packet of family `A`.
    ///
    /// # Panics
    /// `bytes` is shorter than an IP header of `A`: not the packet this layout is of.
    #[inline]
    #[must_use]
    pub fn addresses<A: Address>(&self, bytes: &[u8]) -> Addresses<A> {
        debug_assert_eq!(self.family, A::FAMILY);
        let pair = &bytes[A::OFFSET..A::OFFSET + 2 * A::LEN];
        Addresses { src: A::read(pair), dst: A::read(&pair[A::LEN..]) }
    }

    /// The tuple of a packet whose kind is [`Kind::Flow`] and whose family is `A`'s.
    ///
    /// # Panics
    /// The kind is another, or `bytes` is not the packet this layout is of.
    #[inline]
    #[must_use]
    pub fn tuple<A: Address>(&self, bytes: &[u8]) -> Tuple<A> {
        let Kind::Flow(proto) = self.kind else { panic!("{:?} has no ports", self.kind) };
        let Addresses { src, dst } = self.addresses(bytes);
        let ports = &bytes[self.l4_offset()..self.l4_offset() + 4];
        Tuple { src, dst, sport: word(ports, 0), dport: word(ports, 2), proto }
    }

    /// Where what the layer-4 checksum is over ends: the packet, or before that a whole UDP datagram.
    ///
    /// # Panics
    /// `bytes` is not the packet this layout is of.
    #[must_use]
    pub fn l4_end(&self, bytes: &[u8]) -> usize {
        match (self.kind, self.piece) {
            (Kind::Flow(Proto::Udp), Piece::Whole) => {
                self.total_len().min(self.l4_offset() + usize::from(word(bytes, self.l4_offset() + 4)))
            }
            _ => self.total_len(),
        }
    }

    /// Payload bytes behind the layer-4 header (TCP: behind options); of [`Kind::Other`], all behind the IP
    /// headers.
    ///
    /// # Panics
    /// `bytes` is not the packet this layout is of.
    #[must_use]
    pub fn payload_len(&self, bytes: &[u8]) -> usize {
        let header = match self.kind {
            Kind::Flow(Proto::Tcp) => usize::from(bytes[self.l4_offset() + 12] >> 4) * 4,
            Kind::Flow(Proto::Sctp) => sctp::HEADER,
            Kind::Flow(Proto::Udp) | Kind::IcmpError | Kind::Icmp => 8,
            Kind::Other => 0,
        };
        self.total_len().saturating_sub(self.l4_offset() + header)
    }

    #[inline]
    fn of_v4(bytes: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or(DropReason::Truncated)?;
        let ihl = u16::from(header[0] & 0xf) * 4;
        let l4 = usize::from(ihl);
        if l4 < header.len() || l4 > bytes.len() {
            return Err(DropReason::BadHeaderLength);
        }
        let total = word(header, 2);
        if total < ihl || usize::from(total) > bytes.len() {
            return Err(DropReason::BadTotalLength);
        }
        if !(if l4 == header.len() { intact(header) } else { sum(&bytes[..l4]) == 0xffff }) {
            return Err(DropReason::BadHeaderChecksum);
        }
        let mut link_local_source = false;
        if is_special_v4(header[12]) || is_special_v4(header[16]) {
            link_local_source = judge_v4(Ipv4Addr::read(&header[12..]), Ipv4Addr::read(&header[16..]))?;
        }
        let message = &bytes[l4..usize::from(total)];
        // More fragments, or an offset.
        let (kind, flags, piece) = if word(header, 6) & 0x3fff == 0 {
            let (kind, flags) = upper(header[9], ICMP, message)?;
            (kind, flags, Piece::Whole)
        } else {
            fragment::judge_v4(word(header, 6), header[9], l4, message)?
        };
        if link_local_source && kind != Kind::IcmpError {
            return Err(DropReason::NotUnicast);
        }
        Ok(Self { total, l4: ihl, family: Family::V4, kind, flags, piece })
    }

    #[inline]
    fn of_v6(bytes: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; 40] = bytes.first_chunk().ok_or(DropReason::Truncated)?;
        // No frame holds more than 65,535 bytes, so a payload that long is beyond the buffer, too.
        let total = word(header, 4).checked_add(40).ok_or(DropReason::BadTotalLength)?;
        let packet = bytes.get(..usize::from(total)).ok_or(DropReason::BadTotalLength)?;
        if is_special_v6(header[8]) || is_special_v6(header[24]) {
            judge_v6(Ipv6Addr::read(&header[8..]), Ipv6Addr::read(&header[24..]))?;
        }
        let (mut protocol, mut l4) = (header[6], 40);
        if !matches!(protocol, TCP | UDP | ICMPV6) {
            let chain = exthdr::walk(packet, protocol)?;
            if let Some(header) = chain.fragment {
                let l4 = u16::try_from(chain.offset).map_err(|_| DropReason::BadExtensionHeader)?;
                let (kind, flags, piece) = fragment::judge_v6(header, &chain, packet)?;
                return Ok(Self { total, l4, family: Family::V6, kind, flags, piece });
            }
            protocol = chain.protocol;
            l4 = u16::try_from(chain.offset).map_err(|_| DropReason::BadExtensionHeader)?;
        }
        let (kind, flags) = upper(protocol, ICMPV6, &packet[usize::from(l4)..])?;
        Ok(Self { total, l4, family: Family::V6, kind, flags, piece: Piece::Whole })
    }
}

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;

/// Judges the layer-4 header; `icmp` is the number ICMP has in this family.
#[inline]
pub(super) fn upper(protocol: u8, icmp: u8, l4: &[u8]) -> Result<(Kind, L4Flags), DropReason> {
    const BAD: DropReason = DropReason::BadL4Header;
    match protocol {
        TCP => {
            let header: &[u8; 20] = l4.first_chunk().ok_or(BAD)?;
            let len = usize::from(header[12] >> 4) * 4;
            if len < header.len() || len > l4.len() {
                return Err(BAD);
            }
            Ok((Kind::Flow(Proto::Tcp), L4Flags(header[13])))
        }
        UDP => {
            // What follows the datagram in its packet are options (RFC 9868), of which no checksum of ours knows. A GSO
            // super-packet has its real length. Zero means a jumbogram (RFC 2675), which none of ours is.
            let header: &[u8; 8] = l4.first_chunk().ok_or(BAD)?;
            if !(header.len()..=l4.len()).contains(&usize::from(word(header, 4))) {
                return Err(BAD);
            }
            Ok((Kind::Flow(Proto::Udp), L4Flags::default()))
        }
        SCTP => {
            let chunk = sctp::read(l4, false).ok_or(BAD)?;
            Ok((Kind::Flow(Proto::Sctp), chunk.flags()))
        }
        _ if protocol == icmp => {
            let header: &[u8; 8] = l4.first_chunk().ok_or(BAD)?;
            let error = match icmp {
                ICMP => matches!(header[0], 3 | 4 | 5 | 11 | 12),
                _ => matches!(header[0], 1..=4 | 137),
            };
            Ok((if error { Kind::IcmpError } else { Kind::Icmp }, L4Flags::default()))
        }
        _ => Ok((Kind::Other, L4Flags::default())),
    }
}

/// The header checksum of an IPv4 header without options.
#[inline]
fn intact(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    // RFC 1071: right when the words add up to zero in one's complement, in any byte order and word size.
    // The version makes sure that the sum is not a plain zero.
    sum.is_multiple_of(0xffff)
}

/// Whether an address that starts so deserves a second look.
#[inline]
fn is_special_v4(first: u8) -> bool {
    matches!(first, 0 | 127 | 169 | 224..)
}

/// Whether an address that starts so deserves a second look.
#[inline]
fn is_special_v6(first: u8) -> bool {
    matches!(first, 0 | 0xfe | 0xff)
}

/// Judges the addresses; says whether the source is link-local.
#[cold]
fn judge_v4(src: Ipv4Addr, dst: Ipv4Addr) -> Result<bool, DropReason> {
    // The whole of 0/8, as the kernel's `ipv4_is_zeronet`.
    let nowhere = |addr: Ipv4Addr| addr.octets()[0] == 0 || addr.is_loopback();
    if dst.is_multicast() || dst.is_broadcast() {
        return Err(DropReason::NotUnicast);
    }
    if nowhere(src) || nowhere(dst) || src.is_multicast() || src.is_broadcast() {
        return Err(DropReason::Martian);
    }
    Ok(src.is_link_local())
}

/// Judges the addresses.
#[cold]
fn judge_v6(src: Ipv6Addr, dst: Ipv6Addr) -> Result<(), DropReason> {
    let nowhere =
        |addr: Ipv6Addr| addr.is_unspecified() || addr.is_loopback() || addr.to_ipv4_mapped().is_some();
    if dst.is_multicast() {
        return Err(DropReason::NotUnicast);
    }
    if nowhere(src) || nowhere(dst) || src.is_multicast() {
        return Err(DropReason::Martian);
    }
    if src.is_unicast_link_local() || dst.is_unicast_link_local() {
        Err(DropReason::NotUnicast)
    } else {
        Ok(())
    }
}

/// The big-endian word at a place inside.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests;
