//! From a document to the objects in it: Services, EndpointSlices, Endpoints, ServiceCIDRs, our Node, and lists of them.
//!
//! No API server stands in front of a directory, so what it would have filled in is filled in here, and what it
//! would have refused is refused here.

use serde_json::Value;

use super::documents::Document;
use super::unknown;
use crate::model::decode::{Flaw, explain_path};
use crate::model::object::{self as api, Decode};
use crate::model::{self, Node, ObjectKey, Problem, Reading, Service, ServiceCidr, Slice, ip};
use crate::nearest::nearest;

/// A kind we read. `Endpoints` and `EndpointSlice` are different objects even when they say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Known {
    Service,
    EndpointSlice,
    Endpoints,
    Node,
    ServiceCidr,
}

/// What makes two objects the same object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Identity {
    pub(super) kind: Known,
    pub(super) key: ObjectKey,
}

/// What an object contributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Service(Box<Service>),
    Slices(Vec<Slice>),
    Node(Node),
    ServiceCidr(ServiceCidr),
    /// Read and understood, and nothing to serve: headless, another proxy's, another Node.
    Nothing,
}

/// What became of one object of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is well, whatever its problems.
    Good(Identity, Object),
    /// It is broken; none of it may be applied. Its identity is known when that much could be read.
    Bad(Option<Identity>),
    /// It is of a kind we do not read.
    Skipped(String),
}

/// One object of a document, or a document that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// File, document and object, as problems name it.
    pub(super) place: String,
    pub(super) outcome: Outcome,
    pub(super) problems: Vec<Problem>,
}

/// Lists inside lists deeper than this are refused.
const MAX_LIST_DEPTH: usize = 4;

/// How objects are read.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    /// Only the Node of this name is ours.
    pub(super) node_name: String,
}

/// Everything in a document of this file.
pub(super) fn items(file: &str, document: Document, reader: &Reader) -> Vec<Item> {
    let place = format!("{file}, document {}", document.number);
    match document.content {
        Ok(value) => {
            let mut items = Vec::new();
            collect(&place, &value, None, reader, MAX_LIST_DEPTH, &mut items);
            items
        }
        Err(error) => vec![bad(
            place,
            None,
            "",
            error,
            "repair the document; `kubectl apply --dry-run=client` checks it",
        )],
    }
}

/// `implied` is the group, version and kind of the elements of a typed list, which need not repeat it.
fn collect(
    place: &str,
    value: &Value,
    implied: Option<(&str, &str)>,
    reader: &Reader,
    depth: usize,
    items: &mut Vec<Item>,
) {
    let (implied_version, implied_kind) = implied.unzip();
    let version = value.get("apiVersion").and_then(Value::as_str).or(implied_version).unwrap_or_default();
    let kind = value.get("kind").and_then(Value::as_str).or(implied_kind).unwrap_or_default();
    if kind.is_empty() {
        let remedy = "write one Kubernetes object per document";
        items.push(bad(
            place.to_owned(),
            None,
            "kind",
            "it is no Kubernetes object; it is not applied",
            remedy,
        ));
    } else if let Some(Value::Array(elements)) = value.get("items").filter(|_| kind.ends_with("List")) {
        if depth == 0 {
            items.push(bad(
                place.to_owned(),
                None,
                "items",
                "lists are nested too deeply",
                "write one flat list",
            ));
            return;
        }
        let element_kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
        let implied = element_kind.map(|kind| (version, kind));
        for (index, element) in elements.iter().enumerate() {
            collect(&format!("{place}, item {}", index + 1), element, implied, reader, depth - 1, items);
        }
    } else {
        items.push(object(place, value, version, kind, reader));
    }
}

fn object(place: &str, value: &Value, version: &str, kind: &str, reader: &Reader) -> Item {
    let known = match kind {
        "Service" => (Known::Service, "", "v1"),
        "Endpoints" => (Known::Endpoints, "", "v1"),
        "Node" => (Known::Node, "", "v1"),
        "EndpointSlice" => (Known::EndpointSlice, "discovery.k8s.io", "discovery.k8s.io/v1"),
        "ServiceCIDR" => (Known::ServiceCidr, "networking.k8s.io", "networking.k8s.io/v1"),
        _ => return skipped(place, version, kind),
    };
    let (known, group, wanted) = known;
    let metadata = value.get("metadata");
    let text = |field: &str| {
        metadata.and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
    };
    let (namespace, name) = (text("namespace"), text("name"));
    let named = if name.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind} {}", display_key(known, namespace, name))
    };
    let place = format!("{place}: {named}");
    if version != wanted {
        // Kinds are only unique within their group: another group's Service is a kind of its own.
        let of_group = version.rsplit_once('/').map_or("", |(group, _)| group);
        if of_group != group {
            return skipped(&place, version, kind);
        }
        let what = format!("apiVersion {version:?} is not read; the object is not applied");
        return bad(place, None, "apiVersion", what, format!("write apiVersion: {wanted}"));
    }
    for (field, text, optional) in [("metadata.name", name, false), ("metadata.namespace", namespace, true)] {
        let named = is_name(text);
        if !(optional && text.is_empty() || named) {
            let what = format!("{text:?} is no Kubernetes name; the object is not applied");
            return bad(place, None, field, what, "use lower-case letters, digits, '-' and '.'");
        }
    }
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    let key = ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() };
    let identity = Identity { kind: known, key };
    let reading = match known {
        Known::Service => decoded(value, read_service),
        Known::EndpointSlice => decoded(value, read_slice),
        Known::Endpoints => decoded(value, read_endpoints),
        // Of other Nodes nothing is used, so nothing of them can be wrong.
        Known::Node if name != reader.node_name => Ok(Reading::nothing()),
        Known::Node => decoded(value, read_node),
        Known::ServiceCidr => decoded(value, read_service_cidr),
    };
    match reading {
        Ok(reading) => {
            let mut problems: Vec<_> = reading
                .problems
                .into_iter()
                .map(|problem| Problem { object: place.clone(), ..problem })
                .collect();
            problems.extend(unknown::problems(&place, known, value));
            let outcome = match reading.value {
                _ if reading.invalid => Outcome::Bad(Some(identity)),
                None => Outcome::Good(identity, Object::Nothing),
                Some(object) => Outcome::Good(identity, object),
            };
            Item { place, outcome, problems }
        }
        Err(Flaw { field, what }) => {
            let remedy = format!("`kubectl explain {}` says what belongs there", explain_path(kind, &field));
            bad(place, Some(identity), &field, format!("{what}; the object is not applied"), remedy)
        }
    }
}

fn decoded<T: Decode>(
    value: &Value,
    read: impl FnOnce(T) -> Reading<Object>,
) -> Result<Reading<Object>, Flaw> {
    T::decode(value).map(read)
}

fn read_service(mut service: api::Service) -> Reading<Object> {
    if !model::service::is_ours(&service.metadata) {
        return Reading::nothing();
    }
    fill_in_service(&mut service);
    let mut reading = model::service::read(&service).map(|service| Object::Service(Box::new(service)));
    if model::service::lacks_cluster_ip(&service) {
        reading.problems.push(Problem {
            object: String::new(),
            field: "spec.clusterIP".to_owned(),
            what: "no API server gives this Service an address; it is not served".to_owned(),
            remedy: "set spec.clusterIP to a free address of the Service CIDR".to_owned(),
        });
    }
    reading
}

fn read_slice(mut slice: api::EndpointSlice) -> Reading<Object> {
    if !model::endpoints::is_ours(&slice.metadata) {
        return Reading::nothing();
    }
    // An API server gives every port a name.
    for port in &mut slice.ports {
        port.name.get_or_insert_default();
    }
    model::endpoints::read(&slice).map(|slice| Object::Slices(vec![slice]))
}

fn read_endpoints(endpoints: api::Endpoints) -> Reading<Object> {
    if !model::endpoints::is_ours(&endpoints.metadata) {
        return Reading::nothing();
    }
    model::endpoints::read_legacy(&endpoints).map(Object::Slices)
}

fn read_node(node: api::Node) -> Reading<Object> {
    model::node::read(&node).map(Object::Node)
}

fn read_service_cidr(object: api::ServiceCIDR) -> Reading<Object> {
    model::cidr::read(&object).map(Object::ServiceCidr)
}

/// `clusterIP`, `clusterIPs` and `ipFamilies` follow from each other.
fn fill_in_service(service: &mut api::Service) {
    let Some(spec) = service.spec.as_mut() else { return };
    let alone = spec.cluster_ip.clone().filter(|ip| !ip.is_empty());
    let list = spec.cluster_ips.get_or_insert_default();
    match (&alone, list.first()) {
        (Some(alone), None) => list.push(alone.clone()),
        (None, Some(first)) => spec.cluster_ip = Some(first.clone()),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let families = spec.ip_families.get_or_insert_default();
    if families.is_empty() {
        families.extend(list.iter().map(|text| {
            let is_v6 = ip::parse(text).map_or_else(|| text.contains(':'), |addr| addr.is_ipv6());
            if is_v6 { "IPv6" } else { "IPv4" }.to_owned()
        }));
    }
}

fn skipped(place: &str, version: &str, kind: &str) -> Item {
    let version = if version.is_empty() { "no apiVersion" } else { version };
    let what = format!("{kind} ({version}) is not read");
    let note = format!("{place}: {what}; Service, EndpointSlice, Endpoints, ServiceCIDR and Node are");
    let problem = |meant: &str| Problem {
        object: place.to_owned(),
        field: "kind".to_owned(),
        what: format!("{what}; the object is not applied"),
        remedy: format!("did you mean `{meant}`?"),
    };
    // Other kinds stand beside Services in many files: only a misspelled one is wrong.
    let meant = nearest(kind, KINDS).filter(|meant| *meant != kind);
    Item {
        place: place.to_owned(),
        outcome: Outcome::Skipped(note),
        problems: meant.map(problem).into_iter().collect(),
    }
}

/// The kinds that are read.
const KINDS: [&str; 5] = ["Service", "EndpointSlice", "Endpoints", "ServiceCIDR", "Node"];

fn bad(
    place: String,
    identity: Option<Identity>,
    field: &str,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Item {
    let problem =
        Problem { object: place.clone(), field: field.to_owned(), what: what.into(), remedy: remedy.into() };
    Item { place, outcome: Outcome::Bad(identity), problems: vec![problem] }
}

fn display_key(kind: Known, namespace: &str, name: &str) -> String {
    match kind {
        Known::Node | Known::ServiceCidr => name.to_owned(),
        Known::Service | Known::EndpointSlice | Known::Endpoints if namespace.is_empty() => {
            format!("default/{name}")
        }
        Known::Service | Known::EndpointSlice | Known::Endpoints => format!("{namespace}/{name}"),
    }
}

/// An RFC 1123 subdomain, roughly: enough to keep control characters and separators out of tables and logs.
fn is_name(text: &str) -> bool {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !text.is_empty() && text.len() <= 253 && text.chars().all(known)
}

#[cfg(test)]
mod tests;
