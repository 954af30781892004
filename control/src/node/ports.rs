//! Ports of this host that are spoken for: those its administrator keeps from the kernel's own choice.

use std::fs;

/// Below /proc/sys. Ports the kernel chooses for nobody: who wants one asks for it by number.
pub(super) const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
/// Below /proc/sys. Where the kernel chooses from, for sockets that ask for no port.
pub(super) const CHOSEN: &str = "net/ipv4/ip_local_port_range";

/// What `net.ipv4.ip_local_reserved_ports` says now, in the network namespace of the calling thread: ranges with their
/// ends. None where it cannot be read. It is meant for both families.
#[must_use]
pub fn reserved_ports() -> Vec<(u16, u16)> {
    fs::read_to_string(format!("/proc/sys/{RESERVED}")).map(|text| list(&text)).unwrap_or_default()
}

/// `8080,9000-9100`, as the kernel prints it. What is neither a port nor a range is passed over.
pub(super) fn list(text: &str) -> Vec<(u16, u16)> {
    let ranges = text.split(',').map(str::trim).filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    ranges.collect()
}

/// Two numbers with a blank between: a range with its ends.
pub(super) fn range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_read_as_the_kernel_prints_them() {
        assert_eq!(list("\n"), []);
        assert_eq!(list("8080\n"), [(8080, 8080)]);
        assert_eq!(list("1-3,8080,30000-32767\n"), [(1, 3), (8080, 8080), (30_000, 32_767)]);
        assert_eq!(list("70000,5-,x,7"), [(7, 7)]);
        assert_eq!(range("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(range("32768\n"), None);
    }
}
