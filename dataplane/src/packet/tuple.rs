//! Who talks to whom: families, protocols, tuples. Addresses are `std::net` types, ports are host order.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4, RFC 791.
    V4 = 4,
    /// IPv6, RFC 8200.
    V6 = 6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A layer-4 protocol a Service may have. The numbers are IANA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Proto {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl Proto {
    /// The protocol with this IANA number, if a Service may have it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// An address of one family, as the packet path handles it: known at compile time, no enum to match per packet.
pub trait Address:
    Copy + Eq + Ord + std::hash::Hash + fmt::Debug + fmt::Display + Into<IpAddr> + Send + Sync + 'static
{
    /// The family all values of this type have.
    const FAMILY: Family;

    /// Bytes of an address.
    const LEN: usize;

    /// Where the fixed IP header of this family has the source address; the destination follows it and ends the header.
    const OFFSET: usize;

    /// Reads an address from the first [`Address::LEN`] bytes, network order.
    ///
    /// # Panics
    /// There are fewer.
    fn read(bytes: &[u8]) -> Self;

    /// Writes the address over the first [`Address::LEN`] bytes, network order.
    ///
    /// # Panics
    /// There are fewer.
    fn write(self, bytes: &mut [u8]);

    /// The address, if it is of this family.
    fn from_ip(addr: IpAddr) -> Option<Self>;

    /// The one's-complement sum of its 16-bit words (network order read as big-endian), not folded.
    fn word_sum(self) -> u32;
}

impl Address for Ipv4Addr {
    const FAMILY: Family = Family::V4;
    const LEN: usize = 4;
    const OFFSET: usize = 12;

    #[inline]
    fn read(bytes: &[u8]) -> Self {
        let &[a, b, c, d, ..] = bytes else { panic!("{} bytes are no IPv4 address", bytes.len()) };
        Self::new(a, b, c, d)
    }

    #[inline]
    fn write(self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.octets());
    }

    fn from_ip(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(_) => None,
        }
    }

    fn word_sum(self) -> u32 {
        let bits = self.to_bits();
        (bits >> 16) + (bits & 0xffff)
    }
}

impl Address for Ipv6Addr {
    const FAMILY: Family = Family::V6;
    const LEN: usize = 16;
    const OFFSET: usize = 8;

    #[inline]
    fn read(bytes: &[u8]) -> Self {
        let Some(octets) = bytes.first_chunk::<16>() else {
            panic!("{} bytes are no IPv6 address", bytes.len())
        };
        Self::from_octets(*octets)
    }

    #[inline]
    fn write(self, bytes: &mut [u8]) {
        bytes[..16].copy_from_slice(&self.octets());
    }

    fn from_ip(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(_) => None,
            IpAddr::V6(addr) => Some(addr),
        }
    }

    fn word_sum(self) -> u32 {
        self.segments().iter().map(|word| u32::from(*word)).sum()
    }
}

/// The five numbers a flow is known by, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, host order.
    pub sport: u16,
    /// Destination port, host order.
    pub dport: u16,
    /// Protocol.
    pub proto: Proto,
}

impl<A: Copy> Tuple<A> {
    /// The same conversation seen from the other end.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, proto: self.proto }
    }
}

impl<A: Address> Tuple<A> {
    /// The tuple with addresses of either family, for the paths that are not per packet.
    #[must_use]
    pub fn any(&self) -> Tuple<IpAddr> {
        Tuple {
            src: self.src.into(),
            dst: self.dst.into(),
            sport: self.sport,
            dport: self.dport,
            proto: self.proto,
        }
    }
}

impl fmt::Display for Tuple<IpAddr> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (SocketAddr::new(self.src, self.sport), SocketAddr::new(self.dst, self.dport));
        write!(f, "{} {src} > {dst}", self.proto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_sums_are_of_network_order_words() {
        assert_eq!(Ipv4Addr::new(0x12, 0x34, 0x56, 0x78).word_sum(), 0x1234 + 0x5678);
        assert_eq!("1:2:3::ffff".parse::<Ipv6Addr>().unwrap().word_sum(), 6 + 0xffff);
    }

    #[test]
    fn addresses_are_read_and_written_in_network_order() {
        let (v4, v6): (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(1, 2, 3, 4), "102:304::f".parse().unwrap());
        let mut bytes = [0xee; 17];
        v4.write(&mut bytes);
        assert_eq!(bytes[..5], [1, 2, 3, 4, 0xee]);
        assert_eq!(Ipv4Addr::read(&bytes), v4);
        v6.write(&mut bytes);
        assert_eq!((bytes[0], bytes[3], bytes[15], bytes[16]), (1, 4, 15, 0xee));
        assert_eq!(Ipv6Addr::read(&bytes), v6);
        assert_eq!((Ipv4Addr::OFFSET + 2 * Ipv4Addr::LEN, Ipv6Addr::OFFSET + 2 * Ipv6Addr::LEN), (20, 40));
    }

    #[test]
    fn reversing_twice_is_the_same_tuple() {
        let tuple = Tuple {
            src: Ipv4Addr::LOCALHOST,
            dst: Ipv4Addr::BROADCAST,
            sport: 1,
            dport: 2,
            proto: Proto::Udp,
        };
        assert_eq!(tuple.reversed().reversed(), tuple);
        assert_eq!(tuple.any().to_string(), "UDP 127.0.0.1:1 > 255.255.255.255:2");
    }
}
