//! The packets of a story.

use std::net::SocketAddr;

use dataplane::packet::tuple::Proto;

use super::Segment;
use crate::cluster::{Sources, addr, ip};
use crate::packets::{self, IcmpError, Offload, Spec, Wire, chunks, flags, icmp_error, sctp, tcp, udp};

/// Three hosts outside, or with sources that are kept also a pod, an endpoint, and two addresses of the host, of
/// which the last is an endpoint too.
pub(super) fn client_addr(v6: bool, client: u8, port: u16, kept: bool) -> SocketAddr {
    const AT_HOME: [[&str; 2]; 4] = [
        ["10.244.1.9", "fd24::1:9"],
        ["10.244.1.1", "fd24::1:1"],
        [HOSTS[0], HOSTS[1]],
        [HOSTS[2], HOSTS[3]],
    ];
    if kept && client >= 2 {
        return SocketAddr::new(ip(AT_HOME[usize::from(client - 2) % 4][usize::from(v6)]), port);
    }
    let host = client % 3 + 1;
    if v6 { addr(&format!("[fd01::{host}]:{port}")) } else { addr(&format!("10.1.0.{host}:{port}")) }
}

/// This host's addresses; the last two are endpoints inside the pods' prefixes, as a bridge's address is.
const HOSTS: [&str; 4] = ["192.168.77.1", "fd00:77::1", "10.244.2.1", "fd24::1:2"];

/// Whose address endpoints see in a story.
pub(crate) fn sources(which: u8) -> Sources {
    let pods = |text: &str, len| (ip(text), len);
    let both = vec![pods("10.244.0.0", 16), pods("fd24::", 64)];
    let hosts = HOSTS.map(ip).to_vec();
    match which {
        0 => Sources::Masqueraded,
        1 => Sources::Kept { all: false, pods: both, hosts },
        // One family has no detector.
        2 => Sources::Kept { all: false, pods: vec![pods("fd24::", 64)], hosts },
        _ => Sources::Kept { all: true, pods: Vec::new(), hosts },
    }
}

pub(super) fn plain(proto: Proto, src: SocketAddr, dst: SocketAddr, segment: Segment) -> Spec {
    let payload: Vec<u8> = (0..segment.payload).map(|n| n.to_le_bytes()[0]).collect();
    match proto {
        // All in one window: what becomes of a RST from out of it has tests of its own.
        Proto::Tcp => tcp(src, dst, segment.flags).seq(u32::from(segment.payload)).payload(payload),
        Proto::Udp => udp(src, dst).payload(payload),
        Proto::Sctp => sctp(src, dst, segment.chunks()).payload(payload),
    }
}

pub(super) fn packet(proto: Proto, src: SocketAddr, dst: SocketAddr, segment: Segment) -> Wire {
    let spec = plain(proto, src, dst, segment).ttl(segment.offload | 1).tos(segment.flags);
    let spec = match (segment.offload % 8, proto, src) {
        (0 | 1, Proto::Tcp | Proto::Udp, _) => spec.offload(Offload::Checksum),
        (2, Proto::Tcp | Proto::Udp, _) if segment.payload > 100 => spec.offload(Offload::Gso(100)),
        (3, Proto::Udp, SocketAddr::V4(_)) => spec.no_checksum(),
        (4, _, SocketAddr::V4(_)) => spec.ip_options(&[148, 4, 0, 0]),
        (4, _, SocketAddr::V6(_)) => {
            spec.extension(etherparse::IpNumber::IPV6_DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0])
        }
        _ => spec,
    };
    spec.wire()
}

/// A packet that leaves nothing to the device, as one that is to be cut must.
pub(super) fn uncut(proto: Proto, src: SocketAddr, dst: SocketAddr, segment: Segment) -> Vec<u8> {
    let offload = [3, 4, 5, 6, 7][usize::from(segment.offload) % 5];
    packet(proto, src, dst, Segment { offload, ..segment }).bytes
}

pub(super) fn error(about: Spec, kind: u8, forged: bool, quoted: usize) -> Wire {
    let kind = match kind % 6 {
        0 => IcmpError::PortUnreachable,
        1 => IcmpError::HostUnreachable,
        2 => IcmpError::TooBig(1_280),
        3 => IcmpError::TimeExceeded,
        5 if about.bytes()[0] >> 4 == 4 => IcmpError::Redirect,
        _ => IcmpError::ParameterProblem,
    };
    let about = about.bytes();
    let view = crate::check::assert_valid(&Wire::plain(about.clone()));
    let head = if view.src.is_ipv4() { 28 } else { 48 };
    let quoted = &about[..(head + quoted).min(about.len())];
    let (from, nobody) =
        if view.src.is_ipv4() { ("10.9.9.9:0", "10.7.7.7:0") } else { ("[fd09::9]:0", "[fd07::7]:0") };
    let to = if forged { addr(nobody).ip() } else { view.src.ip() };
    Wire::plain(icmp_error(kind, addr(from).ip(), to, quoted))
}

/// How many there are.
pub(super) const STRANGERS: u8 = 22;

pub(super) fn stranger(which: u8) -> Wire {
    let t = |src: &str, dst: &str, flags| tcp(addr(src), addr(dst), flags).payload(*b"x").wire();
    let u = |src: &str, dst: &str| udp(addr(src), addr(dst)).payload(*b"x").wire();
    let echo = |src: &str, dst: &str| Wire::plain(packets::echo(addr(src).ip(), addr(dst).ip()));
    let s = |src: &str, dst: &str, chunk| sctp(addr(src), addr(dst), &[chunk]).payload(*b"x").wire();
    match which % STRANGERS {
        0 => t("10.1.0.1:40000", "10.96.0.10:81", flags::SYN),
        1 => t("10.1.0.1:40000", "10.96.0.77:80", flags::SYN),
        2 => t("10.1.0.1:40000", "192.0.2.7:80", flags::ACK),
        3 => t("10.244.1.1:8080", "10.255.0.1:7", flags::ACK),
        4 => u("[fd24::1:1]:53", "[fd00:ffff::1]:7"),
        5 => u("[fd01::1]:40000", "[fd96::10]:54"),
        6 => u("[fd01::1]:40000", "[fd96::77]:53"),
        7 => u("[fd01::1]:40000", "[2001:db8::1]:53"),
        8 => echo("10.1.0.1:0", "10.96.0.10:0"),
        9 => echo("[fd01::1]:0", "[fd96::10]:0"),
        10 => echo("10.1.0.1:0", "10.96.0.77:0"),
        11 => echo("10.1.0.1:0", "192.0.2.7:0"),
        12 => t("10.96.0.10:80", "10.96.0.10:80", flags::SYN),
        13 => t("10.244.1.1:8080", "169.254.77.1:7", flags::ACK),
        14 => u("10.1.0.1:40000", "169.254.3.4:80"),
        15 => echo("10.1.0.1:0", "169.254.3.4:0"),
        16 => s("10.1.0.1:40000", "10.96.0.10:81", chunks::INIT),
        17 => s("[fd01::1]:40000", "[fd96::77]:80", chunks::DATA),
        18 => s("10.1.0.1:40000", "192.0.2.7:80", chunks::ABORT),
        19 => s("[fd24::1:1]:53", "[fd00:ffff::1]:7", chunks::SACK),
        20 => s("10.1.0.1:40000", "169.254.3.4:80", chunks::INIT),
        _ => t("10.1.0.1:40000", "10.96.0.10:80", flags::SYN | flags::ACK),
    }
}
