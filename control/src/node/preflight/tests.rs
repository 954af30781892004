//! Findings from made-up hosts.

use std::net::IpAddr;

use rtnetlink::packet_route::rule::RuleAction;

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
fn rules_in_our_places_are_fatal_and_overlapping_marks_a_warning() {
    let rule = Rule {
        family: Family::V4,
        preference: 100,
        action: RuleAction::Goto,
        table: 0,
        goto: Some(200),
        input: Some("tunway0".into()),
        mark: None,
        protocol: PROTOCOL,
        selective: false,
    };
    let judge = |rule: &Rule| foreign_rules(std::slice::from_ref(rule), &config());
    assert_eq!(judge(&rule), [], "our own, left by an earlier process");

    let other = judge(&Rule { input: Some("tunway1".into()), ..rule.clone() });
    assert!(other[0].fatal && other[0].remedy == "tunway cleanup --device tunway1", "{other:?}");

    let odd = judge(&Rule { input: Some("tunway1".into()), goto: Some(300), ..rule.clone() });
    assert_eq!(odd[0].remedy, "ip -4 rule del preference 100", "cleanup would leave it");

    let plain =
        Rule { action: RuleAction::ToTable, goto: None, input: None, protocol: 3, table: 42, ..rule.clone() };
    let taken = judge(&Rule { preference: 110, ..plain.clone() });
    assert!(taken[0].fatal && taken[0].remedy == "ip -4 rule del preference 110", "{taken:?}");
    let table = judge(&Rule { preference: 5, table: 7702, ..plain.clone() });
    assert!(table[0].fatal && table[0].why.contains("7702"), "{table:?}");
    assert_eq!(judge(&Rule { preference: 32_766, table: 254, ..plain.clone() }), []);

    let marked = |mark, mask| judge(&Rule { preference: 7, mark: Some((mark, mask)), ..plain.clone() });
    assert!(!marked(0x3000, 0xff00)[0].fatal && marked(0x3000, 0xff00)[0].why.contains("0x3000/0xff00"));
    assert_eq!(marked(0x4000, 0x4000), [], "Kubernetes' own bit");
}

#[test]
fn with_connection_marks_a_rule_on_our_bit_is_fatal() {
    let connmark = HostConfig { steering: Steering::Marks(Marks::default()), ..config() };
    let rule = Rule {
        family: Family::V4,
        preference: 7,
        action: RuleAction::ToTable,
        table: 42,
        goto: None,
        input: None,
        mark: None,
        protocol: 3,
        selective: false,
    };
    let judge = |rule: Rule| foreign_rules(std::slice::from_ref(&rule), &connmark);
    let marked = |mark, mask| judge(Rule { mark: Some((mark, mask)), ..rule.clone() });
    for (mark, mask) in [(0x1000, 0x1000), (0, 0xf000), (0x1005, u32::MAX)] {
        let found = marked(mark, mask);
        assert!(
            found[0].fatal && found[0].remedy.contains("marks: {packet"),
            "{mark:#x}/{mask:#x}: {found:?}"
        );
    }
    // portmap's bit is one of packets, ours of that number one of connections.
    for (mark, mask) in [(0x2000, 0x2000), (0x4000, 0xc000), (0x5, u32::MAX), (0xff00_0000, 0xffff_0000)] {
        assert_eq!(marked(mark, mask), [], "{mark:#x}/{mask:#x}");
    }
    let at = |preference, protocol| Rule {
        preference,
        protocol,
        table: MARK_TABLE,
        mark: Some((0x40, 0x40)),
        ..rule.clone()
    };
    assert_eq!(judge(at(105, PROTOCOL)), [], "left by a process with another bit");
    assert!(judge(at(105, 3))[0].fatal && judge(at(104, PROTOCOL))[0].fatal);
}

#[test]
fn a_cluster_of_one_family_need_not_forward_the_other() {
    let connmark = HostConfig { steering: Steering::Marks(Marks::default()), ..config() };
    let found = sysctls(&connmark, &|path| (path == "net/ipv6/conf/all/forwarding").then(|| "0".to_owned()));
    assert_eq!(found.iter().map(|finding| finding.fatal).collect::<Vec<_>>(), [false]);
    let found = sysctls(&connmark, &|path| (path == "net/ipv4/ip_forward").then(|| "0".to_owned()));
    assert!(found[0].fatal);
}

#[test]
fn node_ports_the_kernel_may_give_away_are_named() {
    let connmark = HostConfig { steering: Steering::Marks(Marks::default()), ..config() };
    let found = |config: &HostConfig, chosen: &str, reserved: &str| {
        let read = |path: &str| match path {
            "net/ipv4/ip_local_port_range" => Some(format!("{chosen}\n")),
            "net/ipv4/ip_local_reserved_ports" => Some(format!("{reserved}\n")),
            _ => None,
        };
        sysctls(config, &read)
    };
    assert_eq!(found(&connmark, "32768\t60999", ""), [], "the kernel's own range");
    for (chosen, reserved, remedy) in [
        ("20000\t60999", "", "sysctl -w net.ipv4.ip_local_reserved_ports=30000-32767"),
        ("32767\t60999", "8080", "sysctl -w net.ipv4.ip_local_reserved_ports=8080,30000-32767"),
        ("20000\t30000", "30001-32767", "sysctl -w net.ipv4.ip_local_reserved_ports=30001-32767,30000-32767"),
    ] {
        let found = found(&connmark, chosen, reserved);
        assert_eq!(found.len(), 1, "{chosen}: {found:?}");
        assert!(!found[0].fatal && found[0].what == "net.ipv4.ip_local_port_range");
        assert!(found[0].why.contains("overlaps nodePortRange 30000-32767"), "{}", found[0].why);
        assert_eq!(found[0].remedy, remedy);
    }
    assert_eq!(found(&connmark, "20000\t60999", "8080,30000-31000,31001-32767"), [], "all of it reserved");
    assert_eq!(found(&connmark, "20000\t31000", "30000-31000"), [], "what overlaps is");
    assert_eq!(found(&config(), "20000\t60999", ""), [], "no node port is served");
}

#[test]
fn routes_in_our_table_that_are_not_ours_are_named() {
    let route = Route {
        table: TABLE,
        destination: (ip("10.5.0.0"), 16),
        link: Some(7),
        source: None,
        gateway: None,
        mtu: 0,
        protocol: PROTOCOL,
        unicast: true,
    };
    let judge = |route: &Route, device| foreign_routes(std::slice::from_ref(route), Family::V4, device);
    assert_eq!(judge(&route, Some(7)), []);
    let found = judge(&Route { protocol: 4, ..route.clone() }, Some(7));
    assert_eq!(found[0].remedy, "ip -4 route del 10.5.0.0/16 table 7701");
    let twin = judge(&route, Some(8));
    assert!(twin[0].fatal && twin[0].remedy.starts_with("tunway cleanup --device"), "{twin:?}");
    assert_eq!(
        foreign_routes(&vec![Route { protocol: 4, ..route }; 100], Family::V4, None).len(),
        MOST_ROUTES
    );
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
