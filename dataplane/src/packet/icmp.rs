//! ICMP errors about translated packets: the quoted packet's tuple out, the translated error in. What the
//! kernel's `nf_nat_icmp_reply_translation` does, for both families.
//!
//! Everything but addresses, ports and checksums survives: the MTU, the pointer, RFC 4884 extensions.

use super::checksum::{Delta, address_change, field, sum, sum_with_pseudo, updated, updated_udp};
use super::layout::{Addresses, Kind, Layout};
use super::tuple::{Address, Family, Proto, Tuple};
use super::{exthdr, sctp, set_addresses, set_ports, update};
use crate::verdict::DropReason;

pub use super::answer::{MAX_ERROR, port_unreachable, tcp_reset};

/// Bytes of an ICMP header; the quoted packet follows.
pub(super) const ICMP_HEADER: usize = 8;
/// The protocol number of ICMPv6, which its pseudo-header has.
const ICMPV6: u8 = 58;
/// ICMPv4 type of a redirect.
const REDIRECT: u8 = 5;
/// ICMPv6 type of a redirect.
const REDIRECT_V6: u8 = 137;

/// An ICMP error, read.
#[derive(Clone, Copy, Debug)]
pub struct IcmpError<A> {
    /// The quoted packet's tuple, as quoted.
    pub embedded: Tuple<A>,
    /// It is a redirect.
    pub redirect: bool,
    /// Its layer-4 header, from the quoted IP header.
    l4: usize,
    /// Its 16-bit layer-4 checksum, from the quoted IP header, if it was quoted so far and there is one.
    checksum: Option<usize>,
    /// How long its SCTP packet was when it was sent, bytes, if the checksum was quoted; not of a fragment, which does
    /// not know.
    sctp_len: Option<usize>,
}

impl<A: Address> IcmpError<A> {
    /// Reads the quoted packet of a [`Kind::IcmpError`] packet of family `A`, after verifying the ICMP
    /// checksum. Quoted headers are as routers leave them: their checksums are not verified, their total
    /// length is longer than the quote. A quoted first fragment has ports, so it is read.
    ///
    /// # Errors
    /// `BadIcmpError`: it is itself a fragment; checksum, headers or the first eight layer-4 bytes are wrong or missing, it is a later
    /// fragment, or of a protocol without tuples. `IcmpRedirect`: any ICMPv6 redirect, which quotes in
    /// another form and is never valid behind a router.
    pub fn parse(bytes: &[u8], layout: &Layout) -> Result<Self, DropReason> {
        // Without the rest of it, an error's checksum can be neither verified nor made anew.
        if layout.kind() != Kind::IcmpError || layout.family() != A::FAMILY || layout.is_fragment() {
            return Err(DropReason::BadIcmpError);
        }
        let message = &bytes[layout.l4_offset()..layout.total_len()];
        let Addresses::<A> { src, dst } = layout.addresses(bytes);
        if message_sum(src, dst, message) != 0xffff {
            return Err(DropReason::BadIcmpError);
        }
        if A::FAMILY == Family::V6 && message[0] == REDIRECT_V6 {
            return Err(DropReason::IcmpRedirect);
        }
        let redirect = A::FAMILY == Family::V4 && message[0] == REDIRECT;
        Self::read(quote::<A>(message), redirect).ok_or(DropReason::BadIcmpError)
    }

    /// Rewrites the quoted packet to `embedded` (its IPv4 header checksum, its layer-4 checksum if quoted),
    /// then the addresses of the error to `src` and `dst`, then computes the ICMP checksum.
    ///
    /// `bytes` must be those that were parsed, `embedded` of the same protocol.
    ///
    /// # Panics
    /// `bytes` are others.
    pub fn translate(&self, bytes: &mut [u8], layout: &Layout, embedded: &Tuple<A>, src: A, dst: A) {
        let old: Addresses<A> = layout.addresses(bytes);
        let (header, message) = bytes[..layout.total_len()].split_at_mut(layout.l4_offset());
        let quote = &mut message[ICMP_HEADER..];
        let delta = Delta::between(&self.embedded, embedded);
        set_addresses(quote, embedded.src, embedded.dst, delta.addr);
        let old_ports = set_ports(&mut quote[self.l4..], embedded.sport, embedded.dport);
        if let Some(at) = self.checksum {
            update(quote, at, |checksum| match embedded.proto {
                Proto::Udp => updated_udp(checksum, delta.l4),
                Proto::Tcp | Proto::Sctp => updated(checksum, delta.l4),
            });
        }
        // SCTP's follows from the length, however much is quoted. Of a fragment it stays what it was: whoever gets the
        // error goes by ports and verification tag (RFC 9260, section 10).
        if let Some(len) = self.sctp_len {
            sctp::follow(&mut quote[self.l4..], len, old_ports);
        }

        set_addresses(header, src, dst, address_change((old.src, old.dst), (src, dst)));
        update(message, 2, |_| 0);
        let checksum = !message_sum(src, dst, message);
        update(message, 2, |_| checksum);
    }

    fn read(quote: &[u8], redirect: bool) -> Option<Self> {
        let word = |at: usize| quote.get(at..at + 2).map(|word| u16::from_be_bytes([word[0], word[1]]));
        let (protocol, l4, total, fragment) = match A::FAMILY {
            Family::V4 => {
                let header: &[u8; 20] = quote.first_chunk()?;
                let len = usize::from(header[0] & 0xf) * 4;
                let later_fragment = word(6)? & 0x1fff != 0;
                if header[0] >> 4 != 4 || len < header.len() || later_fragment {
                    return None;
                }
                (header[9], len, usize::from(word(2)?), word(6)? & 0x3fff != 0)
            }
            Family::V6 => {
                let header: &[u8; 40] = quote.first_chunk()?;
                if header[0] >> 4 != 6 {
                    return None;
                }
                let chain = exthdr::walk(quote, header[6]).ok()?;
                if chain.is_later_fragment() {
                    return None;
                }
                let total = header.len() + usize::from(word(4)?);
                (chain.protocol, chain.offset, total, chain.fragment.is_some())
            }
        };
        let proto = Proto::from_number(protocol)?;
        // RFC 792 promises eight bytes.
        quote.get(l4..l4 + 8)?;
        let embedded = Tuple {
            src: A::read(&quote[A::OFFSET..]),
            dst: A::read(&quote[A::OFFSET + A::LEN..]),
            sport: word(l4)?,
            dport: word(l4 + 2)?,
            proto,
        };
        // What is quoted beyond the packet's own length is padding.
        let end = total.min(quote.len());
        let checksum = field(proto).map(|at| l4 + at).filter(|at| at + 2 <= end);
        let summed = proto == Proto::Sctp && !fragment && l4 + sctp::HEADER <= end;
        let sctp_len = summed.then(|| total - l4);
        Some(Self { embedded, redirect, l4, checksum, sctp_len })
    }
}

/// The bytes of an error's message that quote the packet: all, or as many as RFC 4884 says when extensions
/// follow. That standard promises at least 128, so less is no length but what an old router left there; and
/// 128 hold everything we read of an IPv4 packet, so there the length does not matter.
fn quote<A: Address>(message: &[u8]) -> &[u8] {
    let quote = &message[ICMP_HEADER..];
    let len = match (A::FAMILY, message[0]) {
        // Destination unreachable, time exceeded; in units of eight bytes.
        (Family::V6, 1 | 3) => usize::from(message[4]) * 8,
        (Family::V4 | Family::V6, _) => 0,
    };
    if len < 128 { quote } else { &quote[..len.min(quote.len())] }
}

/// The sum over an ICMP message as its checksum counts it: 0xFFFF when that is right. ICMPv4 has no
/// pseudo-header.
pub(super) fn message_sum<A: Address>(src: A, dst: A, message: &[u8]) -> u16 {
    match A::FAMILY {
        Family::V4 => sum(message),
        Family::V6 => sum_with_pseudo(src, dst, ICMPV6, message),
    }
}

#[cfg(test)]
mod tests;
