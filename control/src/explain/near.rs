//! What almost matched: the object and field behind a packet that is not served as somebody expected.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::packet::tuple::{Family, Proto};
use dataplane::service::{FrontendKind, ReturnPath, Service as Compiled};

use super::steps::Steps;
use super::{Ground, Question, key_of};
use crate::compile::Account;
use crate::model::{Endpoint, ObjectKey, Service, Slice};

/// Objects named of each sort.
const MOST: usize = 8;

/// The destination is no frontend: which Services have the address or the port.
pub(super) fn destination(ground: &Ground<'_>, question: &Question, steps: &mut Steps<'_>) {
    let Some(proto) = question.proto else { return };
    let all = || ground.desired.services().values();
    let at = |service: &&Service| named_as(service, question.dst).is_some();
    for service in all().filter(at).take(MOST) {
        let Some((field, kind)) = named_as(service, question.dst) else { continue };
        let object = format!("Service {}", service.key);
        let refused = kind == FrontendKind::ExternalIp && !ground.compiler.allows(question.dst);
        if refused {
            let what = format!(
                "{} is an external IP of {}, and none that the configuration allows: not served",
                question.dst, service.key
            );
            steps.push(object, field, what);
            continue;
        }
        if service.ports.iter().any(|port| (port.port, port.proto) == (question.dport, proto)) {
            // It claims just this and has it not: what its owner was told says why.
            steps.reported(ground, &object);
            continue;
        }
        let what = format!(
            "{} is {kind} of {}, whose ports are {}: {} {proto} is none",
            question.dst,
            service.key,
            ports(service),
            question.dport
        );
        steps.push(object, "spec.ports", what);
    }
    let fabric = ground.world.fabric();
    if !ground.hosts.contains(&question.dst) || fabric.node_addresses.contains(&question.dst) {
        return;
    }
    for service in all() {
        let takes =
            |port: &&crate::model::Port| port.node_port == Some(question.dport) && port.proto == proto;
        let Some(index) = service.ports.iter().position(|port| takes(&port)) else { continue };
        let what = if fabric.return_path == ReturnPath::Masquerade {
            format!("{} is its node port, and returnPath masquerade serves none", question.dport)
        } else {
            let taken: Vec<_> = fabric.node_addresses.iter().map(ToString::to_string).collect();
            let taken = if taken.is_empty() { "none does".to_owned() } else { taken.join(", ") };
            format!(
                "{} is its node port, and {} takes none; addresses that do: {taken}",
                question.dport, question.dst
            )
        };
        return steps.push(format!("Service {}", service.key), format!("spec.ports[{index}].nodePort"), what);
    }
}

/// As what a Service names an address.
fn named_as(service: &Service, addr: IpAddr) -> Option<(&'static str, FrontendKind)> {
    let lists = [
        (&service.cluster_ips, "spec.clusterIPs", FrontendKind::ClusterIp),
        (&service.load_balancer_ips, "status.loadBalancer.ingress", FrontendKind::LoadBalancer),
        (&service.external_ips, "spec.externalIPs", FrontendKind::ExternalIp),
    ];
    lists.into_iter().find(|(addrs, ..)| addrs.contains(&addr)).map(|(_, field, kind)| (field, kind))
}

/// `80 TCP (http), 53 UDP`.
fn ports(service: &Service) -> String {
    let name = |name: &str| if name.is_empty() { String::new() } else { format!(" ({name})") };
    let port = |port: &crate::model::Port| format!("{} {}{}", port.port, port.proto, name(&port.name));
    service.ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

/// Slices that do not join a service port that has no endpoint, and why.
pub(super) fn slices(ground: &Ground<'_>, service: &Compiled, account: &Account, steps: &mut Steps<'_>) {
    if !account.candidates.is_empty() {
        return;
    }
    let (key, name) = key_of(&service.name);
    let (proto, family) = (service.port.proto, Family::of(service.cluster_ip));
    for slice in ground.desired.slices(&key).take(MOST) {
        let (object, _) = slice.origin();
        let (field, what) = unjoined(slice, name, proto, family);
        steps.push(object, field, what);
    }
    if ground.desired.slices(&key).next().is_none() {
        for other in ground.desired.slice_owners().filter(|other| is_namesake(other, &key)).take(MOST) {
            for slice in ground.desired.slices(other).take(1) {
                let (object, _) = slice.origin();
                let what = format!(
                    "it is for Service {other}: an EndpointSlice joins Services of its own namespace only"
                );
                steps.push(object, "metadata.namespace", what);
            }
        }
    }
}

fn is_namesake(other: &ObjectKey, key: &ObjectKey) -> bool {
    other.name == key.name && other.namespace != key.namespace
}

/// Why a slice gives a port of this name, protocol and family nothing.
fn unjoined(slice: &Slice, name: &str, proto: Proto, family: Family) -> (&'static str, String) {
    let quoted =
        |name: &str| if name.is_empty() { "no name".to_owned() } else { format!("the name {name:?}") };
    let of_name: Vec<_> = slice.ports.iter().filter(|port| port.name == name).collect();
    let first = slice.endpoints.first().map(|endpoint| Family::of(endpoint.addr));
    match first {
        _ if slice.ports.is_empty() => ("ports", "does not join: it has no port".to_owned()),
        None => ("endpoints", "does not count: it has no endpoint".to_owned()),
        Some(other) if other != family => {
            ("addressType", format!("does not join: it is of {other}, the Service's address of {family}"))
        }
        Some(_) if of_name.is_empty() => {
            let has: Vec<_> = slice.ports.iter().map(|port| quoted(&port.name)).collect();
            let what =
                format!("does not join: its ports have {}, the Service's {}", has.join(", "), quoted(name));
            ("ports[].name", what)
        }
        Some(_) => {
            let has: Vec<_> = of_name.iter().map(|port| port.proto.to_string()).collect();
            let what = format!("does not join: its port is of {}, the Service's of {proto}", has.join(", "));
            ("ports[].protocol", what)
        }
    }
}

/// Hints that some endpoints have and that are not used, and why.
pub(super) fn hints(ground: &Ground<'_>, account: &Account, steps: &mut Steps<'_>) {
    let node = ground.desired.node();
    let ready: Vec<_> = account.candidates.iter().filter(|candidate| candidate.endpoint.ready).collect();
    type Hints = fn(&Endpoint) -> &BTreeSet<String>;
    let sorts: [(&str, Hints, Option<&str>, &str); 2] = [
        ("endpoints[].hints.forNodes", |endpoint| &endpoint.node_hints, Some(&node.name), "node"),
        ("endpoints[].hints.forZones", |endpoint| &endpoint.zone_hints, node.zone.as_deref(), "zone"),
    ];
    for (field, hints, here, sort) in sorts {
        let Some(hinted) = ready.iter().find(|candidate| !hints(&candidate.endpoint).is_empty()) else {
            continue;
        };
        let without = ready.iter().find(|candidate| hints(&candidate.endpoint).is_empty());
        let what = match (without, here) {
            (Some(without), _) => format!("not used: {} has none for a {sort}, and all must", without.at),
            (None, None) => format!("not used: nothing says in which {sort} node {} is", node.name),
            (None, Some(here)) => format!("not used: none is for {sort} {here}"),
        };
        steps.push(hinted.object.clone(), field, what);
    }
}

/// The destination is an address of this host: whether the packet comes here at all. The reason if it does not.
pub(super) fn own_address(
    ground: &Ground<'_>,
    question: &Question,
    kind: Option<FrontendKind>,
    steps: &mut Steps<'_>,
) -> Option<String> {
    let known = ground.desired.services().values().any(|service| named_as(service, question.dst).is_some());
    if !ground.hosts.contains(&question.dst) || !known || kind == Some(FrontendKind::NodePort) {
        return None;
    }
    let (dst, node) = (question.dst, format!("Node {}", ground.desired.node().name));
    let masquerade = ground.world.fabric().return_path == ReturnPath::Masquerade;
    let (kept, what) = match kind {
        Some(_) if masquerade => (
            true,
            format!(
                "{dst} is an address of this host, which keeps its packets (returnPath masquerade): not served here"
            ),
        ),
        Some(_) => (
            false,
            format!(
                "{dst} is an address of this host: packets to this port of it are taken before the host has them"
            ),
        ),
        None => {
            (true, format!("{dst} is an address of this host, which keeps what is for no port of a Service"))
        }
    };
    steps.push(node, "status.addresses", what.clone());
    kept.then_some(what)
}
