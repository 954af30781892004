//! A tuple as the table stores and compares it: whole 64-bit words, no padding, no enum.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::packet::checksum::Delta;
use crate::packet::tuple::{Proto, Tuple};

/// The tuple of one direction. `N` = 2 for IPv4 (`src:32|dst:32`, ports), `N` = 5 for IPv6 (source,
/// destination: two words each, ports). The last word is always `sport:16 | dport:16 | proto:8 | zone:24`;
/// the zone is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key<const N: usize>(pub [u64; N]);

impl<const N: usize> Key<N> {
    /// The same conversation seen from the other end.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let mut words = self.0;
        match N {
            2 => words[0] = words[0].rotate_left(32),
            _ => words[..N - 1].rotate_left((N - 1) / 2),
        }
        let ports = words[N - 1];
        words[N - 1] = ports << 16 & 0xffff << 48 | ports >> 16 & 0xffff << 32 | ports & 0xffff_ffff;
        Self(words)
    }

    /// The top four bits of the destination.
    #[must_use]
    #[inline]
    pub fn dst_top(&self) -> u8 {
        let (word, shift) = Self::DST_TOP;
        (self.0[word] >> shift & TOP) as u8
    }

    /// The top four bits of the source.
    #[must_use]
    #[inline]
    pub fn src_top(&self) -> u8 {
        (self.0[0] >> SRC_TOP & TOP) as u8
    }

    /// The same tuple with other top bits in its destination.
    #[must_use]
    #[inline]
    pub fn with_dst_top(&self, top: u8) -> Self {
        let (word, shift) = Self::DST_TOP;
        let mut words = self.0;
        words[word] = words[word] & !(TOP << shift) | (u64::from(top) & TOP) << shift;
        Self(words)
    }

    /// The same tuple with other top bits in its source.
    #[must_use]
    #[inline]
    pub fn with_src_top(&self, top: u8) -> Self {
        let mut words = self.0;
        words[0] = words[0] & !(TOP << SRC_TOP) | (u64::from(top) & TOP) << SRC_TOP;
        Self(words)
    }

    /// The word that has the destination's top bits, and where.
    const DST_TOP: (usize, u32) = match N {
        2 => (0, 28),
        _ => ((N - 1) / 2, SRC_TOP),
    };

    /// The protocol. A key read from foreign memory may hold any number: what no packet can match counts as
    /// UDP, the class with the shortest timers.
    #[must_use]
    pub fn proto(&self) -> Proto {
        proto(self.0[N - 1])
    }

    /// What checksums change by when a packet of this tuple leaves as `to`.
    pub(super) fn delta_to(&self, to: &Self) -> Delta {
        match N {
            2 => Delta::between(&v4(&self.0), &v4(&to.0)),
            5 => Delta::between(&v6(&self.0), &v6(&to.0)),
            _ => Delta::default(),
        }
    }
}

/// The top four bits of the real destinations of a flow's tuples, which may arrive as aliases (see
/// [`crate::packet::alias`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tops {
    /// Of the source as endpoints see it: the destination of the reply tuple.
    pub source: u8,
    /// Of the VIP: the destination of the forward tuple.
    pub vip: u8,
}

impl Tops {
    /// Of a flow whose tuples have the real destinations.
    #[must_use]
    pub fn as_they_arrive<const N: usize>(forward: &Key<N>, reply: &Key<N>) -> Self {
        Self { source: reply.dst_top(), vip: forward.dst_top() }
    }

    /// In the bits a record has for it.
    pub(super) const fn pack(self) -> u64 {
        (self.source as u64 & TOP) << 12 | (self.vip as u64 & TOP) << 8
    }

    #[allow(clippy::cast_possible_truncation, reason = "four bits")]
    pub(super) const fn unpack(meta: u64) -> Self {
        Self { source: (meta >> 12 & TOP) as u8, vip: (meta >> 8 & TOP) as u8 }
    }
}

/// Four bits.
const TOP: u64 = 0xf;
/// Where a source's top bits are in the first word.
const SRC_TOP: u32 = 60;

impl From<Tuple<Ipv4Addr>> for Key<2> {
    fn from(tuple: Tuple<Ipv4Addr>) -> Self {
        let addresses = u64::from(tuple.src.to_bits()) << 32 | u64::from(tuple.dst.to_bits());
        Self([addresses, ports(tuple.sport, tuple.dport, tuple.proto)])
    }
}

impl From<Key<2>> for Tuple<Ipv4Addr> {
    fn from(key: Key<2>) -> Self {
        v4(&key.0)
    }
}

impl From<Tuple<Ipv6Addr>> for Key<5> {
    fn from(tuple: Tuple<Ipv6Addr>) -> Self {
        let (src, dst) = (halves(tuple.src), halves(tuple.dst));
        Self([src.0, src.1, dst.0, dst.1, ports(tuple.sport, tuple.dport, tuple.proto)])
    }
}

impl From<Key<5>> for Tuple<Ipv6Addr> {
    fn from(key: Key<5>) -> Self {
        v6(&key.0)
    }
}

fn ports(sport: u16, dport: u16, proto: Proto) -> u64 {
    u64::from(sport) << 48 | u64::from(dport) << 32 | u64::from(proto as u8) << 24
}

#[allow(clippy::cast_possible_truncation, reason = "fields are cut out of a packed word")]
fn v4(words: &[u64]) -> Tuple<Ipv4Addr> {
    let (src, dst) = (Ipv4Addr::from_bits((words[0] >> 32) as u32), Ipv4Addr::from_bits(words[0] as u32));
    with_ports(src, dst, words[1])
}

fn v6(words: &[u64]) -> Tuple<Ipv6Addr> {
    let whole = |high: u64, low: u64| Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
    with_ports(whole(words[0], words[1]), whole(words[2], words[3]), words[4])
}

#[allow(clippy::cast_possible_truncation, reason = "fields are cut out of a packed word")]
fn with_ports<A>(src: A, dst: A, ports: u64) -> Tuple<A> {
    Tuple { src, dst, sport: (ports >> 48) as u16, dport: (ports >> 32) as u16, proto: proto(ports) }
}

#[allow(clippy::cast_possible_truncation, reason = "fields are cut out of a packed word")]
fn proto(ports: u64) -> Proto {
    Proto::from_number((ports >> 24) as u8).unwrap_or(Proto::Udp)
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
fn halves(addr: Ipv6Addr) -> (u64, u64) {
    ((addr.to_bits() >> 64) as u64, addr.to_bits() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn proto() -> impl Strategy<Value = Proto> {
        prop_oneof![Just(Proto::Tcp), Just(Proto::Udp), Just(Proto::Sctp)]
    }

    proptest! {
        #[test]
        fn a_key_is_its_tuple_in_both_families(
            src: u128, dst: u128, sport: u16, dport: u16, proto in proto()
        ) {
            let v6 = Tuple { src: Ipv6Addr::from_bits(src), dst: Ipv6Addr::from_bits(dst), sport, dport, proto };
            prop_assert_eq!(Tuple::from(Key::from(v6)), v6);
            prop_assert_eq!(Tuple::from(Key::from(v6).reversed()), v6.reversed());
            prop_assert_eq!(Key::from(v6).proto(), proto);
            let (src, dst) = (halves(v6.src).1, halves(v6.dst).1);
            let low = |half: u64| Ipv4Addr::from_bits(u32::try_from(half >> 32).unwrap());
            let (src, dst) = (low(src), low(dst));
            let v4 = Tuple { src, dst, sport, dport, proto };
            prop_assert_eq!(Tuple::from(Key::from(v4)), v4);
            prop_assert_eq!(Tuple::from(Key::from(v4).reversed()), v4.reversed());
            prop_assert_eq!(Key::from(v4).proto(), proto);
        }
    }

    #[test]
    fn foreign_bytes_never_panic() {
        let key = Key([u64::MAX; 2]);
        assert_eq!(key.proto(), Proto::Udp);
        assert_eq!(Tuple::from(key).sport, u16::MAX);
    }
}
