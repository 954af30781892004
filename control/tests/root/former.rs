//! A host on which an earlier version steered by rules and marks, as it left it: a start replaces that, and cleanup takes
//! it away.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control::node::{HostConfig, LocalFrontends, cleanup};

use crate::host::{
    QUIET, addr, assert_same, block_on, config, conntrack, enter, enter_with_device, everything, installed,
    ip, ip_or_nothing, repair, run, shell, state,
};

/// What it made, in its order, in both families.
const BEGUN: [&str; 6] = [
    "ip FAMILY rule add preference 200 nop protocol 77; ip FAMILY rule add preference 100 iif tunway0 goto 200 protocol 77",
    "ip FAMILY route add default dev tunway0 table 7702 proto 77 mtu 1500",
    "ip FAMILY rule add preference 105 fwmark 0x1000/0x1000 lookup 7702 protocol 77",
    "ip FAMILY route add SNAT dev tunway0 table 7701 proto 77 mtu 1500; \
     ip FAMILY route add CIDR dev tunway0 table 7701 proto 77 mtu 1500",
    "ip FAMILY route add VIP dev tunway0 table 7701 proto 77 mtu 1500",
    "ip FAMILY rule add preference 110 lookup 7701 protocol 77",
];
/// What it made besides when it served addresses of the host.
const MOVED: [&str; 5] = [
    "ip FAMILY rule add preference 60 lookup local protocol 77",
    "ip FAMILY rule add preference 40 iif tunway0 goto 60 protocol 77",
    "ip FAMILY rule add preference 50 fwmark 0x1000/0x1000 lookup 7702 protocol 77",
    "ip FAMILY rule del preference 0",
    "ip FAMILY rule del preference 105",
];
const TABLES: &str = r#"nft -f - <<'END'
table inet tunway {
  set node4 { type ipv4_addr; elements = { 192.168.77.1 } }
  set node6 { type ipv6_addr; elements = { fd00:77::1 } }
  set front4 { type ipv4_addr . inet_proto . inet_service; elements = { 192.168.77.1 . tcp . 443 } }
  set front6 { type ipv6_addr . inet_proto . inet_service; }
  set nodeports { type inet_proto . inet_service; elements = { tcp . 30080 } }
  chain steer { ct state new ip daddr @node4 meta l4proto . th dport @nodeports ct mark set ct mark | 0x2000; }
  chain pre { type filter hook prerouting priority mangle + 10; iifname != "tunway0" jump steer; }
  chain out { type route hook output priority mangle + 10; jump steer; }
  chain clear { type filter hook forward priority mangle + 10; oifname "tunway0" meta mark set meta mark & 0xffffefff; }
  chain leave { type filter hook postrouting priority mangle + 10; }
  chain post { type nat hook postrouting priority srcnat - 10; oifname "tunway0" snat ip to ip saddr; }
  chain in { type nat hook input priority 90; }
}
table bridge tunway {
  chain pre { type filter hook prerouting priority -250; meta mark & 0x1000 == 0x1000 meta pkttype set host; }
}
END"#;

fn carry_out(step: &str) {
    for (family, snat, cidr, vip) in [
        ("-4", "169.254.77.1", "10.96.0.0/12", "203.0.113.10"),
        ("-6", "fd00:fffe:77::1", "fd00:96::/108", "fd00:203::10"),
    ] {
        let words = [("FAMILY", family), ("SNAT", snat), ("CIDR", cidr), ("VIP", vip)];
        shell(&words.iter().fold(step.to_owned(), |step, (name, value)| step.replace(name, value)));
    }
}

/// A host as the earlier version left it.
fn as_it_was_left() {
    ip("link set tunway0 up");
    BEGUN.iter().chain(&MOVED).for_each(|step| carry_out(step));
    shell(TABLES);
}

fn assert_replaced() {
    for family in ["-4", "-6"] {
        let rules = ip(&format!("{family} rule"));
        assert!(rules.starts_with("0:\tfrom all lookup local") && !rules.contains("proto 77"), "{rules}");
        for table in ["7701", "7702"] {
            assert_eq!(ip_or_nothing(&format!("{family} route show table {table}")), "");
        }
    }
    let tables = run("nft", &["list", "tables"]);
    assert!(!tables.lines().any(|line| line.ends_with(" tunway")), "{tables}");
}

pub(crate) fn a_start_replaces_it() {
    enter_with_device();
    as_it_was_left();
    block_on(async {
        let mut host = control::node::Host::install(conntrack()).await.unwrap();
        assert_replaced();
        // What was attracted and served goes on until somebody says what is.
        let now = state();
        for left in ["10.96.0.0/12", "203.0.113.10", "fd00:96::/108", "fd00:203::10", "240.0.0.0/4"] {
            assert!(now.contains(&format!("{left} dev tunway0")), "{left}: {now}");
            assert!(now.contains(&format!("blackhole {left} ")), "{left}: {now}");
        }
        for left in ["tcp . 30080", "192.168.77.1 . tcp . 443", "elements = { fd00:77::1 }"] {
            assert!(now.contains(left), "{left}: {now}");
        }
        host.attract(&[addr("203.0.113.10")].into()).await.unwrap();
        host.serve(&LocalFrontends::default()).await.unwrap();
        let now = state();
        assert!(!now.contains("fd00:203::10") && !now.contains("30080"), "{now}");
        assert_eq!(repair(&mut host, QUIET).await, None);
        drop(host);
        // The return path by masquerade replaces it as well.
        cleanup(&conntrack()).await.unwrap();
        ip("tuntap add dev tunway0 mode tun");
        as_it_was_left();
        let _host = installed(config(), &["203.0.113.10"]).await;
        assert_replaced();
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

/// Whether it was killed in the middle, and whoever comes next.
pub(crate) fn every_step_has_a_way_back() {
    enter();
    let before = everything();
    let steps: Vec<&str> = BEGUN.into_iter().chain(MOVED).collect();
    for count in 0..=steps.len() {
        for then in ["cleanup", "start"] {
            ip("tuntap add dev tunway0 mode tun");
            ip("link set tunway0 up");
            steps[..count].iter().for_each(|step| carry_out(step));
            shell(if count % 2 == 1 { TABLES } else { "true" });
            assert!(ip("route get 192.168.77.1").contains("dev lo"), "after {count} steps");
            if then == "start" {
                block_on(async { drop(installed(conntrack(), &[]).await) });
                assert_replaced();
            }
            block_on(cleanup(&conntrack())).unwrap();
            assert_same(&everything(), &before, &format!("{then} after {count} steps"));
        }
    }
    // What another tunway left, by its rules, is not ours to take.
    ip("tuntap add dev tunway0 mode tun");
    as_it_was_left();
    let good = state();
    block_on(cleanup(&HostConfig { device: "tunway9".into(), ..conntrack() })).unwrap();
    assert_same(&state(), &good, "cleanup of another device");
    block_on(cleanup(&conntrack())).unwrap();
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
    for _ in 0..20 {
        as_it_was_left();
        block_on(async { drop(installed(conntrack(), &["203.0.113.10"]).await) });
        assert_replaced();
    }
    stop.store(true, Ordering::Relaxed);
    for talker in talkers {
        let sent = talker.join().unwrap().unwrap_or_else(|lost| panic!("{lost}"));
        assert!(sent > 1_000, "only {sent} datagrams");
    }
}
