//! A document as an API type, and the field that is to blame when it is none.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Why a document is not what its kind says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// The field: `spec.ports[0].port`; empty when it is the document as a whole.
    pub(super) field: String,
    /// What is wrong with it.
    pub(super) what: String,
}

/// Reads a value as an API type.
pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Flaw> {
    T::deserialize(value).map_err(|error| {
        let path = blame::<T>(value);
        let what = format!("{error}; the object is not applied");
        Flaw { field: path.iter().fold(String::new(), |text, step| step.append_to(text)), what }
    })
}

/// `service.spec.ports.port`: a field as `kubectl explain` wants it.
pub(super) fn explain_path(kind: &str, field: &str) -> String {
    let mut path = kind.to_lowercase();
    for part in field.split('.').filter(|part| !part.is_empty()) {
        path.push('.');
        path.push_str(part.split('[').next().unwrap_or(part));
    }
    path
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Step<'_> {
    fn append_to(self, text: String) -> String {
        match self {
            Self::Key(key) if text.is_empty() => key.to_owned(),
            Self::Key(key) => format!("{text}.{key}"),
            Self::Index(index) => format!("{text}[{index}]"),
        }
    }
}

/// The way to the deepest part that is refused even when it is all there is. Serde's errors say what was found, not
/// where; and every field of these types may be absent, so a part can be tried alone.
fn blame<T: DeserializeOwned>(root: &Value) -> Vec<Step<'_>> {
    let refused = |path: &[Step<'_>], part: Value| {
        let alone = path.iter().rev().fold(part, |inner, step| wrap(*step, inner));
        T::deserialize(&alone).is_err()
    };
    let (mut path, mut at) = (Vec::new(), root);
    loop {
        let (empty, children): (Value, Vec<(Step<'_>, &Value)>) = match at {
            Value::Object(fields) => {
                (Value::Object(Map::new()), fields.iter().map(|(k, v)| (Step::Key(k), v)).collect())
            }
            Value::Array(items) => {
                (Value::Array(vec![]), items.iter().enumerate().map(|(i, v)| (Step::Index(i), v)).collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return path,
        };
        // A mapping where there should be none is to blame itself, not what is in it.
        if refused(&path, empty) {
            return path;
        }
        let depth = path.len();
        for (step, child) in children {
            path.push(step);
            if refused(&path, child.clone()) {
                at = child;
                break;
            }
            path.pop();
        }
        if path.len() == depth {
            return path;
        }
    }
}

fn wrap(step: Step<'_>, inner: Value) -> Value {
    match step {
        Step::Key(key) => Value::Object(Map::from_iter([(key.to_owned(), inner)])),
        Step::Index(_) => Value::Array(vec![inner]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::json;

    fn field<T: DeserializeOwned + std::fmt::Debug>(value: &Value) -> String {
        decode::<T>(value).unwrap_err().field
    }

    #[test]
    fn the_field_to_blame_is_found() {
        for (value, blamed) in [
            (json!({"spec": {"ports": [{"port": 80}, {"name": "a", "port": "http"}]}}), "spec.ports[1].port"),
            (json!({"spec": {"ports": {"port": 80}}}), "spec.ports"),
            (json!({"spec": {"clusterIP": 10.96, "ports": [{"port": "x"}]}}), "spec.clusterIP"),
            (json!({"metadata": {"labels": {"a": 1}}}), "metadata.labels.a"),
            (json!({"metadata": {"creationTimestamp": "yesterday"}}), "metadata.creationTimestamp"),
            (json!({"spec": {"ports": [{"port": 80.5}]}}), "spec.ports[0].port"),
            (json!({"spec": {"ports": [{"port": 99_999_999_999_u64}]}}), "spec.ports[0].port"),
            (json!({"spec": []}), "spec"),
            (json!([]), ""),
        ] {
            assert_eq!(field::<Service>(&value), blamed, "{value}");
        }
        let slice = json!({"endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": "yes"}}]});
        assert_eq!(field::<EndpointSlice>(&slice), "endpoints[0].conditions.ready");
    }

    #[test]
    fn nulls_are_absent_fields() {
        let value =
            json!({"metadata": {"name": "a", "creationTimestamp": null}, "spec": null, "status": null});
        assert!(decode::<Service>(&value).is_ok());
        assert!(
            decode::<EndpointSlice>(&json!({"addressType": "IPv4", "endpoints": null, "ports": null}))
                .is_ok()
        );
    }

    #[test]
    fn a_field_can_be_looked_up() {
        assert_eq!(explain_path("Service", "spec.ports[1].port"), "service.spec.ports.port");
        assert_eq!(explain_path("Node", ""), "node");
    }
}
