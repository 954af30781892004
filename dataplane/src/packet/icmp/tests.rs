use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::packet::samples::{Sample, assert_valid, icmp_error, v4, v6};

/// A router's address, where these errors come from.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// The client the errors of these tests go to.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

fn parse<A: Address>(bytes: &[u8]) -> Result<IcmpError<A>, DropReason> {
    IcmpError::parse(bytes, &Layout::of(bytes).unwrap())
}

fn translate<A: Address>(bytes: &mut [u8], embedded: &Tuple<A>, src: A, dst: A) {
    let layout = Layout::of(bytes).unwrap();
    parse::<A>(bytes).unwrap().translate(bytes, &layout, embedded, src, dst);
}

fn error_v4(kind: [u8; 2], word: [u8; 4], quote: &[u8]) -> Vec<u8> {
    icmp_error(ROUTER, CLIENT, kind, word, quote)
}

fn error_v6(kind: [u8; 2], word: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let tuple = v6(Proto::Udp).tuple;
    icmp_error(tuple.dst, tuple.src, kind, word, quote)
}

#[test]
fn the_quoted_tuple_is_read_from_eight_bytes() {
    for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
        for options in [false, true] {
            let (four, six) = (Sample { options, ..v4(proto) }, Sample { options, ..v6(proto) });
            let quote = &four.build()[..four.l4_offset() + 8];
            assert_eq!(parse::<Ipv4Addr>(&error_v4([3, 4], [0; 4], quote)).unwrap().embedded, four.tuple);
            assert_eq!(
                parse::<Ipv4Addr>(&error_v4([3, 4], [0; 4], &quote[..quote.len() - 1])).err(),
                Some(DropReason::BadIcmpError)
            );
            let quote = &six.build()[..six.l4_offset() + 8];
            assert_eq!(parse::<Ipv6Addr>(&error_v6([2, 0], [0; 4], quote)).unwrap().embedded, six.tuple);
            assert_eq!(
                parse::<Ipv6Addr>(&error_v6([2, 0], [0; 4], &quote[..quote.len() - 1])).err(),
                Some(DropReason::BadIcmpError)
            );
        }
    }
}

#[test]
fn redirects_are_told_apart() {
    let quote = v4(Proto::Tcp).build();
    for (kind, redirect) in [(3, false), (4, false), (5, true), (11, false), (12, false)] {
        assert_eq!(parse::<Ipv4Addr>(&error_v4([kind, 0], [9; 4], &quote)).unwrap().redirect, redirect);
    }
    let quote = v6(Proto::Tcp).build();
    for kind in 1..5 {
        assert!(!parse::<Ipv6Addr>(&error_v6([kind, 0], [0; 4], &quote)).unwrap().redirect);
    }
    assert_eq!(parse::<Ipv6Addr>(&error_v6([137, 0], [0; 4], &quote)).err(), Some(DropReason::IcmpRedirect));
}

#[test]
fn an_error_with_a_wrong_checksum_is_not_read() {
    let quote = v4(Proto::Tcp).build();
    let bytes = error_v4([3, 1], [0; 4], &quote);
    for bit in (20 * 8)..(bytes.len() * 8) {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if Layout::of(&bytes).unwrap().kind() == Kind::IcmpError {
            assert_eq!(parse::<Ipv4Addr>(&bytes).err(), Some(DropReason::BadIcmpError), "bit {bit}");
        }
    }
    // Over IPv6 the addresses are summed, too.
    let mut bytes = error_v6([1, 4], [0; 4], &v6(Proto::Udp).build());
    bytes[39] ^= 1;
    assert_eq!(parse::<Ipv6Addr>(&bytes).err(), Some(DropReason::BadIcmpError));
}

#[test]
fn what_has_no_tuple_is_refused() {
    let with = |at: usize, new: &[u8]| {
        let mut quote = v4(Proto::Udp).build();
        quote[at..at + new.len()].copy_from_slice(new);
        parse::<Ipv4Addr>(&error_v4([11, 0], [0; 4], &quote)).err()
    };
    assert_eq!(with(9, &[17]), None);
    for (at, new, why) in [
        (0, &[0x65][..], "version"),
        (0, &[0x44], "IHL"),
        (0, &[0x4f], "IHL beyond the quote"),
        (9, &[1], "ICMP"),
        (9, &[47], "GRE"),
        (6, &[0x00, 0x01], "later fragment"),
        (6, &[0x3f, 0xff], "later fragment"),
    ] {
        assert_eq!(with(at, new), Some(DropReason::BadIcmpError), "{why}");
    }
    // A first fragment has its ports, and nobody keeps quoted checksums and lengths right.
    for (at, new) in [(6, [0x20, 0x00]), (10, [0, 0]), (2, [0xff, 0xff]), (2, [0, 0])] {
        assert_eq!(with(at, &new), None);
    }
    for len in 0..28 {
        let error = error_v4([3, 3], [0; 4], &v4(Proto::Udp).build()[..len]);
        assert_eq!(parse::<Ipv4Addr>(&error).err(), Some(DropReason::BadIcmpError), "{len} bytes");
    }
}

#[test]
fn what_has_no_tuple_is_refused_v6() {
    let chained = |number: u8, header: [u8; 8]| {
        let mut quote = v6(Proto::Udp).build();
        quote[6] = number;
        quote.splice(40..40, header);
        parse::<Ipv6Addr>(&error_v6([3, 0], [0; 4], &quote)).map(|error| error.embedded)
    };
    let tuple = Ok(v6(Proto::Udp).tuple);
    let bad = Err(DropReason::BadIcmpError);
    assert_eq!(chained(44, [17, 0, 0, 0, 1, 2, 3, 4]), tuple, "atomic fragment");
    assert_eq!(chained(44, [17, 0, 0, 1, 1, 2, 3, 4]), tuple, "first fragment");
    assert_eq!(chained(44, [17, 0, 0, 9, 1, 2, 3, 4]), bad, "later fragment");
    assert_eq!(chained(43, [17, 0, 4, 0, 0, 0, 0, 0]), tuple, "no segments left");
    assert_eq!(chained(43, [17, 0, 4, 1, 0, 0, 0, 0]), bad, "not the destination");
    assert_eq!(chained(60, [58, 0, 0, 0, 0, 0, 0, 0]), bad, "ICMPv6");
    assert_eq!(chained(60, [17, 99, 0, 0, 0, 0, 0, 0]), bad, "beyond the quote");
}

#[test]
fn an_error_of_another_kind_or_family_is_refused() {
    let echo = error_v4([8, 0], [0; 4], &v4(Proto::Udp).build());
    assert_eq!(parse::<Ipv4Addr>(&echo).err(), Some(DropReason::BadIcmpError));
    let six = error_v6([1, 4], [0; 4], &v6(Proto::Udp).build());
    assert_eq!(parse::<Ipv4Addr>(&six).err(), Some(DropReason::BadIcmpError));
}

/// The frag-needed case of a DNATed flow: a router says it about client > endpoint, the client must read it
/// about client > VIP, from the VIP, with the MTU as it was.
#[test]
fn a_client_learns_the_mtu_for_the_vip() {
    let outgoing = Sample { payload: vec![0x5a; 1400], ..v4(Proto::Tcp) };
    let to_vip = Tuple { src: CLIENT, dst: VIP, sport: 40_000, dport: 80, proto: Proto::Tcp };
    let to_endpoint = Tuple { dst: [10, 244, 2, 8].into(), dport: 8080, ..to_vip };
    let quoted = |tuple, len| Sample { tuple, ..outgoing.clone() }.build()[..len].to_vec();
    for len in [28, 36, 38, 40, 548, 1440] {
        let mut bytes = error_v4([3, 4], [0, 0, 0x05, 0x14], &quoted(to_endpoint, len));
        translate(&mut bytes, &to_vip, VIP, CLIENT);
        assert_eq!(
            bytes,
            icmp_error(VIP, CLIENT, [3, 4], [0, 0, 0x05, 0x14], &quoted(to_vip, len)),
            "{len} bytes"
        );
        assert_valid(&bytes);
    }
}

/// The other direction: the client's router about endpoint > client, which left as VIP > client.
#[test]
fn an_endpoint_learns_the_mtu_for_the_client() {
    let tuple = v6(Proto::Udp).tuple;
    let endpoint: Ipv6Addr = "fd00:10:244::77".parse().unwrap();
    let as_vip = Tuple { src: tuple.dst, dst: tuple.src, sport: 80, dport: 40_000, proto: Proto::Udp };
    let as_endpoint = Tuple { src: endpoint, sport: 8080, ..as_vip };
    let quoted = |tuple| Sample { tuple, payload: vec![1; 1300], ..v6(Proto::Udp) }.build()[..1232].to_vec();
    let mut bytes = icmp_error(tuple.src, tuple.dst, [2, 0], [0, 0, 5, 0], &quoted(as_vip));
    translate(&mut bytes, &as_endpoint, tuple.src, endpoint);
    assert_eq!(bytes, icmp_error(tuple.src, endpoint, [2, 0], [0, 0, 5, 0], &quoted(as_endpoint)));
}

#[test]
fn a_quoted_udp_packet_without_a_checksum_stays_without() {
    let mut quote = v4(Proto::Udp).build();
    quote[26..28].fill(0);
    let mut bytes = error_v4([3, 3], [0; 4], &quote);
    translate(&mut bytes, &Tuple { dst: VIP, dport: 53, ..v4(Proto::Udp).tuple }, VIP, CLIENT);
    assert_eq!(bytes[28 + 26..28 + 28], [0, 0]);
    assert_valid(&bytes);
}

/// RFC 4884: 128 bytes of the quoted packet, then an extension structure. Nothing of it may change, also
/// where a longer quote would have had a checksum.
#[test]
fn extensions_survive() {
    let extension = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0xde, 0xad, 0xbe, 0xef];
    let to = Tuple { dst: VIP, dport: 53, ..v4(Proto::Tcp).tuple };
    let long = Sample { payload: vec![3; 300], ..v4(Proto::Tcp) };
    let short = Sample { payload: Vec::new(), ..v4(Proto::Tcp) };
    for sample in [long, short] {
        let quote = |tuple| {
            let mut quote = Sample { tuple, ..sample.clone() }.build();
            quote.resize(128, 0);
            [&quote[..], &extension].concat()
        };
        for kind in [3, 11, 12] {
            let mut bytes = error_v4([kind, 0], [0, 32, 0, 0], &quote(sample.tuple));
            translate(&mut bytes, &to, VIP, CLIENT);
            assert_eq!(bytes, icmp_error(VIP, CLIENT, [kind, 0], [0, 32, 0, 0], &quote(to)));
        }
    }
    let six = v6(Proto::Tcp);
    let to = Tuple { sport: 9, ..six.tuple };
    let mut quote = six.build();
    quote.resize(128, 0);
    let mut bytes = error_v6([1, 4], [16, 0, 0, 0], &[&quote[..], &extension].concat());
    let (src, dst) = (six.tuple.dst, six.tuple.src);
    translate(&mut bytes, &to, src, dst);
    assert_eq!(bytes[bytes.len() - 12..], extension);
    assert_valid(&bytes);
}

#[test]
fn extension_headers_of_the_quote_end_the_quote() {
    // Extension headers of the quoted packet make its ports lie behind the 128 bytes RFC 4884 declares.
    let mut quote = v6(Proto::Udp).build();
    quote[6] = 60;
    quote.splice(40..40, [&[17, 10][..], &[0; 86]].concat());
    assert_eq!(parse::<Ipv6Addr>(&error_v6([1, 4], [0; 4], &quote)).unwrap().embedded, v6(Proto::Udp).tuple);
    assert_eq!(
        parse::<Ipv6Addr>(&error_v6([1, 4], [16, 0, 0, 0], &quote)).err(),
        Some(DropReason::BadIcmpError)
    );
    // Less than that standard's minimum is no length: some routers leave garbage there.
    assert!(parse::<Ipv6Addr>(&error_v6([1, 4], [15, 0, 0, 0], &quote)).is_ok());
}

#[test]
fn padding_behind_a_short_packet_is_not_its_checksum() {
    // A packet that says it is 28 bytes long, quoted with 20 more: they are not TCP's checksum.
    let mut quote = v4(Proto::Tcp).build();
    quote.truncate(28);
    quote[2..4].copy_from_slice(&[0, 28]);
    quote.resize(48, 0xcc);
    let mut bytes = error_v4([11, 0], [0; 4], &quote);
    translate(&mut bytes, &Tuple { dst: VIP, dport: 53, ..v4(Proto::Tcp).tuple }, VIP, CLIENT);
    assert_eq!(bytes[28 + 28..], [0xcc; 20]);
    assert_valid(&bytes);
}

#[test]
fn bytes_behind_the_packet_are_not_touched() {
    let mut bytes = error_v4([3, 1], [0; 4], &v4(Proto::Tcp).build());
    let len = bytes.len();
    bytes.extend([0xee; 7]);
    translate(&mut bytes, &Tuple { dport: 1, ..v4(Proto::Tcp).tuple }, VIP, CLIENT);
    assert_valid(&bytes[..len]);
    assert_eq!(bytes[len..], [0xee; 7]);
}

#[test]
fn a_quoted_crc_follows_as_far_as_that_can_be_known() {
    let sample = Sample { payload: vec![9; 700], ..v4(Proto::Sctp) };
    let to = Tuple { dst: VIP, dport: 9_999, ..sample.tuple };
    let (here, there) = (sample.build(), Sample { tuple: to, ..sample.clone() }.build());
    for quoted in [28, 29, 31, 32, 36, 500, here.len()] {
        let mut bytes = error_v4([3, 4], [0; 4], &here[..quoted]);
        translate(&mut bytes, &to, ROUTER, CLIENT);
        assert_valid(&bytes);
        // Of the CRC all or nothing: a part of it says nothing to anybody.
        let crc = if quoted >= 32 { &there[28..32] } else { &here[28..quoted] };
        assert_eq!((&bytes[28..56], &bytes[56..28 + quoted.min(32)]), (&there[..28], crc), "{quoted} quoted");
        assert_eq!(bytes[(28 + 32).min(bytes.len())..], there[32.min(quoted)..quoted]);
    }
    // A fragment's length is not that of what the CRC is over.
    let mut fragment = here[..20 + 512].to_vec();
    fragment[6] |= 0x20;
    fragment[2..4].copy_from_slice(&532_u16.to_be_bytes());
    crate::packet::samples::fix_header(&mut fragment);
    let mut bytes = error_v4([3, 4], [0; 4], &fragment);
    translate(&mut bytes, &to, ROUTER, CLIENT);
    assert_valid(&bytes);
    assert_eq!((&bytes[48..52], &bytes[56..60]), (&there[20..24], &here[28..32]));
    // What is quoted behind the packet's own end is not its CRC.
    let mut short = here.clone();
    short[2..4].copy_from_slice(&30_u16.to_be_bytes());
    crate::packet::samples::fix_header(&mut short);
    let mut bytes = error_v4([3, 4], [0; 4], &short);
    translate(&mut bytes, &to, ROUTER, CLIENT);
    assert_eq!(bytes[56..60], here[28..32]);
}
