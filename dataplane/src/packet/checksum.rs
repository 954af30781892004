//! Internet checksums: what a rewrite changes (RFC 1624), and whole sums (RFC 1071) for what we build or verify.
//!
//! A `u16` here is a 16-bit word read big-endian, so the numbers are those of the RFCs on any machine. A sum
//! is not complemented; a checksum, as it stands in a packet, is the complement of a sum.

use smoltcp::wire::checksum::data;

use super::tuple::{Address, Proto, Tuple};

/// What a rewrite changes in checksums: one's-complement differences, RFC 1624.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Delta {
    /// Change of the addresses' word sum: for an unfinished layer-4 checksum.
    pub addr: u16,
    /// `addr` plus the change of the ports: for a complete layer-4 checksum.
    pub l4: u16,
    /// For the IPv4 header checksum: `addr`, but for a packet that came by an alias of its destination, which only its
    /// header knows (see [`super::alias`]).
    pub header: u16,
}

impl Delta {
    /// The change from one tuple to another.
    #[must_use]
    pub fn between<A: Address>(from: &Tuple<A>, to: &Tuple<A>) -> Self {
        let addr = address_change((from.src, from.dst), (to.src, to.dst));
        let old = fold(u32::from(from.sport) + u32::from(from.dport));
        let new = fold(u32::from(to.sport) + u32::from(to.dport));
        Self { addr, l4: add(addr, add(new, !old)), header: addr }
    }

    /// The change of the opposite rewrite.
    #[must_use]
    pub fn inverse(self) -> Self {
        Self { addr: !self.addr, l4: !self.l4, header: !self.header }
    }

    /// The same for a packet whose header has a destination that differs from the real one in its top four bits.
    #[must_use]
    #[inline]
    pub fn restoring(self, arrived_top: u8, real_top: u8) -> Self {
        if arrived_top == real_top {
            return self;
        }
        let word = |top: u8| u16::from(top) << 12;
        Self { header: add(self.header, add(word(real_top), !word(arrived_top))), ..self }
    }
}

/// The change of the addresses' word sum from one pair to another.
pub(super) fn address_change<A: Address>(from: (A, A), to: (A, A)) -> u16 {
    let old = fold(from.0.word_sum() + from.1.word_sum());
    let new = fold(to.0.word_sum() + to.1.word_sum());
    add(new, !old)
}

/// A checksum after its data changed: RFC 1624, equation 3.
#[inline]
pub(super) const fn updated(checksum: u16, change: u16) -> u16 {
    !add(!checksum, change)
}

/// As [`updated`], by UDP's rules: zero says there is no checksum and stays, and a computed zero is written
/// as 0xFFFF (RFC 768). Over IPv6, zero is of tunnels only (RFC 6935), and stays as well.
#[inline]
pub(super) const fn updated_udp(checksum: u16, change: u16) -> u16 {
    if checksum == 0 { 0 } else { never_zero(updated(checksum, change)) }
}

/// An unfinished checksum after the addresses changed. It is the bare sum of the pseudo-header, not
/// complemented, and the ports are not in it: kernel `inet_proto_csum_replace4` with `CHECKSUM_PARTIAL`.
#[inline]
pub(super) const fn updated_partial(sum: u16, change: u16) -> u16 {
    add(sum, change)
}

/// A computed UDP checksum as it must be written.
pub(super) const fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Where a protocol's header has its 16-bit checksum; SCTP has a CRC32c, which is [`super::sctp`]'s.
#[inline]
pub(super) const fn field(proto: Proto) -> Option<usize> {
    match proto {
        Proto::Tcp => Some(16),
        Proto::Udp => Some(6),
        Proto::Sctp => None,
    }
}

/// The sum of bytes; an odd last one counts as followed by zero.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    data(bytes)
}

/// The sum of a layer-4 message with its pseudo-header (RFC 9293 3.1, RFC 8200 8.1): 0xFFFF when it contains
/// the right checksum.
pub(super) fn sum_with_pseudo<A: Address>(src: A, dst: A, protocol: u8, message: &[u8]) -> u16 {
    // A message is inside a packet, so its length has 16 bits.
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX) & 0xffff;
    let pseudo = src.word_sum() + dst.word_sum() + u32::from(protocol) + len;
    add(fold(pseudo), sum(message))
}

/// Adds in one's complement.
#[inline]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    // After a carry the sum is at most 0xFFFE: no second one.
    sum + carry as u16
}

/// Folds carries back in.
#[inline]
const fn fold(sum: u32) -> u16 {
    add((sum >> 16) as u16, (sum & 0xffff) as u16)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_example_of_rfc_1624_comes_out() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, and not 0xFFFF as RFC 1141 would.
        assert_eq!(updated(0xdd2f, add(0x3285, !0x5555)), 0x0000);
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[0x00, 0x01, 0xf2]), 0xf201);
    }

    #[test]
    fn udp_zero_stays_and_is_never_made() {
        assert_eq!(updated_udp(0, 0x1234), 0);
        assert_eq!(updated_udp(0xdd2f, add(0x3285, !0x5555)), 0xffff);
        // What stands for zero is updated as zero.
        assert_eq!(updated_udp(0xffff, 0x1234), updated(0x0000, 0x1234));
    }

    #[test]
    fn an_unfinished_sum_takes_the_addresses_only() {
        let from = Tuple {
            src: [10, 0, 0, 1].into(),
            dst: [10, 96, 0, 1].into(),
            sport: 1,
            dport: 80,
            proto: Proto::Tcp,
        };
        let to = Tuple { dst: Ipv4Addr::new(10, 1, 2, 3), dport: 8080, ..from };
        let delta = Delta::between(&from, &to);
        let pseudo = |tuple: &Tuple<Ipv4Addr>| fold(tuple.src.word_sum() + tuple.dst.word_sum() + 6 + 40);
        assert_eq!(updated_partial(pseudo(&from), delta.addr), pseudo(&to));
        assert_eq!(updated_partial(pseudo(&to), delta.inverse().addr), pseudo(&from));
        assert_eq!(delta.l4, add(delta.addr, 8000));
    }

    #[test]
    fn nothing_changed_is_no_change() {
        let tuple = Tuple {
            src: [10, 0, 0, 1].into(),
            dst: Ipv4Addr::new(10, 96, 0, 1),
            sport: 1,
            dport: 80,
            proto: Proto::Udp,
        };
        let delta = Delta::between(&tuple, &tuple);
        for checksum in [1, 0x1234, 0xfffe] {
            assert_eq!(updated(checksum, delta.l4), checksum);
            assert_eq!(updated(checksum, Delta::default().l4), checksum);
        }
    }
}
