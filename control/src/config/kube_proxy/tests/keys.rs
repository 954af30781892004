//! Every key of kube-proxy's type, and those that change what is served.

use super::*;

/// The keys of `KubeProxyConfiguration` in Kubernetes 1.36, with a value that says something; those of the types it takes
/// from others included. A map is one key, but for the gates that are looked at.
const KEYS: [(&str, &str); 65] = [
    ("featureGates.AllowServiceExternalIPs", "false"),
    ("featureGates.KubeProxyNFTablesLocalhostNodePorts", "true"),
    ("featureGates.TopologyAwareHints", "false"),
    ("featureGates.PreferSameTrafficDistribution", "false"),
    ("featureGates.AllAlpha", "true"),
    ("clientConnection.kubeconfig", "/kubeconfig"),
    ("clientConnection.acceptContentTypes", "application/json"),
    ("clientConnection.contentType", "application/json"),
    ("clientConnection.qps", "5"),
    ("clientConnection.burst", "10"),
    ("logging.format", "text"),
    ("logging.flushFrequency", "5"),
    ("logging.verbosity", "2"),
    ("logging.vmodule", "[{filePattern: a, verbosity: 3}]"),
    ("logging.options.text.splitStream", "true"),
    ("logging.options.text.infoBufferSize", "'0'"),
    ("logging.options.json.splitStream", "true"),
    ("logging.options.json.infoBufferSize", "'0'"),
    ("hostnameOverride", "n7"),
    ("bindAddress", "192.0.2.7"),
    ("healthzBindAddress", "0.0.0.0:10256"),
    ("metricsBindAddress", "127.0.0.1:10249"),
    ("bindAddressHardFail", "true"),
    ("enableProfiling", "true"),
    ("showHiddenMetricsForVersion", "'1.35'"),
    ("mode", "iptables"),
    ("iptables.masqueradeBit", "14"),
    ("iptables.masqueradeAll", "true"),
    ("iptables.localhostNodePorts", "true"),
    ("iptables.snatNodeInternalIP", "true"),
    ("iptables.syncPeriod", "30s"),
    ("iptables.minSyncPeriod", "1s"),
    ("ipvs.syncPeriod", "30s"),
    ("ipvs.minSyncPeriod", "1s"),
    ("ipvs.scheduler", "rr"),
    ("ipvs.excludeCIDRs", "[10.0.0.0/8]"),
    ("ipvs.strictARP", "true"),
    ("ipvs.tcpTimeout", "30s"),
    ("ipvs.tcpFinTimeout", "30s"),
    ("ipvs.udpTimeout", "30s"),
    ("nftables.masqueradeBit", "14"),
    ("nftables.masqueradeAll", "true"),
    ("nftables.syncPeriod", "30s"),
    ("nftables.minSyncPeriod", "1s"),
    ("winkernel.networkName", "n"),
    ("winkernel.sourceVip", "192.0.2.9"),
    ("winkernel.enableDSR", "true"),
    ("winkernel.rootHnsEndpointName", "n"),
    ("winkernel.forwardHealthCheckVip", "true"),
    ("detectLocalMode", "ClusterCIDR"),
    ("detectLocal.bridgeInterface", "cni0"),
    ("detectLocal.interfaceNamePrefix", "veth"),
    ("clusterCIDR", "10.0.0.0/8"),
    ("nodePortAddresses", "[192.0.2.0/24]"),
    ("oomScoreAdj", "-999"),
    ("conntrack.maxPerCore", "1"),
    ("conntrack.min", "1"),
    ("conntrack.tcpEstablishedTimeout", "1h"),
    ("conntrack.tcpCloseWaitTimeout", "1h"),
    ("conntrack.tcpBeLiberal", "true"),
    ("conntrack.udpTimeout", "30s"),
    ("conntrack.udpStreamTimeout", "30s"),
    ("configSyncPeriod", "15m"),
    ("portRange", "1-2"),
    ("windowsRunAsService", "true"),
];

/// `a.b.c` with this value, as YAML on one line.
fn line(key: &str, value: &str) -> String {
    let parts: Vec<_> = key.split('.').collect();
    let (last, above) = parts.split_last().unwrap();
    let open: String = above.iter().map(|part| format!("{part}: {{")).collect();
    format!("{open}{last}: {value}{}\n", "}".repeat(above.len()))
}

#[test]
fn every_key_is_taken_over_or_told_of_in_every_mode() {
    for mode in ["iptables", "ipvs", "nftables"] {
        for (key, value) in KEYS {
            let lines = line(key, value);
            let head = if key == "mode" { String::new() } else { format!("mode: {mode}\n") };
            let got = translate(&minimal(&format!("{head}{lines}")))
                .unwrap_or_else(|error| panic!("{lines}{error}"));
            let told: Vec<_> = got.taken.iter().chain(&got.left).filter(|note| note.key == key).collect();
            assert_eq!(told.len(), 1, "{key} in mode {mode}: {told:?}");
            assert_ne!(told[0].what, "not known", "{key}");
            drop(resolved(&got));
        }
    }
}

#[test]
fn the_gate_of_external_ips_is_honoured() {
    let served = |lines: &str| {
        let config = resolved(&translate(&minimal(lines)).unwrap());
        config.rules.external_ips.contains("203.0.113.9".parse().unwrap())
    };
    assert!(!served("featureGates: {AllowServiceExternalIPs: false}\n"));
    assert!(served("featureGates: {AllowServiceExternalIPs: true}\n"));
    assert!(served("featureGates: {AllAlpha: false}\n") && served(""));
    let error = translate(&minimal("featureGates: {AllowServiceExternalIPs: maybe}\n")).unwrap_err();
    assert_eq!(error.field, "featureGates.AllowServiceExternalIPs");
}

#[test]
fn the_bind_address_is_the_nodes() {
    let got = translate(&minimal("bindAddress: 172.17.8.103\nmode: nftables\n")).unwrap();
    let config = resolved(&got);
    assert_eq!(config.node.addresses, ["172.17.8.103".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(got.file.node_port_addresses.as_deref(), Some(&["172.17.8.103/32".to_owned()][..]));
    let got = translate(&minimal("bindAddress: 'fd00::7'\nnodePortAddresses: [primary]\n")).unwrap();
    assert_eq!(got.file.node_port_addresses.as_deref(), Some(&["fd00::7/128".to_owned()][..]));
    for any in ["0.0.0.0", "'::'"] {
        let got = translate(&minimal(&format!("bindAddress: {any}\nmode: nftables\n"))).unwrap();
        assert_eq!((got.file.node, got.file.node_port_addresses), (None, None), "{any}");
    }
    assert_eq!(translate(&minimal("bindAddress: eth0\n")).unwrap_err().field, "bindAddress");
}

#[test]
fn words_for_node_ports_are_understood() {
    let ports = |given: &str| {
        let got = translate(&minimal(&format!("nodePortAddresses: {given}\n"))).unwrap();
        drop(resolved(&got));
        let told = got.taken.iter().find(|note| note.key == "nodePortAddresses").unwrap().what.clone();
        (got.file.node_port_addresses.unwrap(), told.contains("loopback"))
    };
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    for (given, wanted, loopback) in [
        ("[all]", &["0.0.0.0/0", "::/0"][..], false),
        ("[primary]", &["primary"], false),
        ("[localhost]", &["127.0.0.0/8", "::1/128"], true),
        ("[localhost, all]", &["0.0.0.0/0", "::/0"], true),
        ("[primary, localhost]", &["primary"], true),
        ("[primary, 10.0.0.0/8]", &["primary", "10.0.0.0/8"], false),
        ("['fd00::/8']", &["fd00::/8", "0.0.0.0/0"], false),
    ] {
        assert_eq!(ports(given), (texts(wanted), loopback), "{given}");
    }
}

#[test]
fn the_nodes_name_is_read_as_kube_proxy_reads_it() {
    let got = translate(&minimal("hostnameOverride: ' Node-7 '\n")).unwrap();
    assert_eq!(resolved(&got).node_name, "node-7");
    assert_eq!(translate(&minimal("hostnameOverride: ' '\n")).unwrap_err().field, "hostnameOverride");
}

#[test]
fn kubeadms_other_documents_do_not_matter() {
    let cluster = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking: {podSubnet: 10.0.0.0/8}\n";
    let kubelet = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    let wanted = translate(KUBEADM).unwrap();
    assert_eq!(translate(&format!("---\n{cluster}---\n{KUBEADM}\n---\n{kubelet}---\n")).unwrap(), wanted);
    let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"config.conf": format!("---\n{KUBEADM}")}});
    assert_eq!(translate(&format!("{kubelet}---\n{map}\n")).unwrap(), wanted);
    for (text, says) in [
        (format!("{cluster}---\n{kubelet}"), "no document"),
        (format!("{KUBEADM}\n---\n{KUBEADM}"), "2 documents"),
        (String::new(), "no document"),
    ] {
        let error = translate(&text).unwrap_err();
        assert!(error.field == "kind" && error.to_string().contains(says), "{error}");
    }
    // What kubeadm 1.37 writes where older ones wrote nothing.
    let explicit = KUBEADM.replace("mode: \"\"", "mode: iptables");
    assert_eq!(translate(&explicit).unwrap().file, wanted.file);
}
