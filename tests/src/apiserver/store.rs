//! What the server knows: objects, their versions, and the changes between them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::selector::Selector;

/// A kind of object the server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `/api/v1/services`
    Services,
    /// `/apis/discovery.k8s.io/v1/endpointslices`
    EndpointSlices,
    /// `/api/v1/nodes`
    Nodes,
    /// `/apis/networking.k8s.io/v1/servicecidrs`
    ServiceCidrs,
}

impl Resource {
    pub(super) const ALL: [Self; 4] = [Self::Services, Self::EndpointSlices, Self::Nodes, Self::ServiceCidrs];

    /// As RBAC names it.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::ServiceCidrs => "servicecidrs",
        }
    }

    /// As RBAC names it; "" is the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Services | Self::Nodes => "",
            Self::EndpointSlices => "discovery.k8s.io",
            Self::ServiceCidrs => "networking.k8s.io",
        }
    }

    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::EndpointSlices => "EndpointSlice",
            Self::Nodes => "Node",
            Self::ServiceCidrs => "ServiceCIDR",
        }
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Services | Self::Nodes => "v1",
            Self::EndpointSlices => "discovery.k8s.io/v1",
            Self::ServiceCidrs => "networking.k8s.io/v1",
        }
    }

    pub(super) const fn namespaced(self) -> bool {
        !matches!(self, Self::Nodes | Self::ServiceCidrs)
    }

    /// What a field selector may name.
    pub(super) const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Services => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
            Self::EndpointSlices => &["metadata.name", "metadata.namespace"],
            Self::Nodes => &["metadata.name", "metadata.namespace", "spec.unschedulable"],
            Self::ServiceCidrs => &["metadata.name"],
        }
    }
}

/// Objects and their history.
#[derive(Debug)]
pub(super) struct Store {
    version: u64,
    /// Versions before this one are forgotten.
    oldest: u64,
    objects: BTreeMap<(Resource, String, String), Value>,
    changes: Vec<Change>,
    pages: BTreeMap<String, Page>,
    created: u64,
}

#[derive(Debug)]
struct Change {
    version: u64,
    resource: Resource,
    before: Option<Value>,
    after: Option<Value>,
}

/// The rest of a list that was asked for in pages, as it was when the list began.
#[derive(Debug)]
struct Page {
    version: u64,
    items: Vec<Value>,
}

/// The version asked for is not (or no more) known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    Forgotten,
    Future,
}

impl Store {
    pub(super) fn new() -> Self {
        // Versions are opaque; nobody should count on them to begin at 1.
        let version = 1_000;
        Self {
            version,
            oldest: version,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            pages: BTreeMap::new(),
            created: 0,
        }
    }

    pub(super) fn put(&mut self, resource: Resource, mut object: Value) {
        self.version += 1;
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let metadata = &mut object["metadata"];
        if resource.namespaced() && metadata["namespace"].as_str().unwrap_or_default().is_empty() {
            metadata["namespace"] = json!("default");
        }
        let key = key(
            resource,
            metadata["namespace"].as_str().unwrap_or_default(),
            metadata["name"].as_str().unwrap_or_default(),
        );
        let before = self.objects.get(&key).cloned();
        let inherited = ["uid", "creationTimestamp"]
            .map(|field| (field, before.as_ref().map(|old| old["metadata"][field].clone())));
        self.created += 1;
        for (field, old) in inherited {
            let fresh = match field {
                "uid" => json!(format!("00000000-0000-0000-0000-{:012}", self.created)),
                _ => json!("2026-01-01T00:00:00Z"),
            };
            if metadata[field].is_null() {
                metadata[field] = old.unwrap_or(fresh);
            }
        }
        metadata["resourceVersion"] = json!(self.version.to_string());
        metadata["managedFields"] =
            json!([{"manager": "test", "operation": "Update", "fieldsV1": {"f:spec": {}}}]);
        object["kind"] = json!(resource.kind());
        object["apiVersion"] = json!(resource.api_version());
        self.objects.insert(key, object.clone());
        self.changes.push(Change { version: self.version, resource, before, after: Some(object) });
    }

    pub(super) fn delete(&mut self, resource: Resource, namespace: &str, name: &str) -> bool {
        let Some(mut before) = self.objects.remove(&key(resource, namespace, name)) else { return false };
        self.version += 1;
        before["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.changes.push(Change { version: self.version, resource, before: Some(before), after: None });
        true
    }

    /// Forgets every version anybody may know. Watches that are open live on.
    pub(super) fn forget_versions(&mut self) {
        self.version += 1_000;
        self.oldest = self.version;
        self.pages.clear();
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// A list, or a page of one. A forgotten `token` is an error.
    pub(super) fn list(
        &mut self,
        resource: Resource,
        namespace: Option<&str>,
        selector: &Selector,
        limit: usize,
        token: &str,
    ) -> Result<Value, Unknown> {
        let page = if token.is_empty() {
            let objects = self
                .objects
                .iter()
                .filter(|((of, ns, _), _)| *of == resource && namespace.is_none_or(|n| n == ns));
            let mut items: Vec<Value> = objects
                .map(|(_, object)| object)
                .filter(|object| selector.matches(object))
                .cloned()
                .collect();
            // Elements of a typed list do not repeat its kind.
            for fields in items.iter_mut().filter_map(Value::as_object_mut) {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            Page { version: self.version, items }
        } else {
            self.pages.remove(token).ok_or(Unknown::Forgotten)?
        };
        let Page { version, mut items } = page;
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if limit > 0 && items.len() > limit {
            let rest = items.split_off(limit);
            let token = format!("{}-{version}-{}", resource.plural(), rest.len());
            metadata["continue"] = json!(token);
            metadata["remainingItemCount"] = json!(rest.len());
            self.pages.insert(token, Page { version, items: rest });
        }
        let kind = format!("{}List", resource.kind());
        Ok(json!({"kind": kind, "apiVersion": resource.api_version(), "metadata": metadata, "items": items}))
    }

    /// Can somebody who has seen this version go on from there?
    pub(super) fn knows(&self, version: u64) -> Result<(), Unknown> {
        match version {
            _ if version < self.oldest => Err(Unknown::Forgotten),
            _ if version > self.version => Err(Unknown::Future),
            _ => Ok(()),
        }
    }

    /// The watch events since a version, and the version they lead to.
    pub(super) fn since(
        &self,
        version: u64,
        resource: Resource,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> (Vec<Value>, u64) {
        let changes =
            self.changes.iter().filter(|change| change.version > version && change.resource == resource);
        let matching = |object: &Option<Value>| {
            let object = object.as_ref()?;
            let here = namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace);
            (here && selector.matches(object)).then(|| object.clone())
        };
        // An object that begins or ceases to match is an object that comes or goes.
        let events = changes.filter_map(|change| {
            let (event, mut object) = match (matching(&change.before), matching(&change.after)) {
                (None, Some(after)) => ("ADDED", after),
                (Some(_), Some(after)) => ("MODIFIED", after),
                (Some(before), None) => ("DELETED", before),
                (None, None) => return None,
            };
            object["metadata"]["resourceVersion"] = json!(change.version.to_string());
            Some(json!({"type": event, "object": object}))
        });
        (events.collect(), self.version)
    }
}

fn key(resource: Resource, namespace: &str, name: &str) -> (Resource, String, String) {
    let namespace = if resource.namespaced() { namespace } else { "" };
    (resource, namespace.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(store: &Store, since: u64, selector: &Selector) -> Vec<String> {
        let (events, _) = store.since(since, Resource::Services, None, selector);
        events
            .iter()
            .map(|event| {
                format!(
                    "{} {}",
                    event["type"].as_str().unwrap(),
                    event["object"]["metadata"]["name"].as_str().unwrap()
                )
            })
            .collect()
    }

    #[test]
    fn an_object_that_ceases_to_match_is_deleted_and_comes_back_as_added() {
        let selector = Selector::parse(Resource::Services, "!mine", "").unwrap();
        let mut store = Store::new();
        let start = store.version();
        store.put(Resource::Services, json!({"metadata": {"name": "web"}}));
        store.put(Resource::Services, json!({"metadata": {"name": "web", "labels": {"mine": ""}}}));
        store.put(Resource::Services, json!({"metadata": {"name": "web", "labels": {"mine": "2"}}}));
        store.put(Resource::Services, json!({"metadata": {"name": "web"}}));
        store.put(Resource::Services, json!({"metadata": {"name": "web"}, "spec": {}}));
        store.put(Resource::Nodes, json!({"metadata": {"name": "n1"}}));
        assert!(store.delete(Resource::Services, "default", "web"));
        assert!(!store.delete(Resource::Services, "default", "web"));
        assert_eq!(
            kinds(&store, start, &selector),
            ["ADDED web", "DELETED web", "ADDED web", "MODIFIED web", "DELETED web"]
        );
        assert_eq!(store.since(start, Resource::Services, None, &selector).1, start + 7);
    }

    #[test]
    fn pages_are_of_one_version_and_can_be_forgotten() {
        let mut store = Store::new();
        let all = Selector::default();
        for name in ["a", "b", "c"] {
            store.put(Resource::Services, json!({"metadata": {"name": name}}));
        }
        let first = store.list(Resource::Services, None, &all, 2, "").unwrap();
        store.put(Resource::Services, json!({"metadata": {"name": "d"}}));
        let token = first["metadata"]["continue"].as_str().unwrap();
        let second = store.list(Resource::Services, None, &all, 2, token).unwrap();
        assert_eq!(
            (first["items"].as_array().unwrap().len(), second["items"].as_array().unwrap().len()),
            (2, 1)
        );
        assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
        let first = store.list(Resource::Services, None, &all, 2, "").unwrap();
        store.forget_versions();
        let token = first["metadata"]["continue"].as_str().unwrap();
        assert_eq!(store.list(Resource::Services, None, &all, 2, token), Err(Unknown::Forgotten));
        assert_eq!(store.knows(1_003), Err(Unknown::Forgotten));
        assert_eq!(store.knows(store.version() + 1), Err(Unknown::Future));
        assert_eq!(store.knows(store.version()), Ok(()));
    }
}
