//! Fields of a manifest that its kind does not have: an API server refuses or drops them, so they mean nothing here,
//! and their owner should know. The names are those of Kubernetes 1.37, whether tunway uses them or not.

use serde_json::Value;

use super::objects::Known;
use crate::model::Problem;
use crate::nearest;

/// The fields of an object, and what is in them. A list stands for each of its elements.
type Fields = &'static [(&'static str, Inside)];

/// What is in a field.
#[derive(Clone, Copy)]
enum Inside {
    /// Whatever its owner writes: a value, a map of labels, or something nobody here reads.
    Any,
    /// An object, or a list of such objects.
    Object(Fields),
}

use Inside::{Any, Object};

const METADATA: Fields = &[
    ("annotations", Any),
    ("creationTimestamp", Any),
    ("deletionGracePeriodSeconds", Any),
    ("deletionTimestamp", Any),
    ("finalizers", Any),
    ("generateName", Any),
    ("generation", Any),
    ("labels", Any),
    ("managedFields", Any),
    ("name", Any),
    ("namespace", Any),
    ("ownerReferences", Any),
    ("resourceVersion", Any),
    ("selfLink", Any),
    ("uid", Any),
];

const TARGET: Fields = &[
    ("apiVersion", Any),
    ("fieldPath", Any),
    ("kind", Any),
    ("name", Any),
    ("namespace", Any),
    ("resourceVersion", Any),
    ("uid", Any),
];

const PORT: Fields = &[("appProtocol", Any), ("name", Any), ("port", Any), ("protocol", Any)];

const SERVICE: Fields = &[
    ("apiVersion", Any),
    ("kind", Any),
    ("metadata", Object(METADATA)),
    ("spec", Object(SERVICE_SPEC)),
    ("status", Object(&[("conditions", Any), ("loadBalancer", Object(&[("ingress", Object(INGRESS))]))])),
];

const SERVICE_SPEC: Fields = &[
    ("allocateLoadBalancerNodePorts", Any),
    ("clusterIP", Any),
    ("clusterIPs", Any),
    ("externalIPs", Any),
    ("externalName", Any),
    ("externalTrafficPolicy", Any),
    ("healthCheckNodePort", Any),
    ("internalTrafficPolicy", Any),
    ("ipFamilies", Any),
    ("ipFamilyPolicy", Any),
    ("loadBalancerClass", Any),
    ("loadBalancerIP", Any),
    ("loadBalancerSourceRanges", Any),
    ("ports", Object(SERVICE_PORT)),
    ("publishNotReadyAddresses", Any),
    ("selector", Any),
    ("sessionAffinity", Any),
    ("sessionAffinityConfig", Object(&[("clientIP", Object(&[("timeoutSeconds", Any)]))])),
    ("trafficDistribution", Any),
    ("type", Any),
];

const SERVICE_PORT: Fields = &[
    ("appProtocol", Any),
    ("name", Any),
    ("nodePort", Any),
    ("port", Any),
    ("protocol", Any),
    ("targetPort", Any),
];

const INGRESS: Fields = &[("hostname", Any), ("ip", Any), ("ipMode", Any), ("ports", Any)];

const SLICE: Fields = &[
    ("apiVersion", Any),
    ("kind", Any),
    ("metadata", Object(METADATA)),
    ("addressType", Any),
    ("endpoints", Object(ENDPOINT)),
    ("ports", Object(PORT)),
];

const ENDPOINT: Fields = &[
    ("addresses", Any),
    ("conditions", Object(&[("ready", Any), ("serving", Any), ("terminating", Any)])),
    ("deprecatedTopology", Any),
    ("hints", Object(&[("forNodes", Object(&[("name", Any)])), ("forZones", Object(&[("name", Any)]))])),
    ("hostname", Any),
    ("nodeName", Any),
    ("targetRef", Object(TARGET)),
    ("zone", Any),
];

const ENDPOINTS: Fields = &[
    ("apiVersion", Any),
    ("kind", Any),
    ("metadata", Object(METADATA)),
    (
        "subsets",
        Object(&[
            ("addresses", Object(ADDRESS)),
            ("notReadyAddresses", Object(ADDRESS)),
            ("ports", Object(PORT)),
        ]),
    ),
];

const ADDRESS: Fields = &[("hostname", Any), ("ip", Any), ("nodeName", Any), ("targetRef", Object(TARGET))];

const SERVICE_CIDR: Fields = &[
    ("apiVersion", Any),
    ("kind", Any),
    ("metadata", Object(METADATA)),
    ("spec", Object(&[("cidrs", Any)])),
    ("status", Object(&[("conditions", Any)])),
];

/// Very many fields, most of which nobody writes by hand.
const NODE: Fields =
    &[("apiVersion", Any), ("kind", Any), ("metadata", Object(METADATA)), ("spec", Any), ("status", Any)];

/// Unknown fields told of one object.
const MOST: usize = 16;

/// What is to be told of this object's unknown fields, at `place`.
pub(super) fn problems(place: &str, kind: Known, value: &Value) -> Vec<Problem> {
    let mut found = Vec::new();
    walk(value, fields(kind), "", &mut found);
    let problem = |(path, key, known): (String, &str, Fields)| Problem {
        object: place.to_owned(),
        field: path,
        what: "there is no such field; it means nothing".to_owned(),
        remedy: nearest::or_else(key, known.iter().map(|(name, _)| *name), "remove it"),
    };
    found.into_iter().take(MOST).map(problem).collect()
}

const fn fields(kind: Known) -> Fields {
    match kind {
        Known::Service => SERVICE,
        Known::EndpointSlice => SLICE,
        Known::Endpoints => ENDPOINTS,
        Known::Node => NODE,
        Known::ServiceCidr => SERVICE_CIDR,
    }
}

fn walk<'a>(value: &'a Value, known: Fields, path: &str, found: &mut Vec<(String, &'a str, Fields)>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.iter().find(|(name, _)| name == key) {
                    Some((_, Object(known))) => walk(inner, known, &path, found),
                    Some((_, Any)) => {}
                    None => found.push((path, key.as_str(), known)),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, known, &format!("{path}[{index}]"), found);
            }
        }
        // A value of another form is refused where it is read.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
    use serde_json::{Map, json};

    fn told(kind: Known, value: &Value) -> Vec<(String, String)> {
        problems("web.yaml", kind, value).into_iter().map(|problem| (problem.field, problem.remedy)).collect()
    }

    #[test]
    fn an_unknown_field_is_named_with_its_place_and_the_nearest_known_one() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "label": {"sessionAfinity": 1}},
            "spec": {"clusterIP": "10.96.0.1", "sessionAfinity": "ClientIP", "replicas": 3,
                "ports": [{"port": 80}, {"port": 81, "target": 8080, "nodeport": 30000}]},
        });
        let of = |field: &str, meant: &str| (field.to_owned(), format!("did you mean `{meant}`?"));
        assert_eq!(
            told(Known::Service, &service),
            [
                of("metadata.label", "labels"),
                of("spec.ports[1].nodeport", "nodePort"),
                ("spec.ports[1].target".to_owned(), "remove it".to_owned()),
                ("spec.replicas".to_owned(), "remove it".to_owned()),
                of("spec.sessionAfinity", "sessionAffinity"),
            ]
        );
        let slice = json!({"endpoints": [{"addresses": ["10.1.0.1"], "condition": {"ready": true}}], "adressType": "IPv4"});
        let fields: Vec<_> = told(Known::EndpointSlice, &slice).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["adressType", "endpoints[0].condition"]);
        let labels = json!({"metadata": {"labels": {"anything": "goes"}, "annotations": {"x/y": "z"}}});
        assert_eq!(told(Known::Node, &labels), []);
    }

    #[test]
    fn an_object_of_odd_fields_is_told_within_bounds() {
        let odd: Map<String, Value> = (0..100).map(|n| (format!("x{n}"), Value::Null)).collect();
        assert_eq!(told(Known::Service, &odd.into()).len(), MOST);
    }

    /// An object with every field of the table, by its path; values are there to be kept, not to mean anything.
    fn every(known: Fields) -> Vec<String> {
        known
            .iter()
            .flat_map(|(name, inside)| match inside {
                Any => vec![(*name).to_owned()],
                Object(known) => every(known).into_iter().map(|rest| format!("{name}.{rest}")).collect(),
            })
            .collect()
    }

    /// `value` at this path, with the levels of `lists` in a list.
    fn at(path: &[&str], value: &Value, lists: usize) -> Value {
        let wrap = |inner: Value, (depth, key): (usize, &&str)| {
            let inner = if lists & (1 << depth) == 0 { inner } else { json!([inner]) };
            json!({*key: inner})
        };
        path.iter().enumerate().rev().fold(value.clone(), wrap)
    }

    /// The API's own types know every field of the tables. They ignore one that they do not know, and refuse one that
    /// they do know in a form that no field has.
    #[test]
    fn the_tables_are_the_apis() {
        fn knows<T: serde::de::DeserializeOwned>(kind: Known) {
            let takes = |value: Value| serde_json::from_value::<T>(value).is_ok();
            for path in every(fields(kind)).into_iter().filter(|path| path != "apiVersion" && path != "kind")
            {
                let path: Vec<&str> = path.split('.').collect();
                let forms = [json!([[]]), json!("x"), json!(0.5)];
                let mut unknown = path.clone();
                *unknown.last_mut().unwrap() = "noSuchField";
                let shape = (0..1 << (path.len() - 1)).find(|lists| takes(at(&unknown, &forms[0], *lists)));
                let shape = shape.unwrap_or_else(|| panic!("{path:?} leads nowhere"));
                assert!(forms.iter().any(|form| !takes(at(&path, form, shape))), "{path:?} is none");
            }
        }
        knows::<core::Service>(Known::Service);
        knows::<core::Endpoints>(Known::Endpoints);
        knows::<discovery::EndpointSlice>(Known::EndpointSlice);
        knows::<networking::ServiceCIDR>(Known::ServiceCidr);
    }
}
