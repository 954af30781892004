//! kubeadm's file, every way to tell local pods, and what cannot be understood.

use super::super::read::parse;
use super::super::{Config, Machine};
use super::*;

mod keys;

/// What kubeadm writes into the `ConfigMap` of kube-proxy, v1.33, but for names.
const KUBEADM: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: 2h0m0s
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 90s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: "node-7"
iptables:
  localhostNodePorts: null
  masqueradeAll: true
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  scheduler: ""
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
winkernel:
  enableDSR: false
"#;

fn minimal(lines: &str) -> String {
    format!("apiVersion: {KUBE_PROXY_API}\nkind: {KUBE_PROXY_KIND}\n{lines}")
}

/// What the translation is good for.
fn resolved(translation: &Translation) -> Config {
    let text = translation.render().unwrap();
    let machine = Machine { node_name: None, host_name: "h".into(), cores: 1 };
    let file = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(file, translation.file, "comments change nothing");
    Config::resolve(file, &machine).unwrap()
}

#[test]
fn kubeadms_file_is_understood_alone_and_in_its_config_map() {
    let alone = translate(KUBEADM).unwrap();
    let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-proxy"},
        "data": {"config.conf": KUBEADM, "kubeconfig.conf": "apiVersion: v1\n"}});
    assert_eq!(translate(&map.to_string()).unwrap(), alone);
    let config = resolved(&alone);
    assert_eq!((config.node_name.as_str(), config.masquerade_all), ("node-7", true));
    assert_eq!((config.timeouts.tcp_half_closed, config.timeouts.udp), (7_200, 90));
    assert_eq!((config.timeouts.udp_stream, config.timeouts.tcp_established), (120, 86_400));
    assert!(config.rules.external_ips.contains("203.0.113.9".parse().unwrap()));
    let cidrs = vec![("10.244.0.0".parse().unwrap(), 16), ("fd00:10:244::".parse().unwrap(), 56)];
    assert_eq!(config.detect_local, crate::config::detect::DetectLocal::ClusterCidr(cidrs));
}

#[test]
fn every_key_that_says_something_is_told_of_and_none_is_told_of_twice() {
    let translation = translate(KUBEADM).unwrap();
    let keys = |notes: &[Note]| notes.iter().map(|note| note.key.clone()).collect::<Vec<_>>();
    assert_eq!(
        keys(&translation.taken),
        [
            "clusterCIDR",
            "nodePortAddresses",
            "iptables.masqueradeAll",
            "hostnameOverride",
            "clientConnection.kubeconfig",
            "conntrack.tcpCloseWaitTimeout",
            "conntrack.udpTimeout",
        ]
    );
    assert_eq!(
        keys(&translation.left),
        [
            "bindAddress",
            "bindAddressHardFail",
            "clientConnection.burst",
            "clientConnection.qps",
            "configSyncPeriod",
            "conntrack.tcpBeLiberal",
            "conntrack.udpStreamTimeout",
            "enableProfiling",
            "iptables.minSyncPeriod",
            "iptables.syncPeriod",
            "logging.flushFrequency",
            "logging.verbosity",
            "nftables.masqueradeAll",
            "winkernel.enableDSR",
        ]
    );
    assert!(translation.left.iter().all(|note| note.what != "not known"), "{:?}", translation.left);
    let text = translation.render().unwrap();
    assert!(text.contains("#   hostnameOverride: nodeName: node-7\n"), "{text}");
    assert!(text.contains("CVE-2020-8554") && text.contains("externalIPs:\n"), "{text}");
    let strange = translate(&minimal("flavour: vanilla\nmode: nftables\n")).unwrap();
    assert_eq!(strange.left[0], Note { key: "flavour".into(), what: "not known".into() });
}

#[test]
fn every_way_to_tell_local_pods_is_taken_over() {
    use crate::config::detect::DetectLocal;
    for (lines, wanted) in [
        ("detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/8\n", DetectLocal::NodeCidr),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n",
            DetectLocal::Bridge("cni0".into()),
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\n",
            DetectLocal::InterfacePrefix("veth".into()),
        ),
        ("detectLocalMode: ClusterCIDR\n", DetectLocal::default()),
    ] {
        assert_eq!(resolved(&translate(&minimal(lines)).unwrap()).detect_local, wanted, "{lines}");
    }
}

#[test]
fn what_a_mode_does_without_being_asked_is_taken_over() {
    let all =
        translate(&minimal("mode: ipvs\nipvs: {scheduler: lc}\niptables: {masqueradeAll: true}\n")).unwrap();
    let config = resolved(&all);
    assert_eq!(config.rules.algorithm, crate::model::service::balance::Algorithm::LeastConnections);
    assert!(config.masquerade_all, "IPVS looks at the other mode's");
    assert_eq!(
        all.file.node_port_addresses.as_deref(),
        Some(&["0.0.0.0/0".to_owned(), "::/0".to_owned()][..])
    );
    let primary = translate(&minimal("mode: nftables\n")).unwrap();
    assert_eq!(primary.file.node_port_addresses, None);
    let one = translate(&minimal("nodePortAddresses: [192.168.0.0/16]\n")).unwrap();
    assert_eq!(
        one.file.node_port_addresses.as_deref(),
        Some(&["192.168.0.0/16".to_owned(), "::/0".to_owned()][..])
    );
    let long = translate(&minimal("conntrack: {tcpEstablishedTimeout: 168h0m0s}\n")).unwrap();
    assert_eq!(resolved(&long).timeouts.tcp_established, 524_287);
    let nasty = translate(&minimal("\"a\\nworkers: 1\": 3\n")).unwrap();
    assert_eq!(nasty.left.len(), 1);
    assert_ne!(resolved(&nasty).workers, 0, "a key ends no comment");
    assert_eq!(parse(&nasty.render().unwrap()).unwrap().workers, None);
    let other = translate(&minimal("mode: ipvs\nipvs: {scheduler: sed}\n")).unwrap();
    assert_eq!(other.file.load_balancing, None);
    assert!(other.left.iter().any(|note| note.key == "ipvs.scheduler" && note.what.contains("random")));
}

#[test]
fn what_cannot_be_understood_names_its_key() {
    for (text, field) in [
        ("a: [".to_owned(), "FILE"),
        ("kind: ConfigMap\ndata: {x: y}\n".to_owned(), "data"),
        ("kind: KubeProxyConfiguration\n".to_owned(), "apiVersion"),
        (minimal("").replace("Proxy", "let"), "kind"),
        (minimal("detectLocalMode: Guess\n"), "detectLocalMode"),
        (minimal("mode: userspace\n"), "mode"),
        (minimal("detectLocalMode: BridgeInterface\n"), "detectLocal.bridgeInterface"),
        (minimal("clusterCIDR: 7\n"), "clusterCIDR"),
        (minimal("iptables: {masqueradeAll: sometimes}\n"), "iptables.masqueradeAll"),
        (minimal("nodePortAddresses: primary\n"), "nodePortAddresses"),
        (minimal("conntrack: {udpTimeout: 5}\n"), "conntrack.udpTimeout"),
        (minimal("conntrack: {udpTimeout: soon}\n"), "conntrack.udpTimeout"),
    ] {
        let error = translate(&text).unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(!error.remedy.is_empty());
    }
}

#[test]
fn durations_are_gos() {
    for (text, wanted) in [
        ("24h0m0s", Some(86_400)),
        ("1h30m", Some(5_400)),
        ("1.5h", Some(5_400)),
        ("300ms", Some(1)),
        ("0s", Some(0)),
        ("0", Some(0)),
        ("90", None),
        ("", None),
        ("h", None),
        ("99999999999h", None),
    ] {
        assert_eq!(seconds(text), wanted, "{text:?}");
    }
}
