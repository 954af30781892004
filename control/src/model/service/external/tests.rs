use super::super::read;
use super::*;
use crate::model::{Reading, Service};
use serde_json::{Value, json};

fn reading(spec: Value, ingress: Value) -> Reading<Service> {
    let mut spec = spec;
    spec["clusterIP"] = json!("10.96.0.10");
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{"port": 80}]);
    }
    let object =
        json!({"metadata": {"name": "web"}, "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
    read(&serde_json::from_value(object).unwrap())
}

fn with(spec: Value) -> (Service, Vec<String>) {
    let reading = reading(spec, Value::Null);
    (reading.value.unwrap(), reading.problems.into_iter().map(|problem| problem.field).collect())
}

fn texts(addrs: &[IpAddr]) -> Vec<String> {
    addrs.iter().map(ToString::to_string).collect()
}

#[test]
fn a_policy_means_something_where_there_is_an_outside() {
    for (spec, wanted) in [
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}),
            Policy::Local,
        ),
        (json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), Policy::Local),
        (json!({"externalTrafficPolicy": "Local"}), Policy::Cluster),
        (
            json!({"type": "ClusterIP", "externalTrafficPolicy": "Local", "externalIPs": ["fd00::1"]}),
            Policy::Local,
        ),
        (json!({"type": "ClusterIP", "externalTrafficPolicy": "Local", "externalIPs": []}), Policy::Cluster),
        (json!({"type": "LoadBalancer"}), Policy::Cluster),
        (json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"}), Policy::Cluster),
    ] {
        let (service, told) = with(spec.clone());
        assert_eq!((service.external, told.len()), (wanted, 0), "{spec}");
    }
    let (service, told) = with(json!({"type": "NodePort", "externalTrafficPolicy": "Nearby"}));
    assert_eq!((service.external, told), (Policy::Cluster, vec!["spec.externalTrafficPolicy".to_owned()]));
}

#[test]
fn external_ips_are_read_sloppily_and_once() {
    let ips = json!(["203.0.113.010", " ", "", "203.0.113.10", "fd00::0001", "nonsense"]);
    let (service, told) = with(json!({"externalIPs": ips}));
    assert_eq!(texts(&service.external_ips), ["203.0.113.10", "fd00::1"]);
    assert_eq!(told, ["spec.externalIPs[5]"]);
}

#[test]
fn a_load_balancers_own_addresses_are_left_to_it() {
    let ingress = json!([
        {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "VIP"}, {"ip": "203.0.113.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.com"}, {"ip": ""}, {"ip": "fd00::1", "ports": [{"port": 1, "protocol": "TCP"}]},
        {"ip": "nonsense"}, {"ip": "203.0.113.4", "ipMode": "Other"},
    ]);
    // Whatever the type: the API server sees to it that others have no status.
    let reading = reading(json!({}), ingress);
    assert_eq!(texts(&reading.value.unwrap().load_balancer_ips), ["203.0.113.1", "203.0.113.2", "fd00::1"]);
    let fields: Vec<_> = reading.problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["status.loadBalancer.ingress[6].ip", "status.loadBalancer.ingress[7].ipMode"]);
}

#[test]
fn source_ranges_open_a_family_they_do_not_name_or_name_whole() {
    let ranges = |list: Value| {
        let (service, told) = with(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": list}));
        let text = |(addr, len): &(IpAddr, u8)| format!("{addr}/{len}");
        (service.source_ranges.iter().map(text).collect::<Vec<_>>(), told)
    };
    let (is, told) = ranges(json!([" 203.0.113.7/24 ", "010.0.0.0/08", "fd00::/16"]));
    assert_eq!((is, told.len()), (vec!["203.0.113.0/24".into(), "10.0.0.0/8".into(), "fd00::/16".into()], 0));
    assert_eq!(ranges(json!(["203.0.113.0/24", "0.0.0.0/0", "fd00::/16"])).0, ["fd00::/16"]);
    assert_eq!(ranges(json!(["0.0.0.0/1", "128.0.0.0/1", "::/0"])).0, ["0.0.0.0/1", "128.0.0.0/1"]);
}

#[test]
fn a_source_range_that_cannot_be_read_opens_nothing() {
    let ranges = |list: Value| {
        let (service, told) = with(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": list}));
        let text = |(addr, len): &(IpAddr, u8)| format!("{addr}/{len}");
        (service.source_ranges.iter().map(text).collect::<Vec<_>>(), told)
    };
    let (is, told) = ranges(json!(["nonsense", "203.0.113.0"]));
    assert_eq!(is, ["0.0.0.0/32", "::/128"], "nobody");
    assert_eq!(told, ["spec.loadBalancerSourceRanges[0]", "spec.loadBalancerSourceRanges[1]"]);
    assert_eq!(ranges(json!(["nonsense", "203.0.113.0/24"])).0, ["203.0.113.0/24", "::/128"]);
    assert_eq!(ranges(json!(["0.0.0.0/0", "nonsense"])).0, ["::/128"]);
}

#[test]
fn health_is_asked_for_where_a_load_balancer_chooses_nodes_by_it() {
    let port = |kind: &str, policy: &str, number: Value| {
        let (service, told) =
            with(json!({"type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": number}));
        (service.health_check_port, told.len())
    };
    assert_eq!(port("LoadBalancer", "Local", json!(31_000)), (Some(31_000), 0));
    assert_eq!(port("LoadBalancer", "Cluster", json!(31_000)), (None, 0));
    assert_eq!(port("NodePort", "Local", json!(31_000)), (None, 0));
    assert_eq!(port("LoadBalancer", "Local", json!(0)), (None, 1));
    assert_eq!(port("LoadBalancer", "Local", Value::Null), (None, 1));
    assert_eq!(port("LoadBalancer", "Local", json!(70_000)), (None, 1));
}
