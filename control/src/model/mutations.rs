//! Every field of whole objects as an API server holds them, turned into everything it could be: what is not used never
//! matters, what is used is read or told, and who knew the object before knows it still.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::decode::Flaw;
use super::object::{self, Decode};
use super::{cidr, endpoints, node, service};

pub(crate) const SERVICE: &str = include_str!("recorded/service.json");
pub(crate) const SLICE: &str = include_str!("recorded/slice.json");
pub(crate) const NODE: &str = include_str!("recorded/node.json");
pub(crate) const SERVICE_CIDR: &str = include_str!("recorded/service_cidr.json");
const ENDPOINTS: &str = include_str!("recorded/endpoints.json");

/// What is used of a Service; `*` stands for an index. What holds a used field is used itself.
pub(crate) const USED_OF_SERVICE: &[&str] = &[
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/creationTimestamp",
    "/metadata/labels",
    "/metadata/annotations/tunway.dev~1balancing",
    "/spec/type",
    "/spec/clusterIP",
    "/spec/clusterIPs/*",
    "/spec/ipFamilies/*",
    "/spec/ports/*/name",
    "/spec/ports/*/protocol",
    "/spec/ports/*/port",
    "/spec/ports/*/nodePort",
    "/spec/internalTrafficPolicy",
    "/spec/externalTrafficPolicy",
    "/spec/externalIPs/*",
    "/spec/loadBalancerSourceRanges/*",
    "/spec/healthCheckNodePort",
    "/spec/sessionAffinity",
    "/spec/sessionAffinityConfig/clientIP/timeoutSeconds",
    "/status/loadBalancer/ingress/*/ip",
    "/status/loadBalancer/ingress/*/ipMode",
];

pub(crate) const USED_OF_SLICE: &[&str] = &[
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/creationTimestamp",
    "/metadata/labels/endpointslice.kubernetes.io~1managed-by",
    "/metadata/labels/kubernetes.io~1service-name",
    "/metadata/annotations",
    "/addressType",
    "/ports/*/name",
    "/ports/*/protocol",
    "/ports/*/port",
    "/endpoints/*/addresses/0",
    "/endpoints/*/conditions/ready",
    "/endpoints/*/conditions/serving",
    "/endpoints/*/conditions/terminating",
    "/endpoints/*/nodeName",
    "/endpoints/*/zone",
    "/endpoints/*/targetRef/kind",
    "/endpoints/*/targetRef/name",
    "/endpoints/*/hints/forZones/*/name",
    "/endpoints/*/hints/forNodes/*/name",
];

const USED_OF_ENDPOINTS: &[&str] = &[
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/creationTimestamp",
    "/metadata/labels/endpoints.kubernetes.io~1managed-by",
    "/metadata/annotations",
    "/subsets/*/addresses/*/ip",
    "/subsets/*/addresses/*/nodeName",
    "/subsets/*/addresses/*/targetRef/kind",
    "/subsets/*/addresses/*/targetRef/name",
    "/subsets/*/notReadyAddresses/*/ip",
    "/subsets/*/notReadyAddresses/*/nodeName",
    "/subsets/*/ports/*/name",
    "/subsets/*/ports/*/port",
    "/subsets/*/ports/*/protocol",
];

const USED_OF_NODE: &[&str] = &[
    "/metadata/name",
    "/metadata/creationTimestamp",
    "/metadata/labels/topology.kubernetes.io~1zone",
    "/metadata/annotations",
    "/spec/podCIDRs/*",
    "/status/addresses/*/type",
    "/status/addresses/*/address",
];

pub(crate) const USED_OF_SERVICE_CIDR: &[&str] = &[
    "/metadata/name",
    "/metadata/creationTimestamp",
    "/metadata/labels",
    "/metadata/annotations",
    "/spec/cidrs/*",
];

/// One field of an object turned into something else.
pub(crate) struct Mutation {
    pub(crate) pointer: String,
    pub(crate) used: bool,
    pub(crate) object: Value,
}

/// Every field, turned into every kind of value and taken out.
pub(crate) fn mutations(recorded: &str, used: &[&str]) -> Vec<Mutation> {
    let whole: Value = serde_json::from_str(recorded).unwrap();
    let mut pointers = Vec::new();
    collect(&whole, String::new(), &mut pointers);
    let others = [
        json!(null),
        json!(true),
        json!(7),
        json!(-1.5),
        json!(99_999_999_999_u64),
        json!("other"),
        json!(""),
        json!([]),
        json!([null]),
        json!(["a", 1, {"b": {}}]),
        json!({}),
        json!({"a": [1], "port": "x", "name": 5}),
    ];
    let mut all = Vec::new();
    for pointer in pointers {
        let used = is_used(&pointer, used);
        let mutation = |object| Mutation { pointer: pointer.clone(), used, object };
        for other in &others {
            let mut object = whole.clone();
            *object.pointer_mut(&pointer).unwrap() = other.clone();
            all.push(mutation(object));
        }
        let mut object = whole.clone();
        remove(&mut object, &pointer);
        all.push(mutation(object));
    }
    all
}

fn collect(value: &Value, at: String, pointers: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for (step, value) in children {
        let at = format!("{at}/{step}");
        pointers.push(at.clone());
        collect(value, at, pointers);
    }
}

fn remove(object: &mut Value, pointer: &str) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Object(fields) => drop(fields.remove(&last.replace("~1", "/").replace("~0", "~"))),
        Value::Array(items) => drop(items.remove(last.parse().unwrap())),
        held @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            panic!("{held} holds nothing")
        }
    }
}

/// The pointer names a used field, or something that holds one.
fn is_used(pointer: &str, used: &[&str]) -> bool {
    let steps: Vec<&str> = pointer.split('/').collect();
    used.iter().any(|used| {
        let used: Vec<&str> = used.split('/').collect();
        used.len() >= steps.len()
            && steps.iter().zip(&used).all(|(step, used)| {
                step == used || (*used == "*" && step.bytes().all(|byte| byte.is_ascii_digit()))
            })
    })
}

/// `spec.ports[0].port` as a pointer.
fn pointer_of(field: &str) -> String {
    let mut pointer = String::new();
    for name in DOTTED {
        if let Some(before) = field.strip_suffix(name) {
            return format!("{}/{}", pointer_of(before.trim_end_matches('.')), name.replace('/', "~1"));
        }
    }
    for part in field.split(['.', '[']).filter(|part| !part.is_empty()) {
        pointer.push('/');
        pointer.push_str(part.trim_end_matches(']'));
    }
    pointer
}

/// Names with dots in them that a flaw may end with.
const DOTTED: &[&str] =
    &["kubernetes.io/service-name", "topology.kubernetes.io/zone", "tunway.dev/balancing"];

/// Reads every mutation: the model of an unused field's is the recorded one; a used one's is a model, or names the field.
fn walk<M: PartialEq + std::fmt::Debug>(
    recorded: &str,
    used: &[&str],
    read: impl Fn(&Value) -> Result<M, Flaw>,
) {
    let known = read(&serde_json::from_str(recorded).unwrap()).unwrap();
    let (mut same, mut refused) = (0, BTreeSet::new());
    for Mutation { pointer, used, object } in mutations(recorded, used) {
        match read(&object) {
            Ok(model) if !used => {
                assert_eq!(model, known, "{pointer} is not used");
                same += 1;
            }
            Ok(_) => {}
            Err(flaw) => {
                assert!(used, "{pointer} is not used: {flaw}");
                let told = pointer_of(&flaw.field);
                assert!(told.starts_with(&pointer), "{pointer} was changed, and {} is blamed", flaw.field);
                refused.insert(pointer);
            }
        }
    }
    assert!(same > 0 && !refused.is_empty());
    for used in used.iter().filter(|used| used.matches('/').count() > 1 && !used.ends_with("managed-by")) {
        assert!(refused.iter().any(|pointer| is_used(pointer, &[used])), "{used} is read whatever it is");
    }
}

fn decoded<T: Decode, M>(read: impl Fn(&T) -> M) -> impl Fn(&Value) -> Result<M, Flaw> {
    move |value| T::decode(value).map(|object| read(&object))
}

#[test]
fn every_field_of_a_service() {
    walk(SERVICE, USED_OF_SERVICE, decoded(service::read));
}

#[test]
fn every_field_of_a_slice() {
    walk(SLICE, USED_OF_SLICE, decoded(endpoints::read));
}

#[test]
fn every_field_of_endpoints() {
    walk(ENDPOINTS, USED_OF_ENDPOINTS, decoded(endpoints::read_legacy));
}

#[test]
fn every_field_of_a_node() {
    walk(NODE, USED_OF_NODE, decoded(node::read));
}

#[test]
fn every_field_of_a_service_cidr() {
    walk(SERVICE_CIDR, USED_OF_SERVICE_CIDR, decoded(cidr::read));
}

#[test]
fn recorded_objects_are_read_whole() {
    let whole: object::Service = serde_json::from_str(SERVICE).unwrap();
    let reading = service::read(&whole);
    assert!(reading.problems.is_empty(), "{:?}", reading.problems);
    let service = reading.value.unwrap();
    assert_eq!(
        (service.cluster_ips.len(), service.ports.len(), service.health_check_port),
        (2, 2, Some(31_999))
    );
    assert_eq!((service.load_balancer_ips.len(), service.affinity), (1, Some(600)));
    assert_eq!((service.created, service.source_ranges.len()), (1_772_600_767, 2));
}
