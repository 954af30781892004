//! Fragments: what each says of itself, and the rules it must keep alone (RFC 791, RFC 8200 section 4.5). What
//! the fragments of one datagram must keep together is in `nat::fragment`.
//!
//! A first fragment is read as a whole packet is, and holds every header (RFC 1858, RFC 7112): a datagram whose
//! ports or flags may be replaced by a later fragment is refused.

use std::net::IpAddr;

use super::checksum::address_change;
use super::exthdr::{self, Chain, FragmentHeader};
use super::layout::{ICMP, ICMPV6, Kind, L4Flags, Layout, Piece, SCTP, TCP, UDP, upper, word};
use super::tuple::{Address, Family, Proto};
use super::{sctp, set_addresses};
use crate::verdict::DropReason;

/// The last byte a datagram may have.
const MAX_END: usize = 65_535;
/// A TCP header without options.
const TCP_HEADER: usize = 20;

/// What tells a datagram's fragments from those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramId {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The identification: 16 bits in IPv4, 32 in IPv6.
    pub number: u32,
    /// IPv4: the protocol. In IPv6 it does not tell datagrams apart, and is 0.
    pub protocol: u8,
}

/// Which part of which datagram a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of which.
    pub id: DatagramId,
    /// Its first byte, from the start of the datagram's payload.
    pub start: u16,
    /// One beyond its last byte; more than `start`.
    pub end: u16,
    /// It is the last part, so `end` is the datagram's length.
    pub last: bool,
}

impl Part {
    /// Reads a fragment of family `A` whose layout was found.
    ///
    /// # Panics
    /// `layout` is not of a fragment, or `bytes` is not the packet it is of.
    #[must_use]
    pub fn of<A: Address>(bytes: &[u8], layout: &Layout) -> Self {
        assert!(layout.is_fragment(), "{layout:?} is of no fragment");
        let addresses = layout.addresses::<A>(bytes);
        let id = |number, protocol| DatagramId {
            src: addresses.src.into(),
            dst: addresses.dst.into(),
            number,
            protocol,
        };
        let part = |id, start: u16, data: usize, more: bool| {
            // Validation found the end within 16 bits.
            let end = start.saturating_add(u16::try_from(data).unwrap_or(u16::MAX));
            Self { id, start, end, last: !more }
        };
        match A::FAMILY {
            Family::V4 => {
                let (offset, more) = v4_bits(word(bytes, 6));
                let data = layout.total_len() - layout.l4_offset();
                part(id(u32::from(word(bytes, 4)), bytes[9]), offset, data, more)
            }
            Family::V6 => {
                let chain = exthdr::walk(&bytes[..layout.total_len()], bytes[6]).ok();
                let Some(header) = chain.and_then(|chain| chain.fragment) else {
                    panic!("{layout:?} is of another packet")
                };
                let number =
                    u32::from(word(bytes, header.at + 4)) << 16 | u32::from(word(bytes, header.at + 6));
                let data = layout.total_len() - header.at - FragmentHeader::LEN;
                part(id(number, 0), header.offset, data, header.more)
            }
        }
    }
}

/// Sets both addresses of a packet of family `A`, and nothing else but the IPv4 header checksum.
///
/// # Panics
/// `bytes` is shorter than an IP header of `A`.
pub fn readdress<A: Address>(bytes: &mut [u8], src: A, dst: A) {
    let pair = &bytes[A::OFFSET..A::OFFSET + 2 * A::LEN];
    let change = address_change((A::read(pair), A::read(&pair[A::LEN..])), (src, dst));
    set_addresses(bytes, src, dst, change);
}

/// Judges an IPv4 fragment by its flags and offset as they stand in the header; `data` follows the header of
/// `before` bytes.
#[cold]
pub(super) fn judge_v4(
    bits: u16,
    protocol: u8,
    before: usize,
    data: &[u8],
) -> Result<(Kind, L4Flags, Piece), DropReason> {
    let (offset, more) = v4_bits(bits);
    fits(offset, more, before, data.len())?;
    if offset != 0 { later(offset, protocol) } else { first(protocol, ICMP, data) }
}

/// Judges an IPv6 fragment by its header and the end of its chain.
#[cold]
pub(super) fn judge_v6(
    header: FragmentHeader,
    chain: &Chain,
    packet: &[u8],
) -> Result<(Kind, L4Flags, Piece), DropReason> {
    // The length field does not count the fixed header.
    let before = header.at - 40;
    fits(header.offset, header.more, before, packet.len() - header.at - FragmentHeader::LEN)?;
    if chain.is_later_fragment() {
        later(header.offset, chain.protocol)
    } else {
        first(chain.protocol, ICMPV6, &packet[chain.offset..])
    }
}

/// Offset in bytes, and whether more follow.
const fn v4_bits(bits: u16) -> (u16, bool) {
    (bits << 3, bits & 0x2000 != 0)
}

/// Whether such a fragment can be of a datagram that has `before` bytes of headers in front of its payload.
fn fits(offset: u16, more: bool, before: usize, data: usize) -> Result<(), DropReason> {
    let whole_units = !more || data.is_multiple_of(8);
    if data > 0 && whole_units && before + usize::from(offset) + data <= MAX_END {
        Ok(())
    } else {
        Err(DropReason::BadFragment)
    }
}

/// RFC 1858, RFC 3128: where a TCP header must have been in the first fragment, no later one may begin.
fn later(offset: u16, protocol: u8) -> Result<(Kind, L4Flags, Piece), DropReason> {
    if protocol == TCP && usize::from(offset) < TCP_HEADER {
        return Err(DropReason::TinyFragment);
    }
    Ok((Kind::Other, L4Flags::default(), Piece::Later))
}

fn first(protocol: u8, icmp: u8, data: &[u8]) -> Result<(Kind, L4Flags, Piece), DropReason> {
    let header = match protocol {
        TCP => data.get(12).map_or(TCP_HEADER, |words| (usize::from(words >> 4) * 4).max(TCP_HEADER)),
        SCTP => sctp::HEADER + sctp::CHUNK_HEADER,
        UDP => 8,
        _ if protocol == icmp => 8,
        _ => 0,
    };
    if data.len() < header {
        return Err(DropReason::TinyFragment);
    }
    let (kind, flags) = match protocol {
        UDP => {
            // The length is the datagram's, most of which may be still to come, or options behind it (RFC 9868).
            if usize::from(word(data, 4)) < header {
                return Err(DropReason::BadL4Header);
            }
            (Kind::Flow(Proto::Udp), L4Flags::default())
        }
        SCTP => {
            let chunk = sctp::read(data, true).ok_or(DropReason::BadL4Header)?;
            (Kind::Flow(Proto::Sctp), chunk.flags())
        }
        _ => upper(protocol, icmp, data)?,
    };
    Ok((kind, flags, Piece::First))
}

#[cfg(test)]
mod tests;
