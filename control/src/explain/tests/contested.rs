//! A frontend of two Services, from manifests to the answer.

use super::*;

/// `blue` is older and scaled to nought; its slice is still there, and empty.
const SHARED: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
 {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "blue", "creationTimestamp": "2024-01-01T00:00:00Z"},
  "spec": {"clusterIP": "10.96.30.1", "externalIPs": ["198.51.100.60"], "ports": [{"name": "web", "port": 80}]}},
 {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "green", "creationTimestamp": "2024-02-01T00:00:00Z"},
  "spec": {"clusterIP": "10.96.30.2", "externalIPs": ["198.51.100.60"], "ports": [{"name": "web", "port": 80}]}},
 {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
  "metadata": {"name": "green-1", "labels": {"kubernetes.io/service-name": "green"}},
  "ports": [{"name": "web", "port": 8080}], "endpoints": [{"addresses": ["10.244.0.66"], "nodeName": "n1"}]},
 {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
  "metadata": {"name": "blue-1", "labels": {"kubernetes.io/service-name": "blue"}},
  "ports": [{"name": "web", "port": 8080}], "endpoints": []}
]}"#;

#[test]
fn who_has_endpoints_answers_and_who_has_none_is_told() {
    let offline = offline(
        "apiVersion: tunway.dev/v1alpha1\nkind: Config\nnodeName: n1\nsnatAddresses: [192.0.2.1]\nexternalIPs: {allow: [198.51.100.0/24]}",
        SHARED,
    );
    let shared = ask(&offline, OUTSIDE, "198.51.100.60:80", "tcp");
    assert_eq!(shared.verdict, Verdict::Dnat);
    assert_eq!(shared.endpoints, ["10.244.0.66:8080".parse().unwrap()]);
    assert_eq!(shared.service.as_deref(), Some("default/green:web"));
    let blue = ask(&offline, OUTSIDE, "10.96.30.1:80", "tcp");
    assert_eq!(blue.verdict, Verdict::Reject);
    let told = |words: &str| blue.steps.iter().any(|step| step.what.contains(words));
    assert!(
        told("198.51.100.60 port 80/TCP belongs to Service default/green, which has endpoints"),
        "{blue:?}"
    );
}

#[test]
fn a_node_port_at_no_address_is_not_said_to_be_served() {
    let config = "apiVersion: tunway.dev/v1alpha1\nkind: Config\nnode: {name: n1, addresses: [198.51.100.60]}\n\
                  returnPath: connmark\nnodePortAddresses: [10.9.0.0/16]\n";
    let with_node_port = SHARED.replace("\"port\": 80}", "\"port\": 80, \"nodePort\": 30080}");
    let nowhere = offline(config, &with_node_port);
    assert_eq!(ask(&nowhere, OUTSIDE, "198.51.100.60:30080", "tcp").verdict, Verdict::Pass);
    let green = ask(&nowhere, OUTSIDE, "10.96.30.2:80", "tcp");
    let told = |words: &str| green.steps.iter().any(|step| step.what.contains(words));
    assert!(told("node port 30080 is at no address of this host"), "{green:?}");
}
