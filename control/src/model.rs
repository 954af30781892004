//! What tunway knows of Kubernetes objects, with every default applied and every address parsed: no API type
//! lives beyond this line.
//!
//! [`service`], [`endpoints`], [`node`] and [`cidr`] read one API object each, purely, and say what is wrong with it.

pub mod cidr;
pub(crate) mod decode;
pub mod endpoints;
pub mod ip;
pub mod node;
pub(crate) mod object;
pub mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use dataplane::packet::tuple::Proto;
use dataplane::service::Policy;

use self::object::Metadata;
use self::service::balance::Balance;

/// A namespaced name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: String,
    /// The name inside it.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object of this namespace and name. No namespace is the namespace `default`.
    #[must_use]
    pub fn of(namespace: Option<&str>, name: Option<&str>) -> Self {
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or("default");
        Self { namespace: namespace.to_owned(), name: name.unwrap_or_default().to_owned() }
    }
}

impl From<&Metadata> for ObjectKey {
    fn from(metadata: &Metadata) -> Self {
        Self::of(metadata.namespace.as_deref(), metadata.name.as_deref())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One element of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The port's name, "" when it has none. Endpoint ports join by name and protocol.
    pub name: String,
    /// The protocol; TCP by default.
    pub proto: Proto,
    /// The port clients use, host order.
    pub port: u16,
    /// `nodePort`, when there is one.
    pub node_port: Option<u16>,
}

/// A Service that has a virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Whose it is.
    pub key: ObjectKey,
    /// Its ClusterIP of each family, at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports, in order; a later element with the same name and protocol replaces an earlier one.
    pub ports: Vec<Port>,
    /// `internalTrafficPolicy`.
    pub internal: Policy,
    /// `externalTrafficPolicy`, where it has a meaning: `Local` only for types LoadBalancer and NodePort, and for a
    /// ClusterIP with external IPs.
    pub external: Policy,
    /// `spec.externalIPs`, of either family.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode: VIP`, of either family.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `loadBalancerSourceRanges`: address and prefix length. A family without any is open to everybody.
    pub source_ranges: Vec<(IpAddr, u8)>,
    /// `healthCheckNodePort` of a type LoadBalancer with external policy `Local`.
    pub health_check_port: Option<u16>,
    /// `sessionAffinity: ClientIP`: how many seconds a client is remembered, 1 to 86,400.
    pub affinity: Option<u32>,
    /// `metadata.creationTimestamp`, seconds since the Unix epoch; 0 when unknown. Older wins a contested address.
    pub created: i64,
    /// How its flows are to be spread, by `tunway.dev/*` annotations.
    pub balance: Balance,
}

/// One element of an EndpointSlice's `ports` that can be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name to join by, "" when it has none.
    pub name: String,
    /// The protocol; TCP by default.
    pub proto: Proto,
    /// Where the endpoint listens, host order.
    pub port: u16,
}

/// One endpoint of a slice: its first address and its conditions, nil ones defaulted (ready and serving true, terminating false).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address, of the slice's family.
    pub addr: IpAddr,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<String>,
    /// `hints.forNodes`.
    pub node_hints: BTreeSet<String>,
    /// `hints.forZones`.
    pub zone_hints: BTreeSet<String>,
    /// `zone`, where it runs.
    pub zone: Option<String>,
    /// `targetRef.name`, the pod behind it.
    pub target: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its own name.
    pub key: ObjectKey,
    /// Its Service, by the label `kubernetes.io/service-name`.
    pub service: ObjectKey,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Ports that can be joined.
    pub ports: Vec<SlicePort>,
    /// Endpoints with an address of the slice's family.
    pub endpoints: Vec<Endpoint>,
}

impl Slice {
    /// It was made of a legacy Endpoints object.
    #[must_use]
    pub fn is_legacy(&self) -> bool {
        self.key.name.starts_with(endpoints::LEGACY_PREFIX)
    }

    /// The object its owner wrote, and where that has addresses: a slice made of legacy Endpoints has a name nobody
    /// gave it.
    #[must_use]
    pub fn origin(&self) -> (String, &'static str) {
        if self.is_legacy() {
            (format!("Endpoints {}", self.service), "subsets[*].addresses[*].ip")
        } else {
            (format!("EndpointSlice {}", self.key), "endpoints[*].addresses[0]")
        }
    }
}

/// Our own Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`, when it is there and not empty.
    pub zone: Option<String>,
    /// InternalIP, then ExternalIP addresses.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, in order: address and prefix length.
    pub pod_cidrs: Vec<(IpAddr, u8)>,
}

/// A ServiceCIDR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name.
    pub name: String,
    /// `spec.cidrs`: address and prefix length.
    pub cidrs: Vec<(IpAddr, u8)>,
}

/// Something an object's owner should know: what, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object or document: `Service default/web`, `EndpointSlice default/web-x1`, `web.yaml, document 2`.
    pub object: String,
    /// The field: `spec.ports[0].port`; empty when it is the object as a whole.
    pub field: String,
    /// What is wrong with it and what tunway does about it, in one sentence.
    pub what: String,
    /// What the owner can do.
    pub remedy: String,
}

impl Problem {
    /// The object, and the field if it is about one.
    #[must_use]
    pub fn place(&self) -> String {
        if self.field.is_empty() { self.object.clone() } else { format!("{}: {}", self.object, self.field) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.place(), self.what, self.remedy)
    }
}

/// What one API object turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    /// What can be served of it; none when nothing can, or when it is not meant to be served.
    pub value: Option<T>,
    /// What its owner should know.
    pub problems: Vec<Problem>,
    /// It breaks a rule an API server enforces. What came from an API server is served as far as it goes; a source
    /// without one in front must not apply any of it.
    pub invalid: bool,
}

impl<T> Reading<T> {
    /// Nothing to serve and nothing wrong.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { value: None, problems: Vec::new(), invalid: false }
    }

    /// The same reading of another form of the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Reading<U> {
        Reading { value: self.value.map(f), problems: self.problems, invalid: self.invalid }
    }
}

/// Collects the problems of one object. A slice may hold a thousand bad addresses: only the first few are told.
#[derive(Debug)]
pub(crate) struct Report {
    object: String,
    problems: Vec<Problem>,
    more: usize,
    invalid: bool,
}

impl Report {
    /// More problems of one object than these are only counted.
    const MOST: usize = 16;

    /// Nothing wrong with this object so far.
    pub(crate) const fn new(object: String) -> Self {
        Self { object, problems: Vec::new(), more: 0, invalid: false }
    }

    /// Worth knowing; the object is as valid as before.
    pub(crate) fn note(
        &mut self,
        field: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.problems.len() >= Self::MOST {
            self.more += 1;
            return;
        }
        let (field, what, remedy) = (field.into(), what.into(), remedy.into());
        self.problems.push(Problem { object: self.object.clone(), field, what, remedy });
    }

    /// No API server would take this.
    pub(crate) fn invalid(
        &mut self,
        field: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.invalid = true;
        self.note(field, what, remedy);
    }

    /// The reading that ends with this value.
    pub(crate) fn reading<T>(mut self, value: Option<T>) -> Reading<T> {
        if self.more > 0 {
            self.problems.push(Problem {
                object: self.object,
                field: String::new(),
                what: format!("{} more problems like these", self.more),
                remedy: "repair these first".to_owned(),
            });
        }
        Reading { value, problems: self.problems, invalid: self.invalid }
    }
}

/// The protocol of a port; nil and empty mean TCP.
pub(crate) fn protocol(text: Option<&str>) -> Option<Proto> {
    match text {
        None | Some("" | "TCP") => Some(Proto::Tcp),
        Some("UDP") => Some(Proto::Udp),
        Some("SCTP") => Some(Proto::Sctp),
        Some(_) => None,
    }
}

/// The port number, if it is one: 1 to 65535.
pub(crate) fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod laws;
#[cfg(test)]
pub(crate) mod mutations;
