//! Reading an object never panics and never yields what its own rules exclude, whatever is in the object.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Reading, endpoints, ip, node, service};

/// Any JSON, a few levels deep, with keys that mean something.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        let fields = prop::collection::vec((key(), inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Value::from),
            fields.prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    let known = [
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "labels",
        "annotations",
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "ports",
        "port",
        "protocol",
        "endpoints",
        "addresses",
        "addressType",
        "conditions",
        "hints",
        "subsets",
        "type",
    ];
    prop_oneof![prop::sample::select(known.to_vec()).prop_map(str::to_owned), "[a-zA-Z./-]{0,12}"]
}

/// Text that is often nearly an address, a family, a protocol or a name.
fn text() -> impl Strategy<Value = String> {
    let known = [
        "",
        "None",
        "IPv4",
        "IPv6",
        "FQDN",
        "TCP",
        "UDP",
        "SCTP",
        "Local",
        "Cluster",
        "ClientIP",
        "ExternalName",
        "10.96.0.10",
        "010.096.0.1",
        "fd00::a",
        "::ffff:10.0.0.1",
        "0.0.0.0",
        "127.0.0.1",
        "ff02::1",
        "256.1.1.1",
        "web",
        "::",
        "1.2.3.4/32",
    ];
    prop_oneof![3 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => any::<String>(), 1 => "[0-9a-fA-F:.]{0,40}"]
}

fn texts() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), prop::collection::vec(text(), 0..4).prop_map(Value::from)]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), any::<i32>().prop_map(Value::from), (0..70_000).prop_map(Value::from)]
}

/// Well-typed Services with any values.
fn any_service() -> impl Strategy<Value = Value> {
    let port = (text(), number(), text(), number());
    let port = port.prop_map(|(name, port, protocol, node)| json!({"name": name, "port": port, "protocol": protocol, "nodePort": node}));
    let spec = (text(), texts(), texts(), text(), text(), prop::collection::vec(port, 0..4), texts(), text());
    (text(), spec).prop_map(|(name, (ip, ips, families, kind, policy, ports, external, affinity))| {
        json!({
            "metadata": {"name": name, "annotations": {"tunway.dev/x": name}},
            "spec": {
                "clusterIP": ip, "clusterIPs": ips, "ipFamilies": families, "type": kind, "ports": ports,
                "internalTrafficPolicy": policy, "externalIPs": external, "sessionAffinity": affinity,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": kind}]}},
        })
    })
}

/// Well-typed slices with any values.
fn any_slice() -> impl Strategy<Value = Value> {
    let port = (text(), number(), text())
        .prop_map(|(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}));
    let endpoint = (texts(), any::<[Option<bool>; 3]>(), text()).prop_map(|(addresses, conditions, name)| {
        let [ready, serving, terminating] = conditions;
        json!({
            "addresses": addresses, "nodeName": name, "hints": {"forZones": [{"name": name}], "forNodes": null},
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}, "targetRef": {"kind": name, "name": name},
        })
    });
    let parts =
        (text(), text(), text(), prop::collection::vec(port, 0..4), prop::collection::vec(endpoint, 0..6));
    parts.prop_map(|(name, owner, family, ports, endpoints)| {
        json!({
            "metadata": {"name": name, "labels": {endpoints::SERVICE_LABEL: owner}},
            "addressType": family, "ports": ports, "endpoints": endpoints,
        })
    })
}

/// Reads a value as everything it can be read as.
fn read_all(value: &Value) {
    fn check<T>(reading: Reading<T>) -> Option<T> {
        assert!(!reading.invalid || !reading.problems.is_empty(), "invalid without a word");
        assert!(reading.problems.len() <= 17);
        assert!(
            reading.problems.iter().all(|problem| !problem.what.is_empty() && !problem.remedy.is_empty())
        );
        reading.value
    }
    if let Some(service) =
        serde_json::from_value(value.clone()).ok().and_then(|object| check(service::read(&object)))
    {
        assert!((1..=2).contains(&service.cluster_ips.len()));
        assert!(
            service
                .cluster_ips
                .iter()
                .all(|addr| ip::never_routed(*addr).is_none() && addr.to_canonical() == *addr)
        );
        assert!(
            service.cluster_ips.len() < 2
                || service.cluster_ips[0].is_ipv4() != service.cluster_ips[1].is_ipv4()
        );
        assert!(service.ports.iter().all(|port| port.port != 0 && port.node_port != Some(0)));
        // The same number under two names may be there; the compiler gives it to the first.
        let mut names: Vec<_> = service.ports.iter().map(|port| (&port.name, port.proto)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), service.ports.len(), "a name twice");
    }
    if let Some(slice) =
        serde_json::from_value(value.clone()).ok().and_then(|object| check(endpoints::read(&object)))
    {
        assert!(slice.ports.iter().all(|port| port.port != 0));
        assert!(
            slice.endpoints.windows(2).all(|pair| pair[0].addr.is_ipv4() == pair[1].addr.is_ipv4()),
            "one family"
        );
        assert!(!slice.service.name.is_empty() && slice.service.namespace == slice.key.namespace);
    }
    if let Some(slices) =
        serde_json::from_value(value.clone()).ok().and_then(|object| check(endpoints::read_legacy(&object)))
    {
        assert!(slices.iter().all(|slice| !slice.endpoints.is_empty()));
    }
    _ = serde_json::from_value(value.clone()).ok().and_then(|object| check(node::read(&object)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_read_or_refused(value in any_json()) {
        read_all(&value);
    }

    #[test]
    fn any_service_is_read_by_the_rules(value in any_service()) {
        prop_assert!(serde_json::from_value::<super::object::Service>(value.clone()).is_ok());
        read_all(&value);
    }

    #[test]
    fn any_slice_is_read_by_the_rules(value in any_slice()) {
        prop_assert!(serde_json::from_value::<super::object::EndpointSlice>(value.clone()).is_ok());
        read_all(&value);
    }

    #[test]
    fn sloppy_addresses_are_what_they_are_without_zeros(octets in any::<[u8; 4]>(), zeros in any::<[u8; 4]>()) {
        let part = |index: usize| format!("{}{}", "0".repeat(usize::from(zeros[index] % 5)), octets[index]);
        let text = (0..4).map(part).collect::<Vec<_>>().join(".");
        prop_assert_eq!(ip::parse(&text), Some(octets.into()));
        prop_assert_eq!(ip::parse(&format!("::ffff:{text}")), Some(octets.into()));
    }
}
