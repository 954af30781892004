//! Destinations.

use super::*;
use crate::node::rt::Address;

#[test]
fn cidrs_outside_vips_and_snat_addresses_lead_to_the_device_the_hosts_own_do_not() {
    let view = HostView {
        addresses: vec![Address {
            link: 2,
            address: ip("203.0.113.11"),
            prefix: 24,
            scope: 0,
            flags: 0,
            broadcast: None,
        }],
        ..HostView::default()
    };
    let vips: BTreeSet<IpAddr> =
        ["10.96.0.10", "203.0.113.10", "203.0.113.11", "fd00:96::10", "fd00:203::10"].map(ip).into();
    let cidrs = [(ip("10.97.1.2"), 12), (ip("fd00:96::"), 108)];
    let snat = [ip("169.254.77.1"), ip("fd00:fffe:77::1")];
    let of = |family, vips| destinations(family, &snat, &cidrs, vips, &view);

    assert_eq!(of(Family::V4, None), [(ip("169.254.77.1"), 32)].into());
    assert_eq!(
        of(Family::V4, Some(&vips)),
        [(ip("10.96.0.0"), 12), (ip("169.254.77.1"), 32), (ip("203.0.113.10"), 32)].into()
    );
    assert_eq!(
        of(Family::V6, Some(&vips)),
        [(ip("fd00:96::"), 108), (ip("fd00:203::10"), 128), (ip("fd00:fffe:77::1"), 128)].into()
    );
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
