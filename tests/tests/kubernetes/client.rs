//! What scenarios do inside a pod's network namespace, or a node's: requests over HTTP and UDP, each bounded in time.
//!
//! The answers are those of the agnhost stand-in: `hostname`, `clientip`, `echo`.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

pub(crate) mod dns;
pub(crate) mod http;
pub(crate) mod icmp;
pub(crate) mod udp;

pub(crate) use http::{Connection, http_get, http_post};
pub(crate) use udp::Udp;

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The network said no: a RST, or an ICMP port unreachable.
    Refused,
    /// Nobody said anything in time.
    TimedOut,
    /// A router knew no way, or the packet went round in circles.
    Unreachable,
    /// Something else.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open-ended")]
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// The protocol of a [`Front`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proto {
    /// HTTP over TCP.
    Tcp,
    /// One datagram each way.
    Udp,
}

/// Where something is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    /// Address and port.
    pub at: SocketAddr,
    /// How.
    pub proto: Proto,
}

impl Front {
    /// HTTP at this address and port.
    pub(crate) fn tcp(ip: IpAddr, port: u16) -> Self {
        Self { at: SocketAddr::new(ip, port), proto: Proto::Tcp }
    }

    /// Datagrams at this address and port.
    pub(crate) fn udp(ip: IpAddr, port: u16) -> Self {
        Self { at: SocketAddr::new(ip, port), proto: Proto::Udp }
    }

    /// Asks over a new connection, from a new port: `hostname`, `clientip`, `echo?msg=X`.
    ///
    /// # Errors
    /// There was no answer, or not a good one.
    pub(crate) fn ask(self, what: &str, limit: Duration) -> Result<String, Failure> {
        match self.proto {
            Proto::Tcp => http_get(self.at, &format!("/{what}"), limit),
            Proto::Udp => Udp::open(0, self.at)?.ask(what, limit),
        }
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.proto, self.at)
    }
}

/// A moment by which something has to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(SystemTime);

impl Deadline {
    /// So long from now.
    pub(crate) fn after(limit: Duration) -> Self {
        Self(SystemTime::now() + limit)
    }

    /// What is left.
    ///
    /// # Errors
    /// Nothing is.
    pub(crate) fn left(self) -> Result<Duration, Failure> {
        let left = self.0.duration_since(SystemTime::now()).unwrap_or_default();
        if left.is_zero() { Err(Failure::TimedOut) } else { Ok(left) }
    }
}
