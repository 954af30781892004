//! Objects of the Kubernetes API with the fields we use and no others, from whatever JSON.
//!
//! A field that is used and has another type than the API gives it makes the whole object unreadable: part of an object
//! could be served as something its owner never wrote (open to everybody, or gone), so whoever holds an earlier state of
//! it keeps that, and one that is new is not served.

use std::collections::BTreeMap;

#[cfg(test)]
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::decode::{Fields, Flaw, text};
use super::endpoints::{self, HEADLESS_LABEL, SERVICE_LABEL};
use super::node::ZONE_LABEL;
use super::service::{self, ANNOTATION_PREFIX, PROXY_NAME_LABEL};

/// A kind of object.
pub(crate) trait Decode: Sized {
    /// Its group; empty for the core.
    const GROUP: &'static str;
    /// Its kind.
    const KIND: &'static str;
    /// Its kind in paths.
    const PLURAL: &'static str;

    /// Reads what is used of it.
    ///
    /// # Errors
    /// The first field that cannot be read.
    fn decode(object: &Value) -> Result<Self, Flaw>;
}

macro_rules! kinds {
    ($($name:ident: $group:literal, $plural:literal, $read:ident;)*) => {$(
        impl Decode for $name {
            const GROUP: &'static str = $group;
            const KIND: &'static str = stringify!($name);
            const PLURAL: &'static str = $plural;

            fn decode(object: &Value) -> Result<Self, Flaw> {
                $read(Fields::of(object)?)
            }
        }

        #[cfg(test)]
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::decode(&Value::deserialize(from)?).map_err(D::Error::custom)
            }
        }
    )*};
}

kinds! {
    Service: "", "services", service;
    EndpointSlice: "discovery.k8s.io", "endpointslices", slice;
    Endpoints: "", "endpoints", legacy;
    Node: "", "nodes", node;
    ServiceCIDR: "networking.k8s.io", "servicecidrs", service_cidr;
}

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
    /// Seconds since the Unix epoch.
    pub(crate) created: Option<i64>,
    /// Those that are strings: any may be one that weights go by.
    pub(crate) labels: BTreeMap<String, String>,
    /// Ours alone.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// See the API's documentation, as of every type here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) metadata: Metadata,
    pub(crate) spec: Option<ServiceSpec>,
    /// `status.loadBalancer.ingress`.
    pub(crate) ingress: Vec<Ingress>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceSpec {
    pub(crate) type_: Option<String>,
    pub(crate) cluster_ip: Option<String>,
    pub(crate) cluster_ips: Option<Vec<String>>,
    pub(crate) ip_families: Option<Vec<String>>,
    pub(crate) ports: Option<Vec<ServicePort>>,
    pub(crate) internal_traffic_policy: Option<String>,
    pub(crate) external_traffic_policy: Option<String>,
    pub(crate) external_ips: Option<Vec<String>>,
    pub(crate) load_balancer_source_ranges: Option<Vec<String>>,
    pub(crate) health_check_node_port: Option<i32>,
    pub(crate) session_affinity: Option<String>,
    /// `sessionAffinityConfig.clientIP.timeoutSeconds`.
    pub(crate) timeout_seconds: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) port: i32,
    pub(crate) node_port: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ingress {
    pub(crate) ip: Option<String>,
    pub(crate) ip_mode: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: Metadata,
    pub(crate) address_type: String,
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// Of a slice, and of legacy Endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointPort {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) port: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The first of `addresses`.
    pub(crate) address: Option<String>,
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    pub(crate) node_name: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) for_nodes: Vec<String>,
    pub(crate) for_zones: Vec<String>,
    /// `targetRef.name` of a Pod.
    pub(crate) pod: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) metadata: Metadata,
    pub(crate) subsets: Vec<Subset>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subset {
    pub(crate) addresses: Vec<Address>,
    pub(crate) not_ready_addresses: Vec<Address>,
    pub(crate) ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: String,
    pub(crate) node_name: Option<String>,
    /// `targetRef.name` of a Pod.
    pub(crate) pod: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) metadata: Metadata,
    /// `spec.podCIDRs`.
    pub(crate) pod_cidrs: Vec<String>,
    /// `status.addresses`: type and address.
    pub(crate) addresses: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceCIDR {
    pub(crate) metadata: Metadata,
    /// `spec.cidrs`.
    pub(crate) cidrs: Vec<String>,
}

/// Whether it can be read or not, an object is somebody's: its name and namespace, as far as they are strings.
pub(crate) fn identity(object: &Value) -> (Option<&str>, Option<&str>) {
    let of = |name: &str| object.get("metadata")?.get(name)?.as_str();
    (of("namespace"), of("name"))
}

fn metadata(of: Fields<'_>) -> Result<Metadata, Flaw> {
    let read = |of: Fields<'_>| {
        Ok(Metadata {
            name: of.text("name")?,
            namespace: of.text("namespace")?,
            created: of.seconds("creationTimestamp")?,
            labels: of.object("labels", labels)?.unwrap_or_default(),
            annotations: of.object("annotations", annotations)?.unwrap_or_default(),
        })
    };
    Ok(of.object("metadata", read)?.unwrap_or_default())
}

/// Labels that are text. Of some only the presence counts.
fn labels(of: Fields<'_>) -> Result<BTreeMap<String, String>, Flaw> {
    let mut labels = BTreeMap::new();
    for (name, value) in of.all() {
        let value = match name {
            PROXY_NAME_LABEL | HEADLESS_LABEL => Some(value.as_str().unwrap_or_default().to_owned()),
            SERVICE_LABEL | ZONE_LABEL => of.text(name)?,
            _ => text(value).ok(),
        };
        labels.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(labels)
}

fn annotations(of: Fields<'_>) -> Result<BTreeMap<String, String>, Flaw> {
    let ours = of.all().filter(|(name, _)| name.starts_with(ANNOTATION_PREFIX));
    ours.map(|(name, _)| Ok((name.to_owned(), of.text(name)?.unwrap_or_default()))).collect()
}

/// Of one that is another proxy's, nothing else is used.
fn service(of: Fields<'_>) -> Result<Service, Flaw> {
    let metadata = metadata(of)?;
    if !service::is_ours(&metadata) {
        return Ok(Service { metadata, ..Service::default() });
    }
    let ingress = |of: Fields<'_>| of.objects("ingress", ingress).map(Option::unwrap_or_default);
    let balancer = |of: Fields<'_>| of.object("loadBalancer", ingress).map(Option::unwrap_or_default);
    Ok(Service {
        metadata,
        spec: of.object("spec", spec)?,
        ingress: of.object("status", balancer)?.unwrap_or_default(),
    })
}

fn spec(of: Fields<'_>) -> Result<ServiceSpec, Flaw> {
    let seconds = |of: Fields<'_>| of.number("timeoutSeconds");
    let client = |of: Fields<'_>| of.object("clientIP", seconds).map(Option::flatten);
    Ok(ServiceSpec {
        type_: of.text("type")?,
        cluster_ip: of.text("clusterIP")?,
        cluster_ips: of.texts("clusterIPs")?,
        ip_families: of.texts("ipFamilies")?,
        ports: of.objects("ports", service_port)?,
        internal_traffic_policy: of.text("internalTrafficPolicy")?,
        external_traffic_policy: of.text("externalTrafficPolicy")?,
        external_ips: of.texts("externalIPs")?,
        load_balancer_source_ranges: of.texts("loadBalancerSourceRanges")?,
        health_check_node_port: of.number("healthCheckNodePort")?,
        session_affinity: of.text("sessionAffinity")?,
        timeout_seconds: of.object("sessionAffinityConfig", client)?.flatten(),
    })
}

fn service_port(of: Fields<'_>) -> Result<ServicePort, Flaw> {
    Ok(ServicePort {
        name: of.text("name")?,
        protocol: of.text("protocol")?,
        port: of.number("port")?.unwrap_or_default(),
        node_port: of.number("nodePort")?,
    })
}

fn ingress(of: Fields<'_>) -> Result<Ingress, Flaw> {
    Ok(Ingress { ip: of.text("ip")?, ip_mode: of.text("ipMode")? })
}

/// Of one that is not for proxies, nothing else is used.
fn slice(of: Fields<'_>) -> Result<EndpointSlice, Flaw> {
    let metadata = metadata(of)?;
    if !endpoints::is_ours(&metadata) {
        return Ok(EndpointSlice { metadata, ..EndpointSlice::default() });
    }
    Ok(EndpointSlice {
        metadata,
        address_type: of.text("addressType")?.unwrap_or_default(),
        ports: of.objects("ports", endpoint_port)?.unwrap_or_default(),
        endpoints: of.objects("endpoints", endpoint)?.unwrap_or_default(),
    })
}

fn endpoint_port(of: Fields<'_>) -> Result<EndpointPort, Flaw> {
    Ok(EndpointPort { name: of.text("name")?, protocol: of.text("protocol")?, port: of.number("port")? })
}

fn endpoint(of: Fields<'_>) -> Result<Endpoint, Flaw> {
    let conditions = |of: Fields<'_>| Ok([of.flag("ready")?, of.flag("serving")?, of.flag("terminating")?]);
    let [ready, serving, terminating] = of.object("conditions", conditions)?.unwrap_or_default();
    let hint = |of: Fields<'_>| of.text("name").map(Option::unwrap_or_default);
    let hints = |of: Fields<'_>| Ok([of.objects("forNodes", hint)?, of.objects("forZones", hint)?]);
    let [for_nodes, for_zones] =
        of.object("hints", hints)?.unwrap_or_default().map(Option::unwrap_or_default);
    Ok(Endpoint {
        address: of.first_text("addresses")?.unwrap_or_default().pop(),
        ready,
        serving,
        terminating,
        node_name: of.text("nodeName")?,
        zone: of.text("zone")?,
        for_nodes,
        for_zones,
        pod: pod(of)?,
    })
}

/// The Pod behind an endpoint, if it is one.
fn pod(of: Fields<'_>) -> Result<Option<String>, Flaw> {
    let read = |of: Fields<'_>| {
        let kind = of.text("kind")?.unwrap_or_default();
        if matches!(kind.as_str(), "" | "Pod") { of.text("name") } else { Ok(None) }
    };
    Ok(of.object("targetRef", read)?.flatten().filter(|name| !name.is_empty()))
}

fn legacy(of: Fields<'_>) -> Result<Endpoints, Flaw> {
    let metadata = metadata(of)?;
    if !endpoints::is_ours(&metadata) {
        return Ok(Endpoints { metadata, ..Endpoints::default() });
    }
    let address = |of: Fields<'_>| {
        Ok(Address { ip: of.text("ip")?.unwrap_or_default(), node_name: of.text("nodeName")?, pod: pod(of)? })
    };
    let subset = |of: Fields<'_>| {
        Ok(Subset {
            addresses: of.objects("addresses", address)?.unwrap_or_default(),
            not_ready_addresses: of.objects("notReadyAddresses", address)?.unwrap_or_default(),
            ports: of.objects("ports", endpoint_port)?.unwrap_or_default(),
        })
    };
    Ok(Endpoints { metadata, subsets: of.objects("subsets", subset)?.unwrap_or_default() })
}

fn node(of: Fields<'_>) -> Result<Node, Flaw> {
    let address =
        |of: Fields<'_>| Ok((of.text("type")?.unwrap_or_default(), of.text("address")?.unwrap_or_default()));
    let addresses = |of: Fields<'_>| of.objects("addresses", address).map(Option::unwrap_or_default);
    let cidrs = |of: Fields<'_>| of.texts("podCIDRs").map(Option::unwrap_or_default);
    Ok(Node {
        metadata: metadata(of)?,
        pod_cidrs: of.object("spec", cidrs)?.unwrap_or_default(),
        addresses: of.object("status", addresses)?.unwrap_or_default(),
    })
}

fn service_cidr(of: Fields<'_>) -> Result<ServiceCIDR, Flaw> {
    let cidrs = |of: Fields<'_>| of.texts("cidrs").map(Option::unwrap_or_default);
    Ok(ServiceCIDR { metadata: metadata(of)?, cidrs: of.object("spec", cidrs)?.unwrap_or_default() })
}
