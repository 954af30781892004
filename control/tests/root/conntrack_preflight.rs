//! What preflight says about a host where sources are to be kept.

use std::fs;
use std::thread;

use control::node::{Finding, Host, HostConfig, preflight};
use nix::mount::{MsFlags, mount, umount};

use crate::host::{assert_same, block_on, conntrack, enter, enter_with_device, everything, shell};
use crate::runner::join;

pub(crate) fn every_fault_is_named() {
    for (fault, fatal, what, remedy) in [
        ("ip addr add 250.1.0.1/16 dev eth0", true, "address 250.1.0.1/32", "returnPath: masquerade"),
        ("ip route add 241.0.0.0/8 via 192.168.77.254", true, "route 241.0.0.0/8", "returnPath: masquerade"),
        (
            "ip -6 route add a001:db8::/32 via fd00:77::fe",
            true,
            "route a001:db8::/32",
            "returnPath: masquerade",
        ),
        (
            "ip rule add preference 9 lookup local; ip rule del preference 0; ip rule add preference 5 lookup 2004",
            false,
            "ip -4 rule 5",
            "preference 0 lookup local",
        ),
        (
            "ip link add br9 type bridge; echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables",
            true,
            "net.bridge.bridge-nf-call-iptables",
            "sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
        (
            "ip link add br9 type bridge; echo 0 > /proc/sys/net/bridge/bridge-nf-call-ip6tables",
            true,
            "net.bridge.bridge-nf-call-ip6tables",
            "sysctl -w net.bridge.bridge-nf-call-ip6tables=1",
        ),
        (
            "nft add table inet fw; nft 'add chain inet fw c { type filter hook prerouting priority 10; }'; \
             nft add rule inet fw c meta nfproto ipv6 fib saddr . mark . iif oif missing drop",
            false,
            "nft rule inet fw c handle",
            "IPv6_rpfilter=loose",
        ),
        (
            "ip6tables -t raw -A PREROUTING -m rpfilter --invert -j DROP",
            false,
            "-t raw: -A PREROUTING -m rpfilter --invert -j DROP",
            "-t raw -D PREROUTING -m rpfilter --invert -j DROP",
        ),
        (
            "echo 20000 60999 > /proc/sys/net/ipv4/ip_local_port_range",
            false,
            "net.ipv4.ip_local_port_range",
            "sysctl -w net.ipv4.ip_local_reserved_ports=30000-32767",
        ),
        ("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding", false, "net.ipv6.conf.all.forwarding", "=1"),
        (
            "ip rule add preference 200 nop protocol 77; ip rule add preference 100 iif tunway9 goto 200 protocol 77",
            true,
            "rules with protocol 77",
            "tunway cleanup --device tunway9",
        ),
        (
            "ip route add 10.96.0.0/12 dev eth0 table local proto 77",
            true,
            "routes of the local table with protocol 77",
            "tunway cleanup --device NAME",
        ),
    ] {
        join(thread::spawn(move || {
            enter();
            let before = found(&conntrack());
            assert!(before.iter().all(|finding| !finding.fatal), "{before:?}");
            shell(fault);
            let all = everything();
            let now = found(&conntrack());
            assert_same(&everything(), &all, "looking changes nothing");
            let new: Vec<&Finding> = now.iter().filter(|finding| !before.contains(finding)).collect();
            let hit = new.iter().find(|finding| finding.what.contains(what));
            let hit = hit.unwrap_or_else(|| panic!("{fault}: not named: {new:?}"));
            assert_eq!(hit.fatal, fatal, "{fault}: {new:?}");
            // An address brings its routes with it.
            assert!(new.len() == 1 || fault.starts_with("ip addr add"), "{fault}: {new:?}");
            assert!(hit.remedy.contains(remedy), "{fault}: {hit:?}");
            let command = hit.remedy.split("; or ").next().unwrap_or_default();
            if fatal && command.starts_with("sysctl") {
                shell(command);
                assert_eq!(found(&conntrack()), before, "after {command}");
            }
        }));
    }
    // What is usual on a node is no fault: marks, rules and tables of others are theirs.
    for usual in [
        "iptables -t mangle -A PREROUTING -j MARK --set-xmark 0x1000/0x1000",
        "iptables -t mangle -A PREROUTING -j CONNMARK --save-mark",
        "ip rule add preference 110 lookup 7701; ip route add 10.5.0.0/16 dev eth0 table 7701",
        "ip rule add preference 7 fwmark 0x1000/0xf000 lookup main",
        "nft add table ip fw; nft add chain ip fw c; nft add rule ip fw c ct mark set 5",
    ] {
        join(thread::spawn(move || {
            enter();
            let before = found(&conntrack());
            shell(usual);
            assert_eq!(found(&conntrack()), before, "{usual}");
        }));
    }
}

pub(crate) fn without_nft_it_starts() {
    enter_with_device();
    hide_nft();
    let now = found(&conntrack());
    assert!(now.iter().all(|finding| !finding.fatal), "{now:?}");
    let hit = now.iter().find(|finding| finding.what == "nft").expect("what others have cannot be looked at");
    assert!(hit.why.contains("kube-proxy"), "{hit:?}");
    block_on(Host::install(conntrack())).unwrap();
}

/// Takes the program nft away, and says from where.
pub(crate) fn hide_nft() -> Vec<&'static str> {
    let there =
        ["/usr/sbin/nft", "/sbin/nft"].into_iter().filter(|program| fs::symlink_metadata(program).is_ok());
    let there: Vec<_> = there.collect();
    let none = None::<&str>;
    there
        .iter()
        .for_each(|program| mount(Some("/dev/null"), *program, none, MsFlags::MS_BIND, none).unwrap());
    there
}

/// Gives it back.
pub(crate) fn show_nft(hidden: &[&str]) {
    hidden.iter().for_each(|program| umount(*program).unwrap());
}

pub(crate) fn what_cannot_be_set_is_said() {
    enter();
    // The machine's own limit cannot be raised from a network namespace: said, but no reason not to start.
    let many = HostConfig { max_flows: 1 << 40, ..conntrack() };
    let limit = found(&many).into_iter().find(|finding| finding.what == "net.netfilter.nf_conntrack_max");
    let limit = limit.expect("named");
    assert!(!limit.fatal && limit.remedy.contains("maxFlows"), "{limit:?}");

    let nothing = None::<&str>;
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(Some("/proc/sys"), "/proc/sys", nothing, MsFlags::MS_BIND, nothing).unwrap();
    mount(nothing, "/proc/sys", nothing, read_only, nothing).unwrap();
    let now = found(&conntrack());
    for (setting, fatal) in [
        ("nf_conntrack_tcp_be_liberal=1", true),
        ("nf_conntrack_tcp_timeout_close_wait=3600", false),
        ("nf_conntrack_tcp_timeout_established=86400", false),
    ] {
        let hit = now.iter().find(|finding| finding.remedy.contains(setting));
        let hit = hit.unwrap_or_else(|| panic!("{setting} is not named: {now:?}"));
        assert_eq!(hit.fatal, fatal, "{hit:?}");
        assert!(hit.remedy.starts_with("on the host: sysctl -w net.netfilter."), "{hit:?}");
    }
}

fn found(config: &HostConfig) -> Vec<Finding> {
    block_on(preflight(config))
}
