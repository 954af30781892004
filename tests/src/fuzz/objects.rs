//! Objects as an API server would send them, and as it never would: few names, so that they meet, and every field now
//! and then something else than it should be. They become JSON files; what follows is judged as in `documents`.
//!
//! ```text
//! input: choice | step*     step: file | object
//! ```

use serde_json::{Map, Value, json};

use super::Draw;
use super::world::World;

/// Steps of one input.
const STEPS: usize = 24;

/// Addresses of every kind a Service or an endpoint may have, or must not.
const ADDRESSES: [&str; 22] = [
    "10.96.0.1",
    "10.96.0.2",
    "fd96::1",
    "198.51.100.1",
    "2001:db8::1",
    "10.1.0.1",
    "10.1.0.2",
    "10.1.0.3",
    "fd00:1::1",
    "fd00:1::2",
    "192.168.0.2",
    "169.254.77.1",
    "None",
    "",
    "0.0.0.0",
    "127.0.0.1",
    "224.0.0.1",
    "::ffff:10.96.0.1",
    "010.096.0.1",
    "fe80::1",
    "::",
    "10.96.0.1/32",
];
const NAMES: [&str; 4] = ["a", "b", "c", "a.b"];
const PORT_NAMES: [Option<&str>; 4] = [None, Some(""), Some("http"), Some("dns")];
const PROTOCOLS: [Option<&str>; 5] = [None, Some("TCP"), Some("UDP"), Some("SCTP"), Some("ICMP")];
const POLICIES: [Option<&str>; 4] = [None, Some("Cluster"), Some("Local"), Some("local")];
const PORTS: [i64; 8] = [80, 443, 30_080, 30_443, 0, -1, 65_535, 65_536];
const RANGES: [&str; 6] = ["10.0.0.0/8", "0.0.0.0/0", "::/0", "10.1.2.3/16", "10.0.0.0/33", " 192.0.2.0/24 "];
const ANNOTATIONS: [(&str, &[&str]); 4] = [
    (
        "tunway.dev/balancing",
        &["random", "round-robin", "maglev", "rendezvous", "p2c", "least-connections", "x"],
    ),
    ("tunway.dev/hash-by", &["client", "tuple", ""]),
    (
        "tunway.dev/weights",
        &[
            "*:0",
            "zone=a:10",
            "nodeName=here:7, targetRef.name=p*:1000",
            "labels.x=y:3, zone=a:1001",
            "a:b:c",
        ],
    ),
    ("service.kubernetes.io/topology-mode", &["Auto"]),
];

/// Runs the target.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data);
    let folder = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    let mut world = World::new(folder.path(), draw.byte());
    world.step();
    for _ in 0..STEPS {
        if draw.is_empty() {
            break;
        }
        let what = draw.byte();
        let file = folder.path().join(format!("{}.json", what & 3));
        let content = match what >> 2 & 3 {
            0 => None,
            1 => Some(object(&mut draw)),
            _ => {
                let items: Vec<_> = (0..=draw.below(4)).map(|_| object(&mut draw)).collect();
                Some(json!({"apiVersion": "v1", "kind": "List", "items": items}))
            }
        };
        match content {
            Some(content) => std::fs::write(file, content.to_string()).expect("a file on a tmpfs"),
            None => drop(std::fs::remove_file(file)),
        }
        // Some changes come together.
        if what & 0x10 == 0 || draw.is_empty() {
            world.step();
        }
    }
}

fn object(draw: &mut Draw<'_>) -> Value {
    let mut object = match draw.below(8) {
        0..=2 => service(draw),
        3..=5 => slice(draw),
        6 => endpoints(draw),
        _ => node_or_cidr(draw),
    };
    for _ in 0..draw.byte().saturating_sub(224) % 4 {
        spoil(&mut object, draw);
    }
    object
}

/// Puts something in the place of some part.
fn spoil(value: &mut Value, draw: &mut Draw<'_>) {
    let (deeper, which) = (draw.below(8) != 0, usize::from(draw.byte()));
    let inner = match value {
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let at = which % fields.len();
            fields.values_mut().nth(at)
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = which % items.len();
            items.get_mut(at)
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => None,
    };
    if let Some(inner) = inner {
        return spoil(inner, draw);
    }
    *value = match draw.below(12) {
        0 => Value::Null,
        1 => json!([]),
        2 => json!({}),
        3 => json!([null]),
        4 => json!(-1),
        5 => json!(1e300),
        6 => json!(u64::MAX),
        7 => json!(true),
        8 => json!("\u{1b}[31m\u{0}\u{fffd}"),
        9 => json!({"": {"": []}}),
        10 => json!("x".repeat(300)),
        _ => json!([value.clone(), value.clone()]),
    };
}

fn metadata(draw: &mut Draw<'_>) -> Value {
    let created = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2025-12-31T23:59:59Z"];
    let namespace = draw.one_of(&[None, Some("default"), Some("other")]);
    let mut annotations = Map::new();
    while annotations.len() < 4 && draw.below(4) == 3 {
        let (name, values) = draw.one_of(&ANNOTATIONS);
        annotations.insert(name.into(), draw.one_of(values).into());
    }
    without_nulls(json!({
        "name": draw.one_of(&NAMES), "namespace": namespace, "annotations": annotations,
        "creationTimestamp": draw.one_of(&created),
    }))
}

fn some<T>(draw: &mut Draw<'_>, most: u8, mut one: impl FnMut(&mut Draw<'_>) -> T) -> Vec<T> {
    (0..draw.below(most + 1)).map(|_| one(draw)).collect()
}

fn address(draw: &mut Draw<'_>) -> &'static str {
    // Mostly good ones.
    let which = draw.byte();
    ADDRESSES[usize::from(if which < 192 { which % 10 } else { which }) % ADDRESSES.len()]
}

fn port(draw: &mut Draw<'_>) -> i64 {
    let which = draw.byte();
    PORTS[usize::from(if which < 224 { which % 4 } else { which }) % PORTS.len()]
}

fn service(draw: &mut Draw<'_>) -> Value {
    let metadata = metadata(draw);
    let ips = some(draw, 2, address);
    let ports = some(draw, 3, |draw| {
        without_nulls(json!({
            "name": draw.one_of(&PORT_NAMES), "protocol": draw.one_of(&PROTOCOLS), "port": port(draw),
            "nodePort": draw.flip().then(|| port(draw)), "targetPort": draw.one_of(&["http", "8080"]),
        }))
    });
    let ingress = some(draw, 2, |draw| {
        without_nulls(
            json!({"ip": address(draw), "ipMode": draw.one_of(&[None, Some("VIP"), Some("Proxy")])}),
        )
    });
    let kind =
        draw.one_of(&[None, Some("ClusterIP"), Some("NodePort"), Some("LoadBalancer"), Some("ExternalName")]);
    let affinity = draw.one_of(&[None, None, Some("ClientIP"), Some("None")]);
    let spec = json!({
        "type": kind, "clusterIP": ips.first(), "clusterIPs": draw.flip().then_some(&ips), "ports": ports,
        "externalIPs": some(draw, 2, address), "loadBalancerSourceRanges": some(draw, 2, |draw| draw.one_of(&RANGES)),
        "internalTrafficPolicy": draw.one_of(&POLICIES), "externalTrafficPolicy": draw.one_of(&POLICIES),
        "healthCheckNodePort": draw.flip().then(|| port(draw)), "sessionAffinity": affinity,
        "sessionAffinityConfig": draw.flip().then(|| json!({"clientIP": {"timeoutSeconds": port(draw)}})),
        "trafficDistribution": draw.one_of(&[None, Some("PreferClose"), Some("PreferSameNode")]),
    });
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": without_nulls(spec),
        "status": {"loadBalancer": {"ingress": ingress}}})
}

fn slice(draw: &mut Draw<'_>) -> Value {
    let mut metadata = metadata(draw);
    metadata["labels"] = json!({"kubernetes.io/service-name": draw.one_of(&NAMES)});
    let kind = draw.one_of(&["IPv4", "IPv4", "IPv6", "FQDN", "IPv5"]);
    let ports = some(draw, 3, |draw| {
        without_nulls(json!({
            "name": draw.one_of(&PORT_NAMES), "protocol": draw.one_of(&PROTOCOLS),
            "port": draw.flip().then(|| port(draw)),
        }))
    });
    let endpoints = some(draw, 4, |draw| {
        let condition = [None, None, Some(true), Some(false)];
        without_nulls(json!({
            "addresses": (0..=draw.below(8) / 6).map(|_| address(draw)).collect::<Vec<_>>(),
            "conditions": without_nulls(json!({"ready": draw.one_of(&condition),
                "serving": draw.one_of(&condition), "terminating": draw.one_of(&condition)})),
            "nodeName": draw.one_of(&[None, Some("here"), Some("there")]), "zone": draw.one_of(&[None, Some("a")]),
            "hints": draw.flip().then(|| json!({"forZones": [{"name": draw.one_of(&["a", "b", ""])}],
                "forNodes": some(draw, 1, |_| json!({"name": "here"}))})),
            "targetRef": {"kind": "Pod", "name": draw.one_of(&["p1", "p2"])},
        }))
    });
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": kind,
        "ports": ports, "endpoints": endpoints})
}

fn endpoints(draw: &mut Draw<'_>) -> Value {
    let metadata = metadata(draw);
    let subsets = some(draw, 2, |draw| {
        json!({
            "addresses": some(draw, 3, |draw| json!({"ip": address(draw), "nodeName": "here"})),
            "notReadyAddresses": some(draw, 1, |draw| json!({"ip": address(draw)})),
            "ports": some(draw, 2, |draw| without_nulls(json!({"name": draw.one_of(&PORT_NAMES), "port": port(draw),
                "protocol": draw.one_of(&PROTOCOLS)}))),
        })
    });
    json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets})
}

fn node_or_cidr(draw: &mut Draw<'_>) -> Value {
    if draw.flip() {
        return json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": metadata(draw),
            "spec": {"cidrs": some(draw, 2, |draw| draw.one_of(&RANGES))}});
    }
    let zone = draw.one_of(&[None, Some("a"), Some("b")]);
    let addresses = some(
        draw,
        3,
        |draw| json!({"type": draw.one_of(&["InternalIP", "ExternalIP", "Hostname"]), "address": address(draw)}),
    );
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "here", "labels": without_nulls(json!({"topology.kubernetes.io/zone": zone}))},
        "spec": {"podCIDRs": some(draw, 2, |draw| draw.one_of(&RANGES))}, "status": {"addresses": addresses}})
}

fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, value| !value.is_null());
    }
    value
}
