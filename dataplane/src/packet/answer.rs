//! The packets we make ourselves, in answer to one that gets no service: an ICMP port unreachable as
//! kube-proxy's reject sends it, or a TCP RST. Both come from the address the packet was sent to.
//!
//! Like the kernel (`nf_send_unreach`, `nf_send_reset`; SCTP's in its connection tracking) we verify a checksum
//! before we answer and never answer an error. Unlike it, not even by ICMP a RST or an ABORT.

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};

use super::checksum::{field, never_zero, sum, sum_with_pseudo};
use super::icmp::{ICMP_HEADER, message_sum};
use super::layout::{Addresses, Csum, Kind, L4Flags, Layout};
use super::sctp::{self, Chunk};
use super::tuple::{Address, Family, Proto};
use super::update;

/// How much room [`port_unreachable`] needs at most, bytes: RFC 1812 lets an ICMP error have 576, RFC 4443
/// an ICMPv6 error 1,280.
pub const MAX_ERROR: usize = 1280;
/// The same for IPv4.
const MAX_ERROR_V4: usize = 576;
/// How far an answer may travel: the kernel's default.
const HOP_LIMIT: u8 = 64;
/// RFC 1812 4.3.2.5: errors have the precedence of internetwork control.
const ERROR_TOS: u8 = 0xc0;
const TCP_HEADER: u8 = 20;

/// Builds an ICMP destination unreachable / port unreachable (v4 type 3 code 3, v6 type 1 code 4) to the
/// source of `offending`, from its destination, into `out`; returns its length.
///
/// It quotes the packet as far as fits; an unfinished checksum is finished in the quote.
///
/// Returns 0, and builds nothing, for what must not be answered: ICMP errors, redirects and unknown ICMP
/// types, RSTs, ABORTs, a wrong checksum; and when `out` is too small.
pub fn port_unreachable<A: Address>(offending: &[u8], layout: &Layout, csum: Csum, out: &mut [u8]) -> usize {
    if !answerable::<A>(offending, layout, csum) {
        return 0;
    }
    let (room, kind, code) = match A::FAMILY {
        Family::V4 => (MAX_ERROR_V4, 3, 3),
        Family::V6 => (MAX_ERROR, 1, 4),
    };
    let start = ip_header_len::<A>() + ICMP_HEADER;
    let quoted = layout.total_len().min(room - start);
    let Some(out) = out.get_mut(..start + quoted) else { return 0 };

    let Addresses { src: to, dst: from } = layout.addresses::<A>(offending);
    let (tos, protocol) = match A::FAMILY {
        Family::V4 => (ERROR_TOS, IpProtocol::Icmp),
        Family::V6 => (0, IpProtocol::Icmpv6),
    };
    let message = start_packet(out, from, to, protocol, tos);
    let (header, quote) = message.split_at_mut(ICMP_HEADER);
    header.copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    quote.copy_from_slice(&offending[..quoted]);
    if let (Csum::Partial, Kind::Flow(proto)) = (csum, layout.kind()) {
        finish(quote, offending, layout, proto);
    }
    let checksum = !message_sum(from, to, message);
    update(message, 2, |_| checksum);
    start + quoted
}

/// Builds a TCP RST that answers `offending`, a TCP packet, into `out`; returns its length. RFC 9293
/// 3.10.7.1: its sequence number is the packet's ACK if it has one; else zero, and it acknowledges what the
/// packet takes in sequence space.
///
/// Returns 0, and builds nothing, for other protocols, a RST, a wrong checksum, and when `out` is too small.
pub fn tcp_reset<A: Address>(offending: &[u8], layout: &Layout, csum: Csum, out: &mut [u8]) -> usize {
    if layout.kind() != Kind::Flow(Proto::Tcp) || !answerable::<A>(offending, layout, csum) {
        return 0;
    }
    let len = ip_header_len::<A>() + usize::from(TCP_HEADER);
    let Some(out) = out.get_mut(..len) else { return 0 };
    let Addresses { src: to, dst: from } = layout.addresses::<A>(offending);
    let segment = start_packet(out, from, to, IpProtocol::Tcp, 0);
    segment.fill(0);
    let seen = TcpPacket::new_unchecked(&offending[layout.l4_offset()..layout.total_len()]);
    let mut reset = TcpPacket::new_unchecked(&mut *segment);
    reset.set_src_port(seen.dst_port());
    reset.set_dst_port(seen.src_port());
    reset.set_header_len(TCP_HEADER);
    reset.set_rst(true);
    if seen.ack() {
        reset.set_seq_number(seen.ack_number());
    } else {
        let taken = layout.payload_len(offending) + usize::from(seen.syn()) + usize::from(seen.fin());
        reset.set_ack(true);
        reset.set_ack_number(seen.seq_number() + taken);
    }
    let checksum = !sum_with_pseudo(from, to, Proto::Tcp as u8, segment);
    update(segment, 16, |_| checksum);
    len
}

/// Whether this packet may be answered at all. Of a first fragment the checksum cannot be verified, and is not.
fn answerable<A: Address>(offending: &[u8], layout: &Layout, csum: Csum) -> bool {
    debug_assert_eq!(layout.family(), A::FAMILY);
    let Addresses::<A> { src, dst } = layout.addresses(offending);
    let l4 = &offending[layout.l4_offset()..layout.l4_end(offending)];
    let unverifiable = csum == Csum::Partial || layout.is_fragment();
    match layout.kind() {
        Kind::IcmpError => false,
        // The queries and replies of RFC 792 and RFC 950; of ICMPv6, whatever RFC 4443 calls informational.
        Kind::Icmp => {
            let informational = match A::FAMILY {
                Family::V4 => matches!(l4[0], 0 | 8 | 13..=18),
                Family::V6 => l4[0] >= 128,
            };
            informational && (unverifiable || message_sum(src, dst, l4) == 0xffff)
        }
        Kind::Flow(Proto::Tcp) if layout.flags().has(L4Flags::RST) => false,
        // A UDP packet without a checksum is fine over IPv4 only.
        Kind::Flow(Proto::Udp) if A::FAMILY == Family::V4 && l4[6..8] == [0, 0] => true,
        Kind::Flow(proto @ (Proto::Tcp | Proto::Udp)) => {
            unverifiable || sum_with_pseudo(src, dst, proto as u8, l4) == 0xffff
        }
        Kind::Flow(Proto::Sctp) => {
            Chunk::of(layout.flags()) != Chunk::Abort && (unverifiable || sctp::is_intact(l4))
        }
        Kind::Other => true,
    }
}

/// Finishes the checksum of a packet in its quote, if it was quoted so far: what a device would have put there.
fn finish(quote: &mut [u8], offending: &[u8], layout: &Layout, proto: Proto) {
    let Some(at) = field(proto).map(|at| layout.l4_offset() + at) else { return };
    if at + 2 <= quote.len() {
        let checksum = !sum(&offending[layout.l4_offset()..layout.l4_end(offending)]);
        update(quote, at, |_| if proto == Proto::Udp { never_zero(checksum) } else { checksum });
    }
}

const fn ip_header_len<A: Address>() -> usize {
    A::OFFSET + 2 * A::LEN
}

/// Writes the IP header of a packet that fills `out`, and gives back what follows it.
fn start_packet<A: Address>(out: &mut [u8], from: A, to: A, protocol: IpProtocol, tos: u8) -> &mut [u8] {
    // No answer is longer than MAX_ERROR.
    let len = u16::try_from(out.len()).unwrap_or(u16::MAX);
    let (header, rest) = out.split_at_mut(ip_header_len::<A>());
    header.fill(0);
    from.write(&mut header[A::OFFSET..]);
    to.write(&mut header[A::OFFSET + A::LEN..]);
    match A::FAMILY {
        Family::V4 => {
            let mut ip = Ipv4Packet::new_unchecked(header);
            ip.set_version(4);
            ip.set_header_len(20);
            ip.set_dscp(tos >> 2);
            ip.set_total_len(len);
            // Never fragmented, so it needs no identification (RFC 6864).
            ip.set_dont_frag(true);
            ip.set_hop_limit(HOP_LIMIT);
            ip.set_next_header(protocol);
            ip.fill_checksum();
        }
        Family::V6 => {
            let mut ip = Ipv6Packet::new_unchecked(header);
            ip.set_version(6);
            ip.set_payload_len(len - 40);
            ip.set_next_header(protocol);
            ip.set_hop_limit(HOP_LIMIT);
        }
    }
    rest
}

#[cfg(test)]
mod tests;
