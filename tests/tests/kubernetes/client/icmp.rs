//! Ping, by a raw socket: the kernel tells a connected one what came back.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv, send,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::{Deadline, Failure};

/// Sends one echo request; `Ok` when its reply came back.
///
/// # Errors
/// `Refused` for a port unreachable in its place.
pub(crate) fn ping(to: IpAddr, limit: Duration) -> Result<(), Failure> {
    let deadline = Deadline::after(limit);
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let fd: OwnedFd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(failure)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0))).map_err(failure)?;
    let id = std::process::id().to_be_bytes();
    let mut message = [request, 0, 0, 0, id[2], id[3], 0, 1, b't', b'u', b'n', b'w', b'a', b'y', 0, 0];
    if to.is_ipv4() {
        // The kernel fills in the one of ICMPv6 (RFC 3542, 3.1), not this one.
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    send(fd.as_raw_fd(), &message, MsgFlags::empty()).map_err(failure)?;
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.left()?;
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let micros = left.subsec_micros().max(1);
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(seconds, micros.into())).map_err(failure)?;
        let count = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(failure)?;
        let packet = &buffer[..count];
        // A raw IPv4 socket gets the IP header too.
        let header =
            if to.is_ipv4() { packet.first().map_or(0, |first| usize::from(first & 15) * 4) } else { 0 };
        let echo = packet.get(header..).unwrap_or_default();
        if echo.first() == Some(&reply) && echo.get(4..6) == Some(&id[2..]) {
            return Ok(());
        }
    }
}

fn failure(error: nix::Error) -> Failure {
    std::io::Error::from(error).into()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(0)
}
