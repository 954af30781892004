//! Objects with what an API server would have filled in or refused; and hosts at odd addresses.

use super::*;
use serde_json::{Value, json};

fn world(config: &str, objects: &[Value]) -> Offline {
    let lines = "apiVersion: tunway.dev/v1alpha1\nkind: Config\nreturnPath: conntrack\n";
    let node = "node: {name: n1, addresses: [192.168.0.2, 'fd00:168::2']}\n";
    offline(
        &format!("{lines}{node}{config}"),
        &json!({"kind": "List", "apiVersion": "v1", "items": objects}).to_string(),
    )
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns1"}, "spec": spec})
}

/// A slice of `web` with an unnamed port 8080 and this endpoint.
fn slice(endpoint: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "ns1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "", "port": 8080}], "endpoints": [endpoint]})
}

fn plain() -> Value {
    service(json!({"clusterIP": "172.30.0.41", "ports": [{"port": 80}]}))
}

fn verdict(world: &Offline, src: &str, dst: &str) -> Verdict {
    ask(world, src, dst, "tcp").verdict
}

const VIP: &str = "172.30.0.41:80";

#[test]
fn only_named_service_cidrs_are_dropped_and_bar_endpoints() {
    let objects = [plain(), slice(json!({"addresses": ["10.100.0.9"]}))];
    let free = world("", &objects);
    assert_eq!(verdict(&free, POD, "10.100.0.7:80"), Verdict::Pass, "nobody says this is a Service range");
    assert_eq!(verdict(&free, POD, VIP), Verdict::Dnat);
    let named = world("serviceCIDRs: [10.96.0.0/12]\n", &objects);
    assert_eq!(verdict(&named, POD, "10.100.0.7:80"), Verdict::Drop);
    assert_eq!(verdict(&named, POD, VIP), Verdict::Reject);
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["172.30.0.0/16"]}});
    let by_object = world("", &[objects.to_vec(), vec![range]].concat());
    assert_eq!(verdict(&by_object, POD, "172.30.9.9:80"), Verdict::Drop);
    assert_eq!(verdict(&by_object, POD, "10.100.0.7:80"), Verdict::Pass);
}

#[test]
fn legacy_endpoints_count_where_there_are_no_slices() {
    let legacy = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "ns1"},
        "subsets": [{"addresses": [{"ip": "10.180.0.9"}], "ports": [{"port": 8080}]}]});
    let last = json!({"addresses": ["10.180.0.1"],
        "conditions": {"ready": false, "serving": true, "terminating": true}});
    let both = ask(&world("", &[plain(), slice(last), legacy.clone()]), POD, VIP, "tcp");
    assert_eq!(both.endpoints, ["10.180.0.1:8080".parse().unwrap()]);
    assert_eq!(verdict(&world("", &[plain(), legacy]), POD, VIP), Verdict::Dnat);
}

#[test]
fn what_is_wrong_with_the_manifest_is_told_with_its_place() {
    let mut odd = plain();
    odd["metadata"]["annotations"] = json!({"tunway.dev/balancing": "fairly"});
    let said = ask(&world("", &[odd]), POD, VIP, "tcp");
    let told = said.steps.iter().find(|step| step.what.starts_with("reported: ")).expect("it is told");
    assert!(told.object.starts_with("cluster.json") && told.object.ends_with("Service ns1/web"), "{told:?}");
}

#[test]
fn a_pick_that_hangs_on_the_flow_alone_is_named() {
    let mut both = slice(json!({"addresses": ["10.180.0.1"], "nodeName": "n7"}));
    both["endpoints"].as_array_mut().unwrap().push(json!({"addresses": ["10.180.0.2"]}));
    let picks = |annotations: Value, client: &str| {
        let mut web = plain();
        web["metadata"]["annotations"] = annotations;
        let said = ask(&world("", &[web, both.clone()]), client, VIP, "tcp");
        assert_eq!(said.endpoints.len(), 2);
        said.steps
            .into_iter()
            .filter(|step| step.what.contains("picked") || step.what.contains("weighs"))
            .map(|step| format!("{} {}: {}", step.object, step.field, step.what))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        picks(json!({}), POD),
        [
            " : one of these is picked at random, each as likely as the others or by its weight; that is the default"
        ]
    );
    let maglev = json!({"tunway.dev/balancing": "maglev", "tunway.dev/hash-by": "client"});
    let named: BTreeSet<_> = (1..30).flat_map(|n| picks(maglev.clone(), &format!("10.9.0.{n}"))).collect();
    assert_eq!(named.len(), 2, "{named:?}");
    let begins = "Service ns1/web metadata.annotations[tunway.dev/balancing]: one of these is picked by Maglev \
        hashing of the client's address: 10.180.0.";
    assert!(named.iter().all(|pick| pick.starts_with(begins)), "{named:?}");
    let weighed = picks(json!({"tunway.dev/weights": "nodeName=n7:3"}), POD);
    assert!(weighed[1].ends_with("10.180.0.1:8080 weighs 3 of 4"), "{weighed:?}");
}

#[test]
fn link_local_addresses_are_not_ours() {
    let world = world("", &[plain()]);
    for dst in ["169.254.169.254:80", "[fe80::1]:80"] {
        let src = if dst.starts_with('[') { "fd00::9" } else { POD };
        assert_eq!(verdict(&world, src, dst), Verdict::Pass, "{dst}");
    }
}

#[test]
fn what_an_api_server_fills_in_is_filled_in_and_what_it_refuses_is_not_served() {
    let endpoint = || json!({"addresses": ["10.180.0.1"]});
    let mut nameless = slice(endpoint());
    nameless["ports"] = json!([{"port": 8080}]);
    assert_eq!(verdict(&world("", &[plain(), nameless]), POD, VIP), Verdict::Dnat, "an empty name");
    let listed = service(json!({"clusterIPs": ["172.30.0.41"], "ports": [{"port": 80}]}));
    assert_eq!(verdict(&world("", &[listed, slice(endpoint())]), POD, VIP), Verdict::Dnat);
    let mut odd = plain();
    odd["metadata"]["name"] = json!("Web_1");
    let mut of_odd = slice(endpoint());
    of_odd["metadata"]["labels"]["kubernetes.io/service-name"] = json!("Web_1");
    assert_eq!(
        verdict(&world("", &[odd, of_odd]), POD, VIP),
        Verdict::Pass,
        "a server would not have taken the name"
    );
}

/// externalTrafficPolicy Local with its only endpoint on another node.
fn node_port(endpoint: &str) -> Vec<Value> {
    let spec = json!({"type": "NodePort", "clusterIP": "172.30.0.41", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 3001}]});
    vec![service(spec), slice(json!({"addresses": [endpoint], "nodeName": "n2"}))]
}

#[test]
fn the_loopback_address_is_this_host() {
    let said = ask(&world("", &node_port("10.180.0.1")), "127.0.0.1", "192.168.0.2:3001", "tcp");
    assert_eq!((said.verdict, said.masquerade.any()), (Verdict::Dnat, true));
}

#[test]
fn an_empty_list_of_node_port_addresses_is_none() {
    let world = world("nodePortAddresses: []\n", &node_port("10.180.0.1"));
    assert_eq!(verdict(&world, "192.168.0.2", "192.168.0.2:3001"), Verdict::Dnat);
}

#[test]
fn a_host_address_among_the_pods_is_both() {
    let mut config = "clusterCIDR: 010.180.0.7/16\n".to_owned();
    let mut objects = node_port("10.180.0.1");
    objects.push(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
    let by = |config: &str| world(config, &objects);
    assert!(ask(&by(&config), "192.168.0.2", VIP, "tcp").masquerade.any(), "not a pod's address");
    config = config.replace("010.180.0.7/16", "192.168.0.0/16");
    let inside = by(&config);
    assert!(!ask(&inside, "192.168.0.2", VIP, "tcp").masquerade.any());
    let outside = ask(&inside, "192.168.0.2", "192.168.0.2:3001", "tcp");
    assert_eq!(
        (outside.verdict, outside.masquerade.any()),
        (Verdict::Dnat, false),
        "a pod's short cut comes first"
    );
}

#[test]
fn an_endpoint_that_is_this_host_is_told_of_beside_what_the_rules_ask() {
    let spec =
        json!({"type": "NodePort", "clusterIP": "172.30.0.41", "ports": [{"port": 80, "nodePort": 3001}]});
    let world = world("", &[service(spec), slice(json!({"addresses": ["192.168.0.2"], "nodeName": "n1"}))]);
    let said = ask(&world, OUTSIDE, "192.168.0.2:3001", "tcp");
    assert!(said.masquerade.any());
    assert!(
        said.steps.iter().any(|step| step.what.contains("192.168.0.2:8080") && step.what.contains("keeps")),
        "{said:#?}"
    );
}
