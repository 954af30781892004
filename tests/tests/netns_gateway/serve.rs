//! The walkthrough and what clients expect of it.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use control::socket::wire::Services;
use tests::http;
use tests::netns::{Capture, wait_for};

use crate::site::{PATIENCE, Site, WEB, at, url, web};

/// busybox and curl get pages from both backends, and on the client's link there is nobody but the Service.
pub(crate) fn pages() {
    let site = Site::serving(1500);
    for (vip, client) in WEB.iter().zip(["10.1.0.2", "fd00:1:0::2"]) {
        let url = url(vip, 80);
        let capture = Capture::start(&site.client).unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            seen.insert(site.client.run(&format!("busybox wget -qO- {url}")).unwrap());
            seen.insert(site.curl(&url).unwrap());
        }
        let pages = ["<title>backend 0</title>\n", "<title>backend 1</title>\n"].map(str::to_owned);
        assert_eq!(seen, BTreeSet::from(pages), "{vip}");
        let (vip, client) = (vip.parse().unwrap(), client.parse().unwrap());
        let pairs: Vec<(IpAddr, IpAddr)> = capture.stop().iter().filter_map(|p| ends(p)).collect();
        let count = |pair| pairs.iter().filter(|other| **other == pair).count();
        assert!(count((client, vip)) >= 10 && count((vip, client)) >= 10, "{pairs:?}");
        let strangers: BTreeSet<_> =
            pairs.iter().filter(|pair| **pair != (client, vip) && **pair != (vip, client)).collect();
        assert!(strangers.is_empty(), "{strangers:?}");
    }
    let flows = site.told("flows");
    for word in
        ["10.1.0.2:", "10.96.0.10:80", "10.2.0.2:8080", "10.2.1.2:8080", "10.255.0.1:", "[fd00:96::10]:80"]
    {
        assert!(flows.contains(word), "{word} is not in\n{flows}");
    }
    let services = site.told("services");
    for word in ["default/web:http", "default/dead:tcp", "10.96.0.10"] {
        assert!(services.contains(word), "{word} is not in\n{services}");
    }
    site.assert_nothing_uncounted();
}

/// Source and destination of a packet of TCP, UDP or ICMP between hosts; neighbour discovery is none.
pub(crate) fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (src, dst, proto): (IpAddr, IpAddr, u8) = if packet[0] >> 4 == 4 {
        let addr = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        (addr(12).into(), addr(16).into(), packet[9])
    } else {
        let addr = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        (addr(8).into(), addr(24).into(), packet[6])
    };
    let discovery = proto == 58 && matches!(packet.get(40), Some(133..=137 | 143));
    (!discovery && proto != 0).then_some((src, dst))
}

/// The server closes first, so the client's port is free at once while everybody else remembers it.
pub(crate) fn port_reuse() {
    let site = Site::serving(1500);
    for vip in WEB {
        let to = at(vip, 80);
        let mut seen = BTreeSet::new();
        for turn in 0..30 {
            let mut begun = SystemTime::now();
            let mut page = Err(ErrorKind::AddrNotAvailable.into());
            // Until the last acknowledgement is back, the port is this host's own.
            wait_for("the client's own end of the port", PATIENCE, || {
                begun = SystemTime::now();
                page = site.client.enter(|| http::get(http::anywhere(to, 44_444), to, PATIENCE)).unwrap();
                page.as_ref().map_err(io::Error::kind) != Err(ErrorKind::AddrNotAvailable)
            });
            let new = seen.insert(page.unwrap_or_else(|error| panic!("turn {turn}: {error}")));
            let took = begun.elapsed().unwrap_or_default();
            // Who meets a backend for the first time may wait for its neighbour discovery.
            assert!(
                new || took < Duration::from_millis(900),
                "turn {turn} waited for a retransmission: {took:?}; {:?}",
                site.counters()
            );
        }
        assert_eq!(seen.len(), 2, "thirty fresh choices met one backend only");
    }
    assert!(site.counters().counters["flows_reopened"] > 0);
}

/// A sticky Service keeps a client at one backend until its time is up, or until it is sticky no more.
pub(crate) fn session_affinity() {
    let site = Site::serving(1500);
    let told = |wanted: Option<u32>| {
        let port = |services: &Services| {
            services.services.iter().find(|port| port.name == "default/web:http").cloned()
        };
        wait_for("the affinity is served", PATIENCE, || {
            port(&site.services()).is_some_and(|port| port.affinity_seconds == wanted)
        });
    };
    let sticky = |seconds: u32| {
        let affinity = format!(
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}\n  ports:"
        );
        web(&[0, 1]).replacen("  ports:", &affinity, 1)
    };
    let pages =
        |vip: &str, n| -> BTreeSet<String> { (0..n).map(|_| site.curl(&url(vip, 80)).unwrap()).collect() };
    site.write("web.yaml", &sticky(10_800));
    told(Some(10_800));
    for vip in WEB {
        assert_eq!(pages(vip, 15).len(), 1, "{vip}");
    }
    assert!(site.told("services").contains("ClientIP 10800s"));
    assert!(site.services().status.remembered >= 2);
    site.write("web.yaml", &web(&[0, 1]));
    told(None);
    for vip in WEB {
        wait_for("both backends", PATIENCE, || pages(vip, 5).len() == 2);
    }
    // Its time must really pass, a second and then some; every other time the pick falls on the other one.
    site.write("web.yaml", &sticky(1));
    told(Some(1));
    let mut seen = pages(WEB[0], 1);
    wait_for("another backend after the timeout", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(2_100));
        seen.extend(pages(WEB[0], 1));
        seen.len() == 2
    });
    site.assert_nothing_uncounted();
}

/// A narrow hop behind the gateway: the error names the Service, so the client learns its MTU and the page arrives.
pub(crate) fn path_mtu() {
    let site = Site::serving(1500);
    for n in 0..2 {
        site.gateway.ip(&format!("route add 10.2.{n}.2/32 dev b{n} mtu 1300")).unwrap();
        site.gateway.ip(&format!("-6 route add fd00:2:{n}::2/128 dev b{n} mtu 1300")).unwrap();
    }
    // A request larger than the narrow hop, and nothing to answer before all of it has arrived.
    let filler = format!("X-Filler: {}", "x".repeat(6_000));
    for vip in WEB {
        let mut curl = site.client.command("curl");
        curl.args(["-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-H", &filler, &url(vip, 80)]);
        let output = curl.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{vip}: {output:?}");
        let route = site.client.ip(&format!("route get {vip}")).unwrap();
        assert!(route.contains("mtu 1300"), "nothing was learned for {vip}: {route}");
    }
    assert!(site.counters().counters["icmp_errors_translated"] > 0);
    site.assert_nothing_uncounted();
}
