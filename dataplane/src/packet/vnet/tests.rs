use super::*;
use crate::packet::samples::{Sample, icmp_error, v4, v6};

fn check(vnet: VnetHdr, bytes: &[u8]) -> Result<Csum, DropReason> {
    vnet.check(&Layout::of(bytes).unwrap(), bytes)
}

const NONE: VnetHdr =
    VnetHdr { flags: 0, gso_type: 0, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };
const BAD: Result<Csum, DropReason> = Err(DropReason::BadVnetHeader);

#[test]
fn fields_are_in_the_machines_byte_order() {
    let vnet =
        VnetHdr { flags: 1, gso_type: 4, hdr_len: 0x1234, gso_size: 1448, csum_start: 40, csum_offset: 16 };
    let bytes = vnet.write();
    assert_eq!(bytes[..2], [1, 4]);
    for (at, word) in [(2, 0x1234_u16), (4, 1448), (6, 40), (8, 16)] {
        assert_eq!(bytes[at..at + 2], word.to_ne_bytes());
    }
    assert_eq!(VnetHdr::read(&bytes), vnet);
    assert_eq!(VnetHdr::default().write(), [0; VNET_LEN]);
}

#[test]
fn a_plain_header_goes_with_anything() {
    let tuple = v4(Proto::Udp).tuple;
    for bytes in [
        v4(Proto::Tcp).build(),
        v6(Proto::Udp).build(),
        v4(Proto::Sctp).build(),
        icmp_error(tuple.src, tuple.dst, [3, 4], [0; 4], &[0; 28]),
    ] {
        assert_eq!(check(NONE, &bytes), Ok(Csum::Full));
        assert_eq!(check(VnetHdr { flags: VnetHdr::DATA_VALID, ..NONE }, &bytes), Ok(Csum::Full));
        // Without NEEDS_CSUM the places mean nothing; a hint inside the packet is a hint.
        let noise = VnetHdr { csum_start: 9999, csum_offset: 9999, gso_size: 7, hdr_len: 20, ..NONE };
        assert_eq!(check(noise, &bytes), Ok(Csum::Full));
    }
}

#[test]
fn an_unfinished_checksum_is_ours_to_the_byte() {
    for options in [false, true] {
        for proto in [Proto::Tcp, Proto::Udp] {
            let four = Sample { options, ..v4(proto) }.build_partial();
            let six = Sample { options, ..v6(proto) }.build_partial();
            for (vnet, bytes) in [four, six] {
                assert_eq!(check(vnet, &bytes), Ok(Csum::Partial));
                for (start, offset) in [(1, 0), (-1, 0), (0, 2), (0, -2), (-8, 8), (8, -8), (-20, 0)] {
                    let vnet = VnetHdr {
                        csum_start: vnet.csum_start.wrapping_add_signed(start),
                        csum_offset: vnet.csum_offset.wrapping_add_signed(offset),
                        ..vnet
                    };
                    assert_eq!(check(vnet, &bytes), BAD, "{proto} {start} {offset}");
                }
            }
        }
    }
}

#[test]
fn nobody_finishes_the_checksum_of_sctp_or_an_icmp_error() {
    let vnet = VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 20, csum_offset: 8, ..NONE };
    assert_eq!(check(vnet, &v4(Proto::Sctp).build()), BAD);
    let tuple = v4(Proto::Udp).tuple;
    let error = icmp_error(tuple.src, tuple.dst, [3, 4], [0; 4], &[0; 28]);
    assert_eq!(check(VnetHdr { csum_offset: 2, ..vnet }, &error), BAD);
}

#[test]
fn a_checksum_of_what_we_leave_alone_only_has_to_be_inside() {
    let tuple = v6(Proto::Udp).tuple;
    let echo = icmp_error(tuple.src, tuple.dst, [128, 0], [0; 4], &[0; 8]);
    let mut other = v6(Proto::Tcp).build();
    other[6] = 41;
    for bytes in [echo, other] {
        let vnet = VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 40, csum_offset: 2, ..NONE };
        let end = u16::try_from(bytes.len()).unwrap();
        assert_eq!(check(vnet, &bytes), Ok(Csum::Full));
        assert_eq!(check(VnetHdr { csum_start: end - 4, ..vnet }, &bytes), Ok(Csum::Full));
        assert_eq!(check(VnetHdr { csum_start: end - 3, ..vnet }, &bytes), BAD);
        assert_eq!(check(VnetHdr { csum_start: 65_535, csum_offset: 65_535, ..vnet }, &bytes), BAD);
        assert_eq!(check(VnetHdr { gso_type: VnetHdr::GSO_TCPV6, gso_size: 1000, ..NONE }, &bytes), BAD);
    }
}

#[test]
fn segmentation_agrees_with_family_and_protocol() {
    let packets = [
        (v4(Proto::Tcp).build_partial(), &[VnetHdr::GSO_TCPV4, VnetHdr::GSO_TCPV4 | VnetHdr::GSO_ECN][..]),
        (v6(Proto::Tcp).build_partial(), &[VnetHdr::GSO_TCPV6, VnetHdr::GSO_TCPV6 | VnetHdr::GSO_ECN]),
        (v4(Proto::Udp).build_partial(), &[VnetHdr::GSO_UDP, VnetHdr::GSO_UDP_L4]),
        (v6(Proto::Udp).build_partial(), &[VnetHdr::GSO_UDP, VnetHdr::GSO_UDP_L4]),
        ((NONE, v4(Proto::Sctp).build()), &[]),
    ];
    for ((vnet, bytes), fitting) in packets {
        for gso_type in 1..=255 {
            let gso = VnetHdr { gso_type, gso_size: 1400, hdr_len: 28, ..vnet };
            let expected = if fitting.contains(&gso_type) { Ok(Csum::Partial) } else { BAD };
            assert_eq!(check(gso, &bytes), expected, "type {gso_type:#x}");
            assert_eq!(check(VnetHdr { gso_size: 0, ..gso }, &bytes), BAD, "no size");
        }
    }
    // Not what the kernel sends, but consistent: the checksum is complete.
    let complete = VnetHdr { gso_type: VnetHdr::GSO_TCPV4, gso_size: 1400, ..NONE };
    assert_eq!(check(complete, &v4(Proto::Tcp).build()), Ok(Csum::Full));
}

#[test]
fn unknown_flags_and_headers_beyond_the_packet_are_refused() {
    let (vnet, bytes) = v4(Proto::Tcp).build_partial();
    for flag in 2..8 {
        assert_eq!(check(VnetHdr { flags: vnet.flags | 1 << flag, ..vnet }, &bytes), BAD);
        assert_eq!(check(VnetHdr { flags: 1 << flag, ..NONE }, &bytes), BAD);
    }
    let len = u16::try_from(bytes.len()).unwrap();
    assert_eq!(check(VnetHdr { hdr_len: len, ..vnet }, &bytes), Ok(Csum::Partial));
    assert_eq!(check(VnetHdr { hdr_len: len + 1, ..vnet }, &bytes), BAD);
    assert_eq!(check(VnetHdr { hdr_len: len + 1, ..NONE }, &bytes), BAD);
}
