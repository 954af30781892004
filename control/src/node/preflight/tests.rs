//! Findings from made-up hosts.

use std::net::IpAddr;

use super::super::Steering;
use super::*;

#[test]
fn every_sysctl_that_is_wrong_is_named_with_its_command() {
    let findings = |config: &HostConfig, settings: &[(&str, &str)]| {
        let read = |path: &str| {
            let found = settings.iter().find(|(name, _)| *name == path);
            found.map(|(_, value)| format!("{value}\n"))
        };
        sysctls(config, &read)
    };
    let good = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/ignore_routes_with_linkdown", "0"),
        ("net/netfilter/nf_conntrack_max", "262144"),
    ];
    let config = config();
    assert_eq!(findings(&config, &good), []);
    assert_eq!(findings(&config, &[]), [], "what the kernel does not have is not wrong");

    for (path, value, fatal, remedy) in [
        ("net/ipv4/ip_forward", "0", true, "sysctl -w net.ipv4.ip_forward=1"),
        ("net/ipv6/conf/all/forwarding", "0", true, "sysctl -w net.ipv6.conf.all.forwarding=1"),
        (
            "net/ipv4/conf/all/ignore_routes_with_linkdown",
            "1",
            true,
            "sysctl -w net.ipv4.conf.all.ignore_routes_with_linkdown=0",
        ),
        (
            "net/ipv6/conf/default/ignore_routes_with_linkdown",
            "1",
            true,
            "sysctl -w net.ipv6.conf.default.ignore_routes_with_linkdown=0",
        ),
        ("net/netfilter/nf_conntrack_max", "1000", false, "sysctl -w net.netfilter.nf_conntrack_max=262144"),
    ] {
        let found = findings(&config, &[(path, value)]);
        assert_eq!(found.len(), 1, "{path}: {found:?}");
        assert_eq!((found[0].fatal, found[0].remedy.as_str()), (fatal, remedy));
        assert_eq!(found[0].what, path.replace('/', "."));
    }

    // A host that serves no IPv6 need not forward it.
    let v4 = HostConfig { snat: vec![ip("10.200.0.1")], service_cidrs: vec![], ..config };
    assert_eq!(findings(&v4, &[("net/ipv6/conf/all/forwarding", "0")]), []);
}

#[test]
fn a_missing_device_node_and_a_closed_one_have_different_remedies() {
    let fault = |code| tun_node(Err(io::Error::from_raw_os_error(code))).unwrap();
    assert_eq!(tun_node(Ok(())), None);
    assert!(fault(nix::libc::ENOENT).remedy.contains("mknod -m 0600 /dev/net/tun c 10 200"));
    assert!(fault(nix::libc::EACCES).remedy.contains("run as root"));
    for code in [nix::libc::ENOENT, nix::libc::EACCES, nix::libc::EPERM] {
        let remedy = fault(code).remedy;
        assert!(!remedy.contains("chmod") && !remedy.contains("666"), "never open to everybody: {remedy}");
    }
    assert!(fault(nix::libc::ENODEV).remedy.contains("modprobe tun"));
}

#[test]
fn a_cluster_of_one_family_need_not_forward_the_other() {
    let conntrack = HostConfig { steering: Steering::Alias, ..config() };
    let found = sysctls(&conntrack, &|path| (path == "net/ipv6/conf/all/forwarding").then(|| "0".to_owned()));
    assert_eq!(found.iter().map(|finding| finding.fatal).collect::<Vec<_>>(), [false]);
    let found = sysctls(&conntrack, &|path| (path == "net/ipv4/ip_forward").then(|| "0".to_owned()));
    assert!(found[0].fatal);
}

#[test]
fn node_ports_the_kernel_may_give_away_are_named() {
    let conntrack = HostConfig { steering: Steering::Alias, ..config() };
    let found = |config: &HostConfig, chosen: &str, reserved: &str| {
        let read = |path: &str| match path {
            "net/ipv4/ip_local_port_range" => Some(format!("{chosen}\n")),
            "net/ipv4/ip_local_reserved_ports" => Some(format!("{reserved}\n")),
            _ => None,
        };
        sysctls(config, &read)
    };
    assert_eq!(found(&conntrack, "32768\t60999", ""), [], "the kernel's own range");
    for (chosen, reserved, remedy) in [
        ("20000\t60999", "", "sysctl -w net.ipv4.ip_local_reserved_ports=30000-32767"),
        ("32767\t60999", "8080", "sysctl -w net.ipv4.ip_local_reserved_ports=8080,30000-32767"),
        ("20000\t30000", "30001-32767", "sysctl -w net.ipv4.ip_local_reserved_ports=30001-32767,30000-32767"),
    ] {
        let found = found(&conntrack, chosen, reserved);
        assert_eq!(found.len(), 1, "{chosen}: {found:?}");
        assert!(!found[0].fatal && found[0].what == "net.ipv4.ip_local_port_range");
        assert!(found[0].why.contains("overlaps nodePortRange 30000-32767"), "{}", found[0].why);
        assert_eq!(found[0].remedy, remedy);
    }
    assert_eq!(found(&conntrack, "20000\t60999", "8080,30000-31000,31001-32767"), [], "all of it reserved");
    assert_eq!(found(&conntrack, "20000\t31000", "30000-31000"), [], "what overlaps is");
    assert_eq!(found(&config(), "20000\t60999", ""), [], "no node port is served");
}

#[test]
fn a_sysctl_of_a_device_with_a_dot_is_written_as_sysctl_reads_it() {
    assert_eq!(dotted("net/ipv4/conf/eth0.100/forwarding"), "net.ipv4.conf.eth0/100.forwarding");
}

fn config() -> HostConfig {
    HostConfig {
        queue_length: 1000,
        device: "tunway0".into(),
        steering: Steering::Snat,
        snat: vec![ip("10.200.0.1"), ip("fd00:fffe:77::1")],
        service_cidrs: vec![(ip("10.96.0.0"), 12), (ip("fd00:96::"), 108)],
        take_over: false,
        forward_accept: false,
        max_flows: 131_072,
        node_port_range: (30_000, 32_767),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
