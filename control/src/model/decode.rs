//! From JSON to the fields that are used, and the field that is to blame when one cannot be read.
//!
//! What is not asked for is never looked at, whatever its shape: an API server accepts more than the types of its own
//! documentation (`lastTransitionTime: null`), and newer ones have fields we do not know. Null is absent.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Why an object is not what its kind says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// The field: `spec.ports[0].port`; empty when it is the object as a whole.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) what: String,
}

impl Flaw {
    fn of(found: &Value, wanted: &str) -> Self {
        let found = match found {
            Value::Null => "nothing".to_owned(),
            Value::Bool(_) | Value::Number(_) => found.to_string(),
            Value::String(text) => format!("{:?}", text.chars().take(LONGEST).collect::<String>()),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "a mapping".to_owned(),
        };
        Self { field: String::new(), what: format!("{found} is not {wanted}") }
    }

    /// The same, seen from what holds it.
    fn under(self, step: &str) -> Self {
        let field = match self.field {
            field if field.is_empty() => step.to_owned(),
            field if field.starts_with('[') => format!("{step}{field}"),
            field => format!("{step}.{field}"),
        };
        Self { field, ..self }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.what),
            field => write!(f, "{field}: {}", self.what),
        }
    }
}

/// Characters of a bad value that are told.
const LONGEST: usize = 64;

/// The fields of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// Those of this value, which must be a mapping.
    pub(crate) fn of(value: &'a Value) -> Result<Self, Flaw> {
        value.as_object().map(Self).ok_or_else(|| Flaw::of(value, "a mapping"))
    }

    /// A string.
    pub(crate) fn text(self, name: &str) -> Result<Option<String>, Flaw> {
        self.read(name, text)
    }

    /// A number of 32 bits.
    pub(crate) fn number(self, name: &str) -> Result<Option<i32>, Flaw> {
        let number = |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok());
        self.read(name, |value| number(value).ok_or_else(|| Flaw::of(value, "a number of 32 bits")))
    }

    /// True or false.
    pub(crate) fn flag(self, name: &str) -> Result<Option<bool>, Flaw> {
        self.read(name, |value| value.as_bool().ok_or_else(|| Flaw::of(value, "true or false")))
    }

    /// A point in time, in seconds since the Unix epoch.
    pub(crate) fn seconds(self, name: &str) -> Result<Option<i64>, Flaw> {
        let time = |value: &Value| Time::deserialize(value).map(|time| time.0.as_second());
        self.read(name, |value| time(value).map_err(|_| Flaw::of(value, "a time as 2024-01-31T10:00:00Z")))
    }

    /// What is in a mapping.
    pub(crate) fn object<T>(
        self,
        name: &str,
        read: impl Fn(Fields<'_>) -> Result<T, Flaw>,
    ) -> Result<Option<T>, Flaw> {
        self.read(name, |value| read(Fields::of(value)?))
    }

    /// A list of mappings.
    pub(crate) fn objects<T>(
        self,
        name: &str,
        read: impl Fn(Fields<'_>) -> Result<T, Flaw>,
    ) -> Result<Option<Vec<T>>, Flaw> {
        self.list(name, usize::MAX, |value| read(Fields::of(value)?))
    }

    /// A list of strings.
    pub(crate) fn texts(self, name: &str) -> Result<Option<Vec<String>>, Flaw> {
        self.list(name, usize::MAX, text)
    }

    /// The first of a list of strings; the others are not looked at.
    pub(crate) fn first_text(self, name: &str) -> Result<Option<Vec<String>>, Flaw> {
        self.list(name, 1, text)
    }

    /// Every field that is there, by name.
    pub(crate) fn all(self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.0.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
    }

    fn list<T>(
        self,
        name: &str,
        most: usize,
        read: impl Fn(&Value) -> Result<T, Flaw>,
    ) -> Result<Option<Vec<T>>, Flaw> {
        self.read(name, |value| {
            let items = value.as_array().ok_or_else(|| Flaw::of(value, "a list"))?;
            let item = |(at, value)| read(value).map_err(|flaw| flaw.under(&format!("[{at}]")));
            items.iter().take(most).enumerate().map(item).collect()
        })
    }

    fn read<T>(self, name: &str, read: impl Fn(&Value) -> Result<T, Flaw>) -> Result<Option<T>, Flaw> {
        let value = self.0.get(name).filter(|value| !value.is_null());
        value.map(|value| read(value).map_err(|flaw| flaw.under(name))).transpose()
    }
}

/// A string.
pub(crate) fn text(value: &Value) -> Result<String, Flaw> {
    value.as_str().map(str::to_owned).ok_or_else(|| Flaw::of(value, "a string"))
}

/// `service.spec.ports.port`: a field as `kubectl explain` wants it.
pub(crate) fn explain_path(kind: &str, field: &str) -> String {
    let mut path = kind.to_lowercase();
    for part in field.split('.').filter(|part| !part.is_empty()) {
        path.push('.');
        path.push_str(part.split('[').next().unwrap_or(part));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::object::{Decode, EndpointSlice, Service};
    use serde_json::json;

    fn field<T: Decode + fmt::Debug>(value: &Value) -> String {
        T::decode(value).unwrap_err().field
    }

    #[test]
    fn the_field_to_blame_is_found() {
        for (value, blamed) in [
            (json!({"spec": {"ports": [{"port": 80}, {"name": "a", "port": "http"}]}}), "spec.ports[1].port"),
            (json!({"spec": {"ports": {"port": 80}}}), "spec.ports"),
            (json!({"spec": {"clusterIP": 10.96, "ports": [{"port": "x"}]}}), "spec.clusterIP"),
            (json!({"metadata": {"labels": ["a"]}}), "metadata.labels"),
            (
                json!({"metadata": {"annotations": {"a": 1, "tunway.dev/balancing": 2}}}),
                "metadata.annotations.tunway.dev/balancing",
            ),
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
        assert!(Service::decode(&value).is_ok());
        assert!(
            EndpointSlice::decode(&json!({"addressType": "IPv4", "endpoints": null, "ports": null})).is_ok()
        );
    }

    #[test]
    fn a_field_can_be_looked_up() {
        assert_eq!(explain_path("Service", "spec.ports[1].port"), "service.spec.ports.port");
        assert_eq!(explain_path("Node", ""), "node");
    }
}
