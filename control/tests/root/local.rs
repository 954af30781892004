//! Serving addresses of this host: the local table's rule moves out of the mark's way and back, the sets follow.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control::node::{Host, HostConfig, LocalFrontends, cleanup};
use dataplane::packet::tuple::Proto;
use dataplane::service::SvcPort;

use crate::host::{
    REPAIRED, addr, assert_same, block_on, config, connmark, enter, enter_with_device, everything, installed,
    ip, ip_or_nothing, repair, run, shell, state, sysctl,
};

/// Node ports at the node's own addresses, and a frontend at one of them.
fn served(ports: &[u16]) -> LocalFrontends {
    let port = |port: u16| SvcPort { port, proto: Proto::Tcp };
    LocalFrontends {
        kept: [].into(),
        node_addresses: [addr("192.168.77.1"), addr("fd00:77::1")].into(),
        node_ports: ports.iter().map(|number| port(*number)).collect(),
        frontends: [(addr("192.168.77.1"), port(443))].into(),
    }
}

fn rules() -> [Vec<String>; 2] {
    ["-4", "-6"].map(|family| {
        let all = ip(&format!("{family} rule"));
        all.lines().map(|line| line.replace('\t', " ").trim().to_owned()).collect()
    })
}

const MOVED: [&str; 6] = [
    "40: from all iif tunway0 goto 60 proto 77",
    "50: from all fwmark 0x1000/0x1000 lookup 7702 proto 77",
    "60: from all lookup local proto 77",
    "100: from all iif tunway0 goto 200 proto 77",
    "110: from all lookup 7701 proto 77",
    "200: from all nop proto 77",
];

fn assert_moved() {
    for rules in rules() {
        assert_eq!(
            rules.iter().take(MOVED.len()).collect::<Vec<_>>(),
            MOVED.iter().collect::<Vec<_>>(),
            "{rules:?}"
        );
    }
}

async fn settle(host: &mut Host) {
    while repair(host, Duration::from_millis(700)).await.is_some() {}
}

pub(crate) fn served_and_given_back() {
    enter_with_device();
    block_on(async {
        let mut host = installed(connmark(), &["203.0.113.10"]).await;
        host.serve(&LocalFrontends::default()).await.unwrap();
        settle(&mut host).await;
        let before = state();
        host.serve(&served(&[30_080, 30_081])).await.unwrap();
        assert_moved();
        let sets = run("nft", &["list", "table", "inet", "tunway"]);
        for line in [
            "elements = { tcp . 30080,",
            "elements = { 192.168.77.1 }",
            "elements = { fd00:77::1 }",
            "elements = { 192.168.77.1 . tcp . 443 }",
            "masquerade to :1024-29999 fully-random",
            "masquerade to :32768-65535 fully-random",
        ] {
            assert!(sets.contains(line), "{line} is not in\n{sets}");
        }
        // The host is still itself; what is marked is not, and what we emit is never turned round.
        assert!(ip("route get 192.168.77.1").contains("dev lo"));
        assert!(ip("route get 192.168.77.1 mark 0x1000").contains("dev tunway0 table 7702"));
        assert!(ip("route get 192.168.77.1 from 198.51.100.1 iif tunway0 mark 0x1000").contains("dev lo"));
        let table = run("nft", &["-a", "list", "table", "inet", "tunway"]);
        host.serve(&served(&[30_081, 31_000])).await.unwrap();
        let now = run("nft", &["-a", "list", "table", "inet", "tunway"]);
        let rules = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.contains("# handle")).map(str::to_owned).collect()
        };
        assert_eq!(rules(&now), rules(&table), "only elements were changed");
        assert!(
            now.contains("tcp . 31000") && now.contains("tcp . 30081") && !now.contains("tcp . 30080"),
            "{now}"
        );
        settle(&mut host).await;
        assert!(run("nft", &["list", "ruleset"]).contains("tcp . 31000"), "and left alone");
        host.serve(&LocalFrontends::default()).await.unwrap();
        settle(&mut host).await;
        assert_same(&state(), &before, "nothing is served any more");
    });
}

/// A reverse path check asks for the way back as of a packet that comes in by the device it goes out of, and with
/// `src_valid_mark` one that is marked, too. What comes from the device skips the marks, so either value is good.
pub(crate) fn strict_checks_pass() {
    enter_with_device();
    // What comes in by eth0 and is marked; it comes from where eth0 leads to.
    let way = || ip_or_nothing("route get 198.51.100.1 from 192.168.77.9 iif eth0 mark 0x1000");
    let source_is_marked = |value| sysctl("net.ipv4.conf.all.src_valid_mark", value);
    block_on(async {
        let mut host = installed(connmark(), &[]).await;
        for device in ["all", "eth0"] {
            sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1");
        }
        for (ports, skips) in [(&[][..], 100), (&[30_080][..], 40)] {
            let frontends = if ports.is_empty() { LocalFrontends::default() } else { served(ports) };
            host.serve(&frontends).await.unwrap();
            for value in ["0", "1"] {
                source_is_marked(value);
                let way = way();
                assert!(way.contains("dev tunway0 table 7702"), "src_valid_mark {value}, {skips}: {way}");
            }
            // There is something to see: without the rule the check fails.
            shell(&format!("ip rule del preference {skips}"));
            assert_eq!(way(), "", "src_valid_mark 1, no rule {skips}");
            source_is_marked("0");
            assert!(way().contains("dev tunway0 table 7702"), "src_valid_mark 0, no rule {skips}");
            settle(&mut host).await;
        }
    });
}

pub(crate) fn taken_away_comes_back() {
    enter_with_device();
    block_on(async {
        let mut host = installed(connmark(), &["203.0.113.10"]).await;
        host.serve(&served(&[30_080])).await.unwrap();
        settle(&mut host).await;
        let good = state();
        for damage in [
            "ip rule add preference 0 lookup local; ip rule del preference 60",
            "ip -6 rule add preference 0 lookup local; ip -6 rule del preference 60; ip -6 rule del preference 50",
            "ip rule add preference 0 lookup local",
            "ip rule del preference 40; ip -6 rule del preference 40",
            "ip rule del preference 50",
            "ip rule add preference 105 fwmark 0x1000/0x1000 lookup 7702 protocol 77",
            "nft delete element inet tunway nodeports '{ tcp . 30080 }'",
            "nft flush set inet tunway front4",
            "nft add element inet tunway node4 '{ 192.168.77.9 }'",
            "nft delete table inet tunway",
        ] {
            shell(damage);
            let mut done = Vec::new();
            while state() != good {
                let more = repair(&mut host, REPAIRED).await;
                done.extend(more.unwrap_or_else(|| panic!("{damage}: no repair, so far {done:?}")));
            }
            assert_eq!(repair(&mut host, Duration::from_millis(500)).await, None, "{damage}: {done:?}");
        }
        // An element somebody took away does not keep others from changing.
        shell("nft delete element inet tunway nodeports '{ tcp . 30080 }'");
        host.serve(&served(&[31_000])).await.unwrap();
        let sets = run("nft", &["list", "table", "inet", "tunway"]);
        assert!(sets.contains("tcp . 31000") && !sets.contains("tcp . 30080"), "{sets}");
    });
}

pub(crate) fn restart_goes_on() {
    enter_with_device();
    block_on(async {
        let mut host = installed(connmark(), &["203.0.113.10"]).await;
        host.serve(&served(&[30_080])).await.unwrap();
        settle(&mut host).await;
        let before = state();
        drop(host);
        let mut host = installed(connmark(), &["203.0.113.10"]).await;
        settle(&mut host).await;
        assert_same(&state(), &before, "nobody said yet what is served now");
        host.serve(&served(&[30_080])).await.unwrap();
        assert_same(&state(), &before, "the same is");
        drop(host);
        // Masquerading serves no address of this host.
        let mut host = installed(config(), &["203.0.113.10"]).await;
        settle(&mut host).await;
        for rules in rules() {
            let numbers: Vec<_> = rules.iter().map(|rule| rule.split(':').next().unwrap()).collect();
            assert_eq!(numbers, ["0", "100", "110", "200", "32766", "32767"][..numbers.len()], "{rules:?}");
        }
    });
}

pub(crate) fn every_step_has_a_way_back() {
    enter();
    let before = everything();
    // The steps of the move, in order; somebody is killed behind each.
    let steps = [
        "ip FAMILY rule add preference 60 lookup local protocol 77",
        "ip FAMILY rule add preference 40 iif tunway0 goto 60 protocol 77",
        "ip FAMILY rule add preference 50 fwmark 0x1000/0x1000 lookup 7702 protocol 77",
        "ip FAMILY rule del preference 0",
        "ip FAMILY rule del preference 105",
    ];
    for count in 0..=steps.len() {
        for then in ["cleanup", "start"] {
            ip("tuntap add dev tunway0 mode tun");
            block_on(async { drop(installed(connmark(), &[]).await) });
            for step in &steps[..count] {
                shell(&["", "-6"].map(|family| step.replace("FAMILY", family)).join("; "));
                assert!(ip("route get 192.168.77.1").contains("dev lo"), "after {step}");
                assert!(ip("-6 route get fd00:77::1").contains("dev lo"), "after {step}");
            }
            if then == "start" {
                block_on(async {
                    let mut host = installed(connmark(), &[]).await;
                    host.serve(&served(&[30_080])).await.unwrap();
                    assert_moved();
                });
            }
            block_on(cleanup(&connmark())).unwrap();
            assert_same(&everything(), &before, &format!("{then} after {count} steps"));
        }
    }
    // Another tunway's rules are not ours to take.
    ip("tuntap add dev tunway0 mode tun");
    block_on(async {
        let mut host = installed(connmark(), &[]).await;
        host.serve(&served(&[30_080])).await.unwrap();
        settle(&mut host).await;
        let good = state();
        cleanup(&HostConfig { device: "tunway9".into(), ..connmark() }).await.unwrap();
        assert_same(&state(), &good, "cleanup of another device");
    });
    block_on(cleanup(&connmark())).unwrap();
    assert_same(&everything(), &before, "at the end");
}

pub(crate) fn nothing_is_lost() {
    enter_with_device();
    // A connection of the host with itself, over its own address, in both families, all the time.
    let stop = Arc::new(AtomicBool::new(false));
    let talkers = ["192.168.77.1:0", "[fd00:77::1]:0"].map(|at| {
        // In this thread's namespace, before another thread has its own.
        let (one, other) = (UdpSocket::bind(at).unwrap(), UdpSocket::bind(at).unwrap());
        one.connect(other.local_addr().unwrap()).unwrap();
        other.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut sent = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                one.send(&sent.to_be_bytes()).map_err(|error| format!("datagram {sent}: {error}"))?;
                let mut got = [0; 4];
                other.recv(&mut got).map_err(|error| format!("datagram {sent} is lost: {error}"))?;
                if got != sent.to_be_bytes() {
                    return Err(format!("datagram {sent} is lost"));
                }
                sent += 1;
            }
            Ok(sent)
        })
    });
    block_on(async {
        let mut host = installed(connmark(), &[]).await;
        for _ in 0..50 {
            host.serve(&served(&[30_080])).await.unwrap();
            host.serve(&LocalFrontends::default()).await.unwrap();
        }
    });
    stop.store(true, Ordering::Relaxed);
    for talker in talkers {
        let sent = talker.join().unwrap().unwrap_or_else(|lost| panic!("{lost}"));
        assert!(sent > 1_000, "only {sent} datagrams");
    }
}
