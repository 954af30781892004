//! ICMP and ICMPv6 messages: errors that quote a packet, and echo.

use std::net::IpAddr;

use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header};

use super::{fit, v6};

/// The kinds of ICMP errors, of both families, by what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Nobody listens on the port.
    PortUnreachable,
    /// No way to the host.
    HostUnreachable,
    /// The packet is larger than this many bytes and may not be cut.
    TooBig(u16),
    /// The TTL or hop limit ran out.
    TimeExceeded,
    /// A header field makes no sense.
    ParameterProblem,
    /// Use another router.
    Redirect,
}

/// An ICMP or ICMPv6 error from `from` to `to` quoting the first bytes of a packet.
///
/// # Panics
/// When the addresses are of different families.
#[must_use]
pub fn icmp_error(kind: IcmpError, from: IpAddr, to: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let mtu = |mtu: u16| mtu.to_be_bytes();
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let (type_u8, code_u8, bytes5to8) = match kind {
                IcmpError::PortUnreachable => (3, 3, [0; 4]),
                IcmpError::HostUnreachable => (3, 1, [0; 4]),
                IcmpError::TooBig(n) => (3, 4, [0, 0, mtu(n)[0], mtu(n)[1]]),
                IcmpError::TimeExceeded => (11, 0, [0; 4]),
                IcmpError::ParameterProblem => (12, 0, [8, 0, 0, 0]),
                IcmpError::Redirect => (5, 1, [192, 0, 2, 1]),
            };
            icmp(from, to, (type_u8, code_u8, bytes5to8), quoted)
        }
        _ => {
            let (type_u8, code_u8, bytes5to8) = match kind {
                IcmpError::PortUnreachable => (1, 4, [0; 4]),
                IcmpError::HostUnreachable => (1, 3, [0; 4]),
                IcmpError::TooBig(n) => (2, 0, [0, 0, mtu(n)[0], mtu(n)[1]]),
                IcmpError::TimeExceeded => (3, 0, [0; 4]),
                IcmpError::ParameterProblem => (4, 0, [0, 0, 0, 6]),
                IcmpError::Redirect => (137, 0, [0; 4]),
            };
            icmp(from, to, (type_u8, code_u8, bytes5to8), quoted)
        }
    }
}

/// An echo request with sixteen bytes of data.
#[must_use]
pub fn echo(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let kind = if from.is_ipv4() { 8 } else { 128 };
    icmp(from, to, (kind, 0, [0, 7, 0, 1]), b"sixteen bytes ok")
}

/// Any ICMP or ICMPv6 message: type, code and the four bytes behind the checksum, then `body`.
///
/// # Panics
/// When the addresses are of different families.
#[must_use]
pub fn icmp(
    from: IpAddr,
    to: IpAddr,
    (type_u8, code_u8, bytes5to8): (u8, u8, [u8; 4]),
    body: &[u8],
) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let message =
                Icmpv4Header::with_checksum(Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 }, body);
            let length = fit(message.header_len() + body.len());
            let mut header = Ipv4Header::new(length, 60, IpNumber::ICMP, src.octets(), dst.octets())
                .expect("a message that fits");
            header.header_checksum = header.calc_header_checksum();
            [header.to_bytes().as_slice(), &message.to_bytes(), body].concat()
        }
        (src, dst) => {
            let unknown = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
            let message =
                Icmpv6Header::with_checksum(unknown, v6(src), v6(dst), body).expect("a message that fits");
            let header = Ipv6Header {
                payload_length: fit(message.header_len() + body.len()),
                next_header: IpNumber::IPV6_ICMP,
                hop_limit: 60,
                source: v6(src),
                destination: v6(dst),
                ..Ipv6Header::default()
            };
            [header.to_bytes().as_slice(), &message.to_bytes(), body].concat()
        }
    }
}
