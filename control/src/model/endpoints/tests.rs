use super::*;
use dataplane::packet::tuple::Proto;
use serde_json::{Value, json};

fn slice(fields: Value) -> Reading<Slice> {
    let mut object = json!({
        "metadata": {"name": "web-x1", "namespace": "shop", "labels": {SERVICE_LABEL: "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.1"]}],
        "ports": [{"name": "", "port": 8080}],
    });
    for (name, value) in fields.as_object().unwrap() {
        object[name] = value.clone();
    }
    read(&serde_json::from_value(object).unwrap())
}

fn told<T>(reading: &Reading<T>) -> Vec<&str> {
    reading.problems.iter().map(|problem| problem.field.as_str()).collect()
}

#[test]
fn nil_conditions_have_their_defaults() {
    for (conditions, ready, serving, terminating) in [
        (json!(null), true, true, false),
        (json!({}), true, true, false),
        (json!({"ready": null, "serving": null, "terminating": null}), true, true, false),
        (json!({"ready": false}), false, true, false),
        (json!({"ready": false, "serving": true, "terminating": true}), false, true, true),
        (json!({"ready": true, "serving": false}), true, false, false),
    ] {
        let reading = slice(json!({"endpoints": [{"addresses": ["10.1.0.1"], "conditions": conditions}]}));
        let endpoint = &reading.value.unwrap().endpoints[0];
        assert_eq!(
            (endpoint.ready, endpoint.serving, endpoint.terminating),
            (ready, serving, terminating),
            "{conditions}"
        );
    }
}

#[test]
fn endpoints_carry_node_hints_and_pod() {
    let reading = slice(json!({"endpoints": [{
        "addresses": ["10.1.0.1", "10.1.0.2", "garbage"], "nodeName": "n1", "zone": "ignored",
        "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]},
        "targetRef": {"kind": "Pod", "name": "web-1"},
    }, {"addresses": ["10.1.0.3"], "nodeName": "", "targetRef": {"kind": "VirtualMachine", "name": "vm"}}]}));
    assert_eq!(reading.problems, [], "only the first address counts, the others have no meaning");
    let endpoints = reading.value.unwrap().endpoints;
    assert_eq!(endpoints[0].addr.to_string(), "10.1.0.1");
    assert_eq!((endpoints[0].node.as_deref(), endpoints[0].target.as_deref()), (Some("n1"), Some("web-1")));
    assert_eq!(endpoints[0].zone_hints.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(endpoints[0].node_hints.iter().collect::<Vec<_>>(), ["n1"]);
    assert_eq!((endpoints[1].node.as_deref(), endpoints[1].target.as_deref()), (None, None));
}

#[test]
fn bad_addresses_are_left_out_and_the_slice_kept() {
    let reading = slice(json!({"endpoints": [
        {"addresses": ["10.1.0.01"]}, {"addresses": []}, {"addresses": ["fd00::1"]}, {"addresses": ["pod.local"]},
        {"addresses": ["::ffff:10.1.0.2"]},
    ]}));
    assert_eq!(
        told(&reading),
        ["endpoints[1].addresses", "endpoints[2].addresses[0]", "endpoints[3].addresses[0]"]
    );
    assert!(!reading.invalid);
    let endpoints = reading.value.unwrap().endpoints;
    assert_eq!(endpoints.iter().map(|e| e.addr.to_string()).collect::<Vec<_>>(), ["10.1.0.1", "10.1.0.2"]);

    let reading = slice(
        json!({"addressType": "IPv6", "endpoints": [{"addresses": ["FD00:0::01"]}, {"addresses": ["10.1.0.1"]}]}),
    );
    assert_eq!(told(&reading), ["endpoints[1].addresses[0]"]);
    assert_eq!(reading.value.unwrap().endpoints[0].addr.to_string(), "fd00::1");
}

#[test]
fn a_thousand_bad_addresses_are_a_few_problems() {
    let endpoints: Vec<Value> = (0..1000).map(|_| json!({"addresses": ["x"]})).collect();
    let reading = slice(json!({"endpoints": endpoints}));
    assert_eq!(reading.problems.len(), 17);
    assert_eq!(reading.problems[16].what, "984 more problems like these");
}

#[test]
fn ports_join_by_name_and_need_a_number() {
    let reading = slice(json!({"ports": [
        {"name": "http", "port": 8080, "appProtocol": "h2c"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "sctp", "port": 7, "protocol": "SCTP"},
        {"port": 1},
        {"name": "all"},
        {"name": "zero", "port": 0},
    ]}));
    assert_eq!(told(&reading), ["ports[3].name", "ports[4].port", "ports[5].port"]);
    assert!(!reading.invalid);
    let port = |name: &str, proto, port| SlicePort { name: name.to_owned(), proto, port };
    assert_eq!(
        reading.value.unwrap().ports,
        [port("http", Proto::Tcp, 8080), port("dns", Proto::Udp, 53), port("sctp", Proto::Sctp, 7)]
    );
    let reading = slice(
        json!({"ports": [{"name": "a", "port": 70000}, {"name": "b", "port": -1}, {"name": "c", "port": 1, "protocol": "X"}]}),
    );
    assert_eq!(told(&reading), ["ports[0].port", "ports[1].port", "ports[2].protocol"]);
    assert!(reading.invalid);
    assert_eq!(slice(json!({"ports": null})).value.unwrap().ports, []);
}

#[test]
fn slices_of_no_family_or_no_service_are_ignored_and_told() {
    for address_type in ["FQDN", "", "ipv4"] {
        let reading = slice(json!({"addressType": address_type}));
        assert_eq!((reading.value.is_none(), told(&reading)), (true, vec!["addressType"]), "{address_type}");
    }
    for labels in [json!(null), json!({}), json!({SERVICE_LABEL: ""}), json!({"app": "web"})] {
        let reading = slice(json!({"metadata": {"name": "web-x1", "labels": labels}}));
        assert_eq!(
            (reading.value.is_none(), reading.problems.len(), reading.invalid),
            (true, 1, true),
            "{labels}"
        );
    }
    let reading = slice(json!({"metadata": {"labels": {SERVICE_LABEL: "web"}}}));
    assert_eq!(told(&reading), ["metadata.name"]);
}

#[test]
fn the_owner_is_the_label_in_the_slice_s_own_namespace() {
    let labels = json!({SERVICE_LABEL: "web", "endpointslice.kubernetes.io/managed-by": "me"});
    let owners = json!([{"apiVersion": "v1", "kind": "Service", "name": "other", "uid": "1"}]);
    let reading = slice(
        json!({"metadata": {"name": "x", "namespace": "shop", "labels": labels, "ownerReferences": owners}}),
    );
    assert_eq!(reading.value.unwrap().service.to_string(), "shop/web");
    assert_eq!(
        slice(json!({"metadata": {"name": "x", "labels": labels}})).value.unwrap().service.to_string(),
        "default/web"
    );
}

#[test]
fn the_headless_label_hides_a_slice_whatever_it_says() {
    for (labels, ours) in
        [(json!({}), true), (json!({HEADLESS_LABEL: ""}), false), (json!({HEADLESS_LABEL: "no"}), false)]
    {
        let slice = json!({"metadata": {"name": "x", "labels": labels}});
        let api::EndpointSlice { metadata, .. } = serde_json::from_value(slice).unwrap();
        assert_eq!(is_ours(&metadata), ours, "{labels}");
    }
}

#[test]
fn legacy_endpoints_become_slices_of_both_families() {
    let object = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "subsets": [
            {
                "addresses": [{"ip": "10.1.0.1", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "web-1"}}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.1.0.2"}, {"ip": "nonsense"}],
                "ports": [{"port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "bad", "port": 0}],
            },
            {"addresses": [{"ip": "10.1.0.3"}], "ports": [{"port": 9090}]},
            {"ports": [{"port": 1}]},
        ],
    }))
    .unwrap();
    let reading = read_legacy(&object);
    assert_eq!(told(&reading), ["subsets[0].notReadyAddresses[1].ip", "subsets[0].ports[2].port"]);
    let slices = reading.value.unwrap();
    let shape: Vec<_> = slices
        .iter()
        .map(|s| {
            (
                s.key.name.as_str(),
                s.endpoints.iter().map(|e| (e.addr.to_string(), e.ready, e.serving)).collect::<Vec<_>>(),
            )
        })
        .collect();
    assert_eq!(
        shape,
        [
            (
                "endpoints:web:0:IPv4",
                vec![("10.1.0.1".to_owned(), true, true), ("10.1.0.2".to_owned(), false, false)]
            ),
            ("endpoints:web:0:IPv6", vec![("fd00::1".to_owned(), true, true)]),
            ("endpoints:web:1:IPv4", vec![("10.1.0.3".to_owned(), true, true)]),
        ]
    );
    assert!(
        slices.iter().all(|slice| slice.service.to_string() == "shop/web" && slice.key.namespace == "shop")
    );
    assert_eq!(
        slices[0].ports.iter().map(|p| (p.name.as_str(), p.proto, p.port)).collect::<Vec<_>>(),
        [("", Proto::Tcp, 8080), ("dns", Proto::Udp, 53),]
    );
    assert_eq!(slices[0].endpoints[0].target.as_deref(), Some("web-1"));
    assert_eq!(read_legacy(&api::Endpoints::default()).problems.len(), 1);
}
