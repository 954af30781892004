//! What almost matched is named with its object and field.

use serde_json::{Value, json};

use super::*;

const BASE: &str = "apiVersion: tunway.dev/v1alpha1
kind: Config
node: {name: n1, addresses: [192.168.0.2, 192.168.0.3], labels: {topology.kubernetes.io/zone: zone-a}}
";

fn world(config: &str, objects: &[Value]) -> Offline {
    offline(
        &format!("{BASE}{config}"),
        &json!({"kind": "List", "apiVersion": "v1", "items": objects}).to_string(),
    )
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "ns1"}, "spec": spec})
}

fn web() -> Value {
    service("web", json!({"clusterIP": "172.30.0.41", "ports": [{"name": "http", "port": 80}]}))
}

fn slice(ports: Value, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "ns1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": ports, "endpoints": endpoints})
}

fn http() -> Value {
    json!([{"name": "http", "port": 8080}])
}

/// The explanation has a step of this object and field that says so.
fn says(said: &Explanation, object: &str, field: &str, words: &str) {
    let has = |step: &Step| step.object == object && step.field == field && step.what.contains(words);
    assert!(said.steps.iter().any(has), "no [{object}: {field}] with {words:?} in {said:#?}");
}

const SLICE: &str = "EndpointSlice ns1/web-1";
const VIP: &str = "172.30.0.41:80";

#[test]
fn slices_that_do_not_join_say_why() {
    let one = json!([{"addresses": ["10.180.0.1"]}]);
    let mut six = slice(http(), json!([{"addresses": ["fd00::9"]}]));
    six["addressType"] = json!("IPv6");
    let mut elsewhere = slice(http(), one.clone());
    elsewhere["metadata"]["namespace"] = json!("ns2");
    for (slice, object, field, words) in [
        (
            slice(json!([{"name": "htpp", "port": 1}]), one.clone()),
            SLICE,
            "ports[].name",
            "\"htpp\", the Service's the name \"http\"",
        ),
        (
            slice(json!([{"name": "http", "port": 1, "protocol": "UDP"}]), one.clone()),
            SLICE,
            "ports[].protocol",
            "of UDP, the Service's of TCP",
        ),
        (six, SLICE, "addressType", "it is of IPv6"),
        (slice(http(), json!([])), SLICE, "endpoints", "no endpoint"),
        (elsewhere, "EndpointSlice ns2/web-1", "metadata.namespace", "for Service ns2/web"),
    ] {
        let said = ask(&world("", &[web(), slice]), POD, VIP, "tcp");
        assert_eq!(said.verdict, Verdict::Reject);
        says(&said, object, field, words);
    }
}

#[test]
fn hints_that_are_not_used_and_nodes_that_are_others_are_named() {
    let zones = |second: Value| {
        let first = json!({"addresses": ["10.180.0.1"], "nodeName": "n2", "hints": {"forZones": [{"name": "zone-b"}]}});
        let mut both = json!({"addresses": ["10.180.0.2"], "nodeName": "n1"});
        both["hints"] = second;
        slice(http(), json!([first, both]))
    };
    let field = "endpoints[].hints.forZones";
    let without = ask(&world("", &[web(), zones(json!(null))]), POD, VIP, "tcp");
    says(&without, SLICE, field, "10.180.0.2:8080 has none for a zone");
    let for_b = json!({"forZones": [{"name": "zone-b"}]});
    says(&ask(&world("", &[web(), zones(for_b)]), POD, VIP, "tcp"), SLICE, field, "none is for zone zone-a");
    let for_a = json!({"forZones": [{"name": "zone-a"}]});
    let used = ask(&world("", &[web(), zones(for_a)]), POD, VIP, "tcp");
    says(&used, SLICE, "endpoints[].hints", "for zone zone-b, and this is zone-a");
    let mut local = web();
    local["spec"]["internalTrafficPolicy"] = json!("Local");
    let said = ask(&world("", &[local, zones(json!(null))]), POD, VIP, "tcp");
    says(&said, SLICE, "endpoints[].nodeName", "it runs on node n2, and this is n1");
}

#[test]
fn addresses_and_ports_that_are_known_and_not_served_are_named() {
    let spec = json!({"type": "NodePort", "clusterIP": "172.30.0.42", "externalIPs": ["198.51.100.1"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]});
    let objects = [service("lb", spec)];
    let free = world("", &objects);
    let lb = "Service ns1/lb";
    says(
        &ask(&free, POD, "198.51.100.1:80", "tcp"),
        lb,
        "spec.externalIPs",
        "none that the configuration allows",
    );
    says(
        &ask(&free, POD, "172.30.0.42:53", "tcp"),
        lb,
        "spec.ports",
        "80 TCP (http), 53 UDP (dns): 53 TCP is none",
    );
    let field = "spec.ports[0].nodePort";
    says(
        &ask(&free, POD, "192.168.0.3:30080", "tcp"),
        lb,
        field,
        "takes none; addresses that do: 192.168.0.2",
    );
    let masked = world("returnPath: masquerade\nsnatAddresses: [192.0.2.1]\n", &objects);
    says(&ask(&masked, POD, "192.168.0.2:30080", "tcp"), lb, field, "masquerade serves none");
    assert!(ask(&free, POD, "192.168.0.2:31000", "tcp").steps.iter().all(|step| step.field != field));
}

#[test]
fn a_vip_of_this_host_is_known() {
    let mut own = web();
    own["spec"]["clusterIP"] = json!("192.168.0.3");
    let objects = [own, slice(http(), json!([{"addresses": ["10.180.0.1"]}]))];
    let marked = world("", &objects);
    let said = ask(&marked, OUTSIDE, "192.168.0.3:80", "tcp");
    assert_eq!(said.verdict, Verdict::Dnat);
    says(&said, "Node n1", "status.addresses", "taken before the host has them");
    assert_eq!(ask(&marked, OUTSIDE, "192.168.0.3:22", "tcp").verdict, Verdict::Pass, "the host's own");
    let masked = world("returnPath: masquerade\nsnatAddresses: [192.0.2.1]\n", &objects);
    let said = ask(&masked, OUTSIDE, "192.168.0.3:80", "tcp");
    assert_eq!((said.verdict, said.endpoints.len()), (Verdict::Pass, 0));
    assert!(said.reason.contains("keeps its packets"), "{said:?}");
    let told: Vec<_> = masked.problems().map(|problem| problem.place()).collect();
    assert_eq!(told, ["Service ns1/web: spec.clusterIPs"]);
}

#[test]
fn of_a_set_that_is_masqueraded_in_part_some_is_said() {
    let two = json!([{"addresses": ["10.180.0.1"]}, {"addresses": ["10.180.0.2"]}]);
    let world = world("", &[web(), slice(http(), two)]);
    let said = ask(&world, "10.180.0.1", VIP, "tcp");
    assert_eq!(said.masquerade, Masquerade::Some);
    assert_eq!(serde_json::to_value(&said).unwrap()["masquerade"], "some");
    let question = Question::of("10.180.0.1", VIP, "tcp", None).unwrap();
    assert!(text::render(&question, &said).contains("source      masqueraded to some"));
    for (masquerade, json) in
        [(Masquerade::None, json!(false)), (Masquerade::Some, json!("some")), (Masquerade::All, json!(true))]
    {
        assert_eq!(serde_json::to_value(masquerade).unwrap(), json);
        assert_eq!(serde_json::from_value::<Masquerade>(json).unwrap(), masquerade);
    }
}

#[test]
fn a_range_is_blamed_on_what_names_it() {
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["172.30.0.0/16"]}});
    let by_object = ask(&world("", &[web(), range]), POD, "172.30.9.9:80", "tcp");
    says(&by_object, "ServiceCIDR kubernetes", "spec.cidrs", "no Service has the address");
    let by_key = ask(&world("serviceCIDRs: [172.30.0.0/16]\n", &[web()]), POD, "172.30.9.9:80", "tcp");
    says(&by_key, "Config", "serviceCIDRs", "no Service has the address");
}
