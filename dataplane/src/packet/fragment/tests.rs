use std::net::Ipv6Addr;

use super::*;
use crate::packet::layout::Csum;
use crate::packet::samples::{Sample, assert_valid, fix_header, v4, v6};
use crate::packet::vnet::VnetHdr;

/// An IPv4 packet's header with these flags and this offset (in eights of bytes) before `data`.
fn cut_v4(packet: &[u8], bits: u16, data: &[u8]) -> Vec<u8> {
    let header = usize::from(packet[0] & 0xf) * 4;
    let mut bytes = [&packet[..header], data].concat();
    let total = u16::try_from(bytes.len()).unwrap();
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[6..8].copy_from_slice(&bits.to_be_bytes());
    fix_header(&mut bytes);
    bytes
}

/// An IPv6 fixed header, this chain, and `data`.
fn chain_v6(packet: &[u8], first: u8, chain: &[&[u8]], data: &[u8]) -> Vec<u8> {
    let mut bytes = [&packet[..40], &chain.concat(), data].concat();
    let len = u16::try_from(bytes.len() - 40).unwrap();
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    bytes[6] = first;
    bytes
}

fn fragment_header(next: u8, offset_and_more: u16) -> [u8; 8] {
    let [a, b] = offset_and_more.to_be_bytes();
    [next, 0xff, a, b, 0xde, 0xad, 0xbe, 0xef]
}

/// The same fragment of both families: of this protocol, at this offset in bytes.
fn both(protocol: u8, offset: u16, more: bool, data: &[u8]) -> [Vec<u8>; 2] {
    let mut four = v4(Proto::Udp).build();
    four[9] = protocol;
    let bits = (offset / 8) | if more { 0x2000 } else { 0 };
    let header = fragment_header(protocol, offset | u16::from(more));
    [cut_v4(&four, bits, data), chain_v6(&v6(Proto::Udp).build(), 44, &[&header], data)]
}

fn found(bytes: &[u8]) -> Result<(Kind, Piece), DropReason> {
    Layout::of(bytes).map(|layout| (layout.kind(), layout.piece()))
}

const LATER: Result<(Kind, Piece), DropReason> = Ok((Kind::Other, Piece::Later));

#[test]
fn a_first_fragment_has_kind_flags_and_tuple() {
    let tcp = Sample { payload: vec![1; 1_000], flags: 0x12, ..v4(Proto::Tcp) };
    let bytes = cut_v4(&tcp.build(), 0x2000, &tcp.build()[20..20 + 512]);
    let layout = Layout::of(&bytes).unwrap();
    assert_eq!(
        (layout.piece(), layout.kind(), layout.flags()),
        (Piece::First, Kind::Flow(Proto::Tcp), L4Flags(0x12))
    );
    assert_eq!(layout.tuple(&bytes), tcp.tuple);

    let udp = Sample { payload: vec![1; 1_000], ..v6(Proto::Udp) };
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let header = fragment_header(60, 1);
    let bytes = chain_v6(&udp.build(), 44, &[&header, &options], &udp.build()[40..40 + 512]);
    let layout = Layout::of(&bytes).unwrap();
    assert_eq!(
        (layout.piece(), layout.kind(), layout.l4_offset()),
        (Piece::First, Kind::Flow(Proto::Udp), 56)
    );
    assert_eq!(layout.tuple(&bytes), udp.tuple);
    let part = Part::of::<Ipv6Addr>(&bytes, &layout);
    assert_eq!(
        (part.start, part.end, part.last),
        (0, 520, false),
        "the options behind it are of the datagram"
    );
}

#[test]
fn a_part_is_what_the_header_says() {
    let [four, six] = both(17, 1_480, true, &[7; 1_480]);
    let part = Part::of::<std::net::Ipv4Addr>(&four, &Layout::of(&four).unwrap());
    assert_eq!((part.start, part.end, part.last), (1_480, 2_960, false));
    assert_eq!((part.id.number, part.id.protocol), (0xbeef, 17));
    assert_eq!(
        (part.id.src, part.id.dst),
        (v4(Proto::Udp).tuple.src.into(), v4(Proto::Udp).tuple.dst.into())
    );
    let part = Part::of::<Ipv6Addr>(&six, &Layout::of(&six).unwrap());
    assert_eq!((part.start, part.end, part.last), (1_480, 2_960, false));
    assert_eq!((part.id.number, part.id.protocol), (0xdead_beef, 0));
    // Padding behind the packet is no part of it.
    let [four, six] = both(17, 65_528, false, &[7; 3]).map(|bytes| [bytes, vec![0; 9]].concat());
    assert_eq!(found(&four), Err(DropReason::BadFragment), "with its header it is beyond 65,535");
    let part = Part::of::<Ipv6Addr>(&six, &Layout::of(&six).unwrap());
    assert_eq!((part.start, part.end, part.last), (65_528, 65_531, true));
}

#[test]
fn parts_that_can_be_of_no_datagram_are_refused() {
    let bad = Err(DropReason::BadFragment);
    for bytes in both(17, 8, false, &[]).into_iter().chain(both(17, 0, true, &[])) {
        assert_eq!(found(&bytes), bad, "no bytes");
    }
    for bytes in both(17, 8, true, &[1; 9]) {
        assert_eq!(found(&bytes), bad, "not the last, and no multiple of eight");
    }
    for bytes in both(17, 8, false, &[1; 9]).into_iter().chain(both(17, 8, true, &[1; 16])) {
        assert_eq!(found(&bytes), LATER);
    }
    // The header of 20 bytes counts in IPv4, the fixed one does not in IPv6.
    let [at_end, six_at_end] = both(17, 65_504, false, &[1; 11]);
    let [_, six_longest] = both(17, 65_528, false, &[1; 7]);
    let [beyond, _] = both(17, 65_504, false, &[1; 12]);
    let [_, six_beyond] = both(17, 65_528, false, &[1; 8]);
    assert_eq!((found(&at_end), found(&six_at_end), found(&six_longest)), (LATER, LATER, LATER));
    assert_eq!((found(&beyond), found(&six_beyond)), (bad, bad));
    let options = [44, 0, 1, 4, 0, 0, 0, 0];
    let header = fragment_header(17, 65_528);
    let bytes = chain_v6(&v6(Proto::Udp).build(), 60, &[&options, &header], &[1; 7]);
    assert_eq!(found(&bytes), bad, "headers in front of the fragment's count");
}

#[test]
fn headers_are_in_the_first_fragment_whole() {
    let tiny = Err(DropReason::TinyFragment);
    let mut tcp = vec![0; 40];
    tcp[12] = 0xa0;
    for bytes in both(6, 0, true, &tcp[..8])
        .into_iter()
        .chain(both(6, 0, true, &tcp[..16]))
        .chain(both(6, 0, true, &tcp[..24]))
        .chain(both(6, 0, true, &tcp[..32]))
        .chain(both(132, 0, true, &[0; 8]))
    {
        assert_eq!(found(&bytes), tiny, "{bytes:02x?}");
    }
    for bytes in both(6, 0, true, &tcp) {
        assert_eq!(found(&bytes), Ok((Kind::Flow(Proto::Tcp), Piece::First)));
    }
    // Of SCTP, the beginning of a chunk whose end comes later.
    let mut sctp = [0; 16];
    for (len, expected) in
        [(1_000_u16, Ok((Kind::Flow(Proto::Sctp), Piece::First))), (3, Err(DropReason::BadL4Header))]
    {
        sctp[14..].copy_from_slice(&len.to_be_bytes());
        for bytes in both(132, 0, true, &sctp) {
            assert_eq!(found(&bytes), expected, "a chunk of {len}");
        }
    }
    // Where a TCP header must have been, nothing may begin.
    for (protocol, offset, expected) in
        [(6, 8, tiny), (6, 16, tiny), (6, 24, LATER), (17, 8, LATER), (1, 8, LATER), (50, 8, LATER)]
    {
        for bytes in both(protocol, offset, false, &[0xff; 20]) {
            assert_eq!(found(&bytes), expected, "protocol {protocol} at {offset}");
        }
    }
    // RFC 7112: also every extension header.
    let header = fragment_header(60, 1);
    for rest in [&[][..], &[17, 1, 1, 4, 0, 0, 0, 0], &[17, 0, 1, 4, 0, 0, 0, 0]] {
        let bytes = chain_v6(&v6(Proto::Udp).build(), 44, &[&header], rest);
        assert_eq!(found(&bytes), tiny, "{rest:?}");
    }
}

#[test]
fn a_udp_datagram_may_end_before_or_behind_its_first_fragment() {
    for (len, expected) in [
        (600_u16, Ok((Kind::Flow(Proto::Udp), Piece::First))),
        (65, Ok((Kind::Flow(Proto::Udp), Piece::First))),
        (64, Ok((Kind::Flow(Proto::Udp), Piece::First))),
        (8, Ok((Kind::Flow(Proto::Udp), Piece::First))),
        (7, Err(DropReason::BadL4Header)),
        (0, Err(DropReason::BadL4Header)),
    ] {
        let mut data = [0; 64];
        data[4..6].copy_from_slice(&len.to_be_bytes());
        for bytes in both(17, 0, true, &data) {
            assert_eq!(found(&bytes), expected, "{len}");
        }
    }
}

#[test]
fn no_fragment_leaves_its_checksum_or_its_cutting_to_the_device() {
    let mut data = [0; 64];
    data[4..6].copy_from_slice(&600_u16.to_be_bytes());
    let partial =
        VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 20, csum_offset: 6, ..VnetHdr::default() };
    let cut = VnetHdr { gso_type: VnetHdr::GSO_UDP, gso_size: 512, ..VnetHdr::default() };
    for bytes in both(17, 0, true, &data).into_iter().chain(both(17, 64, true, &data)) {
        let layout = Layout::of(&bytes).unwrap();
        for bad in [partial, VnetHdr { csum_start: 48, ..partial }, cut, VnetHdr { gso_size: 512, ..partial }]
        {
            assert_eq!(bad.check(&layout, &bytes), Err(DropReason::BadVnetHeader), "{bad:?}");
        }
        for good in [
            VnetHdr { flags: VnetHdr::DATA_VALID, ..VnetHdr::default() },
            VnetHdr { hdr_len: 28, ..VnetHdr::default() },
        ] {
            assert_eq!(good.check(&layout, &bytes), Ok(Csum::Full));
        }
    }
}

#[test]
fn new_addresses_change_nothing_else() {
    let sample = Sample { options: true, ..v4(Proto::Tcp) };
    let (before, mut bytes) = (sample.build(), sample.build());
    readdress::<std::net::Ipv4Addr>(&mut bytes, [1, 2, 3, 4].into(), [5, 6, 7, 8].into());
    assert_eq!(bytes[12..20], [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut fixed = bytes.clone();
    fix_header(&mut fixed);
    assert_eq!(fixed, bytes);
    readdress(&mut bytes, sample.tuple.src, sample.tuple.dst);
    assert_eq!(bytes, before);
    assert_valid(&bytes);

    let sample = v6(Proto::Udp);
    let mut bytes = sample.build();
    let (src, dst): (Ipv6Addr, Ipv6Addr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    readdress(&mut bytes, src, dst);
    let expected = [&sample.build()[..8], &src.octets(), &dst.octets(), &sample.build()[40..]].concat();
    assert_eq!(bytes, expected);
}
