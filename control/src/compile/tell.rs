//! What the owner of a Service should be told of its frontends.

use std::collections::BTreeSet;

use dataplane::packet::tuple::{Family, Proto};
use dataplane::service::{FrontendKind, SvcPort};

use super::claims::{Claim, Claims, addresses, cluster_ips, effective_ports};
use super::draft::{Ground, frontend_refusal};
use super::refuse::Refusal;
use crate::model::{Problem, Service};

/// Frontends that cannot be, and ports that are not served. Before the Node is known, nobody knows at which of its
/// addresses node ports are.
pub(super) fn of_service(service: &Service, knows_node: bool, ground: &Ground<'_>) -> Vec<Problem> {
    let Ground { fabric, rules, .. } = *ground;
    let object = || format!("Service {}", service.key);
    let mut problems = Vec::new();
    for (addr, kind) in addresses(service) {
        if let Some(refusal) = frontend_refusal(fabric, rules, addr, kind) {
            problems.push(refusal.of_frontend(object(), field(kind, 0), &addr));
        }
    }
    // What is refused in both families is told once.
    let refused = |what: &str| -> Vec<(Refusal, String)> {
        let of_family = |addr| {
            let refusal = frontend_refusal(fabric, rules, addr, FrontendKind::NodePort)?;
            Some((refusal, Family::of(addr))).filter(|_| knows_node || refusal != Refusal::NoNodeAddress)
        };
        let refused: Vec<_> = cluster_ips(service).filter_map(of_family).collect();
        match (refused.as_slice(), cluster_ips(service).count()) {
            ([], _) => Vec::new(),
            ([(refusal, family)], 2) => vec![(*refusal, format!("{family} {what}"))],
            ([(refusal, _), ..], _) => vec![(*refusal, what.to_owned())],
        }
    };
    if let Some(number) = service.health_check_port {
        for (refusal, what) in refused(&format!("health check node port {number}")) {
            problems.push(refusal.of_frontend(object(), "spec.healthCheckNodePort".into(), &what));
        }
    }
    let effective: BTreeSet<usize> = effective_ports(service).map(|(ordinal, _)| ordinal).collect();
    for (ordinal, port) in service.ports.iter().enumerate() {
        if let Some(number) = port.node_port.filter(|_| effective.contains(&ordinal)) {
            for (refusal, what) in refused(&format!("node port {number}")) {
                problems.push(refusal.of_frontend(object(), field(FrontendKind::NodePort, ordinal), &what));
            }
        }
        if effective.contains(&ordinal) {
            continue;
        }
        let (what, remedy) = if port.port == 0 {
            ("port 0 is none: not served".to_owned(), "name a port from 1 to 65535")
        } else {
            let what = format!(
                "a later port has the same name {:?} and protocol {}: that one is served",
                port.name, port.proto
            );
            (what, "give every port a name of its own")
        };
        let field = format!("spec.ports[{ordinal}]");
        problems.push(Problem { object: object(), field, what, remedy: remedy.into() });
    }
    problems
}

/// Another Service has what this one claims.
pub(super) fn contested(claim: &Claim, winner: &Claim) -> Problem {
    let SvcPort { port, proto } = claim.port;
    let frontend = match claim.kind {
        FrontendKind::NodePort => format!("{} node port {port}/{proto}", claim.family()),
        FrontendKind::ClusterIp | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
            format!("{} port {port}/{proto}", claim.addr)
        }
    };
    let why = match () {
        () if claim.standing.outside && !winner.standing.outside => "whose ClusterIP it is",
        () if claim.standing.idle && !winner.standing.idle => "which has endpoints",
        () => "which is older or comes first by name",
    };
    let owner = if claim.key == winner.key {
        "another port of the same Service, which comes first".to_owned()
    } else {
        format!("Service {}, {why}", winner.key)
    };
    Problem {
        object: format!("Service {}", claim.key),
        field: match claim.kind {
            FrontendKind::ClusterIp => format!("spec.ports[{}]", claim.ordinal),
            kind @ (FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort) => {
                field(kind, claim.ordinal)
            }
        },
        what: format!("{frontend} belongs to {owner}: not served for this one"),
        remedy: "give one of the two another address or port, or delete it".into(),
    }
}

/// A node port is served, but not at every address: at some, its number is another service port's own.
pub(super) fn hidden(claim: &Claim, by: &Claim, places: usize) -> Problem {
    let SvcPort { port, proto } = claim.port;
    let more = if places > 1 { format!(" and at {} more", places - 1) } else { String::new() };
    Problem {
        object: format!("Service {}", claim.key),
        field: field(FrontendKind::NodePort, claim.ordinal),
        what: format!(
            "at {}{more} port {port}/{proto} belongs to Service {}: not served there",
            by.addr, by.key
        ),
        remedy: "give one of the two another port, or the other Service another address".into(),
    }
}

/// A node port with the number of the health check port takes what load balancers ask.
pub(super) fn hidden_health_check(service: &Service, claims: &Claims) -> Option<Problem> {
    let number = service.health_check_port?;
    let port = SvcPort { port: number, proto: Proto::Tcp };
    let families = cluster_ips(service).map(Family::of);
    let holder = families.filter_map(|family| claims.node_port(family, port)).next()?;
    Some(Problem {
        object: format!("Service {}", service.key),
        field: "spec.healthCheckNodePort".into(),
        what: format!(
            "{number} is a node port of Service {}, which gets what load balancers ask: they cannot tell whether this \
             node has endpoints",
            holder.key
        ),
        remedy: "give one of the two another number".into(),
    })
}

fn field(kind: FrontendKind, ordinal: usize) -> String {
    match kind {
        FrontendKind::ClusterIp => "spec.clusterIPs".into(),
        FrontendKind::LoadBalancer => "status.loadBalancer.ingress".into(),
        FrontendKind::ExternalIp => "spec.externalIPs".into(),
        FrontendKind::NodePort => format!("spec.ports[{ordinal}].nodePort"),
    }
}
