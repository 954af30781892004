//! What netfilter does to packets on their way to and from the device, where destinations arrive as aliases.

use std::net::IpAddr;

use super::endpoints;
use crate::packet::alias;
use crate::packet::tuple::Family;

/// As netfilter does to what comes from the device.
pub(crate) fn unmask(packet: &mut [u8]) {
    let family = if packet[0] >> 4 == 4 { Family::V4 } else { Family::V6 };
    alias::mask(packet, family);
}

/// As netfilter does to what it sends up by an alias.
pub(crate) fn up(mut packet: Vec<u8>) -> Vec<u8> {
    match alias::of(endpoints(&packet).1.ip()) {
        IpAddr::V4(to) => alias::set_destination(&mut packet, to),
        IpAddr::V6(to) => alias::set_destination(&mut packet, to),
    }
    packet
}
