use super::read::parse;
use super::*;

fn machine() -> Machine {
    Machine { node_name: None, host_name: "gateway-1".into(), cores: 16 }
}

/// A file with these lines below its head.
fn file(lines: &str) -> Result<ConfigFile, ConfigError> {
    parse(&format!("apiVersion: tunway.dev/v1alpha1\nkind: Config\n{lines}"))
}

fn config(lines: &str) -> Result<Config, ConfigError> {
    Config::resolve(file(lines)?, &machine())
}

/// The key the refusal names; the whole text must also hold `says`.
fn refused(lines: &str, says: &str) -> String {
    let error = config(lines).expect_err(lines);
    assert!(error.to_string().contains(says), "{error} lacks {says:?}");
    assert!(!error.remedy.is_empty());
    error.field
}

#[test]
fn every_key_has_its_default() {
    let config = config("").unwrap();
    assert_eq!(
        config,
        Config {
            device: "tunway0".into(),
            workers: 8,
            queue_length: 2000,
            max_flows_v4: 262_144,
            max_flows_v6: 131_072,
            max_affinity: 262_144,
            flows: FlowPlace::Auto,
            service_cidrs: vec![],
            snat: PRIVATE_SNAT.into(),
            return_path: ReturnPath::ConnMark,
            detect_local: DetectLocal::ClusterCidr(vec![]),
            node_port_addresses: NodePortAddresses::Primary,
            node_port_range: (30_000, 32_767),
            rules: Rules::default(),
            node: Node::default(),
            masquerade_all: false,
            tcp_loose: false,
            reject_with_rst: false,
            replies_per_second: 1000,
            accounting: true,
            timeouts: Ttls::default(),
            source: SourceConfig::Kubernetes { kubeconfig: None },
            node_name: "gateway-1".into(),
            socket: "/run/tunway/tunway0.sock".into(),
            run_dir: "/run/tunway".into(),
            take_over: false,
            forward_accept: false,
            drain: Duration::from_secs(1),
        }
    );
}

#[test]
fn every_key_can_be_given() {
    let config = config(
        "device: tw-1.a
workers: 3
queueLength: 3000
maxFlows: {ipv4: 12288, ipv6: 16777216}
maxAffinity: 5000
flowFile: /dev/shm/x
serviceCIDRs: [10.0.0.0/16, 'fd00::/64']
snatAddresses: [192.0.2.1, '2001:db8::1']
returnPath: masquerade
marks: {packet: 0x100000, original: 1}
detectLocal: {mode: clusterCIDR, clusterCIDRs: [10.244.0.0/16]}
nodePortAddresses: [192.168.0.0/16, 'fd00::/8']
nodePortRange: 20000-20999
externalIPs: {allow: [203.0.113.0/24]}
node: {name: n1, addresses: [192.168.0.2, 'fd00::2'], labels: {topology.kubernetes.io/zone: a, other: b}}
masqueradeAll: true
tcpLoose: true
rejectWith: rst
repliesPerSecond: 5
flowAccounting: false
timeouts: {tcpEstablished: 432000, udp: 31}
source: {kubernetes: {kubeconfig: /etc/kube.conf}}
nodeName: n1
socket: /tmp/t.sock
takeOver: true
forwardAccept: true
drainSeconds: 0
",
    )
    .unwrap();
    assert_eq!((config.device.as_str(), config.workers), ("tw-1.a", 3));
    assert_eq!((config.max_flows_v4, config.max_flows_v6), (12_288, 1 << 24));
    assert_eq!(config.max_affinity, 5_000);
    assert_eq!(config.flows, FlowPlace::Dir("/dev/shm/x".into()));
    assert_eq!(config.fabric().snat.len(), 2);
    assert_eq!(config.fabric().service_cidrs[1], ("fd00::".parse().unwrap(), 64));
    let engine = config.engine();
    assert!(engine.tcp_loose && engine.reject_with_rst && !engine.accounting);
    assert_eq!(engine.replies_per_second, 5);
    let defaults = Ttls::default();
    assert_eq!(config.timeouts, Ttls { tcp_established: 432_000, udp: 31, ..defaults });
    assert_eq!(config.source, SourceConfig::Kubernetes { kubeconfig: Some("/etc/kube.conf".into()) });
    assert_eq!((config.node_name.as_str(), config.drain), ("n1", Duration::ZERO));
    assert!(config.take_over && config.forward_accept);
    assert_eq!(config.return_path, ReturnPath::Masquerade);
    assert_eq!(config.detect_local, DetectLocal::ClusterCidr(vec![("10.244.0.0".parse().unwrap(), 16)]));
    assert!(config.fabric().masquerade_all);
    let reserved = config.fabric().reserved_ports;
    assert!(reserved.contains(20_999) && !reserved.contains(30_000));
    assert!(config.rules.external_ips.contains("203.0.113.9".parse().unwrap()));
    let addresses = ["192.168.0.2", "fd00::2"].map(|addr| addr.parse().unwrap()).to_vec();
    let node = Node { name: "n1".into(), zone: Some("a".into()), addresses, ..Node::default() };
    assert_eq!(config.node, node);
    let cidrs = [("192.168.0.0", 16), ("fd00::", 8)].map(|(addr, len)| (addr.parse().unwrap(), len)).to_vec();
    assert_eq!(config.node_port_addresses, NodePortAddresses::Cidrs(cidrs));
}

#[test]
fn a_cluster_cidr_is_one_text_or_a_list() {
    let both = vec![("10.244.0.0".parse().unwrap(), 16), ("fd00:244::".parse().unwrap(), 48)];
    for lines in [
        "clusterCIDR: '10.244.0.0/16,fd00:244::/48'\n",
        "clusterCIDR: '10.244.0.0/16, fd00:244::/48'\n",
        "clusterCIDR: [10.244.0.0/16, 'fd00:244::/48']\n",
        "detectLocal: {clusterCIDRs: [10.244.0.0/16, 'fd00:244::/48']}\n",
    ] {
        assert_eq!(config(lines).unwrap().detect_local, DetectLocal::ClusterCidr(both.clone()), "{lines}");
    }
    assert_eq!(config("clusterCIDR: ''\n").unwrap().detect_local, DetectLocal::ClusterCidr(vec![]));
    let wrong = refused;
    assert_eq!(
        wrong("clusterCIDR: 10.244.0.0/16\ndetectLocal: {mode: nodeCIDR}\n", "detectLocal"),
        "clusterCIDR"
    );
    assert_eq!(wrong("clusterCIDR: [10.0.0.0/8, 11.0.0.0/8]\n", "second"), "detectLocal.clusterCIDRs[1]");
}

#[test]
fn what_the_cluster_is_like_is_checked() {
    for (lines, says, field) in [
        ("nodePortRange: many\n", "range", "nodePortRange"),
        ("nodePortRange: 10-9\n", "range", "nodePortRange"),
        ("nodePortRange: 0-9\n", "range", "nodePortRange"),
        ("nodePortAddresses: [all]\n", "CIDR", "nodePortAddresses[0]"),
        ("externalIPs: {allow: [0.0.0.0/0, everything]}\n", "CIDR", "externalIPs.allow[1]"),
        ("node: {addresses: [here]}\n", "address", "node.addresses[0]"),
        ("nodeName: a\nnode: {name: b}\n", "nodeName", "node.name"),
    ] {
        assert_eq!(refused(lines, says), field, "{lines}");
    }
    let named = config("node: {name: n2}\n").unwrap();
    assert_eq!(named.node_name, "n2");
}

#[test]
fn an_unknown_key_is_named() {
    for (lines, key) in [
        ("devise: tunway0\n", "devise"),
        ("maxFlows: {v4: 5000}\n", "v4"),
        ("timeouts: {tcp: 5}\n", "tcp"),
        ("source: {file: x}\n", "file"),
        ("detectLocal: {clusterCIDR: x}\n", "clusterCIDR"),
    ] {
        refused(lines, &format!("`{key}`"));
    }
    refused("workers: many\n", "workers");
}

#[test]
fn another_kind_of_file_is_refused() {
    let field = |text| parse(text).unwrap_err().field;
    assert_eq!(field("kind: Config\n"), "apiVersion");
    assert_eq!(field("apiVersion: tunway.dev/v1alpha1\n"), "kind");
    assert_eq!(field("apiVersion: v1\nkind: Config\n"), "apiVersion");
    assert_eq!(field("apiVersion: tunway.dev/v1alpha1\nkind: Service\n"), "kind");
    let error = read::read(Path::new("/nonexistent/tunway.yaml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/tunway.yaml"), "{error}");
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_environment() {
    let below =
        file("device: a\nworkers: 2\nmaxFlows: {ipv4: 50000, ipv6: 60000}\nnodeName: from-file\n").unwrap();
    let flags = ConfigFile {
        device: Some("b".into()),
        max_flows: Some(file::MaxFlows { ipv4: Some(70_000), ipv6: None }),
        ..ConfigFile::default()
    };
    let env = Machine { node_name: Some("from-env".into()), ..machine() };
    let config = Config::resolve(flags.over(below), &env).unwrap();
    assert_eq!((config.device.as_str(), config.workers), ("b", 2));
    assert_eq!((config.max_flows_v4, config.max_flows_v6), (70_000, 60_000));
    assert_eq!(config.node_name, "from-file");
    assert_eq!(Config::resolve(ConfigFile::default(), &env).unwrap().node_name, "from-env");
}

#[test]
fn every_detection_mode_is_spelled_as_documented_and_flags_add_to_the_file() {
    for (lines, is) in [
        ("{mode: nodeCIDR}", DetectLocal::NodeCidr),
        ("{mode: bridge, interface: cni0}", DetectLocal::Bridge("cni0".into())),
        ("{mode: interfacePrefix, interface: veth}", DetectLocal::InterfacePrefix("veth".into())),
        ("{clusterCIDRs: ['fd00::/48']}", DetectLocal::ClusterCidr(vec![("fd00::".parse().unwrap(), 48)])),
    ] {
        assert_eq!(config(&format!("detectLocal: {lines}\n")).unwrap().detect_local, is);
    }
    assert_eq!(refused("detectLocal: {mode: bridge}\n", "cni0"), "detectLocal.interface");
    let cidrs = Some(vec!["10.1.0.0/16".to_owned()]);
    let detect_local = Some(file::DetectLocalFile { cluster_cidrs: cidrs, ..Default::default() });
    let flags = ConfigFile { detect_local, ..ConfigFile::default() };
    let below = file("detectLocal: {mode: clusterCIDR, clusterCIDRs: [10.2.0.0/16]}\n").unwrap();
    let over = Config::resolve(flags.clone().over(below), &machine()).unwrap();
    assert_eq!(over.detect_local, DetectLocal::ClusterCidr(vec![("10.1.0.0".parse().unwrap(), 16)]));
    let below = file("detectLocal: {mode: nodeCIDR}\n").unwrap();
    let error = Config::resolve(flags.over(below), &machine()).unwrap_err();
    assert_eq!(error.field, "detectLocal.clusterCIDRs");
}

#[test]
fn numbers_have_limits() {
    for (key, low, high) in [
        ("workers", 1_u64, 64_u64),
        ("maxFlows.ipv4", 4096, 1 << 24),
        ("maxFlows.ipv6", 4096, 1 << 24),
        ("maxAffinity", 1024, 1 << 24),
        ("repliesPerSecond", 1, 1_000_000),
        ("drainSeconds", 0, 3600),
        ("queueLength", 64, 65_536),
        ("timeouts.tcpSynSent", 1, 524_287),
        ("timeouts.tcpSynRecv", 1, 524_287),
        ("timeouts.tcpEstablished", 1, 524_287),
        ("timeouts.tcpHalfClosed", 1, 524_287),
        ("timeouts.tcpLastAck", 1, 524_287),
        ("timeouts.tcpTimeWait", 1, 524_287),
        ("timeouts.tcpReset", 1, 524_287),
        ("timeouts.tcpUnacknowledged", 1, 524_287),
        ("timeouts.udp", 1, 524_287),
        ("timeouts.udpStream", 1, 524_287),
    ] {
        let line = |n: u64| match key.split_once('.') {
            // One worker: each takes flows of its own.
            Some((map, key)) => format!("workers: 1\n{map}: {{{key}: {n}}}\n"),
            None => format!("{key}: {n}\n"),
        };
        for fine in [low, high] {
            config(&line(fine)).unwrap_or_else(|error| panic!("{key} {fine}: {error}"));
        }
        assert_eq!(refused(&line(high + 1), &format!("{low} to {high}")), key);
        if low > 0 {
            assert_eq!(refused(&line(low - 1), &format!("{low} to {high}")), key);
        }
    }
}

#[test]
fn every_worker_has_flows_of_its_own() {
    assert_eq!(refused("workers: 2\nmaxFlows: {ipv6: 8191}\n", "at least 8192"), "maxFlows.ipv6");
    assert!(config("workers: 2\nmaxFlows: {ipv6: 8192}\n").is_ok());
}

#[test]
fn a_file_that_cannot_be_understood_is_refused_in_one_line_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tunway.yaml");
    let head = "apiVersion: tunway.dev/v1alpha1\nkind: Config\n";
    for (text, says) in [
        (format!("{head}workers: many\n"), "invalid u64 at line 3, column 10 (in `workers: many`)"),
        (format!("{head}snatAdresses: []\n"), "unknown field `snatAdresses`"),
        (format!("{head}source: [\n"), "line "),
        ("kind: Config\n".to_owned(), "missing"),
    ] {
        std::fs::write(&path, text).unwrap();
        let said = read::read(&path).unwrap_err().to_string();
        assert!(said.contains(says) && said.contains("tunway.yaml") && !said.contains('\n'), "{said}");
    }
}

#[test]
fn workers_follow_the_cores() {
    for (cores, workers) in [(0, 1), (1, 1), (2, 2), (8, 8), (64, 8)] {
        let machine = Machine { cores, ..machine() };
        assert_eq!(Config::resolve(ConfigFile::default(), &machine).unwrap().workers, workers);
    }
}

#[test]
fn names_and_paths_are_checked() {
    for name in ["''", "sixteen-letters-", "a/b", "'a b'", "..", "ä"] {
        assert_eq!(refused(&format!("device: {name}\n"), "tunway0"), "device");
    }
    assert_eq!(refused("socket: t.sock\n", "begin it with /"), "socket");
    assert_eq!(refused(&format!("socket: /{}\n", "x".repeat(107)), "107"), "socket");
    assert_eq!(refused("flowFile: shm\n", "begin it with /"), "flowFile");
    assert_eq!(refused("nodeName: a b\n", "NODE_NAME"), "nodeName");
    assert_eq!(config("nodeName: Node-A\n").unwrap().node_name, "node-a");
}

#[test]
fn addresses_are_checked() {
    for (addr, says) in [
        ("0.0.0.0", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("169.254.1.1", "link-local"),
        ("'fe80::1'", "link-local"),
        ("'::ffff:1.2.3.4'", "IPv4-mapped"),
        ("10.96.3.4", "Service CIDR"),
    ] {
        let lines =
            format!("returnPath: masquerade\nsnatAddresses: [{addr}]\nserviceCIDRs: [10.96.0.0/12]\n");
        assert_eq!(refused(&lines, says), "snatAddresses[0]");
    }
    assert_eq!(refused("snatAddresses: [192.0.2.1, 192.0.2.2]\n", "second IPv4"), "snatAddresses[1]");
    let none = rules::needs_snat(ReturnPath::Masquerade, &[]).unwrap_err();
    assert!(none.to_string().contains("--snat-address"));
    assert!(rules::needs_snat(ReturnPath::Masquerade, &["192.0.2.1".parse().unwrap()]).is_ok());
    assert!(rules::needs_snat(ReturnPath::ConnMark, &[]).is_ok());
}

#[test]
fn service_cidrs_are_checked() {
    for (cidr, says) in [
        ("10.96.0.1", "10.96.0.0/12"),
        ("10.96.0.0/33", "10.96.0.0/12"),
        ("10.96.0.0/+9", "10.96.0.0/12"),
        ("10.96.0.1/12", "write 10.96.0.0/12"),
        ("0.0.0.0/0", "at least /8"),
        ("'fd00::/16'", "at least /32"),
    ] {
        assert_eq!(refused(&format!("serviceCIDRs: [{cidr}]\n"), says), "serviceCIDRs[0]");
    }
    assert_eq!(refused("serviceCIDRs: [10.0.0.0/16, 10.0.0.0/16]\n", "twice"), "serviceCIDRs[1]");
    let many: Vec<_> = (0..17).map(|n| format!("10.{n}.0.0/16")).collect();
    assert_eq!(refused(&format!("serviceCIDRs: [{}]\n", many.join(", ")), "at most 16"), "serviceCIDRs");
    let lame = "returnPath: masquerade\nsnatAddresses: [192.0.2.1]\nserviceCIDRs: ['fd00::/64']\n";
    assert_eq!(refused(lame, "no IPv6 address"), "serviceCIDRs[0]");
}

#[test]
fn no_service_cidr_is_guessed() {
    for lines in ["", "source: {manifests: /m}\nsnatAddresses: [192.0.2.1, '2001:db8::1']\n"] {
        assert_eq!(config(lines).unwrap().service_cidrs, [], "{lines}");
    }
}

#[test]
fn the_return_path_follows_the_source() {
    let path = |lines: &str| config(lines).unwrap().return_path;
    assert_eq!(path("source: {kubernetes: {}}\n"), ReturnPath::ConnMark);
    assert_eq!(path("source: {manifests: /m}\n"), ReturnPath::ConnMark);
    assert_eq!(path("source: {manifests: /m}\nsnatAddresses: [192.0.2.1]\n"), ReturnPath::Masquerade);
    assert_eq!(path("source: {manifests: /m}\nreturnPath: connmark\n"), ReturnPath::ConnMark, "its old name");
    assert_eq!(path("source: {manifests: /m}\nreturnPath: conntrack\n"), ReturnPath::ConnMark);
    assert_eq!(path("source: {kubernetes: {}}\nreturnPath: masquerade\n"), ReturnPath::Masquerade);
    assert_eq!(refused("source: {manifests: /m, kubernetes: {}}\n", "one of them"), "source");
}

#[test]
fn where_sources_are_kept_snat_addresses_are_private_and_need_not_be_given() {
    let snat = |lines: &str| config(lines).unwrap().snat;
    let [v4, v6] = PRIVATE_SNAT;
    assert_eq!(snat("returnPath: connmark\n"), [v4, v6]);
    assert_eq!(snat("snatAddresses: ['fd01::9']\n"), ["fd01::9".parse().unwrap(), v4]);
    assert_eq!(snat("snatAddresses: [169.254.9.9]\n")[0], "169.254.9.9".parse::<IpAddr>().unwrap());
    assert!(snat("returnPath: masquerade\n").is_empty());
    assert_eq!(refused("snatAddresses: [127.0.0.1]\n", "loopback"), "snatAddresses[0]");
    assert_eq!(refused("snatAddresses: ['fe80::1']\n", "link-local"), "snatAddresses[0]");
}
