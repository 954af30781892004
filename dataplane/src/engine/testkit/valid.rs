//! Checksums of what leaves, judged by another author's code.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::endpoints;
use crate::packet::layout::{Kind, Layout};
use crate::packet::samples::crc32c;
use crate::packet::tuple::Proto;

/// Fails unless every checksum is what `etherparse` (SCTP's: its definition) computes for the packet as it is.
#[track_caller]
pub(crate) fn assert_valid(bytes: &[u8]) {
    let packet = SlicedPacket::from_ip(bytes).unwrap();
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
    }
    // What leaves may have a source that nothing that arrives may have.
    let l4 = match bytes[0] >> 4 {
        4 => &bytes[usize::from(bytes[0] & 0xf) * 4..],
        _ => &bytes[Layout::of(bytes).unwrap().l4_offset()..],
    };
    let (src, dst) = endpoints(bytes);
    let Some(transport) = packet.transport else {
        assert_eq!(Layout::of(bytes).unwrap().kind(), Kind::Flow(Proto::Sctp));
        let blank = [&l4[..8], &[0; 4], &l4[12..]].concat();
        assert_eq!(l4[8..12], crc32c(&blank).to_le_bytes(), "SCTP");
        return;
    };
    let number = match transport {
        TransportSlice::Tcp(_) => 6,
        TransportSlice::Udp(_) => 17,
        TransportSlice::Icmpv4(_) => 0,
        TransportSlice::Icmpv6(_) => 58,
        other @ TransportSlice::Igmp(_) => panic!("{other:?}"),
    };
    let mut sum = Sum16BitWords::new().add_slice(l4);
    if number != 0 {
        sum = sum.add_2bytes([0, number]).add_4bytes(u32::try_from(l4.len()).unwrap().to_be_bytes());
        for addr in [src.ip(), dst.ip()] {
            sum = match addr {
                IpAddr::V4(addr) => sum.add_slice(&addr.octets()),
                IpAddr::V6(addr) => sum.add_slice(&addr.octets()),
            };
        }
    }
    assert_eq!(sum.ones_complement(), 0, "layer 4");
}
