use super::*;
use crate::packet::samples::{Sample, fix_header, icmp_error, v4, v6};
use crate::packet::sctp::Chunk;

const PROTOS: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Sctp];

/// The packet with other bytes at a place, and a right header checksum if it is IPv4.
fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    if bytes[0] >> 4 == 4 {
        fix_header(&mut bytes);
    }
    bytes
}

fn error(bytes: &[u8]) -> DropReason {
    Layout::of(bytes).unwrap_err()
}

#[track_caller]
fn finds<A: Address>(sample: &Sample<A>, header: usize) {
    let bytes = sample.build();
    let layout = Layout::of(&bytes).unwrap();
    let (family, kind) = (layout.family(), layout.kind());
    assert_eq!((family, kind), (A::FAMILY, Kind::Flow(sample.tuple.proto)));
    assert_eq!((layout.total_len(), layout.l4_offset()), (bytes.len(), sample.l4_offset()));
    assert_eq!(layout.tuple::<A>(&bytes), sample.tuple);
    let Addresses::<A> { src, dst } = layout.addresses(&bytes);
    assert_eq!((src, dst), (sample.tuple.src, sample.tuple.dst));
    // Of SCTP, a chunk's header is no payload to us, but it is behind the header.
    let chunk = if sample.tuple.proto == Proto::Sctp { 4 } else { 0 };
    assert_eq!(layout.payload_len(&bytes), sample.payload.len() + chunk);
    assert_eq!(bytes.len(), sample.l4_offset() + header + chunk + sample.payload.len());
    let flags = if sample.tuple.proto == Proto::Tcp { sample.flags } else { 0 };
    assert_eq!(layout.flags(), L4Flags(flags));
    let padded = [&bytes[..], &[0xaa; 9]].concat();
    assert_eq!(Layout::of(&padded), Ok(layout), "padding is not part of the packet");
}

#[test]
fn packets_of_every_protocol_and_family_are_found() {
    for (proto, header) in [(Proto::Tcp, 20), (Proto::Udp, 8), (Proto::Sctp, 12)] {
        finds(&v4(proto), header);
        finds(&v6(proto), header);
    }
}

#[test]
fn headers_behind_options_and_extension_headers_are_found() {
    for (proto, header) in [(Proto::Tcp, 32), (Proto::Udp, 8), (Proto::Sctp, 12)] {
        finds(&Sample { options: true, ..v4(proto) }, header);
        finds(&Sample { options: true, ..v6(proto) }, header);
    }
}

#[test]
fn flags_are_those_of_the_header() {
    for flags in [L4Flags::FIN, L4Flags::SYN, L4Flags::RST, L4Flags::ACK] {
        let layout = Layout::of(&Sample { flags: flags.0, ..v4(Proto::Tcp) }.build()).unwrap();
        assert_eq!(layout.flags(), flags);
    }
    let both = L4Flags(L4Flags::SYN.0 | L4Flags::ACK.0);
    assert!(both.has(L4Flags::SYN) && both.has(both) && !both.has(L4Flags::FIN));
    assert!(!L4Flags::SYN.has(both));
}

#[test]
fn the_flags_of_sctp_are_its_chunk() {
    for (number, tag, chunk) in [
        (0, 7, Chunk::Other),
        (1, 0, Chunk::Init),
        (1, 7, Chunk::Other),
        (6, 7, Chunk::Abort),
        (14, 7, Chunk::ShutdownComplete),
    ] {
        let four = Sample { flags: number, seq: tag, ..v4(Proto::Sctp) }.build();
        let six = Sample { flags: number, seq: tag, options: true, ..v6(Proto::Sctp) }.build();
        for bytes in [four, six] {
            assert_eq!(Chunk::of(Layout::of(&bytes).unwrap().flags()), chunk, "type {number}, tag {tag}");
        }
    }
}

#[test]
fn sctp_without_a_chunk_or_with_one_that_lies_is_refused() {
    let bytes = v4(Proto::Sctp).build();
    for len in [0_u16, 3, 10, 65_535] {
        assert_eq!(error(&with(bytes.clone(), 34, &len.to_be_bytes())), DropReason::BadL4Header, "{len}");
    }
    let (four, six) = (&bytes[..32], &v6(Proto::Sctp).build()[..52]);
    assert_eq!(error(&with(four.to_vec(), 2, &[0, 32])), DropReason::BadL4Header);
    assert_eq!(error(&with(six.to_vec(), 4, &[0, 12])), DropReason::BadL4Header);
}

#[test]
fn a_packet_cut_anywhere_is_refused() {
    for proto in PROTOS {
        for bytes in [v4(proto).build(), v6(proto).build(), Sample { options: true, ..v6(proto) }.build()] {
            let header = if bytes[0] >> 4 == 4 { 20 } else { 40 };
            for len in 0..bytes.len() {
                let expected = if len < header { DropReason::Truncated } else { DropReason::BadTotalLength };
                assert_eq!(error(&bytes[..len]), expected, "{proto} cut to {len}");
            }
        }
    }
}

#[test]
fn a_layer_4_header_cut_by_the_total_length_is_refused() {
    for (proto, header) in [(Proto::Tcp, 20), (Proto::Udp, 8), (Proto::Sctp, 16)] {
        for len in 0..header {
            let total = u16::try_from(20 + len).unwrap().to_be_bytes();
            assert_eq!(
                error(&with(v4(proto).build(), 2, &total)),
                DropReason::BadL4Header,
                "{proto} of {len}"
            );
            let payload = u16::try_from(len).unwrap().to_be_bytes();
            assert_eq!(
                error(&with(v6(proto).build(), 4, &payload)),
                DropReason::BadL4Header,
                "{proto} of {len}"
            );
        }
    }
}

#[test]
fn other_versions_are_refused() {
    for version in (0..16).filter(|version| ![4, 6].contains(version)) {
        assert_eq!(error(&[version << 4; 100]), DropReason::BadVersion);
    }
}

#[test]
fn ipv4_header_fields_that_lie_are_refused() {
    let bytes = v4(Proto::Udp).build();
    for ihl in [0, 1, 4, 15] {
        assert_eq!(error(&with(bytes.clone(), 0, &[0x40 | ihl])), DropReason::BadHeaderLength, "IHL {ihl}");
    }
    for total in [0_u16, 19, 34, 65_535] {
        assert_eq!(
            error(&with(bytes.clone(), 2, &total.to_be_bytes())),
            DropReason::BadTotalLength,
            "{total}"
        );
    }
    // Shorter than the header with its options, though not than the minimal one.
    let options = Sample { options: true, ..v4(Proto::Udp) }.build();
    assert_eq!(error(&with(options, 2, &[0, 27])), DropReason::BadTotalLength);
}

#[test]
fn every_bit_of_an_ipv4_header_is_under_its_checksum() {
    for bytes in [v4(Proto::Tcp).build(), Sample { options: true, ..v4(Proto::Tcp) }.build()] {
        // Version, IHL and total length have their own reasons.
        let header = usize::from(bytes[0] & 0xf) * 4;
        for bit in (4 * 8)..(header * 8) {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(error(&bytes), DropReason::BadHeaderChecksum, "bit {bit}");
        }
    }
}

#[test]
fn ipv4_fragments_are_named_and_other_flags_ignored() {
    let udp = Kind::Flow(Proto::Udp);
    for (bits, expected) in [
        (0x2000_u16, Err(DropReason::BadFragment)),
        (0x0001, Ok((Kind::Other, Piece::Later))),
        (0x4001, Ok((Kind::Other, Piece::Later))),
        (0x1fff, Err(DropReason::BadFragment)),
        (0x4000, Ok((udp, Piece::Whole))),
        (0x8000, Ok((udp, Piece::Whole))),
    ] {
        let bytes = with(v4(Proto::Udp).build(), 6, &bits.to_be_bytes());
        let found = Layout::of(&bytes).map(|layout| (layout.kind(), layout.piece()));
        assert_eq!(found, expected, "{bits:#06x}");
    }
}

#[test]
fn ipv6_lengths_that_lie_are_refused() {
    let bytes = v6(Proto::Udp).build();
    for payload in [12_u16, 65_495, 65_496, 65_535] {
        let bytes = [with(bytes.clone(), 4, &payload.to_be_bytes()), vec![0; 100]].concat();
        let expected = if payload == 12 { DropReason::BadL4Header } else { DropReason::BadTotalLength };
        assert_eq!(error(&bytes), expected, "{payload}");
    }
    // The longest one a frame holds, and the first that it does not, however long the buffer.
    let longest = Sample { payload: vec![0; 65_535 - 60], ..v6(Proto::Tcp) }.build();
    assert_eq!(Layout::of(&longest).unwrap().total_len(), 65_535);
    let longer = Sample { payload: vec![0; 65_536 - 60], ..v6(Proto::Tcp) }.build();
    assert_eq!(error(&longer), DropReason::BadTotalLength);
}

#[test]
fn ipv6_chains_give_their_reasons() {
    /// The packet with this extension header in front of its payload.
    fn chained(number: u8, header: &[u8]) -> Vec<u8> {
        let mut bytes = v6(Proto::Tcp).build();
        bytes.splice(40..40, header.iter().copied());
        let len = u16::try_from(bytes.len() - 40).unwrap().to_be_bytes();
        with(with(bytes, 4, &len), 6, &[number])
    }
    let kind = |bytes: &[u8]| Layout::of(bytes).map(|layout| (layout.kind(), layout.l4_offset()));
    let tcp = Ok((Kind::Flow(Proto::Tcp), 48));
    assert_eq!(kind(&chained(44, &[6, 0, 0, 0, 1, 2, 3, 4])), tcp, "atomic fragment");
    assert_eq!(kind(&chained(44, &[6, 0, 0, 1, 1, 2, 3, 4])), Err(DropReason::BadFragment), "25 bytes");
    assert_eq!(kind(&chained(44, &[60, 0, 0, 8, 1, 2, 3, 4])), Ok((Kind::Other, 48)), "later");
    assert_eq!(kind(&chained(43, &[6, 0, 4, 0, 0, 0, 0, 0])), tcp, "no segments left");
    assert_eq!(kind(&chained(43, &[6, 0, 4, 1, 0, 0, 0, 0])), Err(DropReason::RoutingHeader));
    assert_eq!(kind(&chained(60, &[6, 200, 0, 0, 0, 0, 0, 0])), Err(DropReason::BadExtensionHeader));
    assert_eq!(kind(&chained(0, &[0, 0, 0, 0, 0, 0, 0, 0])), Err(DropReason::BadExtensionHeader));
    assert_eq!(kind(&chained(60, &[50, 0, 0, 0, 0, 0, 0, 0])), Ok((Kind::Other, 48)), "ESP");
    assert_eq!(kind(&chained(59, &[])), Ok((Kind::Other, 40)), "nothing");
    assert_eq!(kind(&chained(1, &[])), Ok((Kind::Other, 40)), "ICMPv4 is nothing over IPv6");
}

#[test]
fn tcp_data_offsets_that_lie_are_refused() {
    for bytes in [v4(Proto::Tcp).build(), v6(Proto::Tcp).build()] {
        let at = bytes.len() - 25 + 12;
        for (words, expected) in [(0, None), (4, None), (5, Some(5)), (6, Some(1)), (7, None), (15, None)] {
            let mut bytes = bytes.clone();
            bytes[at] = words << 4;
            let payload = Layout::of(&bytes).map(|layout| layout.payload_len(&bytes));
            assert_eq!(payload, expected.ok_or(DropReason::BadL4Header), "{words} words");
        }
    }
}

#[test]
fn udp_lengths_that_lie_are_refused() {
    for bytes in [v4(Proto::Udp).build(), v6(Proto::Udp).build()] {
        let at = bytes.len() - 13 + 4;
        for len in [0_u16, 7, 14, 65_535] {
            let mut bytes = bytes.clone();
            bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
            assert_eq!(error(&bytes), DropReason::BadL4Header, "{len}");
        }
    }
}

#[test]
fn a_udp_datagram_may_be_shorter_than_its_packet() {
    for bytes in [v4(Proto::Udp).build(), v6(Proto::Udp).build()] {
        let at = bytes.len() - 13 + 4;
        for len in 8..=13_u16 {
            let bytes = with(bytes.clone(), at, &len.to_be_bytes());
            assert_eq!(Layout::of(&bytes).map(|layout| layout.kind()), Ok(Kind::Flow(Proto::Udp)), "{len}");
        }
    }
}

#[test]
fn icmp_errors_are_told_from_the_rest() {
    let (four, six) = (v4(Proto::Udp).tuple, v6(Proto::Udp).tuple);
    for kind in 0..=255 {
        let message = |bytes: &[u8]| {
            let layout = Layout::of(bytes).unwrap();
            assert_eq!(layout.payload_len(bytes), 4);
            layout.kind()
        };
        let expected = |error| if error { Kind::IcmpError } else { Kind::Icmp };
        let bytes = icmp_error(four.src, four.dst, [kind, 0], [0; 4], &[0; 4]);
        assert_eq!(message(&bytes), expected([3, 4, 5, 11, 12].contains(&kind)), "ICMP {kind}");
        let bytes = icmp_error(six.src, six.dst, [kind, 0], [0; 4], &[0; 4]);
        assert_eq!(message(&bytes), expected([1, 2, 3, 4, 137].contains(&kind)), "ICMPv6 {kind}");
    }
    let short = with(icmp_error(four.src, four.dst, [8, 0], [0; 4], &[]), 2, &[0, 27]);
    assert_eq!(error(&short), DropReason::BadL4Header);
}

#[test]
fn other_protocols_have_no_tuple() {
    for protocol in [4, 47, 50, 51, 58, 136] {
        let layout = Layout::of(&with(v4(Proto::Udp).build(), 9, &[protocol])).unwrap();
        assert_eq!((layout.kind(), layout.l4_offset()), (Kind::Other, 20));
    }
}

#[test]
fn ipv4_addresses_are_judged() {
    use DropReason::{Martian, NotUnicast};
    let ours = "10.0.0.1";
    for (src, dst, reason) in [
        ("127.0.0.1", ours, Some(Martian)),
        ("127.255.255.255", ours, Some(Martian)),
        (ours, "127.0.0.53", Some(Martian)),
        ("0.0.0.0", ours, Some(Martian)),
        (ours, "0.0.0.0", Some(Martian)),
        (ours, "0.1.2.3", Some(Martian)),
        ("224.0.0.1", ours, Some(Martian)),
        ("239.255.255.255", ours, Some(Martian)),
        ("255.255.255.255", ours, Some(Martian)),
        (ours, "224.0.0.251", Some(NotUnicast)),
        (ours, "239.1.1.1", Some(NotUnicast)),
        (ours, "255.255.255.255", Some(NotUnicast)),
        ("0.0.0.0", "255.255.255.255", Some(NotUnicast)),
        // A SNAT address may be one; what is none is dropped where flows are known.
        (ours, "169.254.169.254", None),
        ("169.254.1.1", ours, Some(NotUnicast)),
        ("169.253.255.255", "169.255.0.0", None),
        ("1.0.0.0", "126.255.255.255", None),
        ("128.0.0.0", "223.255.255.255", None),
        // Class E: the kernel forwards it.
        ("240.0.0.1", "255.255.255.254", None),
    ] {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let sample = v4(Proto::Udp);
        let bytes = Sample { tuple: Tuple { src, dst, ..sample.tuple }, ..sample }.build();
        assert_eq!(Layout::of(&bytes).err(), reason, "{src} > {dst}");
    }
}

#[test]
fn an_icmp_error_may_come_from_a_tunnels_link_local_address() {
    let (src, dst) = ([169, 254, 10, 1].into(), Ipv4Addr::new(10, 0, 0, 1));
    let packet = |kind, src, dst| Layout::of(&icmp_error::<Ipv4Addr>(src, dst, [kind, 4], [0; 4], &[0; 28]));
    assert_eq!(packet(3, src, dst).unwrap().kind(), Kind::IcmpError);
    assert_eq!(packet(8, src, dst), Err(DropReason::NotUnicast));
    assert_eq!(packet(3, dst, src).unwrap().kind(), Kind::IcmpError);
    assert_eq!(packet(3, src, src).unwrap().kind(), Kind::IcmpError);
    assert_eq!(packet(8, src, src), Err(DropReason::NotUnicast));
    let (src, dst) = ("fe80::1".parse().unwrap(), v6(Proto::Udp).tuple.dst);
    assert_eq!(Layout::of(&icmp_error(src, dst, [2, 0], [0; 4], &[0; 48])), Err(DropReason::NotUnicast));
}

#[test]
fn ipv6_addresses_are_judged() {
    use DropReason::{Martian, NotUnicast};
    let ours = "fd00::1";
    for (src, dst, reason) in [
        ("::1", ours, Some(Martian)),
        (ours, "::1", Some(Martian)),
        ("::", ours, Some(Martian)),
        (ours, "::", Some(Martian)),
        ("::ffff:10.0.0.1", ours, Some(Martian)),
        (ours, "::ffff:10.0.0.1", Some(Martian)),
        ("ff02::1", ours, Some(Martian)),
        (ours, "ff02::1", Some(NotUnicast)),
        (ours, "ff0e::1", Some(NotUnicast)),
        ("::", "ff02::16", Some(NotUnicast)),
        (ours, "fe80::1", Some(NotUnicast)),
        ("febf::1", ours, Some(NotUnicast)),
        ("fe7f::1", "fec0::1", None),
        ("64:ff9b::a00:1", "::10.0.0.1", None),
        ("2001:db8::1", "fdff::1", None),
    ] {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let sample = v6(Proto::Tcp);
        let bytes = Sample { tuple: Tuple { src, dst, ..sample.tuple }, ..sample }.build();
        assert_eq!(Layout::of(&bytes).err(), reason, "{src} > {dst}");
    }
}

#[test]
fn no_packet_is_nothing() {
    let none = Layout::default();
    assert_eq!((none.total_len(), none.l4_offset(), none.kind()), (0, 0, Kind::Other));
    assert_eq!(none.payload_len(&[]), 0);
    assert_eq!(error(&[]), DropReason::Truncated);
}

#[test]
#[should_panic(expected = "has no ports")]
fn a_packet_without_ports_has_no_tuple() {
    let _ = Layout::default().tuple::<Ipv4Addr>(&[0; 20]);
}
