//! The author and the judge of packets agree, and the judge finds every single wrong bit it is there to find.

#![allow(clippy::unwrap_used, reason = "helpers of tests end the test")]

use std::net::SocketAddr;

use dataplane::packet::vnet::VnetHdr;
use etherparse::IpNumber;
use tests::check::{L4, assert_valid, completed, segments, valid};
use tests::packets::{
    IcmpError, Offload, Spec, Wire, chunks, crc32c, echo, flags, icmp_error, sctp, tcp, udp,
};

fn at(addr: &str) -> SocketAddr {
    addr.parse().unwrap()
}

fn some_packets() -> Vec<Wire> {
    let mut packets = Vec::new();
    for (client, vip) in [("10.1.2.3:40000", "10.96.0.10:80"), ("[fd00::2]:40000", "[fd96::10]:80")] {
        let (client, vip) = (at(client), at(vip));
        let mut specs: Vec<Spec> = vec![
            tcp(client, vip, flags::SYN).tcp_options(&[2, 4, 5, 180, 4, 2, 1, 3, 3, 7]),
            tcp(client, vip, flags::ACK | flags::PSH).payload(*b"odd").tos(0xb9).ttl(3),
            tcp(client, vip, flags::ACK).payload(vec![7; 1_001]).offload(Offload::Checksum),
            tcp(client, vip, flags::ACK | flags::FIN | flags::PSH)
                .payload(vec![9; 30_001])
                .offload(Offload::Gso(1_400)),
            udp(client, vip).payload(*b"query"),
            udp(client, vip).payload(vec![1; 3_000]).offload(Offload::Gso(1_000)),
            sctp(client, vip, &[chunks::INIT]).payload([0; 16]),
            sctp(client, vip, &[chunks::COOKIE_ECHO, chunks::DATA]).payload(*b"padded"),
        ];
        if client.is_ipv4() {
            specs.push(udp(client, vip).payload(*b"none").no_checksum());
            specs.push(tcp(client, vip, flags::SYN).ip_options(&[7, 7, 4, 0, 0, 0, 0, 0]));
        } else {
            specs.push(
                udp(client, vip)
                    .payload(*b"q")
                    .extension(IpNumber::IPV6_DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]),
            );
        }
        packets.extend(specs.iter().map(Spec::wire));
        let quoted = specs[1].bytes();
        packets.push(Wire::plain(icmp_error(IcmpError::TooBig(1_300), vip.ip(), client.ip(), &quoted)));
        packets.push(Wire::plain(icmp_error(
            IcmpError::TimeExceeded,
            vip.ip(),
            client.ip(),
            &quoted[..quoted.len() - 9],
        )));
        packets.push(Wire::plain(echo(client.ip(), vip.ip())));
    }
    packets
}

#[test]
fn what_is_built_is_valid_and_reads_back() {
    for wire in some_packets() {
        let view = assert_valid(&wire);
        assert_eq!(view.src.is_ipv4(), wire.bytes[0] >> 4 == 4);
    }
    let view = assert_valid(&tcp(at("10.1.2.3:4"), at("10.5.6.7:8"), flags::SYN).seq(77).wire());
    assert_eq!((view.src, view.dst, view.ttl), (at("10.1.2.3:4"), at("10.5.6.7:8"), 64));
    assert_eq!(view.l4, L4::Tcp { flags: flags::SYN, seq: 77, ack: 0, payload: 0 });
}

#[test]
fn a_quoted_packet_is_read() {
    let inner = udp(at("[fd00::1]:5"), at("[fd96::1]:53")).payload(*b"x").bytes();
    let outer =
        icmp_error(IcmpError::PortUnreachable, at("[fd96::1]:0").ip(), at("[fd00::1]:0").ip(), &inner);
    let L4::Icmp { kind: 1, code: 4, quoted: Some(quoted), .. } = assert_valid(&Wire::plain(outer)).l4 else {
        panic!()
    };
    assert_eq!((quoted.src, quoted.dst, quoted.number), (at("[fd00::1]:5"), at("[fd96::1]:53"), 17));
}

#[test]
fn any_flipped_bit_that_a_checksum_covers_is_found() {
    for wire in some_packets() {
        let view = assert_valid(&wire);
        let partial = wire.vnet.flags & VnetHdr::NEEDS_CSUM != 0;
        let unsummed = matches!(view.l4, L4::Udp { checksum: 0, .. });
        // Without a complete checksum only the headers are covered, by lengths and the IPv4 header checksum.
        if partial || unsummed {
            continue;
        }
        // IPv6 says nothing of traffic class, flow label, hop limit and extension headers.
        let from = if view.src.is_ipv4() { 0 } else { wire.bytes.len() - 8 };
        for byte in from..wire.bytes.len() {
            let mut bad = wire.clone();
            bad.bytes[byte] ^= 0x10;
            assert!(valid(&bad).is_err(), "byte {byte} of {:02x?}", wire.bytes);
        }
    }
}

#[test]
fn a_wrong_partial_checksum_or_a_lying_header_is_found() {
    let wire =
        tcp(at("10.1.2.3:4"), at("10.5.6.7:8"), flags::ACK).payload(*b"data").offload(Offload::Gso(2)).wire();
    let lies: [fn(&mut VnetHdr); 4] = [
        |vnet| vnet.csum_start += 1,
        |vnet| vnet.csum_offset = 6,
        |vnet| vnet.gso_type = 4,
        |vnet| vnet.flags = 0,
    ];
    for lie in lies {
        let mut bad = wire.clone();
        lie(&mut bad.vnet);
        assert!(valid(&bad).is_err(), "{:?}", bad.vnet);
    }
    let mut bad = wire;
    bad.bytes[36] ^= 1;
    assert!(valid(&bad).is_err());
}

#[test]
fn what_the_device_completes_and_cuts_is_valid() {
    for wire in some_packets() {
        assert_valid(&Wire::plain(completed(&wire)));
        let pieces: Vec<Wire> = segments(&wire).into_iter().map(Wire::plain).collect();
        let payload = |wire: &Wire| match assert_valid(wire).l4 {
            L4::Tcp { payload, .. } | L4::Udp { payload, .. } => payload,
            L4::Sctp { .. } | L4::Icmp { .. } | L4::Other(_) => 0,
        };
        assert_eq!(pieces.iter().map(payload).sum::<usize>(), payload(&wire));
        if wire.vnet.gso_type == 1 {
            assert!(pieces.len() > 20, "{} pieces", pieces.len());
        }
    }
}

#[test]
fn the_crc_is_the_published_one_and_chunks_read_back() {
    // RFC 3720, appendix B.4.
    for (bytes, crc) in [(&[0; 32], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43)] {
        assert_eq!(crc32c(bytes), crc);
    }
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let of = |chunks: &[u8]| assert_valid(&sctp(at("10.1.2.3:4"), at("10.5.6.7:8"), chunks).wire());
    assert_eq!(of(&[chunks::INIT]).l4, L4::Sctp { tag: 0, chunks: vec![chunks::INIT] });
    let L4::Sctp { tag, chunks } = of(&[chunks::SACK, chunks::DATA]).l4 else { panic!() };
    assert_eq!((tag == 0, &chunks[..]), (false, &[chunks::SACK, chunks::DATA][..]));
    let unfinished = sctp(at("10.1.2.3:4"), at("10.5.6.7:8"), &[chunks::INIT]).offload(Offload::Checksum);
    assert!(valid(&unfinished.wire()).is_err(), "nobody finishes it");
}

#[test]
fn freezing_hides_what_nat_changes_and_nothing_else() {
    let frozen = |spec: &Spec| assert_valid(&spec.wire()).frozen;
    let spec = |src, dst| tcp(at(src), at(dst), flags::ACK).payload(*b"data");
    assert_eq!(frozen(&spec("10.1.2.3:4", "10.5.6.7:8")), frozen(&spec("10.9.9.9:99", "10.8.8.8:88")));
    let one = spec("10.1.2.3:4", "10.5.6.7:8");
    for other in [one.clone().ttl(63), one.clone().tos(4), one.clone().seq(5), one.clone().payload(*b"datb")]
    {
        assert_ne!(frozen(&one), frozen(&other));
    }
}
