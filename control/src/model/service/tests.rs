use super::*;
use dataplane::packet::tuple::Proto;
use serde_json::{Value, json};

fn service(spec: Value) -> api::Service {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).unwrap()
}

fn with_spec(spec: Value) -> Reading<Service> {
    read(&service(spec))
}

fn with_ports(ports: Value) -> Reading<Service> {
    read(&service(json!({"clusterIP": "10.96.0.10", "ports": ports})))
}

/// The addresses served, and the fields complained about.
fn addresses(mut spec: Value) -> (Vec<String>, Vec<String>) {
    spec["ports"] = json!([{"port": 80}]);
    let reading = read(&service(spec));
    let ips = reading.value.iter().flat_map(|service| &service.cluster_ips);
    (
        ips.map(ToString::to_string).collect(),
        reading.problems.into_iter().map(|problem| problem.field).collect(),
    )
}

fn fields(reading: &Reading<Service>) -> Vec<&str> {
    reading.problems.iter().map(|problem| problem.field.as_str()).collect()
}

#[test]
fn services_without_a_virtual_address_are_nothing_and_no_problem() {
    for spec in [
        json!({"ports": [{"port": 80}]}),
        json!({"clusterIP": "", "ports": [{"port": 80}]}),
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "example.com"}),
        json!({"type": "ExternalName", "clusterIP": "10.96.0.10", "ports": [{"port": 80}]}),
        // clusterIP decides, not clusterIPs.
        json!({"clusterIP": "", "clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4"], "ports": [{"port": 80}]}),
    ] {
        assert_eq!(read(&service(spec.clone())), Reading::nothing(), "{spec}");
    }
    assert_eq!(
        read(&serde_json::from_value(json!({"metadata": {"name": "web"}})).unwrap()),
        Reading::nothing()
    );
}

#[test]
fn only_a_service_that_should_have_an_address_lacks_one() {
    assert!(lacks_cluster_ip(&service(json!({"ports": [{"port": 80}]}))));
    assert!(lacks_cluster_ip(&service(json!({"clusterIP": "", "type": "NodePort"}))));
    assert!(!lacks_cluster_ip(&service(json!({"clusterIP": "None"}))));
    assert!(!lacks_cluster_ip(&service(json!({"type": "ExternalName"}))));
    assert!(!lacks_cluster_ip(&service(json!({"clusterIP": "10.96.0.10"}))));
}

#[test]
fn families_pick_their_addresses() {
    let none: [&str; 0] = [];
    for (spec, ips, complaints) in [
        // Version skew: no families, so only clusterIP counts.
        (json!({"clusterIP": "10.96.0.10"}), &["10.96.0.10"][..], &none[..]),
        (json!({"clusterIP": "fd00::a", "clusterIPs": ["fd00::a", "10.96.0.10"]}), &["fd00::a"], &none),
        // Dual stack, in the order given.
        (
            json!({"clusterIP": "fd00::a", "clusterIPs": ["fd00::a", "10.96.0.10"], "ipFamilies": ["IPv6", "IPv4"]}),
            &["fd00::a", "10.96.0.10"],
            &none,
        ),
        // A family beyond the addresses has none; ipFamilyPolicy changes nothing.
        (
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4", "IPv6"],
                   "ipFamilyPolicy": "RequireDualStack"}),
            &["10.96.0.10"],
            &none,
        ),
        (json!({"clusterIP": "10.96.0.10", "ipFamilies": ["IPv4"]}), &[], &none),
        // Sloppy and mapped text.
        (json!({"clusterIP": "172.30.0.041"}), &["172.30.0.41"], &none),
        (json!({"clusterIP": "::ffff:10.96.0.10"}), &["10.96.0.10"], &none),
        (
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["010.096.000.010"], "ipFamilies": ["IPv4"]}),
            &["10.96.0.10"],
            &none,
        ),
        // The two lists of an older object may differ; kube-proxy reads clusterIPs.
        (
            json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4"]}),
            &["10.96.0.10"],
            &["spec.clusterIPs[0]"],
        ),
        // What cannot be served says which field.
        (json!({"clusterIP": "ten"}), &[], &["spec.clusterIP"]),
        (json!({"clusterIP": "127.0.0.1"}), &[], &["spec.clusterIP"]),
        (json!({"clusterIP": "224.0.0.1"}), &[], &["spec.clusterIP"]),
        (
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fe80::1"], "ipFamilies": ["IPv4", "IPv6"]}),
            &["10.96.0.10"],
            &["spec.clusterIPs[1]"],
        ),
        (
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "10.96.0.11"], "ipFamilies": ["IPv4", "IPv6"]}),
            &["10.96.0.10"],
            &["spec.clusterIPs[1]"],
        ),
        (
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "10.96.0.11"], "ipFamilies": ["IPv4", "IPv4"]}),
            &["10.96.0.10"],
            &["spec.clusterIPs[1]"],
        ),
        (
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ipFamilies": ["ipv4"]}),
            &[],
            &["spec.ipFamilies[0]"],
        ),
    ] {
        let (found, told) = addresses(spec.clone());
        assert_eq!(
            (found.as_slice(), told.as_slice()),
            (
                &ips.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..],
                &complaints.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]
            ),
            "{spec}"
        );
    }
}

#[test]
fn ports_have_defaults_and_bad_ones_are_named() {
    let reading = with_ports(json!([
        {"port": 80},
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns", "nodePort": 0},
        {"name": "zero", "port": 0},
        {"name": "big", "port": 65536},
        {"name": "negative", "port": -1},
        {"name": "what", "port": 81, "protocol": "tcp"},
        {"name": "last", "port": 65535, "nodePort": 70000},
    ]));
    let port = |name: &str, proto, port| Port { name: name.to_owned(), proto, port, node_port: None };
    let service = reading.value.clone().unwrap();
    assert_eq!(
        service.ports,
        [port("", Proto::Tcp, 80), port("dns", Proto::Udp, 53), port("last", Proto::Tcp, 65535)]
    );
    let wanted = [
        "spec.ports[2].port",
        "spec.ports[3].port",
        "spec.ports[4].port",
        "spec.ports[5].protocol",
        "spec.ports[6].nodePort",
    ];
    assert_eq!(fields(&reading), wanted);
    assert!(reading.invalid);
    assert!(reading.problems.iter().all(|p| p.object == "Service shop/web" && !p.remedy.is_empty()));
}

#[test]
fn twins_among_ports_are_told() {
    let reading = with_ports(json!([{"name": "a", "port": 80}, {"name": "a", "port": 81}]));
    assert_eq!(
        reading.value.as_ref().unwrap().ports.iter().map(|p| p.port).collect::<Vec<_>>(),
        [81],
        "the later wins"
    );
    assert_eq!(fields(&reading), ["spec.ports[1].name"]);

    let reading = with_ports(json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}]));
    assert_eq!(
        reading.value.as_ref().unwrap().ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["a"]
    );
    assert_eq!(fields(&reading), ["spec.ports[1].port"]);

    // The same number or the same name in another protocol is no twin.
    let reading =
        with_ports(json!([{"name": "a", "port": 53}, {"name": "a", "port": 53, "protocol": "UDP"}]));
    assert_eq!((reading.value.unwrap().ports.len(), reading.problems.len(), reading.invalid), (2, 0, false));

    let reading = with_ports(json!([]));
    assert!(reading.invalid && reading.value.unwrap().ports.is_empty());
}

#[test]
fn what_controllers_read_is_no_business_of_a_proxy() {
    let reading = read(&service(json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.10", "sessionAffinity": "None", "loadBalancerClass": "x",
        "publishNotReadyAddresses": true, "trafficDistribution": "PreferClose", "ipFamilyPolicy": "PreferDualStack",
        "ports": [
            {"name": "a", "port": 80, "nodePort": 30080, "targetPort": "http", "appProtocol": "h2c"},
            {"name": "b", "port": 81, "protocol": "SCTP"},
        ],
    })));
    assert_eq!(reading.problems, []);
    let service = reading.value.unwrap();
    assert_eq!(
        service.ports.iter().map(|port| (port.proto, port.node_port)).collect::<Vec<_>>(),
        [(Proto::Tcp, Some(30080)), (Proto::Sctp, None)]
    );
}

#[test]
fn policy_age_and_annotations_come_along() {
    let object: api::Service = serde_json::from_value(json!({
        "metadata": {
            "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"tunway.dev/balancing": "p2c", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "spec": {"clusterIP": "10.96.0.10", "internalTrafficPolicy": "Local", "ports": [{"port": 80}]},
    }))
    .unwrap();
    let reading = read(&object);
    let service = reading.value.unwrap();
    assert_eq!(service.key.to_string(), "default/web", "no namespace is the namespace default");
    assert_eq!((service.internal, service.created), (Policy::Local, 1_767_225_600));
    assert_eq!(service.balance.algorithm, Some(balance::Algorithm::P2c));

    let spec = json!({"clusterIP": "10.96.0.10", "internalTrafficPolicy": "local", "ports": [{"port": 80}]});
    let reading = with_spec(spec);
    assert_eq!((fields(&reading), reading.invalid), (vec!["spec.internalTrafficPolicy"], true));
    assert_eq!(reading.value.unwrap().internal, Policy::Cluster);
}

#[test]
fn session_affinity_and_its_timeout() {
    let config = |seconds: Value| json!({"clientIP": {"timeoutSeconds": seconds}});
    for (affinity, config, seconds, complaints) in [
        (json!(null), json!(null), None, &[][..]),
        (json!(""), json!(null), None, &[]),
        (json!("None"), config(json!(30)), None, &[]),
        (json!("ClientIP"), json!(null), Some(10_800), &[]),
        (json!("ClientIP"), json!({}), Some(10_800), &[]),
        (json!("ClientIP"), config(json!(null)), Some(10_800), &[]),
        (json!("ClientIP"), config(json!(1)), Some(1), &[]),
        (json!("ClientIP"), config(json!(86_400)), Some(86_400), &[]),
        (
            json!("ClientIP"),
            config(json!(0)),
            Some(1),
            &["spec.sessionAffinityConfig.clientIP.timeoutSeconds"],
        ),
        (
            json!("ClientIP"),
            config(json!(-5)),
            Some(1),
            &["spec.sessionAffinityConfig.clientIP.timeoutSeconds"],
        ),
        (
            json!("ClientIP"),
            config(json!(86_401)),
            Some(86_400),
            &["spec.sessionAffinityConfig.clientIP.timeoutSeconds"],
        ),
        (json!("clientip"), json!(null), None, &["spec.sessionAffinity"]),
    ] {
        let said = format!("{affinity} {config}");
        let spec = json!({
            "clusterIP": "10.96.0.10", "ports": [{"port": 80}],
            "sessionAffinity": affinity, "sessionAffinityConfig": config,
        });
        let reading = with_spec(spec);
        assert_eq!(
            (fields(&reading).as_slice(), reading.invalid),
            (complaints, !complaints.is_empty()),
            "{said}"
        );
        assert_eq!(reading.value.unwrap().affinity, seconds, "{said}");
    }
}

#[test]
fn a_service_of_another_proxy_is_not_ours_whatever_the_label_says() {
    for (labels, ours) in [
        (json!({}), true),
        (json!({PROXY_NAME_LABEL: ""}), false),
        (json!({PROXY_NAME_LABEL: "cilium"}), false),
        // Only on EndpointSlices does this label mean something.
        (json!({"service.kubernetes.io/headless": ""}), true),
    ] {
        let service = json!({"metadata": {"name": "web", "labels": labels}});
        let api::Service { metadata, .. } = serde_json::from_value(service).unwrap();
        assert_eq!(is_ours(&metadata), ours, "{labels}");
    }
    assert!(is_ours(&Metadata::default()));
}

#[test]
fn a_service_without_a_name_is_invalid() {
    let mut object = service(json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}));
    object.metadata.name = None;
    let reading = read(&object);
    assert!(reading.invalid && reading.value.is_none());
    assert_eq!(fields(&reading), ["metadata.name"]);
}
