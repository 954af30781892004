//! Frames that are wrong in themselves, each with the reason it must be dropped for.

use std::net::SocketAddr;

use dataplane::packet::vnet::{VNET_LEN, VnetHdr};
use dataplane::verdict::DropReason;
use etherparse::{IpNumber, checksum::Sum16BitWords};

use crate::cluster::addr;
use crate::packets::{
    IcmpError, Offload, Spec, Wire, chunks, flags, fragment, head, icmp, icmp_error, sctp, tcp, udp,
};

/// One such frame.
#[derive(Clone, Debug)]
pub struct Malformed {
    /// What is wrong with it.
    pub name: &'static str,
    /// The counter it must move.
    pub reason: DropReason,
    /// Virtio-net header and packet, or less.
    pub raw: Vec<u8>,
}

/// Every kind, of both families where both have it. All are otherwise packets a Service would take.
#[must_use]
pub fn malformed() -> Vec<Malformed> {
    let mut list = List::default();
    lengths(&mut list);
    ipv4(&mut list);
    ipv6(&mut list);
    fragments(&mut list);
    offloads(&mut list);
    addresses(&mut list);
    errors(&mut list);
    list.0
}

#[derive(Default)]
struct List(Vec<Malformed>);

impl List {
    fn raw(&mut self, name: &'static str, reason: DropReason, raw: Vec<u8>) {
        self.0.push(Malformed { name, reason, raw });
    }

    fn wire(&mut self, name: &'static str, reason: DropReason, wire: &Wire) {
        self.raw(name, reason, [&wire.vnet.write()[..], &wire.bytes].concat());
    }

    fn bytes(&mut self, name: &'static str, reason: DropReason, bytes: Vec<u8>) {
        self.wire(name, reason, &Wire::plain(bytes));
    }

    /// A good packet with one thing changed; the IPv4 header checksum is right again afterwards.
    fn changed(
        &mut self,
        name: &'static str,
        reason: DropReason,
        spec: &Spec,
        change: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut bytes = spec.bytes();
        change(&mut bytes);
        resum(&mut bytes);
        self.bytes(name, reason, bytes);
    }
}

fn client4() -> SocketAddr {
    addr("10.1.0.1:40000")
}

fn client6() -> SocketAddr {
    addr("[fd01::1]:40000")
}

fn syn4() -> Spec {
    tcp(client4(), addr("10.96.0.10:80"), flags::SYN)
}

fn syn6() -> Spec {
    tcp(client6(), addr("[fd96::10]:80"), flags::SYN)
}

fn udp4() -> Spec {
    udp(client4(), addr("10.96.0.10:53")).payload(*b"some payload")
}

fn udp6() -> Spec {
    udp(client6(), addr("[fd96::10]:53")).payload(*b"some payload")
}

fn sctp4() -> Spec {
    sctp(client4(), addr("10.96.0.10:80"), &[chunks::INIT]).payload([0; 16])
}

fn sctp6() -> Spec {
    sctp(client6(), addr("[fd96::10]:80"), &[chunks::INIT]).payload([0; 16])
}

fn lengths(list: &mut List) {
    use DropReason::{BadL4Header, BadTotalLength, BadVersion, Truncated};
    list.raw("a zero-length read", Truncated, Vec::new());
    list.raw("less than a virtio header", Truncated, vec![0; VNET_LEN - 1]);
    list.raw("a virtio header alone", Truncated, vec![0; VNET_LEN]);
    list.bytes("half an IPv4 header", Truncated, syn4().bytes()[..19].to_vec());
    list.bytes("half an IPv6 header", Truncated, syn6().bytes()[..39].to_vec());
    list.bytes("version 0", BadVersion, vec![0; 40]);
    list.bytes("version 5", BadVersion, vec![0x55; 60]);
    list.bytes("IPv4 cut off", BadTotalLength, syn4().bytes()[..39].to_vec());
    list.bytes("IPv6 cut off", BadTotalLength, syn6().bytes()[..59].to_vec());
    list.changed("IPv4 total length beyond the buffer", BadTotalLength, &syn4(), |p| p[2..4].fill(0xff));
    list.changed("IPv4 total length below the header", BadTotalLength, &syn4(), |p| {
        p[2..4].copy_from_slice(&[0, 19])
    });
    list.changed("IPv6 payload length beyond the buffer", BadTotalLength, &syn6(), |p| p[4..6].fill(0xff));
    for spec in [syn4(), syn6()] {
        list.changed("TCP header cut by the total length", BadL4Header, &spec, |p| shrink(p, 1));
        list.changed("TCP data offset below 5", BadL4Header, &spec, |p| set_from_end(p, 8, 0x40));
        list.changed("TCP data offset beyond the packet", BadL4Header, &spec, |p| set_from_end(p, 8, 0xf0));
    }
    for spec in [udp4(), udp6()] {
        list.changed("UDP header cut by the total length", BadL4Header, &spec, |p| shrink(p, 13));
        list.changed("UDP length beyond the packet", BadL4Header, &spec, |p| set_from_end(p, 15, 21));
        list.changed("UDP length below its header", BadL4Header, &spec, |p| set_from_end(p, 15, 7));
        list.changed("UDP length zero", BadL4Header, &spec, |p| set_from_end(p, 15, 0));
    }
    for spec in [sctp4(), sctp6()] {
        list.changed("SCTP header cut by the total length", BadL4Header, &spec, |p| shrink(p, 21));
        list.changed("SCTP without a chunk", BadL4Header, &spec, |p| shrink(p, 20));
        list.changed("SCTP with half a chunk's header", BadL4Header, &spec, |p| shrink(p, 18));
        list.changed("SCTP chunk beyond the packet", BadL4Header, &spec, |p| set_from_end(p, 17, 21));
        list.changed("SCTP chunk below its header", BadL4Header, &spec, |p| set_from_end(p, 17, 3));
    }
}

fn ipv4(list: &mut List) {
    use DropReason::{BadHeaderChecksum, BadHeaderLength};
    list.changed("IHL of 4", BadHeaderLength, &syn4(), |p| p[0] = 0x44);
    list.changed("IHL of 0", BadHeaderLength, &syn4(), |p| p[0] = 0x40);
    list.changed("IHL beyond the packet", BadHeaderLength, &syn4(), |p| {
        p.truncate(40);
        p[0] = 0x4f;
    });
    let mut bytes = syn4().bytes();
    bytes[10] ^= 0x40;
    list.bytes("IPv4 header checksum", BadHeaderChecksum, bytes);
}

fn ipv6(list: &mut List) {
    use DropReason::{BadExtensionHeader, RoutingHeader};
    let options = [1, 4, 0, 0, 0, 0];
    let hop = IpNumber::IPV6_HEADER_HOP_BY_HOP;
    let dest = IpNumber::IPV6_DESTINATION_OPTIONS;
    let long = (0..40).fold(udp6(), |spec, _| spec.extension(dest, &options));
    list.wire("extension headers without end", BadExtensionHeader, &long.wire());
    let late = udp6().extension(dest, &options).extension(hop, &options);
    list.wire("hop-by-hop options not in front", BadExtensionHeader, &late.wire());
    list.changed(
        "an extension header beyond the packet",
        BadExtensionHeader,
        &udp6().extension(dest, &options),
        |p| {
            p[41] = 200;
        },
    );
    let route = udp6().extension(IpNumber::IPV6_ROUTE_HEADER, &[0, 1, 0, 0, 0, 0]);
    list.wire("a routing header with segments left", RoutingHeader, &route.wire());
    let fragment = IpNumber::IPV6_FRAGMENTATION_HEADER;
    let twice = udp6().extension(fragment, &[0, 0, 0, 0, 0, 9]).extension(fragment, &[0, 0, 0, 0, 0, 9]);
    list.wire("two fragment headers", BadExtensionHeader, &twice.wire());
}

fn fragments(list: &mut List) {
    use DropReason::{BadFragment, BadL4Header, TinyFragment};
    for (spec, ack) in [(udp4(), syn4()), (udp6(), syn6())] {
        let (udp, tcp) = (spec.payload(vec![3; 100]).bytes(), ack.payload(vec![3; 100]).bytes());
        let (of, of_tcp) = (&udp[head(&udp)..], &tcp[head(&tcp)..]);
        let mut cut = |name, reason, packet: &[u8], offset, more, data: &[u8]| {
            list.bytes(name, reason, fragment(packet, 9, offset, more, data));
        };
        cut("a fragment without bytes", BadFragment, &udp, 8, true, &[]);
        cut("a first fragment without bytes", BadFragment, &udp, 0, true, &[]);
        cut("a last fragment without bytes", BadFragment, &udp, 8, false, &[]);
        cut("a fragment of seven bytes that is not the last", BadFragment, &udp, 8, true, &of[8..15]);
        cut("a first fragment of 81 bytes", BadFragment, &udp, 0, true, &of[..81]);
        cut("a fragment beyond 65,535", BadFragment, &udp, 65_528, false, &[1; 8]);
        cut("a first fragment without the whole TCP header", TinyFragment, &tcp, 0, true, &of_tcp[..16]);
        cut("a first fragment with the ports alone", TinyFragment, &tcp, 0, true, &of_tcp[..8]);
        cut("a later fragment with TCP flags", TinyFragment, &tcp, 8, true, &of_tcp[8..32]);
        let mut long = of_tcp[..24].to_vec();
        long[12] = 0xf0;
        cut("a first fragment without the TCP options", TinyFragment, &tcp, 0, true, &long);
        let mut short = of[..16].to_vec();
        short[4..6].copy_from_slice(&[0, 7]);
        cut("a first fragment whose UDP length is below its header", BadL4Header, &udp, 0, true, &short);
    }
    for bytes in [sctp4().bytes(), sctp6().bytes()] {
        let of = &bytes[head(&bytes)..];
        let part = fragment(&bytes, 9, 0, true, &of[..8]);
        list.bytes("a first fragment without the SCTP checksum", TinyFragment, part);
        let part = fragment(&bytes, 9, 0, true, &[&of[..12], &[0; 12]].concat());
        list.bytes("a first fragment with an SCTP chunk of no length", BadL4Header, part);
    }
    let options =
        udp6().extension(IpNumber::IPV6_DESTINATION_OPTIONS, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let bytes = options.bytes();
    let part = fragment(&bytes, 9, 0, true, &bytes[40..48]);
    list.bytes("a first fragment without the whole header chain", TinyFragment, part);
    let bytes = syn4().bytes();
    let mut whole = Wire::plain(fragment(&bytes, 9, 24, false, &[1; 40]));
    whole.vnet =
        VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 20, csum_offset: 16, ..VnetHdr::default() };
    list.wire("a fragment with an unfinished checksum", DropReason::BadVnetHeader, &whole);
    whole.vnet = VnetHdr { gso_type: VnetHdr::GSO_UDP, gso_size: 8, ..VnetHdr::default() };
    list.wire("a fragment to be cut", DropReason::BadVnetHeader, &whole);
}

/// What a virtio-net header is made to say.
type Lie = (&'static str, fn(&mut VnetHdr));

fn offloads(list: &mut List) {
    let reason = DropReason::BadVnetHeader;
    let lies: [Lie; 9] = [
        ("checksum start outside the packet", |v| v.csum_start = 60_000),
        ("checksum start not the layer-4 header", |v| v.csum_start += 2),
        ("checksum start in the IP header", |v| v.csum_start = 0),
        ("checksum offset of another protocol", |v| v.csum_offset ^= 16 ^ 6),
        ("checksum offset outside the packet", |v| v.csum_offset = 60_000),
        ("a GSO type nobody knows", |v| (v.gso_type, v.gso_size) = (2, 100)),
        ("a GSO type of another protocol", |v| (v.gso_type, v.gso_size) = ((v.gso_type & 1) * 4 + 1, 100)),
        ("GSO without a size", |v| v.gso_size = 0),
        ("a header length beyond the packet", |v| v.hdr_len = 60_000),
    ];
    let specs = [syn4(), syn6(), udp4(), udp6()];
    for spec in specs.map(|spec| spec.payload(vec![1; 300]).offload(Offload::Gso(100))) {
        for (name, lie) in lies {
            let mut wire = spec.wire();
            let before = wire.vnet;
            lie(&mut wire.vnet);
            // For one of the protocols the lie may be the truth.
            if wire.vnet != before {
                list.wire(name, reason, &wire);
            }
        }
    }
    for spec in [sctp4(), sctp6()] {
        list.wire("an unfinished SCTP checksum", reason, &spec.offload(Offload::Checksum).wire());
    }
    let mut wire = syn4().wire();
    wire.vnet.gso_type = 0x80;
    wire.vnet.gso_size = 100;
    list.wire("ECN without segments", reason, &wire);
    let about = syn4().bytes();
    let error = icmp_error(IcmpError::TimeExceeded, addr("10.9.9.9:0").ip(), client4().ip(), &about);
    let vnet = VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 20, csum_offset: 2, ..VnetHdr::default() };
    list.wire("a partial checksum on an ICMP error", reason, &Wire { vnet, bytes: error });
}

fn addresses(list: &mut List) {
    use DropReason::{Martian, NotUnicast};
    let vip4 = addr("10.96.0.10:80");
    let vip6 = addr("[fd96::10]:80");
    for src in ["127.0.0.1:1", "0.0.0.0:1", "0.1.2.3:1", "224.0.0.1:1", "255.255.255.255:1"] {
        list.wire("an impossible IPv4 source", Martian, &tcp(addr(src), vip4, flags::SYN).wire());
    }
    for src in ["[::1]:1", "[::]:1", "[ff02::1]:1", "[::ffff:10.1.0.1]:1"] {
        list.wire("an impossible IPv6 source", Martian, &tcp(addr(src), vip6, flags::SYN).wire());
    }
    for dst in ["127.0.0.1:80", "0.0.0.0:80"] {
        list.wire("an impossible IPv4 destination", Martian, &tcp(client4(), addr(dst), flags::SYN).wire());
    }
    list.wire(
        "an impossible IPv6 destination",
        Martian,
        &tcp(client6(), addr("[::1]:80"), flags::SYN).wire(),
    );
    for dst in ["224.0.0.251:5353", "239.1.2.3:80", "255.255.255.255:67"] {
        list.wire("IPv4 multicast, broadcast", NotUnicast, &udp(client4(), addr(dst)).wire());
    }
    for dst in ["[ff02::fb]:5353", "[ff05::1]:80", "[fe80::1]:80"] {
        list.wire("IPv6 multicast, link-local", NotUnicast, &udp(client6(), addr(dst)).wire());
    }
}

fn errors(list: &mut List) {
    let reason = DropReason::BadIcmpError;
    let families =
        [("10.9.9.9:0", "10.96.0.10:0", syn4(), udp4()), ("[fd09::9]:0", "[fd96::10]:0", syn6(), udp6())];
    for (from, to, tcp, udp) in families {
        let (from, to) = (addr(from).ip(), addr(to).ip());
        let kind = if from.is_ipv4() { 3 } else { 1 };
        let head = if from.is_ipv4() { 20 } else { 40 };
        let tcp = tcp.bytes();
        list.bytes("an ICMP error about nothing", reason, icmp(from, to, (kind, 1, [0; 4]), &[]));
        list.bytes(
            "an ICMP error about half a header",
            reason,
            icmp(from, to, (kind, 1, [0; 4]), &tcp[..head - 1]),
        );
        list.bytes(
            "an ICMP error about no ports",
            reason,
            icmp(from, to, (kind, 1, [0; 4]), &tcp[..head + 3]),
        );
        let mut other = tcp.clone();
        other[if from.is_ipv4() { 9 } else { 6 }] = 47;
        resum(&mut other);
        list.bytes("an ICMP error about another protocol", reason, icmp(from, to, (kind, 1, [0; 4]), &other));
        let mut mixed = tcp.clone();
        mixed[0] = 0x95;
        list.bytes(
            "an ICMP error about another IP version",
            reason,
            icmp(from, to, (kind, 1, [0; 4]), &mixed),
        );
        let mut broken = icmp_error(IcmpError::PortUnreachable, from, to, &udp.bytes());
        broken[head + 2] ^= 0x20;
        list.bytes("a wrong ICMP checksum", reason, broken);
    }
    let cut = |from: &str, to: &str, head: usize| {
        let mut bytes = icmp(addr(from).ip(), addr(to).ip(), (3, 1, [0; 4]), &[]);
        bytes.truncate(head + 7);
        let total = u16::try_from(bytes.len()).expect("short");
        if head == 20 {
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
        } else {
            bytes[4..6].copy_from_slice(&(total - 40).to_be_bytes());
        }
        resum(&mut bytes);
        bytes
    };
    list.bytes("half an ICMP header", DropReason::BadL4Header, cut("10.9.9.9:0", "10.96.0.10:0", 20));
    list.bytes("half an ICMPv6 header", DropReason::BadL4Header, cut("[fd09::9]:0", "[fd96::10]:0", 40));
}

/// Cuts the packet so that only `left` bytes less than a whole layer 4 remain, and says so in the IP header.
fn shrink(packet: &mut Vec<u8>, by: usize) {
    packet.truncate(packet.len() - by);
    let total = u16::try_from(packet.len()).expect("a short packet");
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&total.to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&(total - 40).to_be_bytes());
    }
}

fn set_from_end(packet: &mut [u8], back: usize, value: u8) {
    let at = packet.len() - back;
    packet[at] = value;
}

/// Makes the IPv4 header checksum right again where there is a whole header.
fn resum(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    if packet[0] >> 4 == 4 && (20..=packet.len()).contains(&len) {
        packet[10..12].fill(0);
        let sum = Sum16BitWords::new().add_slice(&packet[..len]).ones_complement().to_be();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}
