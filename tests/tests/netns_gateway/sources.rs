//! Whose address the backend sees by connection tracking, by each way of telling local pods from others.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tests::netns::Capture;

use crate::serve::ends;
use crate::site::{Site, WEB, url};

/// The client's addresses.
const CLIENT: [&str; 2] = ["10.1.0.2", "fd00:1:0::2"];

/// The address the gateway has towards this backend.
fn gateway(family: usize, backend: usize) -> IpAddr {
    [format!("10.2.{backend}.1"), format!("fd00:2:{backend}::1")][family].parse().unwrap()
}

/// Starts tunway with this `detectLocal`, and ends it; for each family, true when backends saw the client, false when
/// they saw the gateway.
fn kept(site: &mut Site, detect_local: &str) -> [bool; 2] {
    let config = site.dir.path().join("config.yaml");
    let text = format!(
        "apiVersion: tunway.dev/v1alpha1\nkind: Config\nreturnPath: conntrack\ndetectLocal: {detect_local}\n"
    );
    std::fs::write(&config, text).unwrap();
    site.start(&["--config", &config.to_string_lossy(), "--manifests", &site.manifests().to_string_lossy()]);
    site.wait_until_served();
    let kept = [0, 1].map(|family| {
        let captures = [0, 1].map(|n: usize| Capture::start(&site.backends[n]).unwrap());
        let pages: BTreeSet<_> = (0..30).map(|_| site.curl(&url(WEB[family], 80)).unwrap()).collect();
        assert_eq!(pages.len(), 2, "{pages:?}");
        let client: IpAddr = CLIENT[family].parse().unwrap();
        let mut kept = BTreeSet::new();
        for (n, capture) in captures.into_iter().enumerate() {
            let to: IpAddr = [format!("10.2.{n}.2"), format!("fd00:2:{n}::2")][family].parse().unwrap();
            let pairs = capture.stop().into_iter().filter_map(|packet| ends(&packet));
            let from: BTreeSet<_> = pairs.filter(|pair| pair.1 == to).map(|pair| pair.0).collect();
            let one = [client, gateway(family, n)].iter().any(|source| from == [*source].into());
            assert!(one, "backend {n} saw {from:?}");
            kept.insert(from.contains(&client));
        }
        assert_eq!(kept.len(), 1, "{detect_local}: both backends see the same");
        kept.contains(&true)
    });
    site.assert_nothing_uncounted();
    site.end("-TERM");
    kept
}

/// The client's link is `c`, its prefixes 10.1.0.0/24 and fd00:1::/64.
pub(crate) fn detected() {
    let mut site = Site::new(1500);
    for (detect_local, expected) in [
        ("{}", [true, true]),
        ("{clusterCIDRs: [10.1.0.0/16, 'fd00:1::/48']}", [true, true]),
        ("{clusterCIDRs: [10.99.0.0/16]}", [false, true]),
        ("{mode: bridge, interface: c}", [true, true]),
        ("{mode: bridge, interface: b0}", [false, false]),
        ("{mode: interfacePrefix, interface: c}", [true, true]),
        ("{mode: interfacePrefix, interface: veth}", [false, false]),
    ] {
        assert_eq!(kept(&mut site, detect_local), expected, "{detect_local}");
    }
}
