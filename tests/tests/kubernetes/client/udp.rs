//! Datagrams: one asked, one answered.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::{Deadline, Failure};

/// A connected socket: what the network says about its packets comes back as an error.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: UdpSocket,
}

impl Udp {
    /// From this local port (0: any) to there.
    ///
    /// # Errors
    /// The port is taken.
    pub(crate) fn open(port: u16, at: SocketAddr) -> Result<Self, Failure> {
        let from: SocketAddr = if at.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, port).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, port).into()
        };
        let socket = UdpSocket::bind(from)?;
        socket.connect(at)?;
        Ok(Self { socket })
    }

    /// Sends a line; what was answered.
    ///
    /// # Errors
    /// Refused by ICMP, or no answer in time.
    pub(crate) fn ask(&self, what: &str, limit: Duration) -> Result<String, Failure> {
        let answer = self.exchange(what.as_bytes(), limit)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Sends bytes; what was answered.
    ///
    /// # Errors
    /// As [`Udp::ask`].
    pub(crate) fn exchange(&self, bytes: &[u8], limit: Duration) -> Result<Vec<u8>, Failure> {
        // An error that waits from before is not this datagram's.
        let _ = self.socket.take_error();
        let deadline = Deadline::after(limit);
        match self.socket.send(bytes) {
            // A host's own packet that its firewall rejects or drops; only the first is told in an ICMP error too.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            sent => drop(sent?),
        }
        let mut buffer = vec![0; 1 << 16];
        self.socket.set_read_timeout(Some(deadline.left()?))?;
        let count = self.socket.recv(&mut buffer)?;
        buffer.truncate(count);
        Ok(buffer)
    }
}
