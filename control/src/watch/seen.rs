//! An object as the API sends it: read for what is used, or not readable. Neither a list nor a watch ends with it.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::ObjectKey;
use crate::model::decode::Flaw;
use crate::model::object::{Decode, identity};

/// One object of a list or a watch.
#[derive(Clone, Debug)]
pub(super) struct Seen<T> {
    /// What the watcher of `kube` asks for: name, namespace and resource version.
    metadata: ObjectMeta,
    /// What it is.
    pub(super) object: Result<T, Flaw>,
}

impl<T> Seen<T> {
    /// Whose it is, also of one that cannot be read.
    pub(super) fn key(&self) -> ObjectKey {
        ObjectKey::of(self.metadata.namespace.as_deref(), self.metadata.name.as_deref())
    }
}

impl<'de, T: Decode> Deserialize<'de> for Seen<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let (namespace, name) = identity(&value);
        let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let metadata = ObjectMeta {
            name: name.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            resource_version: version.map(str::to_owned),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, object: T::decode(&value) })
    }
}

impl<T: Decode> Resource for Seen<T> {
    type DynamicType = ();
    /// Of all namespaces at once, which is the same path for both scopes.
    type Scope = k8s_openapi::ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        T::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
