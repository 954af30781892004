//! Packets for the tests of this module, built and judged by `etherparse`: an author independent of the
//! code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpDscp, IpEcn, IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header,
    Ipv6RawExtHeader, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::tuple::{Address, Family, Proto, Tuple};
use super::vnet::VnetHdr;

/// One packet to be built.
#[derive(Clone, Debug)]
pub(super) struct Sample<A> {
    pub(super) tuple: Tuple<A>,
    /// TCP: FIN, SYN, RST, PSH, ACK. SCTP: the type of its chunk, whose value is the payload.
    pub(super) flags: u8,
    /// SCTP: the verification tag.
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    /// IPv4 options, or IPv6 hop-by-hop and destination options; and TCP options.
    pub(super) options: bool,
    pub(super) payload: Vec<u8>,
}

pub(super) fn v4(proto: Proto) -> Sample<Ipv4Addr> {
    let (src, dst) = (Ipv4Addr::new(10, 244, 1, 5), Ipv4Addr::new(10, 96, 0, 10));
    Sample::of(Tuple { src, dst, sport: 40_000, dport: 80, proto })
}

pub(super) fn v6(proto: Proto) -> Sample<Ipv6Addr> {
    let (src, dst) = ("fd00:10:244::5".parse().unwrap(), "fd00:10:96::a".parse().unwrap());
    Sample::of(Tuple { src, dst, sport: 40_000, dport: 80, proto })
}

impl<A: Address> Sample<A> {
    pub(super) fn of(tuple: Tuple<A>) -> Self {
        let payload = b"hello".to_vec();
        Self { tuple, flags: 0x10, seq: 1000, ack: 2000, ttl: 63, tos: 0xb9, options: false, payload }
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let Tuple { sport, dport, .. } = self.tuple;
        let builder = PacketBuilder::ip(self.ip());
        let mut out = Vec::new();
        match self.tuple.proto {
            Proto::Tcp => builder.tcp_header(self.tcp()).write(&mut out, &self.payload),
            Proto::Udp => builder.udp(sport, dport).write(&mut out, &self.payload),
            Proto::Sctp => {
                let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
                let [high, low] = u16::try_from(4 + self.payload.len()).unwrap().to_be_bytes();
                let (tag, chunk) = (self.seq.to_be_bytes(), [self.flags, 0, high, low]);
                let mut bytes = [&ports[..], &tag, &[0; 4], &chunk, &self.payload].concat();
                let crc = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
                builder.write(&mut out, IpNumber::SCTP, &bytes)
            }
        }
        .unwrap();
        out
    }

    /// As a TUN hands it over when the device is to finish the checksum.
    pub(super) fn build_partial(&self) -> (VnetHdr, Vec<u8>) {
        let mut bytes = self.build();
        let start = self.l4_offset();
        let offset = if self.tuple.proto == Proto::Tcp { 16 } else { 6 };
        let len = u32::try_from(bytes.len() - start).unwrap();
        let pseudo = add_address(add_address(Sum16BitWords::new(), self.tuple.src), self.tuple.dst)
            .add_2bytes([0, self.tuple.proto as u8])
            .add_4bytes(len.to_be_bytes());
        let sum = !pseudo.ones_complement();
        // etherparse sums in native order.
        bytes[start + offset..start + offset + 2].copy_from_slice(&sum.to_ne_bytes());
        let vnet = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            csum_start: u16::try_from(start).unwrap(),
            csum_offset: u16::try_from(offset).unwrap(),
            ..VnetHdr::default()
        };
        (vnet, bytes)
    }

    pub(super) fn l4_offset(&self) -> usize {
        A::OFFSET + 2 * A::LEN + usize::from(self.options) * if A::FAMILY == Family::V4 { 8 } else { 24 }
    }

    fn ip(&self) -> IpHeaders {
        match (self.tuple.src.into(), self.tuple.dst.into()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header =
                    Ipv4Header::new(0, self.ttl, IpNumber(0), src.octets(), dst.octets()).unwrap();
                header.dscp = IpDscp::try_new(self.tos >> 2).unwrap();
                header.ecn = IpEcn::try_new(self.tos & 3).unwrap();
                header.identification = 0xbeef;
                if self.options {
                    // Router alert and padding.
                    header.options = [148, 4, 0, 0, 1, 1, 1, 0].into();
                }
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: Ipv6FlowLabel::try_new(0x12345).unwrap(),
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                let mut extensions = Ipv6Extensions::default();
                if self.options {
                    let raw = |payload: &[u8]| Ipv6RawExtHeader::new_raw(IpNumber(0), payload).unwrap();
                    extensions.hop_by_hop_options = Some(raw(&[5, 2, 0, 0, 1, 0]));
                    extensions.destination_options = Some(raw(&[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
                }
                IpHeaders::Ipv6(header, extensions)
            }
            (IpAddr::V4(_) | IpAddr::V6(_), _) => unreachable!("one family"),
        }
    }

    fn tcp(&self) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.tuple.sport, self.tuple.dport, self.seq, 64_240);
        tcp.acknowledgment_number = self.ack;
        [tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack] =
            std::array::from_fn(|bit| self.flags & (1 << bit) != 0);
        if self.options {
            tcp.set_options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        }
        tcp
    }
}

/// CRC32c as the definition has it, bit by bit: RFC 9260, appendix A, the polynomial 0x1EDC6F41. Each byte goes in from
/// its lowest bit, and the register comes out mirrored and complemented.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| u32::from(byte >> bit & 1)));
    let register = bits.fold(u32::MAX, |register, bit| {
        let out = register >> 31 ^ bit;
        if out == 1 { register << 1 ^ 0x1edc_6f41 } else { register << 1 }
    });
    !register.reverse_bits()
}

/// An ICMP error of this type, code and second word, quoting these bytes.
pub(super) fn icmp_error<A: Address>(src: A, dst: A, kind: [u8; 2], word: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let sample = Sample::of(Tuple { src, dst, sport: 0, dport: 0, proto: Proto::Udp });
    let builder = PacketBuilder::ip(sample.ip());
    let mut out = Vec::new();
    match A::FAMILY {
        Family::V4 => builder.icmpv4_raw(kind[0], kind[1], word).write(&mut out, quote),
        Family::V6 => builder.icmpv6_raw(kind[0], kind[1], word).write(&mut out, quote),
    }
    .unwrap();
    out
}

/// Fails unless every checksum is what etherparse computes for the packet as it is.
pub(super) fn assert_valid(bytes: &[u8]) {
    let packet = SlicedPacket::from_ip(bytes).unwrap();
    let (src, dst): (IpAddr, IpAddr) = match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum(), "IPv4 header");
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => unreachable!("no IP packet"),
    };
    let Some(transport) = packet.transport else {
        let layout = super::layout::Layout::of(bytes).unwrap();
        assert_eq!(layout.kind(), super::layout::Kind::Flow(Proto::Sctp));
        let mut l4 = bytes[layout.l4_offset()..layout.total_len()].to_vec();
        let checksum = u32::from_le_bytes(l4[8..12].try_into().unwrap());
        l4[8..12].fill(0);
        assert_eq!(checksum, crc32c(&l4), "SCTP");
        return;
    };
    match (transport, src, dst) {
        (TransportSlice::Tcp(tcp), IpAddr::V4(src), IpAddr::V4(dst)) => {
            assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(src.octets(), dst.octets()).unwrap());
        }
        (TransportSlice::Tcp(tcp), IpAddr::V6(src), IpAddr::V6(dst)) => {
            assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv6(src.octets(), dst.octets()).unwrap());
        }
        (TransportSlice::Udp(udp), IpAddr::V4(src), IpAddr::V4(dst)) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            assert_eq!(
                udp.checksum(),
                header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload).unwrap()
            );
        }
        (TransportSlice::Udp(udp), IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            assert_eq!(
                udp.checksum(),
                header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload).unwrap()
            );
        }
        (TransportSlice::Icmpv4(icmp), IpAddr::V4(_), _) => {
            assert_eq!(Sum16BitWords::new().add_slice(icmp.slice()).ones_complement(), 0, "ICMP");
        }
        (TransportSlice::Icmpv6(icmp), IpAddr::V6(src), IpAddr::V6(dst)) => {
            assert!(icmp.is_checksum_valid(src.octets(), dst.octets()), "ICMPv6");
        }
        (other, ..) => panic!("{other:?}"),
    }
}

/// Makes the header checksum of an IPv4 packet right again after a test has changed the header.
pub(super) fn fix_header(bytes: &mut [u8]) {
    bytes[10..12].fill(0);
    let len = (usize::from(bytes[0] & 0xf) * 4).min(bytes.len());
    let checksum = Sum16BitWords::new().add_slice(&bytes[..len]).ones_complement();
    bytes[10..12].copy_from_slice(&checksum.to_ne_bytes());
}

/// Addresses Services and clients may have.
pub(super) fn addr_v4() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>()
        .prop_map(Ipv4Addr::from_bits)
        .prop_filter("ordinary", |addr| !matches!(addr.octets()[0], 0 | 127 | 224..) && !addr.is_link_local())
}

/// Addresses Services and clients may have.
pub(super) fn addr_v6() -> impl Strategy<Value = Ipv6Addr> {
    (any::<u128>(), prop_oneof![Just(0xfd), 0x20..0x40_u128])
        .prop_map(|(bits, first)| Ipv6Addr::from_bits(bits >> 8 | first << 120))
}

pub(super) fn tuple<A: Address>(
    addr: impl Strategy<Value = A>,
    proto: Proto,
) -> impl Strategy<Value = Tuple<A>> {
    (proptest::array::uniform2(addr), any::<[u16; 2]>()).prop_map(move |([src, dst], [sport, dport])| Tuple {
        src,
        dst,
        sport,
        dport,
        proto,
    })
}

/// Any packet, and the tuple it is to be rewritten to.
pub(super) fn rewrite<A: Address>(
    addr: fn() -> BoxedStrategy<A>,
) -> impl Strategy<Value = (Sample<A>, Tuple<A>)> {
    let proto = prop_oneof![Just(Proto::Tcp), Just(Proto::Udp), Just(Proto::Sctp)];
    let tuples =
        proto.prop_flat_map(move |proto| [tuple(addr(), proto).boxed(), tuple(addr(), proto).boxed()]);
    let payload =
        prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 1300..1500), Just(vec![0xff; 60_001])];
    (tuples, any::<(u8, u32, u32, u8, u8, bool)>(), payload).prop_map(
        |([tuple, to], (flags, seq, ack, ttl, tos, options), payload)| {
            let flags = flags & 0x1f;
            (Sample { tuple, flags, seq, ack, ttl, tos, options, payload }, to)
        },
    )
}

fn add_address<A: Address>(sum: Sum16BitWords, addr: A) -> Sum16BitWords {
    match addr.into() {
        IpAddr::V4(addr) => sum.add_slice(&addr.octets()),
        IpAddr::V6(addr) => sum.add_slice(&addr.octets()),
    }
}

/// The packet as it leaves us when nothing else changes in it: with the hop that the way to us cost.
pub(crate) fn hop_back(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        super::give_back_hop::<Ipv4Addr>(&mut packet);
    } else {
        super::give_back_hop::<Ipv6Addr>(&mut packet);
    }
    packet
}
