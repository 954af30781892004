//! Questions of every kind, asked of manifests.

use std::fs;

use super::*;
use crate::config::read::parse;
use crate::config::{Config, Machine};

mod contested;
mod held;
mod near;

const CONFIG: &str = "apiVersion: tunway.dev/v1alpha1
kind: Config
node:
  name: n1
  addresses: [192.168.0.2, 'fd00:168::2']
  labels: {topology.kubernetes.io/zone: zone-a}
clusterCIDR: 10.0.0.0/8
serviceCIDRs: [172.30.0.0/16]
externalIPs: {allow: [192.168.99.0/24]}
returnPath: conntrack
";

const CLUSTER: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
 {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns1"}, "spec":
  {"clusterIP": "172.30.0.041", "ports": [{"name": "p80", "port": 80}, {"name": "p81", "port": 81, "protocol": "UDP"}]}},
 {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
  "metadata": {"name": "web-1", "namespace": "ns1", "labels": {"kubernetes.io/service-name": "web"}},
  "ports": [{"name": "p80", "port": 8080}], "endpoints": [
   {"addresses": ["10.180.0.1"], "nodeName": "n1"}, {"addresses": ["10.180.2.1"], "nodeName": "n2"},
   {"addresses": ["10.180.2.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
   {"addresses": ["10.180.2.3"], "conditions": {"ready": false, "serving": false}},
   {"addresses": ["172.30.0.9"]}]},
 {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb", "namespace": "ns1"}, "spec":
  {"type": "LoadBalancer", "clusterIP": "172.30.0.42", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31999,
   "loadBalancerSourceRanges": ["203.0.113.0/25", "10.0.0.0/8", "192.168.0.2/32"],
   "externalIPs": ["192.168.99.11", "198.51.100.1"], "ports": [{"port": 80, "nodePort": 99}]},
  "status": {"loadBalancer": {"ingress": [{"ip": "5.6.7.8"}, {"ip": "9.10.11.12", "ipMode": "Proxy"}]}}},
 {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
  "metadata": {"name": "lb-1", "namespace": "ns1", "labels": {"kubernetes.io/service-name": "lb"}},
  "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": ["10.180.3.1"], "nodeName": "n3"}]},
 {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "last", "namespace": "ns1"}, "spec":
  {"clusterIP": "172.30.0.43", "internalTrafficPolicy": "Local", "ports": [{"port": 80}]}},
 {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
  "metadata": {"name": "last-1", "namespace": "ns1", "labels": {"kubernetes.io/service-name": "last"}},
  "ports": [{"name": "", "port": 8080}], "endpoints": [
   {"addresses": ["10.180.4.1"], "nodeName": "n1", "conditions": {"ready": false, "serving": true, "terminating": true}},
   {"addresses": ["10.180.4.2"], "nodeName": "n2"}]},
 {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "near", "namespace": "ns1"}, "spec":
  {"clusterIP": "172.30.0.44", "ports": [{"port": 80}]}},
 {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
  "metadata": {"name": "near-1", "namespace": "ns1", "labels": {"kubernetes.io/service-name": "near"}},
  "ports": [{"name": "", "port": 8080}], "endpoints": [
   {"addresses": ["10.180.5.1"], "hints": {"forZones": [{"name": "zone-a"}]}},
   {"addresses": ["10.180.5.2"], "hints": {"forZones": [{"name": "zone-b"}]}}]}
]}"#;

/// Manifests on a node; the folder is gone when they are read.
fn offline(config: &str, manifest: &str) -> Offline {
    let machine = Machine { node_name: None, host_name: "elsewhere".into(), cores: 1 };
    let config = Config::resolve(parse(config).unwrap(), &machine).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cluster.json"), manifest).unwrap();
    Offline::load(folder.path(), Site::of(&config)).unwrap()
}

fn ask(offline: &Offline, src: &str, dst: &str, proto: &str) -> Explanation {
    offline.explain(&Question::of(src, dst, proto, None).unwrap()).unwrap()
}

/// Source, destination, protocol; verdict, endpoints, masqueraded, frontend, Service, words of the reason.
type Row<'a> =
    (&'a str, &'a str, &'a str, Verdict, &'a [&'a str], bool, Option<&'a str>, Option<&'a str>, &'a str);

const POD: &str = "10.180.0.9";
const OUTSIDE: &str = "203.0.113.9";
const NODE: &str = "192.168.0.2";

#[test]
fn every_kind_of_answer() {
    let world = offline(CONFIG, CLUSTER);
    let cluster = Some("ClusterIP");
    let web: &[&str] = &["10.180.0.1:8080", "10.180.2.1:8080"];
    let rows: &[Row<'_>] = &[
        (
            POD,
            "172.30.0.41:80",
            "tcp",
            Verdict::Dnat,
            web,
            false,
            cluster,
            Some("ns1/web:p80"),
            "2 endpoints",
        ),
        (
            OUTSIDE,
            "172.30.0.41:80",
            "tcp",
            Verdict::Dnat,
            web,
            true,
            cluster,
            Some("ns1/web:p80"),
            "2 endpoints",
        ),
        (
            NODE,
            "172.30.0.41:80",
            "tcp",
            Verdict::Dnat,
            web,
            true,
            cluster,
            Some("ns1/web:p80"),
            "2 endpoints",
        ),
        (
            "10.180.0.1",
            "172.30.0.41:80",
            "tcp",
            Verdict::Dnat,
            web,
            true,
            cluster,
            Some("ns1/web:p80"),
            "ClusterIP of",
        ),
        (
            POD,
            "172.30.0.41:81",
            "udp",
            Verdict::Reject,
            &[],
            false,
            cluster,
            Some("ns1/web:p81"),
            "no usable endpoint",
        ),
        (POD, "172.30.0.41:81", "tcp", Verdict::Reject, &[], false, None, None, "not a port"),
        (POD, "172.30.0.41", "icmp", Verdict::Reject, &[], false, None, None, "not a port"),
        (POD, "172.30.0.99:80", "tcp", Verdict::Drop, &[], false, None, None, "no Service has the address"),
        (POD, "8.8.8.8:53", "udp", Verdict::Pass, &[], false, None, None, "none of our"),
        // External, policy Local, the only endpoint elsewhere: short-circuits for those inside.
        (
            POD,
            "5.6.7.8:80",
            "tcp",
            Verdict::Dnat,
            &["10.180.3.1:8080"],
            false,
            Some("LoadBalancer"),
            Some("ns1/lb"),
            "1 endpoint",
        ),
        (
            NODE,
            "5.6.7.8:80",
            "tcp",
            Verdict::Dnat,
            &["10.180.3.1:8080"],
            true,
            Some("LoadBalancer"),
            Some("ns1/lb"),
            "1 endpoint",
        ),
        (
            OUTSIDE,
            "5.6.7.8:80",
            "tcp",
            Verdict::Drop,
            &[],
            false,
            Some("LoadBalancer"),
            Some("ns1/lb"),
            "on other nodes only",
        ),
        (
            "203.0.113.200",
            "5.6.7.8:80",
            "tcp",
            Verdict::Drop,
            &[],
            false,
            Some("LoadBalancer"),
            Some("ns1/lb"),
            "SourceRanges",
        ),
        (
            "5.6.7.8",
            "5.6.7.8:80",
            "tcp",
            Verdict::Drop,
            &[],
            false,
            Some("LoadBalancer"),
            Some("ns1/lb"),
            "on other nodes only",
        ),
        (OUTSIDE, "9.10.11.12:80", "tcp", Verdict::Pass, &[], false, None, None, "none of our"),
        (OUTSIDE, "5.6.7.8:81", "tcp", Verdict::Pass, &[], false, None, None, "none of our"),
        (
            POD,
            "192.168.99.11:80",
            "tcp",
            Verdict::Dnat,
            &["10.180.3.1:8080"],
            false,
            Some("ExternalIP"),
            Some("ns1/lb"),
            "1 endpoint",
        ),
        (POD, "198.51.100.1:80", "tcp", Verdict::Pass, &[], false, None, None, "none of our"),
        (
            POD,
            "192.168.0.2:99",
            "tcp",
            Verdict::Dnat,
            &["10.180.3.1:8080"],
            false,
            Some("NodePort"),
            Some("ns1/lb"),
            "1 endpoint",
        ),
        (
            OUTSIDE,
            "192.168.0.2:99",
            "tcp",
            Verdict::Drop,
            &[],
            false,
            Some("NodePort"),
            Some("ns1/lb"),
            "on other nodes only",
        ),
        (OUTSIDE, "192.168.0.2:99", "udp", Verdict::Pass, &[], false, None, None, "none of our"),
        (OUTSIDE, "192.168.0.3:99", "tcp", Verdict::Pass, &[], false, None, None, "none of our"),
        // Terminating here beats ready elsewhere under a local policy; hints choose by zone.
        (
            POD,
            "172.30.0.43:80",
            "tcp",
            Verdict::Dnat,
            &["10.180.4.1:8080"],
            false,
            cluster,
            Some("ns1/last"),
            "1 endpoint",
        ),
        (
            POD,
            "172.30.0.44:80",
            "tcp",
            Verdict::Dnat,
            &["10.180.5.1:8080"],
            false,
            cluster,
            Some("ns1/near"),
            "1 endpoint",
        ),
    ];
    for (src, dst, proto, verdict, endpoints, masquerade, frontend, service, reason) in rows {
        let said = ask(&world, src, dst, proto);
        let is: Vec<_> = said.endpoints.iter().map(ToString::to_string).collect();
        let who = (said.frontend.as_deref(), said.service.as_deref());
        assert_eq!(
            (said.verdict, is.as_slice()),
            (*verdict, &endpoints.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>()[..]),
            "{src} > {dst}: {said:#?}"
        );
        assert_eq!(
            (said.masquerade.any(), who),
            (*masquerade, (*frontend, *service)),
            "{src} > {dst}: {said:#?}"
        );
        assert!(said.reason.contains(reason), "{src} > {dst}: {said:#?}");
        assert!(!said.steps.is_empty());
    }
}

fn steps(explanation: &Explanation) -> Vec<String> {
    explanation.steps.iter().map(|step| format!("{} | {} | {}", step.object, step.field, step.what)).collect()
}

#[test]
fn every_endpoint_is_accounted_for_by_object_and_field() {
    let world = offline(CONFIG, CLUSTER);
    let said = steps(&ask(&world, POD, "172.30.0.41:80", "tcp"));
    let slice = "EndpointSlice ns1/web-1";
    for wanted in [
        "Config | clusterCIDR | 10.180.0.9 is a local pod".to_owned(),
        "Service ns1/web | spec.clusterIPs | 172.30.0.41:80 TCP is ClusterIP of ns1/web:p80".to_owned(),
        "Service ns1/web | spec.internalTrafficPolicy | Cluster: endpoints of any node".to_owned(),
        format!("{slice} | endpoints[].conditions.ready | 10.180.0.1:8080: kept, it is ready"),
        format!("{slice} | endpoints[].conditions.ready | 10.180.2.1:8080: kept, it is ready"),
        format!(
            "{slice} | endpoints[].conditions.terminating | 10.180.2.2:8080: left out, it is terminating, and others are ready"
        ),
        format!(
            "{slice} | endpoints[].conditions.ready | 10.180.2.3:8080: left out, it is not ready, nor serving while it terminates"
        ),
        format!(
            "{slice} | endpoints[].addresses | 172.30.0.9:8080: left out, the address lies in a Service CIDR"
        ),
        "Config | clusterCIDR | a local pod: it keeps its address".to_owned(),
    ] {
        assert!(said.contains(&wanted), "{wanted}\nis not in\n{}", said.join("\n"));
    }
    let said = steps(&ask(&world, "10.180.0.1", "172.30.0.41:80", "tcp")).join("\n");
    assert!(said.contains("10.180.0.1:8080: the endpoint is the client itself"), "{said}");
    let said = steps(&ask(&world, POD, "172.30.0.44:80", "tcp")).join("\n");
    assert!(said.contains("Node n1 | metadata.labels[topology.kubernetes.io/zone]"), "{said}");
    assert!(
        said.contains("10.180.5.2:8080: left out, its hints are for zone zone-b, and this is zone-a"),
        "{said}"
    );
    let said = steps(&ask(&world, POD, "172.30.0.43:80", "tcp")).join("\n");
    assert!(said.contains("10.180.4.2:8080: left out, it runs on node n2, and this is n1"), "{said}");
    assert!(said.contains("10.180.4.1:8080: kept, it is terminating and still serves"), "{said}");
    let said = steps(&ask(&world, OUTSIDE, "192.168.99.11:80", "tcp")).join("\n");
    assert!(
        said.contains("reported: 198.51.100.1 is an external IP that the configuration does not allow"),
        "{said}"
    );
}

#[test]
fn without_a_detector_pods_are_strangers_outside_and_everybody_keeps_the_address_inside() {
    let world = offline(&CONFIG.replace("clusterCIDR: 10.0.0.0/8\n", ""), CLUSTER);
    assert_eq!(ask(&world, POD, "192.168.99.11:80", "tcp").verdict, Verdict::Drop);
    assert_eq!(ask(&world, NODE, "192.168.99.11:80", "tcp").verdict, Verdict::Dnat);
    assert!(!ask(&world, OUTSIDE, "172.30.0.41:80", "tcp").masquerade.any());
    let all = offline(&CONFIG.replace("clusterCIDR: 10.0.0.0/8\n", "masqueradeAll: true\n"), CLUSTER);
    assert!(ask(&all, POD, "172.30.0.41:80", "tcp").masquerade.any());
    assert!(!ask(&all, POD, "192.168.99.11:80", "tcp").masquerade.any());
}

#[test]
fn a_link_that_is_named_tells_a_pod() {
    let by_link = "detectLocal: {mode: interfacePrefix, interface: veth}\n";
    let world = offline(&CONFIG.replace("clusterCIDR: 10.0.0.0/8\n", by_link), CLUSTER);
    let by = |src, link| {
        let question = Question::of(src, "192.168.99.11:80", "tcp", link).unwrap();
        world.explain(&question).unwrap().verdict
    };
    assert_eq!(by(POD, Some("veth7")), Verdict::Dnat);
    assert_eq!(by(POD, Some("eth0")), Verdict::Drop);
    assert_eq!(by(POD, None), Verdict::Drop, "no route is known");
    assert_eq!(by(NODE, Some("eth0")), Verdict::Dnat, "this node is this node, by whatever link");
}

#[test]
fn an_explanation_survives_json_and_reads_well() {
    let world = offline(CONFIG, CLUSTER);
    let question = Question::of(POD, "172.30.0.41:80", "tcp", None).unwrap();
    let said = world.explain(&question).unwrap();
    let json = serde_json::to_string(&said).unwrap();
    assert!(json.starts_with(r#"{"verdict":"dnat","endpoints":["10.180.0.1:8080","10.180.2.1:8080"],"masquerade":false,"frontend":"ClusterIP","service":"ns1/web:p80","reason":"#), "{json}");
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), said);
    let text = text::render(&question, &said);
    assert!(text.starts_with("10.180.0.9 > 172.30.0.41:80 TCP\ndnat: 172.30.0.41:80 TCP is ClusterIP of ns1/web:p80: 2 endpoints\n"), "{text}");
    assert!(
        text.contains("source      kept\n")
            && text.contains("[EndpointSlice ns1/web-1: endpoints[].conditions.ready]"),
        "{text}"
    );
}
