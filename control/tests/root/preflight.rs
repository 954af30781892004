//! What preflight finds, each fault made by hand.

use std::thread;

use control::node::{Finding, HostConfig, preflight};
use nix::mount::{MsFlags, mount};

use crate::host::{
    addr, assert_same, block_on, config, enter, enter_with_device, everything, installed, ip, shell,
};
use crate::runner::join;

pub(crate) fn a_good_host_passes() {
    enter();
    assert_eq!(fatal(&config()), [], "before the device is there");
    ip("tuntap add dev tunway0 mode tun");
    let host = block_on(installed(config(), &["203.0.113.10"]));
    assert_eq!(fatal(&config()), [], "with our own things in place, as at a restart");
    drop(host);
    assert_eq!(fatal(&config()), [], "as after a crash");
}

pub(crate) fn every_fault_is_named() {
    let mut two_flows = config();
    two_flows.max_flows = 1 << 40;
    for (fault, config, is_fatal, what, remedy) in [
        (
            "echo 0 > /proc/sys/net/ipv4/ip_forward",
            config(),
            true,
            "net.ipv4.ip_forward",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        (
            "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
            config(),
            true,
            "net.ipv6.conf.all.forwarding",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        ),
        (
            "echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding",
            config(),
            false,
            "net.ipv4.conf.eth0.forwarding",
            "sysctl -w net.ipv4.conf.eth0.forwarding=1",
        ),
        (
            "echo 1 > /proc/sys/net/ipv4/conf/all/ignore_routes_with_linkdown",
            config(),
            true,
            "net.ipv4.conf.all.ignore_routes_with_linkdown",
            "sysctl -w net.ipv4.conf.all.ignore_routes_with_linkdown=0",
        ),
        (
            "echo 1 > /proc/sys/net/ipv6/conf/default/ignore_routes_with_linkdown",
            config(),
            true,
            "net.ipv6.conf.default.ignore_routes_with_linkdown",
            "sysctl -w net.ipv6.conf.default.ignore_routes_with_linkdown=0",
        ),
        ("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6", config(), false, "IPv6", "disable_ipv6=0"),
        (
            "true",
            two_flows,
            false,
            "net.netfilter.nf_conntrack_max",
            "sysctl -w net.netfilter.nf_conntrack_max=2199023255552",
        ),
        (
            "ip addr add 10.200.0.9/24 dev eth0",
            config(),
            true,
            "SNAT address 10.200.0.1",
            "choose `snatAddress` outside",
        ),
        (
            "ip rule add preference 9 lookup local; ip rule del preference 0; ip rule add preference 5 lookup 2004",
            config(),
            false,
            "ip -4 rule 5",
            "preference 0 lookup local",
        ),
        (
            "ip -6 rule add preference 200 nop protocol 77; ip -6 rule add preference 100 iif tunway9 goto 200 protocol 77",
            config(),
            true,
            "rules with protocol 77",
            "tunway cleanup --device tunway9",
        ),
        (
            "ip route add 10.5.0.0/16 dev eth0 table local proto 77",
            config(),
            true,
            "routes of the local table with protocol 77",
            "tunway cleanup --device NAME",
        ),
        ("ip link add kube-ipvs0 type bridge", config(), true, "device kube-ipvs0", "ip link del kube-ipvs0"),
        ("nft add table ip6 kube-proxy", config(), true, "nftables table ip6 kube-proxy", "--take-over"),
        ("iptables -t nat -N KUBE-SVC-AAAA", config(), true, "iptables-nft, table nat", "--take-over"),
        (
            "iptables -P FORWARD DROP",
            config(),
            true,
            "iptables-nft FORWARD",
            "iptables-nft -A FORWARD -i tunway0 -j ACCEPT",
        ),
        ("ip6tables -A FORWARD -j REJECT", config(), true, "ip6tables-nft FORWARD", "-o tunway0 -j ACCEPT"),
        (
            "nft add table inet fw; nft 'add chain inet fw pass { type filter hook forward priority 0; policy drop; }'",
            config(),
            true,
            "nft chain inet fw pass",
            "nft add rule inet fw pass iifname tunway0 accept",
        ),
    ] {
        join(thread::spawn(move || {
            enter();
            assert_eq!(fatal(&config), []);
            let before = all(&config);
            shell(fault);
            let found = new(&before, &all(&config), &config);
            let hit = found.iter().find(|finding| finding.what.contains(what));
            let hit = hit.unwrap_or_else(|| panic!("{fault}: not named: {found:?}"));
            assert_eq!(hit.fatal, is_fatal, "{fault}: {hit:?}");
            assert!(hit.remedy.contains(remedy), "{fault}: {hit:?}");
            assert!(!hit.why.is_empty());
            // Doing what the finding says makes it go away, where it is a command.
            if is_fatal && !hit.remedy.contains("choose") {
                let command = hit.remedy.split("; or start").next().unwrap().replace("; ipvsadm -C", "");
                if !command.contains("kube-proxy --cleanup") && !command.contains("tunway cleanup") {
                    shell(&command);
                    assert_eq!(fatal(&config), [], "after {command}");
                }
            }
        }));
    }
}

pub(crate) fn nothing_is_changed() {
    enter_with_device();
    shell(
        "iptables -P FORWARD DROP; nft add table ip kube-proxy; ip route add 10.5.0.0/16 dev eth0 table local proto 77",
    );
    let before = everything();
    let tables = shell("cat /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names");
    let mut config = config();
    config.take_over = true;
    assert!(all(&config).len() >= 3);
    assert_same(&everything(), &before, "afterwards");
    assert_eq!(
        shell("cat /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names"),
        tables
    );
}

pub(crate) fn an_unprivileged_look_says_so() {
    enter();
    caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
    let found = fatal(&config());
    let capability = found.iter().find(|finding| finding.what == "CAP_NET_ADMIN").expect("named");
    assert!(capability.remedy.contains("NET_ADMIN"));

    // A machine without the device node, as many containers are.
    let nothing = None::<&str>;
    mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
    let found = fatal(&config());
    let node = found.iter().find(|finding| finding.what == "/dev/net/tun").expect("named");
    assert!(node.remedy.contains("mknod -m 0600 /dev/net/tun c 10 200"), "{node:?}");
    shell(node.remedy.as_str());
    assert!(fatal(&config()).iter().all(|finding| finding.what != "/dev/net/tun"), "the remedy works");

    let mut no_snat = config();
    no_snat.snat = vec![addr("127.0.0.1")];
    assert!(fatal(&no_snat).iter().any(|finding| finding.what == "SNAT address 127.0.0.1"));
}

fn all(config: &HostConfig) -> Vec<Finding> {
    block_on(preflight(config))
}

fn fatal(config: &HostConfig) -> Vec<Finding> {
    all(config).into_iter().filter(|finding| finding.fatal).collect()
}

/// What is found now and was not before; for a fault that is in the configuration, everything.
fn new(before: &[Finding], now: &[Finding], config: &HostConfig) -> Vec<Finding> {
    let by_configuration = config.max_flows > 1 << 30;
    now.iter().filter(|finding| by_configuration || !before.contains(finding)).cloned().collect()
}
