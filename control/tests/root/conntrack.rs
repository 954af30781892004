//! The return path by connection tracking: what is made, whose it is, that it follows the host, and goes again.

use std::fs;
use std::time::Duration;

use control::node::{Host, HostConfig, cleanup};

use crate::host::{
    QUIET, addr, assert_same, block_on, conntrack, enter, enter_with_device, everything, installed, ip,
    repair, run, shell, state, until,
};

pub(crate) fn the_plan_is_exactly_this() {
    enter_with_device();
    block_on(async {
        let rules = ["-4", "-6"].map(|family| ip(&format!("{family} rule")));
        let mut host = Host::install(conntrack()).await.unwrap();
        assert!(!state().contains("10.96.0.0/12"), "nothing is attracted yet: {}", state());
        host.attract(&["203.0.113.10", "fd00:203::10"].map(addr).into()).await.unwrap();
        assert_eq!(["-4", "-6"].map(|family| ip(&format!("{family} rule"))), rules, "no rule is made");
        for (family, destinations) in [
            ("-4", &["10.96.0.0/12", "203.0.113.10", "169.254.77.1", "240.0.0.0/4"][..]),
            ("-6", &["fd00:96::/108", "fd00:203::10", "fd00:fffe:77::1", "6000::/3", "8000::/3", "a000::/3"]),
        ] {
            let source = if family == "-4" { "src 192.168.77.1" } else { "src fd00:77::1" };
            let routes = ip(&format!("{family} route show table local proto 77")).replace("linkdown ", "");
            let count = |what: &str| routes.lines().filter(|line| line.contains(what)).count();
            assert_eq!((count(""), count("metric 4000000")), (2 * destinations.len(), destinations.len()));
            for to in destinations {
                let routed = |line: &&str| line.starts_with(&format!("{to} dev tunway0 "));
                let route = routes.lines().find(routed).unwrap_or_else(|| panic!("no {to} in\n{routes}"));
                assert!(route.contains(source) && route.contains("mtu 1500"), "{route}");
                assert!(routes.contains(&format!("blackhole {to} ")), "{to}: {routes}");
            }
        }
        // Where an alias goes, and where nothing leaks while the device is away.
        let way = ip("route get 250.51.100.9 from 192.168.77.9 iif eth0");
        assert!(way.contains("dev tunway0") && way.contains("mtu 1500"), "{way}");
        let way = ip("-6 route get bd00:5::9");
        assert!(way.contains("dev tunway0"), "{way}");

        let tables = run("nft", &["list", "ruleset"]);
        for line in [
            "table inet tunway_alias {",
            "type filter hook prerouting priority raw - 1; policy accept;",
            "type filter hook prerouting priority raw + 10; policy accept;",
            "type filter hook prerouting priority dstnat + 10; policy accept;",
            "type route hook output priority -90; policy accept;",
            "type nat hook postrouting priority srcnat - 10; policy accept;",
            "type nat hook input priority 90; policy accept;",
            "iifname \"tunway0\" ct original zone set 7701",
            "iifname != \"tunway0\" jump steer",
            "iifname \"tunway0\" oifname \"tunway0\" drop",
            "jump alias",
            "@node4",
            "@front6",
            "@kept4",
            "set rt mtu",
            "masquerade to :1024-29999",
            "masquerade to :32768-65535",
        ] {
            assert!(tables.contains(line), "{line} is not in\n{tables}");
        }
        assert!(!tables.contains("table bridge") && !tables.contains("mark"), "{tables}");
        assert_eq!(tables.matches("table ").count(), 1, "{tables}");
        for (setting, value) in [
            ("nf_conntrack_tcp_be_liberal", "1"),
            ("nf_conntrack_tcp_timeout_close_wait", "3600"),
            ("nf_conntrack_tcp_timeout_established", "86400"),
        ] {
            let now = fs::read_to_string(format!("/proc/sys/net/netfilter/{setting}")).unwrap();
            assert_eq!(now.trim(), value, "{setting}");
        }
        assert_eq!(repair(&mut host, Duration::from_millis(700)).await, None, "and is left alone");
    });
}

pub(crate) fn whatever_is_taken_away_comes_back() {
    enter_with_device();
    block_on(async {
        let mut host = installed(conntrack(), &["203.0.113.10"]).await;
        while repair(&mut host, Duration::from_millis(700)).await.is_some() {}
        let good = state();
        for (damage, told) in [
            ("ip route del 240.0.0.0/4 dev tunway0 table local", "route 240.0.0.0/4"),
            ("ip -6 route del a000::/3 dev tunway0 table local", "route a000::/3"),
            ("ip -6 route del blackhole 6000::/3 table local metric 4000000", "route blackhole 6000::/3"),
            ("ip route flush table local proto 77", "route blackhole 169.254.77.1/32"),
            ("ip link set tunway0 down", "tunway0: up"),
        ] {
            shell(damage);
            let done = until(&mut host, damage, || state() == good).await;
            let more = repair(&mut host, QUIET).await.unwrap_or_default();
            assert!(
                done.iter().chain(&more).any(|text| text.starts_with(told)),
                "{damage}: {told} is not in {done:?}"
            );
            assert_same(&state(), &good, damage);
        }
        // Not announced by the kernel: found by looking.
        shell("echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal");
        let done = repair(&mut host, Duration::from_secs(8)).await.expect("the next look finds it");
        assert_eq!(done, ["net.netfilter.nf_conntrack_tcp_be_liberal=1"]);
    });
}

/// As long as its owner lives nobody else can change the table, and a second process is told whose it is.
pub(crate) fn the_table_has_an_owner() {
    enter_with_device();
    block_on(async {
        let mut host = installed(conntrack(), &["203.0.113.10"]).await;
        while repair(&mut host, Duration::from_millis(700)).await.is_some() {}
        let before = (state(), handles());
        shell("nft add table inet other; nft flush ruleset");
        assert_eq!(handles(), before.1, "it is the same table, not the like; the other one is gone");
        for damage in [
            "nft delete table inet tunway_alias",
            "nft flush chain inet tunway_alias steer",
            "nft add rule inet tunway_alias steer accept",
            "nft add element inet tunway_alias nodeports '{ tcp . 30000 }'",
        ] {
            shell(&format!("! {damage} 2>/dev/null"));
        }
        assert_same(&state(), &before.0, "nobody else can change it");
        let refused = Host::install(conntrack()).await.unwrap_err().to_string();
        assert!(refused.contains("tunway_alias belongs to another process"), "{refused}");
        assert_same(&state(), &before.0, "a second process changes nothing");
        // Left by its owner it is anybody's, until the next one adopts it.
        drop(host);
        shell("nft flush ruleset");
        assert_eq!(run("nft", &["list", "ruleset"]), "");
        drop(installed(conntrack(), &["203.0.113.10"]).await);
        assert_same(&state(), &before.0, "after a restart");
    });
}

pub(crate) fn rules_follow_the_nodes_address() {
    enter_with_device();
    block_on(async {
        let mut host = installed(conntrack(), &[]).await;
        while repair(&mut host, QUIET).await.is_some() {}
        shell(
            "ip addr add 192.168.77.5/24 dev eth0; \
             ip route replace default via 192.168.77.254 src 192.168.77.5; ip link set eth0 mtu 1400; \
             ip link set wire0 mtu 1400; ip -6 addr add fd00:77::5/64 dev eth0 nodad; ip -6 addr del fd00:77::1/64 dev eth0",
        );
        until(&mut host, "routes and rules have the new addresses", || {
            let (tables, state) = (run("nft", &["list", "ruleset"]), state());
            tables.contains("192.168.77.5")
                && tables.contains("fd00:77::5")
                && !state.contains("mtu 1500")
                && state.contains("src 192.168.77.5")
                && state.contains("src fd00:77::5")
        })
        .await;
        // Without any address of a family its rules stay, but for the one that needs it.
        shell("ip -6 addr flush dev eth0 scope global");
        until(&mut host, "a rule without its address goes", || {
            !run("nft", &["list", "ruleset"]).contains("fd00:77::5")
        })
        .await;
        assert!(run("nft", &["list", "ruleset"]).contains("fd00:fffe:77::1"));
    });
}

pub(crate) fn bridges_need_no_rules() {
    enter_with_device();
    block_on(async {
        let mut host = installed(conntrack(), &[]).await;
        while repair(&mut host, QUIET).await.is_some() {}
        let before = handles();
        shell(
            "ip link add cni0 type bridge; ip link set cni0 up; ip link add va type veth peer name va1; ip link set va master cni0 up",
        );
        assert_eq!(repair(&mut host, Duration::from_millis(700)).await, None);
        assert_eq!(handles(), before, "a bridge and its ports change nothing");
    });
}

pub(crate) fn no_program_is_needed() {
    enter_with_device();
    block_on(async {
        drop(installed(conntrack(), &["203.0.113.10"]).await);
        let ours =
            || state().lines().filter(|line| !line.contains("NO-CARRIER")).collect::<Vec<_>>().join("\n");
        let with = ours();
        cleanup(&conntrack()).await.unwrap();
        ip("tuntap add dev tunway0 mode tun");
        // A device node where the program was: no program.
        let hidden = crate::conntrack_preflight::hide_nft();
        drop(installed(conntrack(), &["203.0.113.10"]).await);
        crate::conntrack_preflight::show_nft(&hidden);
        assert_same(&ours(), &with, "without the program nft");
        crate::conntrack_preflight::hide_nft();
        let removed = cleanup(&conntrack()).await.unwrap();
        assert!(removed.iter().any(|text| text == "nft table inet tunway_alias"), "{removed:?}");
    });
}

pub(crate) fn cleanup_leaves_nothing() {
    enter();
    shell(
        "ip link add cni0 address 02:00:00:00:00:01 type bridge; ip link set cni0 up; nft add table inet mine
         nft 'add chain inet mine f { type filter hook forward priority 0; policy accept; }'
         iptables -t mangle -A PREROUTING -j MARK --set-xmark 0x4000/0x4000",
    );
    let before = everything();
    for damage in [
        "true",
        "nft delete table inet tunway_alias",
        "nft flush table inet tunway_alias",
        "ip route flush table local proto 77",
        "ip route del blackhole 240.0.0.0/4 table local",
        "ip link del tunway0",
    ] {
        ip("tuntap add dev tunway0 mode tun");
        block_on(async { drop(installed(conntrack(), &["203.0.113.10"]).await) });
        shell(damage);
        // Whatever the configuration says now: that of masquerading takes it away too.
        let config = if damage == "true" { conntrack() } else { crate::host::config() };
        let removed = block_on(cleanup(&config)).unwrap();
        if damage == "true" {
            let at = |what: &str| {
                let found = removed.iter().position(|text| text.starts_with(what));
                found.unwrap_or_else(|| panic!("{what}: {removed:?}"))
            };
            let order = ["route 10.96.0.0/12", "nft table inet tunway_alias", "device"];
            assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{removed:?}");
        }
        assert_same(&everything(), &before, damage);
    }
    assert_eq!(block_on(cleanup(&conntrack())).unwrap(), [""; 0], "there is nothing any more");

    // What is another tunway's is not ours to take.
    ip("tuntap add dev tunway0 mode tun");
    block_on(async { drop(installed(conntrack(), &[]).await) });
    let other = HostConfig { device: "tunway9".into(), ..conntrack() };
    assert_eq!(block_on(cleanup(&other)).unwrap(), [""; 0]);
    block_on(cleanup(&conntrack())).unwrap();
    assert_same(&everything(), &before, "at the end");
}

fn handles() -> String {
    run("nft", &["-a", "list", "ruleset"])
}
