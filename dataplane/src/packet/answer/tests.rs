use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::packet::samples::{Sample, assert_valid, icmp_error, v4, v6};
use crate::packet::vnet::VnetHdr;

/// What an answer is made of; the buffer is dirty, as a reused one is.
fn unreachable_of<A: Address>(bytes: &[u8], csum: Csum) -> Option<Vec<u8>> {
    let mut out = [0xdb; MAX_ERROR];
    let len = port_unreachable::<A>(bytes, &Layout::of(bytes).unwrap(), csum, &mut out);
    assert!(out[len..].iter().all(|byte| *byte == 0xdb), "wrote beyond its length");
    (len > 0).then(|| out[..len].to_vec())
}

fn reset_of<A: Address>(bytes: &[u8], csum: Csum) -> Option<Vec<u8>> {
    let mut out = [0xdb; 60];
    let len = tcp_reset::<A>(bytes, &Layout::of(bytes).unwrap(), csum, &mut out);
    assert!(out[len..].iter().all(|byte| *byte == 0xdb), "wrote beyond its length");
    (len > 0).then(|| out[..len].to_vec())
}

/// Everything of an answer's IP header.
fn assert_header<A: Address>(answer: &[u8], from: A, to: A, tos: u8) {
    assert_valid(answer);
    let layout = Layout::of(answer).unwrap();
    assert_eq!((layout.family(), layout.total_len()), (A::FAMILY, answer.len()));
    let Addresses::<A> { src, dst } = layout.addresses(answer);
    assert_eq!((src, dst), (from, to));
    match A::FAMILY {
        Family::V4 => {
            assert_eq!((answer[0], answer[1], answer[8]), (0x45, tos, 64));
            assert_eq!(answer[4..8], [0, 0, 0x40, 0], "not to be fragmented");
        }
        Family::V6 => assert_eq!((&answer[..4], answer[7]), (&[0x60, 0, 0, 0][..], 64)),
    }
}

#[test]
fn a_port_unreachable_quotes_the_whole_packet() {
    for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
        for options in [false, true] {
            let sample = Sample { options, ..v4(proto) };
            let answer = unreachable_of::<Ipv4Addr>(&sample.build(), Csum::Full).unwrap();
            assert_header(&answer, sample.tuple.dst, sample.tuple.src, 0xc0);
            assert_eq!(answer[9], 1);
            assert_eq!((&answer[20..22], &answer[24..28]), (&[3, 3][..], &[0; 4][..]));
            assert_eq!(answer[28..], sample.build());

            let sample = Sample { options, ..v6(proto) };
            let answer = unreachable_of::<Ipv6Addr>(&sample.build(), Csum::Full).unwrap();
            assert_header(&answer, sample.tuple.dst, sample.tuple.src, 0);
            assert_eq!(answer[6], 58);
            assert_eq!((&answer[40..42], &answer[44..48]), (&[1, 4][..], &[0; 4][..]));
            assert_eq!(answer[48..], sample.build());
        }
    }
}

#[test]
fn a_long_packet_is_quoted_to_the_limits_of_the_standards() {
    for (len, four, six) in
        [(500, 556, 596), (521, 576, 617), (1184, 576, 1280), (1185, 576, 1280), (60_000, 576, 1280)]
    {
        // With a UDP header, an ICMP header and two IP headers.
        let payload = vec![7; len];
        let bytes = Sample { payload: payload.clone(), ..v4(Proto::Udp) }.build();
        let answer = unreachable_of::<Ipv4Addr>(&bytes, Csum::Full).unwrap();
        assert_eq!((answer.len(), &answer[28..]), (four, &bytes[..four - 28]));
        let bytes = Sample { payload, ..v6(Proto::Udp) }.build();
        let answer = unreachable_of::<Ipv6Addr>(&bytes, Csum::Full).unwrap();
        assert_eq!((answer.len(), &answer[48..]), (six, &bytes[..six - 48]));
    }
}

#[test]
fn an_unfinished_checksum_is_finished_in_the_quote() {
    for proto in [Proto::Tcp, Proto::Udp] {
        for payload in [vec![1, 2, 3], vec![9; 60_000]] {
            let sample = Sample { payload, options: true, ..v4(proto) };
            let (_, partial) = sample.build_partial();
            assert_ne!(partial, sample.build());
            let answer = unreachable_of::<Ipv4Addr>(&partial, Csum::Partial).unwrap();
            assert_eq!(answer, unreachable_of::<Ipv4Addr>(&sample.build(), Csum::Full).unwrap());
            let sample = Sample { payload: sample.payload, ..v6(proto) };
            let answer = unreachable_of::<Ipv6Addr>(&sample.build_partial().1, Csum::Partial).unwrap();
            assert_eq!(answer, unreachable_of::<Ipv6Addr>(&sample.build(), Csum::Full).unwrap());
        }
    }
}

#[test]
fn a_finished_udp_checksum_is_never_zero() {
    let with = |payload: [u8; 2]| Sample { payload: payload.to_vec(), ..v4(Proto::Udp) };
    // The checksum of the packet with a payload of zeros, as payload, makes the sum zero.
    let plain = with([0, 0]).build();
    let (_, partial) = with([plain[26], plain[27]]).build_partial();
    let answer = unreachable_of::<Ipv4Addr>(&partial, Csum::Partial).unwrap();
    assert_eq!(answer[28 + 26..28 + 28], [0xff, 0xff]);
}

#[test]
fn an_answer_to_a_super_packet_is_a_plain_packet() {
    let (vnet, bytes) = Sample { payload: vec![0; 40_000], flags: 0x02, ..v4(Proto::Tcp) }.build_partial();
    let gso = VnetHdr { gso_type: VnetHdr::GSO_TCPV4, gso_size: 1448, hdr_len: 40, ..vnet };
    let csum = gso.check(&Layout::of(&bytes).unwrap(), &bytes).unwrap();
    let answer = unreachable_of::<Ipv4Addr>(&bytes, csum).unwrap();
    assert_eq!(answer.len(), 576);
    assert_eq!(VnetHdr::default().check(&Layout::of(&answer).unwrap(), &answer), Ok(Csum::Full));
    let reset = reset_of::<Ipv4Addr>(&bytes, csum).unwrap();
    assert_eq!(reset[28..32], 41_001_u32.to_be_bytes(), "acknowledges the SYN and all its data");
}

#[test]
fn icmp_is_answered_only_when_it_asks() {
    let (four, six) = (v4(Proto::Udp).tuple, v6(Proto::Udp).tuple);
    let quote = |kind: u8| [kind, 0, 0, 0, 0, 0, 0, 0];
    for kind in 0..=255 {
        let bytes = icmp_error(four.src, four.dst, [kind, 0], [0; 4], &quote(kind));
        let asks = matches!(kind, 0 | 8 | 13..=18);
        assert_eq!(unreachable_of::<Ipv4Addr>(&bytes, Csum::Full).is_some(), asks, "ICMP {kind}");
        let bytes = icmp_error(six.src, six.dst, [kind, 0], [0; 4], &quote(kind));
        let asks = kind >= 128 && kind != 137;
        assert_eq!(unreachable_of::<Ipv6Addr>(&bytes, Csum::Full).is_some(), asks, "ICMPv6 {kind}");
        assert_eq!(reset_of::<Ipv6Addr>(&bytes, Csum::Full), None);
    }
}

#[test]
fn a_wrong_checksum_is_not_answered() {
    let spoilt = |mut bytes: Vec<u8>| {
        let last = bytes.len() - 1;
        bytes[last] ^= 0x10;
        bytes
    };
    let tuple = v4(Proto::Udp).tuple;
    let echo = icmp_error(tuple.src, tuple.dst, [8, 0], [0; 4], &[1, 2]);
    for bytes in [v4(Proto::Tcp).build(), v4(Proto::Udp).build(), echo] {
        assert!(unreachable_of::<Ipv4Addr>(&bytes, Csum::Full).is_some());
        assert_eq!(unreachable_of::<Ipv4Addr>(&spoilt(bytes), Csum::Full), None);
    }
    assert_eq!(reset_of::<Ipv4Addr>(&spoilt(v4(Proto::Tcp).build()), Csum::Full), None);
    assert_eq!(unreachable_of::<Ipv6Addr>(&spoilt(v6(Proto::Udp).build()), Csum::Full), None);
    // UDP may do without one over IPv4, and only there.
    let mut four = v4(Proto::Udp).build();
    four[26..28].fill(0);
    assert!(unreachable_of::<Ipv4Addr>(&four, Csum::Full).is_some());
    let mut six = v6(Proto::Udp).build();
    six[46..48].fill(0);
    assert_eq!(unreachable_of::<Ipv6Addr>(&six, Csum::Full), None);
}

#[test]
fn other_protocols_are_answered_by_icmp_only() {
    let mut gre = v6(Proto::Udp).build();
    gre[6] = 47;
    let answer = unreachable_of::<Ipv6Addr>(&gre, Csum::Full).unwrap();
    assert_eq!(answer[48..], gre);
    assert_eq!(reset_of::<Ipv6Addr>(&gre, Csum::Full), None);
    assert_eq!(reset_of::<Ipv4Addr>(&v4(Proto::Udp).build(), Csum::Full), None);
    assert_eq!(reset_of::<Ipv4Addr>(&v4(Proto::Sctp).build(), Csum::Full), None);
}

#[test]
fn a_reset_has_the_numbers_of_rfc_9293() {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const PSH: u8 = 8;
    const ACK: u8 = 16;
    const RST: u8 = 4;
    // What came with 5 bytes of payload, and the answer's sequence number, acknowledgment and flags.
    for (flags, seq, ack, answer) in [
        (SYN, 0, 1006, RST | ACK),
        (FIN, 0, 1006, RST | ACK),
        (SYN | FIN, 0, 1007, RST | ACK),
        (0, 0, 1005, RST | ACK),
        (ACK, 2000, 0, RST),
        (SYN | ACK, 2000, 0, RST),
        (FIN | PSH | ACK, 2000, 0, RST),
    ] {
        for options in [false, true] {
            let four = Sample { flags, options, ..v4(Proto::Tcp) };
            let six = Sample { flags, options, ..v6(Proto::Tcp) };
            let reset = reset_of::<Ipv4Addr>(&four.build(), Csum::Full).unwrap();
            assert_header(&reset, four.tuple.dst, four.tuple.src, 0);
            assert_eq!(reset_of::<Ipv4Addr>(&four.build_partial().1, Csum::Partial).unwrap(), reset);
            let reset6 = reset_of::<Ipv6Addr>(&six.build(), Csum::Full).unwrap();
            assert_header(&reset6, six.tuple.dst, six.tuple.src, 0);
            for segment in [&reset[20..], &reset6[40..]] {
                assert_eq!(segment.len(), 20);
                assert_eq!(segment[..4], [[0, 80], 40_000_u16.to_be_bytes()].concat());
                let (got_seq, got_ack) = (u32::to_be_bytes(seq), u32::to_be_bytes(ack));
                assert_eq!((&segment[4..8], &segment[8..12]), (&got_seq[..], &got_ack[..]), "to {flags:#x}");
                assert_eq!(segment[12..16], [0x50, answer, 0, 0], "header length, flags, no window");
                assert_eq!(segment[18..], [0, 0], "nothing urgent");
            }
        }
    }
    let wrap = Sample { seq: u32::MAX, flags: SYN, ..v4(Proto::Tcp) };
    assert_eq!(reset_of::<Ipv4Addr>(&wrap.build(), Csum::Full).unwrap()[28..32], [0, 0, 0, 5]);
}

#[test]
fn a_reset_is_never_answered() {
    for flags in [4, 4 | 16, 4 | 2] {
        let bytes = Sample { flags, ..v4(Proto::Tcp) }.build();
        assert_eq!(reset_of::<Ipv4Addr>(&bytes, Csum::Full), None);
        assert_eq!(unreachable_of::<Ipv4Addr>(&bytes, Csum::Full), None);
        let (_, bytes) = Sample { flags, ..v6(Proto::Tcp) }.build_partial();
        assert_eq!(reset_of::<Ipv6Addr>(&bytes, Csum::Partial), None);
        assert_eq!(unreachable_of::<Ipv6Addr>(&bytes, Csum::Partial), None);
    }
}

#[test]
fn sctp_is_answered_once_its_crc_was_verified_and_never_an_abort() {
    const ABORT: u8 = 6;
    let (good, abort) = (v4(Proto::Sctp).build(), Sample { flags: ABORT, ..v4(Proto::Sctp) }.build());
    let (good6, abort6) = (v6(Proto::Sctp).build(), Sample { flags: ABORT, ..v6(Proto::Sctp) }.build());
    assert!(unreachable_of::<Ipv4Addr>(&good, Csum::Full).is_some());
    assert!(unreachable_of::<Ipv6Addr>(&good6, Csum::Full).is_some());
    assert_eq!(unreachable_of::<Ipv4Addr>(&abort, Csum::Full), None);
    assert_eq!(unreachable_of::<Ipv6Addr>(&abort6, Csum::Full), None);
    for at in [24, 28, 31, 40] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        assert_eq!(unreachable_of::<Ipv4Addr>(&bytes, Csum::Full), None, "byte {at}");
        // Bytes behind the packet are not under it.
        let padded = [&good[..], &[1, 2, 3]].concat();
        assert!(unreachable_of::<Ipv4Addr>(&padded, Csum::Full).is_some());
    }
}

#[test]
fn without_room_nothing_is_built() {
    let bytes = v4(Proto::Tcp).build();
    let layout = Layout::of(&bytes).unwrap();
    let mut out = [0xdb; 28 + 45];
    assert_eq!(port_unreachable::<Ipv4Addr>(&bytes, &layout, Csum::Full, &mut out[..72]), 0);
    assert_eq!(tcp_reset::<Ipv4Addr>(&bytes, &layout, Csum::Full, &mut out[..39]), 0);
    assert_eq!(out, [0xdb; 73]);
    assert_eq!(port_unreachable::<Ipv4Addr>(&bytes, &layout, Csum::Full, &mut out), 73);
    assert_eq!(tcp_reset::<Ipv4Addr>(&bytes, &layout, Csum::Full, &mut out), 40);
}
