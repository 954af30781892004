//! Packets the kernel dropped because the device's queue was full: they never reach a worker, so no counter of ours has
//! them.

use std::io;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::netlink::{Netlink, is_absent};

/// `tx_dropped` of this device's statistics, since the device was made; none when it is not there.
///
/// # Errors
/// The kernel cannot be asked.
pub fn queue_drops(device: &str) -> io::Result<Option<u64>> {
    let mut ask = LinkMessage::default();
    ask.attributes.push(LinkAttribute::IfName(device.to_owned()));
    match Netlink::open()?.get(RouteNetlinkMessage::GetLink(ask)) {
        Ok(found) => Ok(found.iter().find_map(dropped)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn dropped(message: &RouteNetlinkMessage) -> Option<u64> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::Stats64(stats) = attribute else { return None };
        Some(stats.tx_dropped)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_its_statistics_and_one_that_is_not_there_has_none() {
        assert_eq!(queue_drops("lo").unwrap(), Some(0), "loopback has no queue to fill");
        assert_eq!(queue_drops("no-such-device").unwrap(), None);
    }
}
