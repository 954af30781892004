//! Addresses as Kubernetes writes them, and addresses that can never be served.
//!
//! The API has always accepted more than RFC 5952 and keeps accepting it in stored objects: leading zeros are
//! decimal (`172.30.0.041` is 172.30.0.41), and IPv4-mapped IPv6 text is IPv4.

use std::net::IpAddr;

/// The address this text means, in the one form we compare: leading zeros are decimal, mapped IPv6 is IPv4.
/// No zone, no surrounding white space, no prefix length.
#[must_use]
pub fn parse(text: &str) -> Option<IpAddr> {
    let addr = match text.parse::<IpAddr>() {
        Ok(addr) => addr,
        Err(_) if text.contains(':') => without_zeros_v6(text)?.parse().ok()?,
        Err(_) => without_zeros_v4(text)?.parse().ok()?,
    };
    Some(addr.to_canonical())
}

/// The prefix this text means: an address as [`parse`] takes it, and a length its family has. Host bits are cleared.
#[must_use]
pub fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (addr, length) = text.split_once('/')?;
    let parsed = parse(addr)?;
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let length: u8 = if digits { length.parse().ok()? } else { return None };
    // The length of a mapped address counts from another end.
    let fits = parsed.is_ipv6() == addr.contains(':') && length <= if parsed.is_ipv4() { 32 } else { 128 };
    fits.then(|| network((parsed, length)))
}

/// Is `addr` inside `network`/`prefix`? Host bits of `network` do not matter, and a prefix longer than the address is the
/// address itself.
#[must_use]
pub fn contains((network_addr, prefix): (IpAddr, u8), addr: IpAddr) -> bool {
    network_addr.is_ipv4() == addr.is_ipv4() && network((addr, prefix)) == network((network_addr, prefix))
}

/// The shortest prefix a Service range may have: what is wider would take a cluster's other addresses with it.
#[must_use]
pub fn shortest_service_range(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 8 } else { 32 }
}

/// The prefix with its host bits cleared. A prefix longer than the address is the address itself.
#[must_use]
pub fn network((addr, prefix): (IpAddr, u8)) -> (IpAddr, u8) {
    match addr {
        IpAddr::V4(v4) => {
            let length = prefix.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (IpAddr::V4((v4.to_bits() & mask).into()), length)
        }
        IpAddr::V6(v6) => {
            let length = prefix.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (IpAddr::V6((v6.to_bits() & mask).into()), length)
        }
    }
}

/// The first and the last address of a prefix. A prefix longer than the address is the address itself.
#[must_use]
pub fn ends(prefix: (IpAddr, u8)) -> (IpAddr, IpAddr) {
    let (first, length) = network(prefix);
    let last = match first {
        IpAddr::V4(v4) => {
            IpAddr::V4((v4.to_bits() | u32::MAX.checked_shr(u32::from(length)).unwrap_or(0)).into())
        }
        IpAddr::V6(v6) => {
            IpAddr::V6((v6.to_bits() | u128::MAX.checked_shr(u32::from(length)).unwrap_or(0)).into())
        }
    };
    (first, last)
}

/// What kind of address this is, when no packet to it may ever cross a router.
#[must_use]
pub fn never_routed(addr: IpAddr) -> Option<&'static str> {
    let link_local = match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    match addr {
        _ if addr.is_unspecified() => Some("the unspecified address"),
        _ if addr.is_loopback() => Some("a loopback address"),
        _ if addr.is_multicast() => Some("a multicast address"),
        _ if link_local => Some("a link-local address"),
        IpAddr::V4(addr) if addr.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn without_zeros_v4(text: &str) -> Option<String> {
    let parts: Vec<&str> =
        text.split('.').map(|part| without_zeros(part, u8::is_ascii_digit)).collect::<Option<_>>()?;
    Some(parts.join("."))
}

fn without_zeros_v6(text: &str) -> Option<String> {
    let groups: Vec<String> = text
        .split(':')
        .map(|group| match group {
            "" => Some(String::new()),
            _ if group.contains('.') => without_zeros_v4(group),
            _ => without_zeros(group, u8::is_ascii_hexdigit).map(str::to_owned),
        })
        .collect::<Option<_>>()?;
    Some(groups.join(":"))
}

/// `digits` without leading zeros, but never empty; none when something else than a digit is in it.
fn without_zeros(digits: &str, is_digit: impl Fn(&u8) -> bool) -> Option<&str> {
    if digits.is_empty() || !digits.as_bytes().iter().all(is_digit) {
        return None;
    }
    let short = digits.trim_start_matches('0');
    Some(if short.is_empty() { "0" } else { short })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn sloppy_text_means_what_the_api_says() {
        for (text, means) in [
            ("10.96.0.10", "10.96.0.10"),
            ("172.30.0.041", "172.30.0.41"),
            ("010.000.0000.01", "10.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::ffff:010.0.00.01", "10.0.0.1"),
            ("::ffff:a00:1", "10.0.0.1"),
            ("fd00:10:96::0A", "fd00:10:96::a"),
            ("fd00::00001", "fd00::1"),
            ("0000:0::1", "::1"),
            ("FD00::BEEF", "fd00::beef"),
            // Compatible, not mapped: stays IPv6.
            ("::10.0.0.1", "::a00:1"),
        ] {
            assert_eq!(parse(text), Some(ip(means)), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in [
            "",
            " ",
            "None",
            "10.0.0",
            "10.0.0.256",
            "10.0.0.1.2",
            "10.0.0.1 ",
            " 10.0.0.1",
            "10.0.0.1/32",
            "+1.0.0.1",
            "-1.0.0.1",
            "0x0a.0.0.1",
            "10..0.1",
            "fe80::1%eth0",
            "fd00::10000",
            "1::2::3",
            "1:2:3:4:5:6:7:8:9",
            "[::1]",
            "example.com",
            "::ffff:10.0.0.256",
            "fd00::g",
            "10.0.0.1:80",
            "１０.0.0.1",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn networks_contain_their_addresses_and_no_other_family() {
        for (network, prefix, addr, inside) in [
            ("10.96.0.0", 12, "10.111.255.255", true),
            ("10.96.0.0", 12, "10.112.0.0", false),
            ("0.0.0.0", 0, "203.0.113.1", true),
            ("10.0.0.1", 32, "10.0.0.1", true),
            ("10.0.0.1", 32, "10.0.0.2", false),
            ("10.0.0.1", 200, "10.0.0.2", false),
            ("fd00:10:96::", 112, "fd00:10:96::ffff", true),
            ("fd00:10:96::", 112, "fd00:10:97::", false),
            ("::", 0, "fd00::1", true),
            ("::", 0, "10.0.0.1", false),
            ("0.0.0.0", 0, "::1", false),
        ] {
            assert_eq!(contains((ip(network), prefix), ip(addr)), inside, "{network}/{prefix} {addr}");
        }
    }

    #[test]
    fn a_network_has_no_host_bits() {
        for (addr, prefix, network_addr, length) in [
            ("10.97.3.4", 12, "10.96.0.0", 12),
            ("10.97.3.4", 0, "0.0.0.0", 0),
            ("1.2.3.4", 32, "1.2.3.4", 32),
            ("1.2.3.4", 40, "1.2.3.4", 32),
            ("fd00:96::1:2", 108, "fd00:96::", 108),
            ("fd00::1", 128, "fd00::1", 128),
            ("fd00::1", 0, "::", 0),
        ] {
            assert_eq!(network((ip(addr), prefix)), (ip(network_addr), length), "{addr}/{prefix}");
        }
        assert!(contains((ip("10.97.3.4"), 12), ip("10.111.0.1")), "host bits do not matter");
    }

    #[test]
    fn addresses_that_never_cross_a_router_have_a_name() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "169.254.1.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
        ] {
            assert!(never_routed(ip(text)).is_some(), "{text}");
        }
        for text in ["10.0.0.1", "203.0.113.1", "240.0.0.1", "fd00::1", "2001:db8::1"] {
            assert_eq!(never_routed(ip(text)), None, "{text}");
        }
    }
}
