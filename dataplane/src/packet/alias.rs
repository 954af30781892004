//! Alias destinations: how a packet that the host's own routing would take elsewhere is brought to the device by plain
//! routing.
//!
//! Replies of kept sources are for the client, and what is for this host's own addresses is for the host; neither is
//! routed to the device. So netfilter gives them another destination on their way up: the *alias* of the real one, in a
//! range that nobody uses and that is routed to the device. Only the top four bits change, and only in the IP header:
//! the IPv4 header checksum follows, checksums of layer 4 stay those of the real destination.
//!
//! - IPv4: the top four bits are set, 240.0.0.0/4 (RFC 1112, section 4). What they were is lost: a flow remembers it.
//! - IPv6: the top bit is turned round. 2000::/3 becomes a000::/3, fc00::/7 7c00::/7, ::/3 8000::/3 (RFC 4291, section
//!   2.4: unassigned), and back.
//!
//! What is written to the device has its destination *masked*: its top bit is turned round, and netfilter turns it
//! back behind the raw hook. So rules there about a pod's address and the interface it is behind do not see us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::updated;
use super::tuple::{Address, Family};
use super::update;

/// Where the alias of an IPv4 address lies: the prefix's address and length.
pub const RANGE_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(240, 0, 0, 0), 4);

/// Where the aliases of IPv6 addresses lie: of ::/3, 2000::/3 and e000::/3.
pub const RANGES_V6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0), 3),
    (Ipv6Addr::new(0xa000, 0, 0, 0, 0, 0, 0, 0), 3),
    (Ipv6Addr::new(0x6000, 0, 0, 0, 0, 0, 0, 0), 3),
];

/// Bits of an address that an alias changes.
pub const TOP_BITS: u32 = 4;

/// The bit that masking turns round, in the first byte.
const MASK: u8 = 0x80;
/// The same in the first 16-bit word, and what setting or clearing it changes in a one's-complement sum.
const SET: u16 = 0x8000;
const CLEARED: u16 = !SET;

/// The alias of an address. An IPv6 alias's alias is the address.
#[must_use]
pub fn of(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(addr) => IpAddr::V4((addr.to_bits() | RANGE_V4.0.to_bits()).into()),
        IpAddr::V6(addr) => IpAddr::V6((addr.to_bits() ^ 1 << 127).into()),
    }
}

/// Whether an address is an alias.
#[must_use]
pub fn is(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.octets()[0] >= 0xf0,
        IpAddr::V6(addr) => matches!(addr.octets()[0] >> 5, 3..=5),
    }
}

/// The addresses that have this alias.
pub fn behind(alias: IpAddr) -> impl Iterator<Item = IpAddr> {
    // IPv6 tells them all apart.
    let count = if alias.is_ipv4() { 15 } else { 1 };
    (0..count).map(move |top: u32| match alias {
        IpAddr::V4(addr) => IpAddr::V4((addr.to_bits() & !RANGE_V4.0.to_bits() | top << 28).into()),
        IpAddr::V6(_) => of(alias),
    })
}

/// The top four bits of an address, which its alias does not tell.
#[must_use]
pub fn top(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(addr) => addr.octets()[0] >> 4,
        IpAddr::V6(addr) => addr.octets()[0] >> 4,
    }
}

/// Turns the top bit of a packet's destination round, and follows with the IPv4 header checksum. Checksums of layer 4
/// stay as they are.
///
/// # Panics
/// The bytes are shorter than the fixed IP header.
#[inline]
pub fn mask(packet: &mut [u8], family: Family) {
    match family {
        Family::V4 => {
            let first = &mut packet[Ipv4Addr::OFFSET + Ipv4Addr::LEN];
            *first ^= MASK;
            let change = if *first & MASK == 0 { CLEARED } else { SET };
            update(packet, 10, |checksum| updated(checksum, change));
        }
        Family::V6 => packet[Ipv6Addr::OFFSET + Ipv6Addr::LEN] ^= MASK,
    }
}

/// Gives a packet another destination in its IP header alone: the IPv4 header checksum follows, checksums of layer 4
/// stay.
///
/// # Panics
/// The bytes are shorter than the fixed IP header.
pub fn set_destination<A: Address>(packet: &mut [u8], to: A) {
    let at = A::OFFSET + A::LEN;
    let from = A::read(&packet[at..]);
    to.write(&mut packet[at..]);
    if A::FAMILY == Family::V4 {
        let change = super::checksum::address_change((from, from), (from, to));
        update(packet, 10, |checksum| updated(checksum, change));
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::super::samples::{v4, v6};
    use super::super::tuple::Proto;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn aliases_lie_in_their_ranges_and_are_told_from_addresses() {
        for (addr, alias) in [
            ("10.1.2.3", "250.1.2.3"),
            ("26.1.2.3", "250.1.2.3"),
            ("169.254.77.1", "249.254.77.1"),
            ("2001:db8::1", "a001:db8::1"),
            ("fd00:77::1", "7d00:77::1"),
            ("fe80::1", "7e80::1"),
            ("64:ff9b::a01:203", "8064:ff9b::a01:203"),
        ] {
            let (addr, alias) = (ip(addr), ip(alias));
            assert_eq!(of(addr), alias);
            assert!(is(alias) && !is(addr), "{addr}");
        }
        assert_eq!(of(of(ip("2001:db8::1"))), ip("2001:db8::1"));
        assert!(behind(ip("250.1.2.3")).all(|addr| of(addr) == ip("250.1.2.3") && !is(addr)));
        assert!(behind(ip("250.1.2.3")).any(|addr| addr == ip("26.1.2.3")));
        assert!(behind(ip("a001:db8::1")).eq([ip("2001:db8::1")]));
        assert_eq!((top(ip("26.1.2.3")), top(ip("fd00::1"))), (1, 15));
        assert!(is(IpAddr::V4(RANGE_V4.0)));
        assert!(RANGES_V6.iter().all(|(range, _)| is(IpAddr::V6(*range))));
    }

    #[test]
    fn masking_twice_is_nothing_and_once_a_valid_ipv4_header() {
        for sample in [v4(Proto::Tcp), v4(Proto::Udp)] {
            let before = sample.build();
            let mut bytes = before.clone();
            mask(&mut bytes, Family::V4);
            let layout = Layout::of(&bytes).expect("the header checksum followed");
            let masked = layout.addresses::<Ipv4Addr>(&bytes).dst;
            assert_eq!(masked.to_bits(), sample.tuple.dst.to_bits() ^ 1 << 31);
            assert_eq!(bytes[layout.l4_offset()..], before[layout.l4_offset()..], "layer 4 is untouched");
            mask(&mut bytes, Family::V4);
            assert_eq!(bytes, before);
        }
        let before = v6(Proto::Udp).build();
        let mut bytes = before.clone();
        mask(&mut bytes, Family::V6);
        assert_eq!(before.iter().zip(&bytes).filter(|(a, b)| a != b).count(), 1);
        mask(&mut bytes, Family::V6);
        assert_eq!(bytes, before);
    }

    #[test]
    fn another_destination_is_a_valid_header() {
        let sample = v4(Proto::Tcp);
        let mut bytes = sample.build();
        set_destination(&mut bytes, Ipv4Addr::new(250, 1, 2, 3));
        assert_eq!(
            Layout::of(&bytes).unwrap().addresses::<Ipv4Addr>(&bytes).dst,
            Ipv4Addr::new(250, 1, 2, 3)
        );
        set_destination(&mut bytes, sample.tuple.dst);
        assert_eq!(bytes, sample.build());
    }
}
