//! What the owner of a Service should be told of its frontends.

use std::collections::BTreeSet;

use dataplane::service::{FrontendKind, Snapshot, SvcPort};

use super::Rules;
use super::claims::{Claim, addresses, effective_ports};
use super::draft::frontend_refusal;
use crate::model::{Problem, Service};

/// Frontends that cannot be, and ports that are not served.
pub(super) fn of_service(service: &Service, fabric: &Snapshot, rules: &Rules) -> Vec<Problem> {
    let object = || format!("Service {}", service.key);
    let mut problems = Vec::new();
    for (addr, kind) in addresses(service) {
        if let Some(refusal) = frontend_refusal(fabric, rules, addr, kind) {
            problems.push(refusal.of_frontend(object(), field(kind, 0), &addr));
        }
    }
    if let (Some(number), Some(addr)) = (service.health_check_port, service.cluster_ips.first())
        && let Some(refusal) = frontend_refusal(fabric, rules, *addr, FrontendKind::NodePort)
    {
        let what = format!("health check node port {number}");
        problems.push(refusal.of_frontend(object(), "spec.healthCheckNodePort".into(), &what));
    }
    let effective: BTreeSet<usize> = effective_ports(service).map(|(ordinal, _)| ordinal).collect();
    for (ordinal, port) in service.ports.iter().enumerate() {
        if let (Some(number), Some(addr)) = (port.node_port, service.cluster_ips.first())
            && effective.contains(&ordinal)
            && let Some(refusal) = frontend_refusal(fabric, rules, *addr, FrontendKind::NodePort)
        {
            let what = format!("node port {number}");
            problems.push(refusal.of_frontend(object(), field(FrontendKind::NodePort, ordinal), &what));
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
    let owner = if claim.key == winner.key {
        "another port of the same Service, which comes first".to_owned()
    } else {
        format!("Service {}, which is older or comes first by name", winner.key)
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

fn field(kind: FrontendKind, ordinal: usize) -> String {
    match kind {
        FrontendKind::ClusterIp => "spec.clusterIPs".into(),
        FrontendKind::LoadBalancer => "status.loadBalancer.ingress".into(),
        FrontendKind::ExternalIp => "spec.externalIPs".into(),
        FrontendKind::NodePort => format!("spec.ports[{ordinal}].nodePort"),
    }
}
