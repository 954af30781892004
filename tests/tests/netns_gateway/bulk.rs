//! Streams of bytes: they cross the device as super-packets, at any MTU, in both directions.

use std::process::Stdio;

use serde_json::Value;
use tests::netns::wait_for;

use crate::site::{PATIENCE, Site, WEB};

pub(crate) fn mtu_1500() {
    bulk(1500);
}

pub(crate) fn mtu_9000() {
    bulk(9000);
}

fn bulk(mtu: u32) {
    let mut site = Site::serving(mtu);
    let mut server = site.backends[0].command("iperf3");
    server.arg("-s").stdout(Stdio::null());
    let server = site.backends[0].spawn(&mut server).unwrap();
    site.keep(server);
    wait_for("iperf3 listens", PATIENCE, || site.backends[0].run("ss -Hltn sport = 5201").unwrap() != "");
    for vip in WEB {
        for how in ["-P 1", "-P 4", "-P 1 -R", "-P 4 -R"] {
            let before = site.counters().counters;
            let text = site.client.run(&format!("iperf3 -c {vip} -t 1 -J {how}")).unwrap();
            let report: Value = serde_json::from_str(&text).unwrap();
            let bytes = report["end"]["sum_received"]["bytes"].as_u64().unwrap();
            assert!(bytes > 10_000_000, "{vip} {how}: {bytes} bytes in a second");
            let after = site.counters().counters;
            let moved = |name: &str| after[name] - before[name];
            // Acknowledgements are small and about as many; still the mean is far above a packet of the link.
            let mean = moved("received_bytes") / moved("received").max(1);
            assert!(mean > u64::from(mtu), "{vip} {how}: {mean} bytes a frame");
        }
    }
    site.assert_nothing_uncounted();
}
