//! A plain HTTP GET over a TCP connection whose source port the test chooses.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::sockopt::{ReceiveTimeout, ReuseAddr, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
};
use nix::sys::time::TimeVal;

/// A TCP connection from this local address (port 0: any); every step takes at most `limit`.
///
/// # Errors
/// As the kernel says; `WouldBlock` when the time ran out.
pub fn dial(from: SocketAddr, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    let time = TimeVal::new(seconds, limit.subsec_micros().into());
    setsockopt(&fd, ReuseAddr, &true)?;
    // connect(2) obeys the send timeout.
    setsockopt(&fd, SendTimeout, &time)?;
    setsockopt(&fd, ReceiveTimeout, &time)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(fd))
}

/// The body of `http://TO/`, fetched from this local address. The server closes first.
///
/// # Errors
/// As [`dial`], or an answer that is not 200.
pub fn get(from: SocketAddr, to: SocketAddr, limit: Duration) -> io::Result<String> {
    let mut stream = dial(from, to, limit)?;
    // In one piece: a server may answer and close before a second one.
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {to}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
    if head.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(io::Error::other(format!("answered {}", head.lines().next().unwrap_or_default())))
    }
}

/// Any local address of the family of `to`.
#[must_use]
pub fn anywhere(to: SocketAddr, port: u16) -> SocketAddr {
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    SocketAddr::new(any, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_fetched_from_a_chosen_port() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut stream, peer) = server.accept().unwrap();
            let mut request = [0; 512];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET / HTTP/1.0\r\n"));
            write!(stream, "HTTP/1.0 200 OK\r\n\r\nhello").unwrap();
            peer.port()
        });
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(get(anywhere(at, free), at, Duration::from_secs(5)).unwrap(), "hello");
        assert_eq!(serving.join().unwrap(), free);
    }
}
