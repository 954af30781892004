//! The return path by connection marks: what is made, that it comes back, follows the host, and goes again.

use std::fs;
use std::time::Duration;

use control::node::{Host, HostConfig, Marks, Steering, cleanup};

use crate::host::{
    QUIET, REPAIRED, assert_same, block_on, connmark, enter, enter_with_device, everything, installed, ip,
    ip_or_nothing, repair, run, shell, state,
};

pub(crate) fn the_plan_is_exactly_this() {
    enter_with_device();
    block_on(async {
        let mut host = Host::install(connmark()).await.unwrap();
        for family in ["-4", "-6"] {
            let rules = ip(&format!("{family} rule"));
            assert!(!rules.contains("lookup 7701"), "nothing is attracted yet: {rules}");
            let marked = rules.lines().find(|line| line.starts_with("105:")).unwrap_or_default().to_owned();
            assert!(marked.contains("fwmark 0x1000/0x1000 lookup 7702 proto 77"), "{rules}");
        }
        host.attract(&["203.0.113.10", "fd00:203::10"].map(crate::host::addr).into()).await.unwrap();
        let way = ip("route show table 7702").replace("linkdown ", "");
        assert!(
            way.starts_with("default dev tunway0 proto 77 scope link src 192.168.77.1 mtu 1500"),
            "{way}"
        );
        let way = ip("-6 route show table 7702").replace("linkdown ", "");
        assert!(
            way.starts_with("default dev tunway0 proto 77 src fd00:77::1") && way.contains("mtu 1500"),
            "{way}"
        );
        assert!(ip("route show table 7701").contains("169.254.77.1 dev tunway0"));
        assert!(ip("-6 route show table 7701").contains("fd00:fffe:77::1 dev tunway0"));
        // What a marked packet does, and one the device emitted.
        let way = ip("route get 198.51.100.9 mark 0x1000");
        assert!(way.contains("dev tunway0 table 7702") && way.contains("mtu 1500"), "{way}");
        let way = ip("route get 198.51.100.9 mark 0x5001");
        assert!(way.contains("dev tunway0 table 7702"), "other people's bits beside ours: {way}");
        let way = ip("route get 198.51.100.9 from 203.0.113.77 iif tunway0 mark 0x1000");
        assert!(way.contains("via 192.168.77.254 dev eth0"), "never back to us: {way}");
        let way = ip("-6 route get fd00:5::9 mark 0x1000");
        assert!(way.contains("dev tunway0 table 7702"), "{way}");

        let tables = run("nft", &["list", "ruleset"]);
        for line in [
            "ct state new ip daddr @node4 meta l4proto . th dport @nodeports ct mark set ct mark | 0x00002000",
            "ct state new ip6 daddr . meta l4proto . th dport @front6 ct mark set ct mark | 0x00002000",
            "ct direction original ct mark & 0x00002000 == 0x00002000 meta mark set meta mark | 0x00001000",
            "ct direction reply ct mark & 0x00001000 == 0x00001000 meta mark set meta mark | 0x00001000",
            "type filter hook prerouting priority mangle + 10; policy accept;",
            "iifname \"tunway0\" ct direction original ct mark set ct mark | 0x00001000",
            "iifname != \"tunway0\" jump steer",
            "type route hook output priority mangle + 10; policy accept;",
            "oifname \"tunway0\" meta mark set meta mark & 0xffffefff",
            "oifname \"tunway0\" tcp flags syn / syn,rst tcp option maxseg size set rt mtu",
            "type nat hook postrouting priority srcnat - 10; policy accept;",
            "oifname \"tunway0\" snat ip to ip saddr",
            "oifname \"tunway0\" snat ip6 to ip6 saddr",
            "ip saddr 169.254.77.1 meta l4proto { tcp, udp, sctp } numgen random mod 2 0 masquerade to :1024-29999 fully-random",
            "ip saddr 169.254.77.1 meta l4proto { tcp, udp, sctp } masquerade to :32768-65535 fully-random",
            "ip saddr 169.254.77.1 masquerade fully-random",
            "ip6 saddr fd00:fffe:77::1 meta l4proto { tcp, udp, sctp } numgen random mod 2 0 masquerade to :1024-29999 fully-random",
            "ip6 saddr fd00:fffe:77::1 meta l4proto { tcp, udp, sctp } masquerade to :32768-65535 fully-random",
            "ip6 saddr fd00:fffe:77::1 masquerade fully-random",
            "type nat hook input priority 90; policy accept;",
            "iifname \"tunway0\" ip saddr 169.254.77.1 snat ip to 192.168.77.1",
            "iifname \"tunway0\" ip6 saddr fd00:fffe:77::1 snat ip6 to fd00:77::1",
        ] {
            assert!(tables.contains(line), "{line} is not in\n{tables}");
        }
        assert!(!tables.contains("table bridge"), "there is no bridge: {tables}");
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
    shell("ip link add cni0 type bridge; ip link set cni0 up");
    block_on(async {
        let mut host = installed(connmark(), &["203.0.113.10"]).await;
        while repair(&mut host, Duration::from_millis(700)).await.is_some() {}
        let good = state();
        assert!(good.contains("table bridge tunway"), "{good}");
        let inet = "nft table inet tunway";
        for (damage, told) in [
            ("ip rule del preference 105", "rule 105: fwmark 0x1000/0x1000 lookup 7702 (IPv4)"),
            ("ip -6 rule del preference 105", "rule 105: fwmark 0x1000/0x1000 lookup 7702 (IPv6)"),
            ("ip route flush table 7702", "route 0.0.0.0/0 dev tunway0 table 7702"),
            ("ip -6 route flush table 7702", "route ::/0 dev tunway0 table 7702"),
            (
                "ip route change default dev tunway0 proto 77 scope link table 7702 mtu 9000",
                "route 0.0.0.0/0",
            ),
            (
                "ip rule add preference 105 fwmark 0x20/0x20 lookup 7702 protocol 77",
                "no rule 105: fwmark 0x20",
            ),
            ("nft delete table inet tunway", inet),
            ("nft flush table inet tunway", inet),
            ("nft flush chain inet tunway steer", inet),
            ("nft add rule inet tunway steer accept", inet),
            ("nft insert rule inet tunway pre counter", inet),
            ("nft add chain inet tunway more", inet),
            ("nft add element inet tunway nodeports '{ tcp . 30000 }'", inet),
            ("nft add element inet tunway node6 '{ fd00::9 }'", inet),
            ("nft chain inet tunway pre '{ policy drop; }'", inet),
            (
                "nft delete rule inet tunway pre handle $(nft -a list chain inet tunway pre | sed -n 's/.*jump.*handle //p')",
                inet,
            ),
            ("nft delete table bridge tunway", "nft table bridge tunway"),
            ("nft flush chain bridge tunway pre", "nft table bridge tunway"),
            ("nft flush ruleset", inet),
        ] {
            shell(damage);
            let mut done = Vec::new();
            // Routes, rules and tables are looked at apart.
            while state() != good {
                let more = repair(&mut host, REPAIRED).await;
                done.extend(more.unwrap_or_else(|| panic!("{damage}: no repair, so far {done:?}")));
            }
            assert!(done.iter().any(|text| text.starts_with(told)), "{damage}: {done:?}");
            assert_same(&state(), &good, damage);
            assert_eq!(
                repair(&mut host, Duration::from_millis(500)).await,
                None,
                "a repair is no damage: {damage}"
            );
        }
        // Not announced by the kernel: found by looking.
        shell("echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal");
        let done = repair(&mut host, Duration::from_secs(8)).await.expect("the next look finds it");
        assert_eq!(done, ["net.netfilter.nf_conntrack_tcp_be_liberal=1"]);
    });
}

pub(crate) fn rules_follow_the_nodes_address() {
    enter_with_device();
    block_on(async {
        let mut host = installed(connmark(), &[]).await;
        while repair(&mut host, QUIET).await.is_some() {}
        shell(
            "ip addr add 192.168.77.5/24 dev eth0; \
             ip route replace default via 192.168.77.254 src 192.168.77.5; ip link set eth0 mtu 1400; \
             ip link set wire0 mtu 1400; ip -6 addr add fd00:77::5/64 dev eth0 nodad; ip -6 addr del fd00:77::1/64 dev eth0",
        );
        let wanted = |tables: &str, ways: &str| {
            tables.contains("snat ip to 192.168.77.5")
                && tables.contains("snat ip6 to fd00:77::5")
                && ways.matches("mtu 1400").count() == 2
                && ways.contains("src 192.168.77.5")
                && ways.contains("src fd00:77::5")
        };
        let both = || ip("route show table 7702") + &ip("-6 route show table 7702");
        let mut done = Vec::new();
        while !wanted(&run("nft", &["list", "ruleset"]), &both()) {
            let more = repair(&mut host, REPAIRED).await;
            done.extend(more.unwrap_or_else(|| panic!("so far {done:?}, {}", both())));
        }
        assert!(done.iter().any(|text| text == "nft table inet tunway"), "{done:?}");
        // Without any address of a family its rules stay, but for the one that needs it.
        shell("ip -6 addr flush dev eth0 scope global");
        while run("nft", &["list", "ruleset"]).contains("snat ip6 to fd00") {
            repair(&mut host, REPAIRED).await.expect("a rule without its address goes");
        }
        assert!(
            run("nft", &["list", "ruleset"]).contains("ip6 saddr fd00:fffe:77::1 masquerade fully-random")
        );
    });
}

pub(crate) fn bridges_are_followed() {
    enter_with_device();
    block_on(async {
        let mut host = installed(connmark(), &[]).await;
        let table = || {
            let output =
                std::process::Command::new("nft").args(["list", "table", "bridge", "tunway"]).output();
            let output = output.unwrap();
            if output.status.success() { String::from_utf8(output.stdout).unwrap() } else { String::new() }
        };
        let rules = |table: &str| -> Vec<String> {
            table.lines().filter(|line| line.contains("pkttype")).map(|line| line.trim().to_owned()).collect()
        };
        let rule = |ports: &str, mac: &str| {
            format!(
                "{ports}meta mark & 0x00001000 == 0x00001000 ether daddr != {mac} meta pkttype set host ether daddr set {mac}"
            )
        };
        assert_eq!(table(), "");
        let (one, two, three) = ("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03");
        for (change, wanted) in [
            (format!("ip link add cni0 address {one} type bridge; ip link set cni0 up"), vec![rule("", one)]),
            (format!("ip link set cni0 address {two}"), vec![rule("", two)]),
            // Ports make no difference as long as there is one bridge.
            (
                "ip link add va type veth peer name va1; ip link set va master cni0 up".to_owned(),
                vec![rule("", two)],
            ),
            (
                format!(
                    "ip link add br9 address {three} type bridge; ip link add vb type veth peer name vb1; ip link set vb master br9"
                ),
                vec![rule("iifname \"vb\" ", three), rule("iifname \"va\" ", two)],
            ),
            (
                "ip link add vc type veth peer name vc1; ip link set vc master cni0".to_owned(),
                vec![rule("iifname \"vb\" ", three), rule("iifname { \"va\", \"vc\" } ", two)],
            ),
            ("ip link set va nomaster; ip link del vc".to_owned(), vec![rule("iifname \"vb\" ", three)]),
            ("ip link del br9".to_owned(), vec![rule("", two)]),
            ("ip link del cni0".to_owned(), vec![]),
        ] {
            shell(&change);
            while rules(&table()) != wanted {
                let done = repair(&mut host, REPAIRED).await;
                assert!(done.is_some(), "{change}: {:?} is not {wanted:?}", rules(&table()));
            }
        }
        assert_eq!(table(), "", "without a bridge there is no table");
    });
}

pub(crate) fn a_restart_writes_nothing() {
    enter_with_device();
    shell("ip link add cni0 type bridge; ip link set cni0 up");
    block_on(async {
        // Killed: nothing of ours runs at its end.
        drop(installed(connmark(), &["203.0.113.10"]).await);
        let before = (state(), handles());
        let mut host = installed(connmark(), &["203.0.113.10"]).await;
        assert_same(&state(), &before.0, "after a restart");
        assert_eq!(repair(&mut host, Duration::from_millis(700)).await, None);
        assert_eq!(handles(), before.1, "the tables are the same ones, not the like");
    });
}

pub(crate) fn other_bits_replace_the_old_ones() {
    enter_with_device();
    let rules = |family: &str| -> Vec<String> {
        let all = ip(&format!("{family} rule"));
        all.lines().filter(|line| line.starts_with("105:")).map(str::to_owned).collect()
    };
    block_on(async {
        drop(installed(connmark(), &["203.0.113.10"]).await);
        let other = Marks { packet: 0x10_0000, original: 0x20_0000 };
        drop(
            installed(HostConfig { steering: Steering::Marks(other), ..connmark() }, &["203.0.113.10"]).await,
        );
        for family in ["-4", "-6"] {
            let now = rules(family);
            assert!(now.len() == 1 && now[0].contains("fwmark 0x100000/0x100000"), "{now:?}");
        }
        let tables = run("nft", &["list", "ruleset"]);
        assert!(tables.contains("0x00200000") && !tables.contains("0x00002000"), "{tables}");
        // And back to masquerading: nothing of it is left.
        drop(installed(crate::host::config(), &["203.0.113.10"]).await);
        for family in ["-4", "-6"] {
            assert_eq!(rules(family), [""; 0]);
            assert_eq!(ip_or_nothing(&format!("{family} route show table 7702")), "");
        }
        assert_eq!(run("nft", &["list", "ruleset"]), "");
        assert!(ip("route show table 7701").contains("10.200.0.1"));
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
        "nft delete table inet tunway",
        "nft delete table bridge tunway",
        "ip rule del preference 105",
        "ip route flush table 7702; nft flush table inet tunway",
        "ip link del tunway0",
    ] {
        ip("tuntap add dev tunway0 mode tun");
        block_on(async { drop(installed(connmark(), &["203.0.113.10"]).await) });
        shell(damage);
        // Whatever the configuration says now: that of masquerading takes it away too.
        let config = if damage == "true" { connmark() } else { crate::host::config() };
        let removed = block_on(cleanup(&config)).unwrap();
        if damage == "true" {
            let at = |what: &str| {
                let found = removed.iter().position(|text| text.starts_with(what));
                found.unwrap_or_else(|| panic!("{what}: {removed:?}"))
            };
            let order = [
                "rule 110",
                "route 10.96.0.0/12",
                "route ::/0",
                "nft table inet",
                "rule 105",
                "rule 200",
                "device",
            ];
            assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{removed:?}");
        }
        assert_same(&everything(), &before, damage);
    }
    assert_eq!(block_on(cleanup(&connmark())).unwrap(), [""; 0], "there is nothing any more");

    // Another tunway's tables are not ours to take.
    ip("tuntap add dev tunway0 mode tun");
    block_on(async { drop(installed(connmark(), &[]).await) });
    let other = HostConfig { device: "tunway9".into(), ..connmark() };
    let removed = block_on(cleanup(&other)).unwrap();
    assert!(removed.iter().all(|text| !text.starts_with("nft") && !text.starts_with("rule")), "{removed:?}");
    block_on(cleanup(&connmark())).unwrap();
    assert_same(&everything(), &before, "at the end");
}

fn handles() -> String {
    run("nft", &["-a", "list", "ruleset"])
}
