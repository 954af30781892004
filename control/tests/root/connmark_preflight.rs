//! What preflight says about a host that is to have connection marks.

use std::thread;

use control::node::{Finding, Host, HostConfig, NodeError, preflight};
use nix::mount::{MsFlags, mount};

use crate::host::{assert_same, block_on, connmark, enter, enter_with_device, everything, ip, shell};
use crate::runner::join;

pub(crate) fn every_fault_is_named() {
    for (fault, fatal, what, remedy) in [
        ("ip rule add preference 7 fwmark 0x1000/0xf000 lookup main", true, "ip -4 rule 7", "marks: {packet"),
        (
            "ip -6 rule add preference 105 lookup main",
            true,
            "ip -6 rule 105",
            "ip -6 rule del preference 105",
        ),
        (
            "iptables -t mangle -A PREROUTING -j MARK --set-xmark 0x1000/0x1000",
            true,
            "-A PREROUTING -j MARK --set-xmark 0x1000/0x1000",
            "-t mangle -D PREROUTING",
        ),
        (
            "ip6tables -t mangle -A OUTPUT -m mark --mark 0x3000/0x3000 -j ACCEPT",
            true,
            "ip6tables-nft -t mangle",
            "-D OUTPUT",
        ),
        (
            "iptables -t mangle -A PREROUTING -j CONNMARK --save-mark",
            true,
            "CONNMARK --save-mark",
            "-t mangle -D PREROUTING",
        ),
        (
            "iptables -t mangle -A PREROUTING -j MARK --set-mark 7",
            false,
            "MARK --set-xmark 0x7",
            "its own bits",
        ),
        (
            "nft add table inet fw; nft add chain inet fw c; nft add rule inet fw c meta mark set meta mark or 0x1000",
            true,
            "nft rule inet fw c handle",
            "nft delete rule inet fw c handle",
        ),
        (
            "nft add table ip fw; nft add chain ip fw c; nft add rule ip fw c ct mark and 0x2000 == 0 accept",
            true,
            "nft rule ip fw c handle",
            "nft delete rule ip fw c handle",
        ),
        (
            "nft add table ip fw; nft add chain ip fw c; nft add rule ip fw c ct mark set 5",
            true,
            "nft rule ip fw c handle",
            "nft delete rule",
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
            "nft add table inet tunway; nft add chain inet tunway pre; nft add rule inet tunway pre iifname tunway9 accept",
            true,
            "nft table inet tunway",
            "tunway cleanup --device tunway9",
        ),
    ] {
        join(thread::spawn(move || {
            enter();
            let before = found(&connmark());
            assert!(before.iter().all(|finding| !finding.fatal), "{before:?}");
            shell(fault);
            let all = everything();
            let now = found(&connmark());
            assert_same(&everything(), &all, "looking changes nothing");
            let new: Vec<&Finding> = now.iter().filter(|finding| !before.contains(finding)).collect();
            let hit = new.iter().find(|finding| finding.what.contains(what));
            let hit = hit.unwrap_or_else(|| panic!("{fault}: not named: {new:?}"));
            assert_eq!((hit.fatal, new.len()), (fatal, 1), "{fault}: {new:?}");
            assert!(hit.remedy.contains(remedy), "{fault}: {hit:?}");
            let command = hit.remedy.split("; or ").next().unwrap_or_default();
            if fatal && !command.starts_with("tunway") {
                shell(command);
                assert_eq!(found(&connmark()), before, "after {command}");
            }
        }));
    }
    // What is usual on a node is no fault.
    for usual in [
        "iptables -t mangle -A PREROUTING -j MARK --set-xmark 0x4000/0x4000",
        "iptables -t nat -A POSTROUTING -m mark --mark 0x2000/0x2000 -j MASQUERADE",
        "iptables -t mangle -A PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
        "ip rule add preference 1024 fwmark 0x80/0x80 lookup main",
        "ip rule add preference 9 fwmark 0x200/0xf00 lookup 2004",
        "nft add table ip cali; nft add chain ip cali c; nft add rule ip cali c meta mark set meta mark or 0x10000",
    ] {
        join(thread::spawn(move || {
            enter();
            let before = found(&connmark());
            shell(usual);
            assert_eq!(found(&connmark()), before, "{usual}");
        }));
    }
}

pub(crate) fn without_nft_it_is_refused() {
    enter_with_device();
    // A device node where the program was: no program.
    for program in ["/usr/sbin/nft", "/sbin/nft"] {
        if std::fs::symlink_metadata(program).is_ok() {
            let none = None::<&str>;
            mount(Some("/dev/null"), program, none, MsFlags::MS_BIND, none).unwrap();
        }
    }
    let now = found(&connmark());
    let hit = now.iter().find(|finding| finding.what == "nft" && finding.fatal).expect("named");
    assert!(
        hit.remedy.contains("apt-get install nftables") && hit.remedy.contains("returnPath: masquerade"),
        "{hit:?}"
    );
    let refused = block_on(Host::install(connmark())).unwrap_err();
    assert!(matches!(refused, NodeError::NoNft) && refused.to_string().contains("apt-get install nftables"));
    assert!(!ip("rule").contains("lookup 7702"), "nothing was begun");
    // The other return path needs none.
    block_on(Host::install(crate::host::config())).unwrap();
}

pub(crate) fn what_cannot_be_set_is_said() {
    enter();
    // The machine's own limit cannot be raised from a network namespace: said, but no reason not to start.
    let many = HostConfig { max_flows: 1 << 40, ..connmark() };
    let limit = found(&many).into_iter().find(|finding| finding.what == "net.netfilter.nf_conntrack_max");
    let limit = limit.expect("named");
    assert!(!limit.fatal && limit.remedy.contains("maxFlows"), "{limit:?}");

    let nothing = None::<&str>;
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(Some("/proc/sys"), "/proc/sys", nothing, MsFlags::MS_BIND, nothing).unwrap();
    mount(nothing, "/proc/sys", nothing, read_only, nothing).unwrap();
    let now = found(&connmark());
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
