//! Writing a configuration file.

use serde_json::Value;

use super::file::ConfigFile;

/// A file that could not be written as YAML: a fault of this program.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be written as YAML: {0}")]
pub struct WriteError(String);

/// The file as YAML: `apiVersion` and `kind` first, then the keys that say something, by name.
///
/// # Errors
/// The serializer's, which is a fault of this program.
pub fn to_yaml(file: &ConfigFile) -> Result<String, WriteError> {
    let failed = |error: &dyn std::fmt::Display| WriteError(error.to_string());
    let mut value = serde_json::to_value(file).map_err(|error| failed(&error))?;
    without_nulls(&mut value);
    let mut yaml = String::new();
    let map = value.as_object_mut().map(std::mem::take).unwrap_or_default();
    let (head, rest): (Vec<_>, Vec<_>) =
        map.into_iter().partition(|(key, _)| key == "apiVersion" || key == "kind");
    for part in [head, rest] {
        let part: serde_json::Map<String, Value> = part.into_iter().collect();
        if !part.is_empty() {
            yaml.push_str(&serde_saphyr::to_string(&part).map_err(|error| failed(&error))?);
        }
    }
    Ok(yaml)
}

/// What says nothing is left out; a list or map that is empty says something.
fn without_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(without_nulls);
    }
}
