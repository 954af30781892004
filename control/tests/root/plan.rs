//! What is made.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use control::node::{Host, NodeError};
use nix::mount::{MsFlags, mount};

use crate::host::{
    addr, assert_same, block_on, config, enter_with_device, installed, ip, run, state, sysctl, until,
};

pub(crate) fn install_and_attract_make_exactly_the_plan() {
    enter_with_device();
    block_on(async {
        let kernels = ["-4", "-6"].map(|family| ip(&format!("{family} rule")));
        let mut host = Host::install(config()).await.unwrap();
        assert_eq!(
            routes("-4"),
            ["10.200.0.1 scope link src 192.168.77.1 mtu 1500", "blackhole 10.200.0.1 metric 4000000"]
        );
        assert_eq!(
            routes("-6"),
            [
                "blackhole fd00:fffe:77::1 dev lo metric 4000000 pref medium",
                "fd00:fffe:77::1 src fd00:77::1 metric 1024 mtu 1500 pref medium",
            ]
        );
        let link = ip("-o link show tunway0");
        assert!(link.contains("mtu 65535") && link.contains("qlen 1000") && link.contains("UP"), "{link}");
        assert_eq!(
            ip("-4 -o addr show tunway0").split_whitespace().collect::<Vec<_>>()[1..6].join(" "),
            "tunway0 inet 169.254.77.2/32 scope host"
        );
        assert_eq!(ip("-6 -o addr show tunway0"), "", "no link-local address, no router solicitations");
        for (setting, value) in [
            ("ipv4/conf/tunway0/rp_filter", "2"),
            ("ipv4/conf/tunway0/accept_local", "1"),
            ("ipv4/conf/tunway0/send_redirects", "0"),
            ("ipv4/conf/tunway0/forwarding", "1"),
            ("ipv6/conf/tunway0/accept_ra", "0"),
            ("ipv6/conf/tunway0/addr_gen_mode", "1"),
        ] {
            assert_eq!(
                std::fs::read_to_string(format!("/proc/sys/net/{setting}")).unwrap().trim(),
                value,
                "{setting}"
            );
        }

        let vips = ["10.96.0.10", "203.0.113.10", "fd00:203::10"].map(addr).into();
        host.attract(&vips).await.unwrap();
        assert_eq!(["-4", "-6"].map(|family| ip(&format!("{family} rule"))), kernels, "not a rule is made");
        assert_eq!(run("nft", &["list", "ruleset"]), "", "nor a table");
        assert_eq!(
            routes("-4"),
            [
                "10.200.0.1 scope link src 192.168.77.1 mtu 1500",
                "10.96.0.0/12 scope link src 192.168.77.1 mtu 1500",
                "203.0.113.10 scope link src 192.168.77.1 mtu 1500",
                "blackhole 10.200.0.1 metric 4000000",
                "blackhole 10.96.0.0/12 metric 4000000",
                "blackhole 203.0.113.10 metric 4000000",
            ]
        );
        assert_eq!(
            routes("-6"),
            [
                "blackhole fd00:203::10 dev lo metric 4000000 pref medium",
                "blackhole fd00:96::/108 dev lo metric 4000000 pref medium",
                "blackhole fd00:fffe:77::1 dev lo metric 4000000 pref medium",
                "fd00:203::10 src fd00:77::1 metric 1024 mtu 1500 pref medium",
                "fd00:96::/108 src fd00:77::1 metric 1024 mtu 1500 pref medium",
                "fd00:fffe:77::1 src fd00:77::1 metric 1024 mtu 1500 pref medium",
            ]
        );
        // What the host would do: its own packets come in with its address and the path's MTU, others' come in, too.
        let way = ip("route get 10.96.0.10");
        assert!(way.contains("dev tunway0 src 192.168.77.1") && way.contains("mtu 1500"), "{way}");
        let way = ip("-6 route get fd00:96::10");
        assert!(way.contains("dev tunway0") && way.contains("src fd00:77::1"), "{way}");
        let way = ip("route get 10.96.0.10 from 192.168.77.9 iif eth0");
        assert!(way.contains("dev tunway0"), "{way}");
        let way = ip("route get 192.0.2.77");
        assert!(way.contains("via 192.168.77.254 dev eth0"), "everything else goes as before: {way}");
    });
}

pub(crate) fn a_restart_finds_everything_in_place() {
    enter_with_device();
    block_on(async {
        let vips = ["203.0.113.10", "203.0.113.11"];
        let first = installed(config(), &vips).await;
        let before = state();
        assert!(before.contains("203.0.113.11"), "{before}");
        // The process is gone; the device has no carrier and everything stays, also the routes.
        drop(first);
        assert_same(&state(), &before, "afterwards");
        assert!(
            ip("route get 10.96.0.10").contains("dev tunway0"),
            "nothing leaks to the default gateway meanwhile"
        );

        let mut second = Host::install(config()).await.unwrap();
        assert_same(&state(), &before, "installing does not take away what attracts");
        second.attract(&vips.map(addr).into()).await.unwrap();
        assert_same(&state(), &before, "afterwards");
        drop(second);
        // What went away while nobody ran goes now.
        let mut third = Host::install(config()).await.unwrap();
        third.attract(&["203.0.113.10"].map(addr).into()).await.unwrap();
        assert_eq!(
            state(),
            before.lines().filter(|line| !line.contains("203.0.113.11")).collect::<Vec<_>>().join("\n")
        );
    });
}

pub(crate) fn virtual_addresses_come_and_go() {
    enter_with_device();
    block_on(async {
        let mut host = installed(config(), &["203.0.113.10"]).await;
        let vips = |list: &[&str]| -> BTreeSet<IpAddr> { list.iter().map(|vip| addr(vip)).collect() };
        // One of this host's own addresses gets no route, wherever it comes from.
        host.attract(&vips(&["203.0.113.11", "192.168.77.1", "fd00:77::1", "10.96.0.9"])).await.unwrap();
        let now = routes("-4");
        assert!(now.iter().any(|route| route.starts_with("203.0.113.11 ")), "{now:?}");
        assert_eq!(now.len(), 6, "{now:?}");
        assert_eq!(routes("-6").len(), 4);
        // It gets one as soon as the host has lost the address.
        ip("addr add 203.0.113.12/32 dev eth0");
        host.attract(&vips(&["203.0.113.12"])).await.unwrap();
        assert_eq!(routes("-4").len(), 4);
        ip("addr del 203.0.113.12/32 dev eth0");
        until(&mut host, "a route", || routes("-4").len() == 6).await;
        assert!(routes("-4").iter().any(|route| route.starts_with("203.0.113.12 ")));
        host.attract(&BTreeSet::new()).await.unwrap();
        assert_eq!((routes("-4").len(), routes("-6").len()), (4, 4), "CIDRs and SNAT addresses stay");
    });
}

pub(crate) fn a_host_without_ipv6_gets_ipv4_only() {
    enter_with_device();
    sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    block_on(async {
        let mut host = installed(config(), &["203.0.113.10", "fd00:203::10"]).await;
        assert_eq!(routes("-4").len(), 6);
        assert_eq!(routes("-6"), [""; 0], "not a route in a family that is off");
        assert_eq!(crate::host::repair(&mut host, crate::host::QUIET).await, None, "and none is missed");
    });
}

pub(crate) fn a_read_only_proc_sys_is_no_obstacle() {
    enter_with_device();
    let nothing = None::<&str>;
    mount(Some("/proc/sys"), "/proc/sys", nothing, MsFlags::MS_BIND, nothing).unwrap();
    mount(
        nothing,
        "/proc/sys",
        nothing,
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
        nothing,
    )
    .unwrap();
    assert!(std::fs::write("/proc/sys/net/ipv4/conf/tunway0/rp_filter", "0").is_err(), "it is read-only");
    block_on(async {
        let mut host = installed(config(), &[]).await;
        for (setting, value) in [("rp_filter", "2"), ("accept_local", "1"), ("send_redirects", "0")] {
            let now = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/tunway0/{setting}")).unwrap();
            assert_eq!(now.trim(), value, "{setting}");
        }
        assert_eq!(crate::host::repair(&mut host, crate::host::QUIET).await, None);
    });
}

pub(crate) fn snat_addresses_that_cannot_work_are_refused() {
    enter_with_device();
    ip("addr add 192.168.88.1/24 brd + dev eth0");
    let before = state();
    for (snat, because) in [
        ("192.168.77.1", "is an address of eth0"),
        ("192.168.77.9", "on-link behind eth0"),
        ("192.168.88.255", "is the broadcast address of eth0"),
        ("10.96.7.7", "Service CIDR"),
        ("fd00:77::9", "on-link behind eth0"),
        ("127.1.1.1", "not a unicast address"),
    ] {
        let mut config = config();
        config.snat = vec![addr(snat)];
        let error = block_on(Host::install(config)).unwrap_err();
        assert!(matches!(&error, NodeError::Snat { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(because) && text.contains("choose `snatAddress`"), "{snat}: {text}");
    }
    let mut two = config();
    two.snat = vec![addr("10.200.0.1"), addr("10.200.0.2")];
    assert!(block_on(Host::install(two)).unwrap_err().to_string().contains("second one"));
    assert_same(&state(), &before, "a refused installation changes nothing");
}

pub(crate) fn thousands_of_virtual_addresses() {
    enter_with_device();
    block_on(async {
        let mut host = installed(config(), &[]).await;
        let many: BTreeSet<IpAddr> =
            (0..5_000u32).map(|n| IpAddr::from((0xC633_0000 + n).to_be_bytes())).collect();
        let timed = async |host: &mut Host, vips: &BTreeSet<IpAddr>| {
            let start = SystemTime::now();
            host.attract(vips).await.unwrap();
            start.elapsed().unwrap_or_default()
        };
        let all = timed(&mut host, &many).await;
        assert_eq!(routes("-4").len(), 2 * 5_002);
        let mut one_more = many.clone();
        one_more.insert(addr("203.0.113.1"));
        let one = timed(&mut host, &one_more).await;
        let none = timed(&mut host, &one_more).await;
        println!("5,000 virtual addresses: all {all:?}, one more {one:?}, no change {none:?}");
        assert!(all < Duration::from_secs(10) && one < Duration::from_secs(2), "{all:?}, {one:?}");
        // A look at them all costs no repair, and what is deleted among them comes back.
        assert_eq!(crate::host::repair(&mut host, crate::host::QUIET).await, None);
        ip("route flush table local proto 77");
        let done = crate::host::repair(&mut host, Duration::from_secs(10)).await.expect("a repair");
        assert!(!done.is_empty());
        until(&mut host, "all are back", || routes("-4").len() == 2 * 5_003).await;
    });
}

/// Ours in the local table, sorted, without the words all routes share.
fn routes(family: &str) -> Vec<String> {
    let text = ip(&format!("{family} route show table local proto 77"));
    let mut routes: Vec<String> =
        text.lines().map(|line| words(&line.replace("dev tunway0", "").replace("linkdown", ""))).collect();
    routes.sort();
    routes
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
