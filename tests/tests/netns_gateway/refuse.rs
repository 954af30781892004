//! What gets no service, and manifests that cannot be served.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, SystemTime};

use tests::http;
use tests::netns::wait_for;

use crate::site::{DEAD, PATIENCE, Site, WEB, at, url, web};

const SHORT: Duration = Duration::from_secs(2);

/// No endpoint or no such port: refused at once. An address nobody has: silence. An echo: unreachable.
pub(crate) fn refused() {
    let site = Site::serving(1500);
    let dial = |to| site.client.enter(|| http::dial(http::anywhere(to, 0), to, SHORT).map(drop)).unwrap();
    for to in [at(DEAD[0], 80), at(DEAD[1], 80), at(WEB[0], 81), at(WEB[1], 81)] {
        let begun = SystemTime::now();
        assert_eq!(dial(to).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
        assert!(begun.elapsed().unwrap_or_default() < Duration::from_secs(1), "{to}");
        let ask = || -> std::io::Result<()> {
            let socket = UdpSocket::bind(http::anywhere(to, 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(SHORT))?;
            socket.send(b"?")?;
            socket.recv(&mut [0; 8]).map(drop)
        };
        let error = site.client.enter(ask).unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "UDP {to}");
    }
    for nobody in ["10.96.77.77", "fd00:96::7777"] {
        let error = dial(at(nobody, 80)).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Other)
                || error.raw_os_error() == Some(115),
            "{nobody}: {error:?}"
        );
    }
    for vip in WEB {
        let ping = site.client.run(&format!("busybox ping -c 1 -W 2 {vip}"));
        assert!(ping.is_err(), "nobody is there to answer an echo");
    }
    let counters = site.counters();
    assert!(counters.drops["unallocated_vip"] >= 2 && counters.counters["replied"] >= 10, "{counters:?}");
    site.assert_nothing_uncounted();
}

/// A file that turns to garbage is named, and what it said before goes on; bad endpoints are named and left out.
pub(crate) fn broken_manifest() {
    let site = Site::serving(1500);
    site.write("web.yaml", "apiVersion: v1\nkind: Service\nmetadata: [\n");
    wait_for("the problem is told", PATIENCE, || !site.services().problems.is_empty());
    let told = site.told("services");
    assert!(told.contains("web.yaml, document 1"), "{told}");
    for vip in WEB {
        site.curl(&url(vip, 80)).unwrap();
    }
    let bad = web(&[0, 1]).replace("10.2.1.2", "127.0.0.1").replace("fd00:2:1::2", "fd00:ff::1");
    site.write("web.yaml", &bad);
    wait_for("the endpoints are refused", PATIENCE, || {
        let problems = site.services().problems;
        ["127.0.0.1", "fd00:ff::1"].iter().all(|addr| problems.iter().any(|p| p.what.contains(addr)))
    });
    assert!(site.services().problems.iter().all(|problem| !problem.remedy.is_empty()));
    for vip in WEB {
        for _ in 0..20 {
            assert_eq!(site.curl(&url(vip, 80)).unwrap(), "<title>backend 0</title>\n");
        }
    }
    site.write("web.yaml", &web(&[0, 1]));
    wait_for("all is well", PATIENCE, || site.services().problems.is_empty());
}

/// A packet that comes into the device and is for nobody is dropped there: routed by the local table it would come back.
pub(crate) fn strangers() {
    let site = Site::serving(1500);
    // A route into the device that is none of tunway's: to an address behind a backend that does not exist.
    site.gateway.ip(&format!("route add 203.0.113.0/24 dev {} table local", site.device)).unwrap();
    let dropped = || site.counters().drops.get("not_served").copied().unwrap_or(0);
    let before = dropped();
    let send = || -> std::io::Result<usize> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        (0..5).map(|_| socket.send_to(b"?", "203.0.113.9:9")).sum()
    };
    assert_eq!(site.client.enter(send).unwrap().unwrap(), 5);
    wait_for("the packets came in", PATIENCE, || dropped() >= before + 5);
    // A loop would go on: between two looks nothing may move.
    site.curl(&url(WEB[0], 80)).unwrap();
    assert_eq!(dropped() - before, 5, "each came in once");
    assert_eq!(site.counters().counters["passed"], 0);
}
