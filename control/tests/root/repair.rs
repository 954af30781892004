//! What comes back, how soon, and what is left alone.

use std::time::{Duration, SystemTime};

use control::node::NodeError;

use crate::host::{
    QUIET, REPAIRED, assert_same, block_on, config, enter_with_device, installed, ip, repair, shell, state,
    until,
};

pub(crate) fn whatever_is_taken_away_comes_back() {
    enter_with_device();
    block_on(async {
        let mut host = installed(config(), &["203.0.113.10", "fd00:203::10"]).await;
        assert_eq!(repair(&mut host, QUIET).await, None, "what we made ourselves is nothing to repair");
        let good = state();
        let mut slowest = Duration::ZERO;
        for (damage, told) in [
            ("ip route del 10.96.0.0/12 dev tunway0 table local", "route 10.96.0.0/12"),
            ("ip route del 10.200.0.1 dev tunway0 table local", "route 10.200.0.1/32"),
            ("ip route del 203.0.113.10 dev tunway0 table local", "route 203.0.113.10/32"),
            ("ip -6 route del fd00:96::/108 dev tunway0 table local", "route fd00:96::/108"),
            ("ip -6 route del fd00:203::10 dev tunway0 table local", "route fd00:203::10/128"),
            (
                "ip route del blackhole 10.96.0.0/12 table local metric 4000000",
                "route blackhole 10.96.0.0/12",
            ),
            (
                "ip -6 route del blackhole fd00:203::10 table local metric 4000000",
                "route blackhole fd00:203::10/128",
            ),
            ("ip route replace 10.96.0.0/12 via 192.168.77.254 proto 77 table local", "route 10.96.0.0/12"),
            ("ip route replace blackhole 203.0.113.10 proto 77 table local", "route 203.0.113.10/32"),
            ("ip route change 10.96.0.0/12 dev tunway0 proto 77 table local mtu 1400", "route 10.96.0.0/12"),
            ("ip route add 198.18.0.0/15 dev tunway0 proto 77 table local", "no route 198.18.0.0/15"),
            (
                "ip route add blackhole 198.18.0.0/15 proto 77 table local metric 4000000",
                "no route blackhole 198.18.0.0/15",
            ),
            ("ip route flush table local proto 77", "route 10.200.0.1/32"),
            ("ip -6 route flush table local proto 77", "route fd00:fffe:77::1/128"),
            ("ip addr del 169.254.77.2/32 dev tunway0", "tunway0: address 169.254.77.2/32"),
            ("ip addr flush dev tunway0", "tunway0: address 169.254.77.2/32"),
            ("ip link set tunway0 down", "tunway0: up"),
            ("ip link set tunway0 mtu 1500", "tunway0: mtu 65535"),
            ("ip link set tunway0 txqueuelen 10", "tunway0: txqueuelen 1000"),
            ("echo 0 > /proc/sys/net/ipv4/conf/tunway0/rp_filter", "net.ipv4.conf.tunway0.rp_filter=2"),
            (
                "echo 1 > /proc/sys/net/ipv4/conf/tunway0/ignore_routes_with_linkdown",
                "net.ipv4.conf.tunway0.ignore_routes_with_linkdown=0",
            ),
            ("ip link set tunway0 addrgenmode eui64", "net.ipv6.conf.tunway0.addr_gen_mode=1"),
        ] {
            shell(damage);
            let start = SystemTime::now();
            let done =
                repair(&mut host, REPAIRED).await.unwrap_or_else(|| panic!("no repair after: {damage}"));
            slowest = slowest.max(start.elapsed().unwrap_or_default());
            assert!(done.iter().any(|text| text.starts_with(told)), "{damage}: {done:?}");
            assert_same(&state(), &good, damage);
            assert_eq!(
                repair(&mut host, Duration::from_millis(120)).await,
                None,
                "a repair is no damage: {damage}"
            );
        }
        println!("slowest repair: {slowest:?}");

        // Not announced by the kernel: found by looking.
        shell("echo 0 > /proc/sys/net/ipv4/conf/tunway0/accept_local");
        let done = repair(&mut host, Duration::from_secs(8)).await.expect("the next look finds it");
        assert_eq!(done, ["net.ipv4.conf.tunway0.accept_local=1"]);
        assert_same(&state(), &good, "afterwards");

        // All at once.
        shell(
            "ip link set tunway0 down; ip route flush table local proto 77; ip -6 route flush table local proto 77; \
             ip addr flush dev tunway0",
        );
        let mut done = repair(&mut host, REPAIRED).await.expect("a repair");
        // On a slow machine the first look may come in the middle of it.
        while state() != good {
            done.extend(repair(&mut host, REPAIRED).await.expect("a repair of the rest"));
        }
        assert!(done.len() >= 8, "{done:?}");
    });
}

pub(crate) fn routes_follow_the_nodes_address() {
    enter_with_device();
    block_on(async {
        let mut host = installed(config(), &["203.0.113.10"]).await;
        for (change, source, family) in [
            (
                "ip addr add 192.168.77.5/24 dev eth0; ip route replace default via 192.168.77.254 src 192.168.77.5",
                "192.168.77.5",
                "-4",
            ),
            (
                "ip -6 addr add fd00:77::5/64 dev eth0 nodad; ip -6 addr del fd00:77::1/64 dev eth0",
                "fd00:77::5",
                "-6",
            ),
            ("ip addr flush dev eth0 scope global; ip addr add 10.7.0.1/16 dev eth0", "10.7.0.1", "-4"),
        ] {
            shell(change);
            let prefix = if family == "-4" { "10.96.0.0/12" } else { "fd00:96::/108" };
            let route = format!("{family} route show {prefix} table local proto 77");
            until(&mut host, change, || ip(&route).contains(&format!("src {source} "))).await;
        }
        let route = || ip("route show 10.96.0.0/12 table local proto 77");
        // A host without any address: no source, and still a route.
        shell("ip addr flush dev eth0 scope global");
        until(&mut host, "no source", || route().contains("dev tunway0") && !route().contains("src")).await;
        // A larger way out is a larger MTU.
        shell("ip addr add 192.168.77.1/24 dev eth0; ip link set wire0 mtu 9000; ip link set eth0 mtu 9000");
        let larger = || route().contains("src 192.168.77.1") && route().contains("mtu 9000");
        until(&mut host, "a larger MTU", larger).await;
    });
}

pub(crate) fn a_dropped_future_still_repairs() {
    enter_with_device();
    block_on(async {
        let mut host = installed(config(), &[]).await;
        while repair(&mut host, QUIET).await.is_some() {}
        shell("ip route flush table local proto 77; ip addr flush dev tunway0");
        // A control loop that is busy with something else every millisecond.
        let start = SystemTime::now();
        let mut drops = 0;
        let done = loop {
            match repair(&mut host, Duration::from_millis(1)).await {
                Some(done) => break done,
                None => drops += 1,
            }
            assert!(start.elapsed().unwrap_or_default() < REPAIRED, "starved after {drops} drops");
        };
        assert!(drops > 5, "{drops}");
        assert!(
            done.iter().any(|text| text.contains("169.254.77.2"))
                && done.iter().any(|text| text.contains("10.96"))
        );
    });
}

pub(crate) fn what_could_not_be_attracted_is_tried_again() {
    enter_with_device();
    block_on(async {
        let vips = std::collections::BTreeSet::from([crate::host::addr("203.0.113.10")]);
        let mut host = installed(config(), &[]).await;
        ip("link del tunway0");
        assert!(matches!(host.attract(&vips).await, Err(NodeError::NoDevice { .. })));
        ip("tuntap add dev tunway0 mode tun");
        host.attract(&vips).await.expect("the device is back");
        assert!(
            ip("route show table local proto 77").contains("203.0.113.10 dev tunway0"),
            "the same addresses again"
        );
    });
}

pub(crate) fn changes_not_ours_are_left() {
    enter_with_device();
    block_on(async {
        let mut host = installed(config(), &[]).await;
        while repair(&mut host, QUIET).await.is_some() {}
        for change in [
            "ip route add 198.18.0.0/15 via 192.168.77.254",
            "ip rule add preference 500 from 10.0.0.0/8 lookup main",
            "ip route add 198.18.5.0/24 via 192.168.77.254 table local",
            "ip link add br9 type bridge; ip link set br9 up",
            "ip addr add 10.55.0.1/24 dev br9",
        ] {
            let before = ip("route show table local proto 77");
            shell(change);
            assert_eq!(repair(&mut host, QUIET).await, None, "{change}");
            let after = ip("route show table local proto 77");
            assert!(before.lines().all(|line| after.contains(line)), "{change}");
        }
        assert!(ip("rule").contains("500:") && ip("route show table local").contains("198.18.5.0/24"));
    });
}

pub(crate) fn a_deleted_device_is_an_error() {
    enter_with_device();
    block_on(async {
        let mut host = installed(config(), &[]).await;
        ip("link del tunway0");
        let error = tokio::time::timeout(REPAIRED, host.repair()).await.expect("it is noticed").unwrap_err();
        assert!(matches!(&error, NodeError::NoDevice { device } if device == "tunway0"), "{error}");
    });
}
