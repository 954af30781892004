//! What holds for any packet. The strongest form of "incremental equals full" is used throughout: a packet
//! built and rewritten is, byte for byte, the packet built the other way; so payload, TTL, DSCP, sequence
//! numbers and options did not change, either.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::Packet;
use super::checksum::Delta;
use super::icmp::{IcmpError, MAX_ERROR, port_unreachable, tcp_reset};
use super::layout::{Csum, Kind, Layout};
use super::samples::{
    Sample, addr_v4, addr_v6, assert_valid, fix_header, icmp_error, rewrite, tuple, v4, v6,
};
use super::tuple::{Address, Family, Proto, Tuple};
use super::vnet::{VNET_LEN, VnetHdr};

fn any_v4() -> BoxedStrategy<Ipv4Addr> {
    addr_v4().boxed()
}

fn any_v6() -> BoxedStrategy<Ipv6Addr> {
    addr_v6().boxed()
}

fn apply<A: Address>(bytes: &mut [u8], csum: Csum, to: &Tuple<A>, delta: Delta) {
    let layout = Layout::of(bytes).unwrap();
    Packet::from_parts(bytes, layout, csum).apply(to, delta);
}

fn rewriting_is_building_the_other_way<A: Address>(sample: &Sample<A>, to: &Tuple<A>) {
    let other = Sample { tuple: *to, ..sample.clone() };
    let delta = Delta::between(&sample.tuple, to);

    let mut bytes = sample.build();
    apply(&mut bytes, Csum::Full, to, delta);
    assert_valid(&bytes);
    assert_eq!(bytes, other.build());
    apply(&mut bytes, Csum::Full, &sample.tuple, delta.inverse());
    assert_eq!(bytes, sample.build(), "and back");

    // Nobody leaves SCTP's to the device.
    if sample.tuple.proto == Proto::Sctp {
        return;
    }
    let (vnet, mut bytes) = sample.build_partial();
    assert_eq!(vnet.check(&Layout::of(&bytes).unwrap(), &bytes), Ok(Csum::Partial));
    apply(&mut bytes, Csum::Partial, to, delta);
    assert_eq!((vnet, bytes.clone()), other.build_partial());
    apply(&mut bytes, Csum::Partial, &sample.tuple, delta.inverse());
    assert_eq!((vnet, bytes), sample.build_partial(), "and back");
}

fn translating_an_error_is_quoting_the_other_packet<A: Address>(
    (sample, to): (Sample<A>, Tuple<A>),
    kind: u8,
    word: [u8; 4],
    outer: [A; 4],
    cut: Index,
) {
    let quote = |sample: &Sample<A>| {
        let mut quote = sample.build();
        // A part of TCP's checksum, or SCTP's, cannot be updated; all shorter and longer quotes can.
        let l4 = match (8 + cut.index(1200), sample.tuple.proto) {
            (17, Proto::Tcp) => 18,
            (9..12, Proto::Sctp) => 12,
            (l4, _) => l4,
        };
        quote.truncate(sample.l4_offset() + l4);
        quote
    };
    // Length and reserved bytes stay what old routers make of them: zero.
    let [_, _, c, d] = word;
    let error = |src, dst, sample: &Sample<A>| icmp_error(src, dst, [kind, 0], [0, 0, c, d], &quote(sample));
    let (there, back) = (
        error(outer[0], outer[1], &Sample { tuple: to, ..sample.clone() }),
        error(outer[2], outer[3], &sample),
    );

    let mut bytes = back.clone();
    let layout = Layout::of(&bytes).unwrap();
    assert_eq!(layout.kind(), Kind::IcmpError);
    let read = IcmpError::<A>::parse(&bytes, &layout).unwrap();
    assert_eq!(read.embedded, sample.tuple);
    read.translate(&mut bytes, &layout, &to, outer[0], outer[1]);
    assert_valid(&bytes);
    assert_eq!(bytes, there);
    let read = IcmpError::<A>::parse(&bytes, &layout).unwrap();
    assert_eq!(read.embedded, to);
    read.translate(&mut bytes, &layout, &sample.tuple, outer[2], outer[3]);
    assert_eq!(bytes, back);
}

/// Everything a packet may meet, on bytes that may be anything. Nothing may panic, and what is made of a
/// readable packet is readable.
fn survives<A: Address>(bytes: &mut [u8], vnet: VnetHdr, to: [A; 2]) {
    let Ok(layout) = Layout::of(bytes) else { return };
    assert!(layout.l4_offset() <= layout.total_len() && layout.total_len() <= bytes.len());
    assert!(layout.payload_len(bytes) <= layout.total_len() - layout.l4_offset());
    let csum = vnet.check(&layout, bytes);
    if layout.family() != A::FAMILY {
        return;
    }
    let mut out = [0; MAX_ERROR];
    for csum in [Csum::Full, csum.unwrap_or_default()] {
        let len = port_unreachable::<A>(bytes, &layout, csum, &mut out);
        if len > 0 {
            assert_valid(&out[..len]);
        }
        let len = tcp_reset::<A>(bytes, &layout, csum, &mut out);
        if len > 0 {
            assert_valid(&out[..len]);
        }
    }
    if let Ok(error) = IcmpError::<A>::parse(bytes, &layout) {
        let embedded = Tuple { src: to[0], dst: to[1], ..error.embedded };
        error.translate(bytes, &layout, &embedded, to[1], to[0]);
        assert_eq!(Layout::of(bytes), Ok(layout));
        assert_eq!(IcmpError::<A>::parse(bytes, &layout).unwrap().embedded, embedded);
    }
    if let (Kind::Flow(_), Ok(csum)) = (layout.kind(), csum) {
        let tuple = layout.tuple::<A>(bytes);
        let to = Tuple { src: to[0], dst: to[1], ..tuple };
        Packet::from_parts(bytes, layout, csum).apply(&to, Delta::between(&tuple, &to));
        assert_eq!((Layout::of(bytes), layout.tuple(bytes)), (Ok(layout), to));
    }
}

/// A valid packet or a valid error, changed in a few places and cut or padded.
fn mutate(mut bytes: Vec<u8>, changes: &[(Index, u8)], len: Option<Index>, fix: bool) -> Vec<u8> {
    for (at, value) in changes {
        // Headers are where the interesting bytes are.
        let at = at.index(bytes.len().min(100));
        bytes[at] = *value;
    }
    if let Some(len) = len {
        bytes.resize(len.index(bytes.len() + 20), 0);
    }
    if fix && bytes.len() >= 20 && bytes[0] >> 4 == 4 {
        fix_header(&mut bytes);
    }
    bytes
}

fn mutated<A: Address>(addr: fn() -> BoxedStrategy<A>) -> impl Strategy<Value = Vec<u8>> {
    let changes = || vec((any::<Index>(), any::<u8>()), 0..4);
    let whole = rewrite(addr).prop_map(|(sample, _)| sample.build());
    // The quote changes before the error is summed, so that it is read at all.
    let kinds: &[u8] = if A::FAMILY == Family::V4 { &[3, 4, 5, 11, 12, 8] } else { &[1, 2, 3, 4, 137, 128] };
    let error =
        (rewrite(addr), proptest::sample::select(kinds), any::<[u8; 4]>(), changes(), any::<Option<Index>>())
            .prop_map(|((sample, to), kind, word, changes, len)| {
                let mut quote = sample.build();
                quote.truncate(1000);
                icmp_error(to.src, to.dst, [kind, 0], word, &mutate(quote, &changes, len, false))
            });
    (prop_oneof![whole, error], changes(), any::<Option<Index>>(), any::<bool>())
        .prop_map(|(bytes, changes, len, fix)| mutate(bytes, &changes, len, fix))
}

fn any_vnet() -> impl Strategy<Value = VnetHdr> {
    let word = prop_oneof![0..100_u16, any::<u16>()];
    let types = prop_oneof![0..6_u8, Just(0x81), any::<u8>()];
    (0..4_u8, types, proptest::array::uniform4(word)).prop_map(
        |(flags, gso_type, [hdr_len, gso_size, csum_start, csum_offset])| VnetHdr {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
        },
    )
}

proptest! {
    #[test]
    fn rewriting_is_building_the_other_way_v4((sample, to) in rewrite(any_v4)) {
        rewriting_is_building_the_other_way(&sample, &to);
    }

    #[test]
    fn rewriting_is_building_the_other_way_v6((sample, to) in rewrite(any_v6)) {
        rewriting_is_building_the_other_way(&sample, &to);
    }

    #[test]
    fn sctp_addresses_need_no_checksum((from, to) in (tuple(any_v4(), Proto::Sctp), tuple(any_v4(), Proto::Sctp))) {
        let (sample, to) = (Sample::of(from), Tuple { sport: from.sport, dport: from.dport, ..to });
        let mut bytes = sample.build();
        let checksum = bytes[28..32].to_vec();
        apply(&mut bytes, Csum::Full, &to, Delta::between(&from, &to));
        prop_assert_eq!(&bytes[28..32], &checksum);
        prop_assert_eq!(bytes, Sample::of(to).build());
    }

    /// Whatever the sums are on the way, UDP's zero is never written, and what it stands for is kept.
    #[test]
    fn udp_sums_around_zero((from, to) in (tuple(any_v4(), Proto::Udp), tuple(any_v4(), Proto::Udp)), off in -2..3_i32) {
        let build = |payload: u16| Sample { payload: payload.to_be_bytes().to_vec(), ..Sample::of(to) }.build();
        // With this payload the packet to be made has a sum next to zero.
        let plain = build(0);
        let near = (i32::from(u16::from_be_bytes([plain[26], plain[27]])) + off).rem_euclid(0xffff);
        let payload = u16::try_from(near).unwrap();
        let mut bytes = Sample { tuple: from, payload: payload.to_be_bytes().to_vec(), ..Sample::of(to) }.build();
        apply(&mut bytes, Csum::Full, &to, Delta::between(&from, &to));
        prop_assert_ne!(&bytes[26..28], &[0, 0]);
        assert_valid(&bytes);
        prop_assert_eq!(bytes, build(payload));
    }

    #[test]
    fn translating_an_error_is_quoting_the_other_packet_v4(
        rewrite in rewrite(any_v4),
        kind in proptest::sample::select(&[3_u8, 4, 5, 11, 12][..]),
        word: [u8; 4], outer in proptest::array::uniform4(any_v4()), cut: Index,
    ) {
        translating_an_error_is_quoting_the_other_packet(rewrite, kind, word, outer, cut);
    }

    #[test]
    fn translating_an_error_is_quoting_the_other_packet_v6(
        rewrite in rewrite(any_v6), kind in 1..5_u8, word: [u8; 4], outer in proptest::array::uniform4(any_v6()), cut: Index,
    ) {
        translating_an_error_is_quoting_the_other_packet(rewrite, kind, word, outer, cut);
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..200), version in prop_oneof![Just(0x45), Just(0x60), any::<u8>()], fix: bool, vnet in any_vnet()) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        let bytes = mutate(bytes, &[], None, fix);
        survives(&mut bytes.clone(), vnet, [v4(Proto::Tcp).tuple.src, v4(Proto::Tcp).tuple.dst]);
        survives(&mut bytes.clone(), vnet, [v6(Proto::Tcp).tuple.src, v6(Proto::Tcp).tuple.dst]);
    }

    #[test]
    fn mutated_packets_never_panic_v4(mut bytes in mutated(any_v4), vnet in any_vnet(), to in proptest::array::uniform2(any_v4())) {
        survives(&mut bytes, vnet, to);
    }

    #[test]
    fn mutated_packets_never_panic_v6(mut bytes in mutated(any_v6), vnet in any_vnet(), to in proptest::array::uniform2(any_v6())) {
        survives(&mut bytes, vnet, to);
    }

    #[test]
    fn a_vnet_header_is_its_bytes(bytes: [u8; VNET_LEN]) {
        prop_assert_eq!(VnetHdr::read(&bytes).write(), bytes);
    }
}
