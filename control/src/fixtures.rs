//! Small objects for this crate's tests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane::packet::tuple::Proto;
use dataplane::service::Policy;

use crate::desired::Desired;
use crate::model::service::balance::Balance;
use crate::model::{Endpoint, ObjectKey, Port, Service, Slice, SlicePort};
use crate::source::{Event, Kind};

/// The node everything runs on unless said otherwise is another one.
pub(crate) const HERE: &str = "here";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
}

/// `default/NAME`.
pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey { namespace: "default".into(), name: name.into() }
}

/// A Service port.
pub(crate) fn port(name: &str, number: u16, proto: Proto) -> Port {
    Port { name: name.into(), proto, port: number, node_port: None }
}

/// A Service with ClusterIPs and unnamed port 80/TCP.
pub(crate) fn service(name: &str, cluster_ips: &[&str]) -> Service {
    Service {
        key: key(name),
        cluster_ips: cluster_ips.iter().map(|addr| ip(addr)).collect(),
        ports: vec![port("", 80, Proto::Tcp)],
        internal: Policy::Cluster,
        external: Policy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        health_check_port: None,
        affinity: None,
        created: 0,
        balance: Balance::default(),
    }
}

/// A slice `NAME` of a Service with an unnamed port 8080/TCP and these ready endpoints on another node.
pub(crate) fn slice(name: &str, of: &str, addrs: &[&str]) -> Slice {
    Slice {
        key: key(name),
        service: key(of),
        labels: BTreeMap::new(),
        ports: vec![SlicePort { name: String::new(), proto: Proto::Tcp, port: 8080 }],
        endpoints: addrs.iter().map(|addr| endpoint(addr)).collect(),
    }
}

/// A ready endpoint on another node.
pub(crate) fn endpoint(addr: &str) -> Endpoint {
    Endpoint {
        addr: ip(addr),
        ready: true,
        serving: true,
        terminating: false,
        node: Some("there".into()),
        node_hints: BTreeSet::new(),
        zone_hints: BTreeSet::new(),
        zone: None,
        target: None,
    }
}

/// Events that say a Service, or a slice, is there.
pub(crate) fn says(service: Service) -> Event {
    Event::Service(Box::new(service))
}

/// See [`says`].
pub(crate) fn says_slice(slice: Slice) -> Event {
    Event::Slice(Box::new(slice))
}

/// A world whose lists are complete, with these objects, on [`HERE`].
pub(crate) fn desired(services: &[Service], slices: &[Slice]) -> Desired {
    let mut desired = Desired::new(HERE);
    desired.apply(Event::Restart(Kind::Service));
    desired.apply(Event::Restart(Kind::Slice));
    services.iter().for_each(|service| desired.apply(says(service.clone())));
    slices.iter().for_each(|slice| desired.apply(says_slice(slice.clone())));
    desired.apply(Event::Done(Kind::Service));
    desired.apply(Event::Done(Kind::Slice));
    desired
}
