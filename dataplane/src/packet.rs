//! Packets: bytes validated once ([`layout`], with `exthdr` for IPv6 chains and [`fragment`] for parts of
//! datagrams; [`vnet`] for the device's header; [`sctp`] for that protocol's chunks and CRC), and rewritten in place with
//! their checksums right ([`Packet::apply`], [`icmp`]). What we answer with is built by [`answer`]. Nothing here knows flows or Services.
//!
//! A rewrite touches addresses, ports and checksums. Payload, DSCP, sequence numbers and options stay; the TTL gets back
//! what the way to us took ([`give_back_hop`]).

pub mod alias;
pub mod answer;
pub mod checksum;
mod exthdr;
pub mod fragment;
pub mod frame;
pub mod icmp;
pub mod layout;
pub mod sctp;
pub mod segment;
pub mod tuple;
pub mod vnet;

#[cfg(test)]
mod laws;
#[cfg(test)]
pub(crate) mod samples;

use checksum::{Delta, updated, updated_partial, updated_udp};
use layout::{Csum, Kind, Layout};
use tuple::{Address, Family, Proto, Tuple};

/// A validated packet that may be rewritten.
#[derive(Debug)]
pub struct Packet<'a> {
    bytes: &'a mut [u8],
    layout: Layout,
    csum: Csum,
}

impl<'a> Packet<'a> {
    /// From bytes whose layout ([`Layout::of`]) and checksum state ([`vnet::VnetHdr::check`]) were found before.
    #[inline]
    pub fn from_parts(bytes: &'a mut [u8], layout: Layout, csum: Csum) -> Self {
        Self { bytes, layout, csum }
    }

    /// Rewrites addresses and ports to `to`; the IPv4 header checksum and the checksum of TCP or UDP follow
    /// by `delta`, which is [`Delta::between`] the packet's tuple and `to`, and SCTP's CRC32c by the change of the
    /// ports. A wrong checksum stays wrong.
    ///
    /// Of an SCTP packet in fragments only the addresses may change: its CRC is over more than this fragment, and
    /// nobody knows yet how much more.
    ///
    /// # Panics
    /// The bytes are not of the layout, or the kind is not [`Kind::Flow`] or the family not `A`'s and the
    /// packet too short for the difference.
    #[inline]
    pub fn apply<A: Address>(&mut self, to: &Tuple<A>, delta: Delta) {
        debug_assert_eq!((self.layout.family(), self.layout.kind()), (A::FAMILY, Kind::Flow(to.proto)));
        let (header, l4) = self.bytes.split_at_mut(self.layout.l4_offset());
        set_addresses(header, to.src, to.dst, delta.header);
        let old = set_ports(l4, to.sport, to.dport);
        match (to.proto, self.csum) {
            // Validation lets no unfinished CRC through.
            (Proto::Sctp, Csum::Full | Csum::Partial) => {
                sctp::follow(l4, self.layout.total_len() - self.layout.l4_offset(), old);
            }
            (Proto::Tcp, Csum::Full) => update(l4, 16, |checksum| updated(checksum, delta.l4)),
            (Proto::Udp, Csum::Full) => update(l4, 6, |checksum| updated_udp(checksum, delta.l4)),
            (Proto::Tcp, Csum::Partial) => update(l4, 16, |sum| updated_partial(sum, delta.addr)),
            (Proto::Udp, Csum::Partial) => update(l4, 6, |sum| updated_partial(sum, delta.addr)),
        }
    }
}

/// Gives a translated packet of family `A` back the hop that forwarding it to the device took, so that the way through
/// costs what it costs without us; 255 is as far as it goes. Nothing is sent towards a VIP, so no packet comes here
/// again for ever.
#[inline]
pub fn give_back_hop<A: Address>(bytes: &mut [u8]) {
    let Some(header) = bytes.first_chunk_mut::<12>() else { return };
    match A::FAMILY {
        Family::V4 => {
            let hop = u8::from(header[8] != u8::MAX);
            header[8] += hop;
            let checksum = updated(u16::from_be_bytes([header[10], header[11]]), u16::from(hop) << 8);
            [header[10], header[11]] = checksum.to_be_bytes();
        }
        Family::V6 => header[7] = header[7].saturating_add(1),
    }
}

/// Sets both addresses of an IP header, and follows with the IPv4 header checksum.
#[inline]
fn set_addresses<A: Address>(header: &mut [u8], src: A, dst: A, change: u16) {
    let pair = &mut header[A::OFFSET..A::OFFSET + 2 * A::LEN];
    src.write(pair);
    dst.write(&mut pair[A::LEN..]);
    if A::FAMILY == Family::V4 {
        update(header, 10, |checksum| updated(checksum, change));
    }
}

/// Sets both ports: the first four bytes of TCP, UDP and SCTP. Gives back what was there.
#[inline]
fn set_ports(l4: &mut [u8], sport: u16, dport: u16) -> [u8; 4] {
    let [s0, s1] = sport.to_be_bytes();
    let [d0, d1] = dport.to_be_bytes();
    let old = [l4[0], l4[1], l4[2], l4[3]];
    l4[..4].copy_from_slice(&[s0, s1, d0, d1]);
    old
}

/// Replaces the big-endian word at a place.
#[inline]
fn update(bytes: &mut [u8], at: usize, f: impl FnOnce(u16) -> u16) {
    let word = &mut bytes[at..at + 2];
    let new = f(u16::from_be_bytes([word[0], word[1]]));
    word.copy_from_slice(&new.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use samples::{Sample, assert_valid, v4, v6};

    /// The headers a rewrite may touch, and the bytes it did.
    fn touched(before: &[u8], after: &[u8]) -> Vec<usize> {
        (0..before.len()).filter(|at| before[*at] != after[*at]).collect()
    }

    #[test]
    fn a_rewrite_touches_addresses_ports_and_checksums_only() {
        let sample = Sample { options: true, ..v4(Proto::Tcp) };
        let to = Tuple {
            src: [1, 2, 3, 4].into(),
            dst: [5, 6, 7, 8].into(),
            sport: 0x0102,
            dport: 0x0304,
            ..sample.tuple
        };
        let (before, mut bytes) = (sample.build(), sample.build());
        let layout = Layout::of(&bytes).unwrap();
        Packet::from_parts(&mut bytes, layout, Csum::Full).apply(&to, Delta::between(&sample.tuple, &to));
        assert_valid(&bytes);
        let allowed: Vec<_> = (10..20).chain(28..32).chain(44..46).collect();
        assert!(touched(&before, &bytes).iter().all(|at| allowed.contains(at)));
        assert_eq!(
            (bytes[12..20].to_vec(), bytes[28..32].to_vec()),
            (vec![1, 2, 3, 4, 5, 6, 7, 8], vec![1, 2, 3, 4])
        );
    }

    #[test]
    fn a_hop_is_given_back_and_no_more_than_there_can_be() {
        for (before, after) in [(1, 2), (63, 64), (254, 255), (255, 255), (0, 1)] {
            let mut four = v4(Proto::Tcp).build();
            let sum = u16::from_be_bytes([four[10], four[11]]);
            let word = |ttl: u8| u16::from_be_bytes([ttl, four[9]]);
            let (old, new) = (word(four[8]), word(before));
            four[8] = before;
            let sum = updated(updated(sum, !old), new).to_be_bytes();
            four[10..12].copy_from_slice(&sum);
            assert_valid(&four);
            give_back_hop::<std::net::Ipv4Addr>(&mut four);
            assert_valid(&four);
            let mut six = v6(Proto::Tcp).build();
            six[7] = before;
            give_back_hop::<std::net::Ipv6Addr>(&mut six);
            assert_eq!((four[8], six[7]), (after, after));
        }
    }

    #[test]
    fn an_unfinished_checksum_ignores_the_ports() {
        let sample = v6(Proto::Udp);
        let (_, before) = sample.build_partial();
        let mut bytes = before.clone();
        let to = Tuple { sport: 0x0101, dport: 0x0202, ..sample.tuple };
        let layout = Layout::of(&bytes).unwrap();
        Packet::from_parts(&mut bytes, layout, Csum::Partial).apply(&to, Delta::between(&sample.tuple, &to));
        assert_eq!(touched(&before, &bytes), [40, 41, 42, 43]);
    }

    #[test]
    fn a_udp_packet_without_a_checksum_stays_without() {
        let (four, six) = (v4(Proto::Udp), v6(Proto::Udp));
        let mut bytes = four.build();
        bytes[26..28].fill(0);
        let to = Tuple { dst: [10, 1, 1, 1].into(), dport: 53, ..four.tuple };
        let layout = Layout::of(&bytes).unwrap();
        Packet::from_parts(&mut bytes, layout, Csum::Full).apply(&to, Delta::between(&four.tuple, &to));
        assert_eq!(bytes[26..28], [0, 0]);

        let mut bytes = six.build();
        bytes[46..48].fill(0);
        let to = Tuple { dport: 53, ..six.tuple };
        let layout = Layout::of(&bytes).unwrap();
        Packet::from_parts(&mut bytes, layout, Csum::Full).apply(&to, Delta::between(&six.tuple, &to));
        assert_eq!(bytes[46..48], [0, 0]);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let sample = v4(Proto::Tcp);
        let mut bytes = sample.build();
        bytes[36] ^= 1;
        let to = Tuple { dport: 8080, ..sample.tuple };
        let layout = Layout::of(&bytes).unwrap();
        Packet::from_parts(&mut bytes, layout, Csum::Full).apply(&to, Delta::between(&sample.tuple, &to));
        assert!(std::panic::catch_unwind(|| assert_valid(&bytes)).is_err());
    }
}
