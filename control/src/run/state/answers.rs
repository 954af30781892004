//! What the loop says of itself when it is asked.

use std::net::{IpAddr, SocketAddr};

use dataplane::plane::FlowRow;
use dataplane::service::{Backend, Frontend, Policy, Service, Snapshot, Sticky};
use dataplane::stats::Counter;
use dataplane::verdict::DropReason;

use super::State;
use crate::explain::{Explanation, Ground, KnownFlow, Question, explain};
use crate::model::{ObjectKey, Problem};
use crate::socket::wire::{
    self, Answer, Counters, Endpoint, Flow, Flows, Query, ServicePort, Services, Status,
};

impl State {
    /// Answers a question of the control socket.
    #[must_use]
    pub fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Flows { service, limit } => Answer::Flows(self.flows(service.as_deref(), *limit)),
            Query::Services => Answer::Services(self.services()),
            Query::Counters => Answer::Counters(self.counters()),
            Query::Status => Answer::Status(self.status()),
            Query::Explain(question) => Answer::Explanation(self.explain(question)),
        }
    }

    fn explain(&self, question: &Question) -> Option<Explanation> {
        let Self { desired, compiler, detect, parts, .. } = self;
        let ground = Ground { world: self.snapshot()?, desired, compiler, detect, hosts: parts.addresses() };
        let mut explanation = explain(&ground, question);
        if let Some(asked) = question.tuple().filter(|tuple| tuple.sport != 0) {
            self.plane.flows(&mut |row| {
                if asked == row.forward || asked == row.reply {
                    explanation.flow = Some(KnownFlow {
                        endpoint: SocketAddr::new(row.reply.src, row.reply.sport),
                        source: SocketAddr::new(row.reply.dst, row.reply.dport),
                        state: row.state.to_owned(),
                        expires: row.expires,
                    });
                }
            });
        }
        Some(explanation)
    }

    fn flows(&self, asked: Option<&str>, limit: usize) -> Flows {
        let snapshot = self.snapshot();
        let mut flows = Flows::default();
        self.plane.flows(&mut |row| {
            let service = snapshot.and_then(|snapshot| snapshot.service(row.service));
            let name = service.map_or("", |service| &*service.name);
            if asked.is_some_and(|asked| !wire::names(asked, name)) {
                return;
            }
            flows.matched += 1;
            if flows.flows.len() < limit {
                flows.flows.push(flow(&row, name));
            }
        });
        let [ipv4, ipv4_max, ipv6, ipv6_max] = self.plane.occupancy();
        flows.occupancy = wire::Occupancy { ipv4, ipv4_max, ipv6, ipv6_max };
        flows
    }

    fn services(&self) -> Services {
        let snapshot = self.snapshot();
        let ports = snapshot.into_iter().flat_map(Snapshot::services);
        let mut services: Vec<_> = ports.map(|service| self.service(service)).collect();
        services.sort_by(|a, b| (&a.name, &a.proto, a.cluster_ip).cmp(&(&b.name, &b.proto, b.cluster_ip)));
        Services { services, problems: self.troubles.all().map(trouble).collect(), status: self.status() }
    }

    fn service(&self, service: &Service) -> ServicePort {
        let targets = self.targets(&service.name);
        let endpoint = |(at, backend): (usize, &Backend)| {
            let within = |set: &[u32]| set.iter().any(|index| usize::try_from(*index) == Ok(at));
            let sets = [("cluster", within(&service.cluster)), ("local", within(&service.local))];
            Endpoint {
                address: SocketAddr::new(backend.addr, backend.port),
                target: targets.iter().find(|(addr, _)| *addr == backend.addr).map(|(_, pod)| pod.clone()),
                local: backend.local,
                sets: sets.iter().filter(|(_, is)| *is).map(|(set, _)| (*set).to_owned()).collect(),
                active_flows: self.plane.loads().active(backend.id),
            }
        };
        ServicePort {
            name: service.name.to_string(),
            proto: service.port.proto.to_string(),
            cluster_ip: service.cluster_ip,
            port: service.port.port,
            frontends: service.frontends.iter().map(frontend).collect(),
            node_port: service.node_port,
            internal_traffic_policy: policy(service.internal),
            external_traffic_policy: service.is_external().then(|| policy(service.external)),
            affinity_seconds: service.affinity.as_ref().map(Sticky::seconds),
            balancing: service.balancing.selector().to_string(),
            endpoints: service.backends.iter().enumerate().map(endpoint).collect(),
        }
    }

    /// The pods behind a Service's addresses, by the Service port's name.
    fn targets(&self, name: &str) -> Vec<(IpAddr, String)> {
        let Some((namespace, rest)) = name.split_once('/') else { return Vec::new() };
        let name = rest.split_once(':').map_or(rest, |(name, _)| name);
        let key = ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() };
        let endpoints = self.desired.slices(&key).flat_map(|slice| &slice.endpoints);
        endpoints.filter_map(|endpoint| Some((endpoint.addr, endpoint.target.clone()?))).collect()
    }

    fn counters(&self) -> Counters {
        let totals = self.plane.totals();
        let workers = Counter::ALL.iter().map(|c| (c.label().to_owned(), totals.get(*c)));
        let drops = DropReason::ALL.iter().map(|reason| (reason.label().to_owned(), totals.drops(*reason)));
        Counters {
            counters: workers
                .chain([
                    ("source_lost".to_owned(), self.source_lost),
                    ("device_queue_full".to_owned(), self.queue_full()),
                ])
                .collect(),
            drops: drops.filter(|(_, n)| *n > 0).collect(),
        }
    }

    fn status(&self) -> Status {
        let [remembered, remembered_max] = self.plane.affinity();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.device.clone(),
            node: self.node.clone(),
            ready: self.ready,
            stopping: self.stopping,
            generation: self.snapshot().map_or(0, Snapshot::generation),
            retired: self.retired,
            workers: self.workers,
            remembered,
            remembered_max,
            device_queue_full: self.queue_full(),
            connected: self.connected,
            source: self.source.clone(),
        }
    }
}

fn policy(policy: Policy) -> String {
    match policy {
        Policy::Cluster => "Cluster".to_owned(),
        Policy::Local => "Local".to_owned(),
    }
}

fn frontend(frontend: &Frontend) -> wire::Frontend {
    wire::Frontend { address: frontend.addr, kind: frontend.kind.label().to_owned() }
}

fn flow(row: &FlowRow, service: &str) -> Flow {
    Flow {
        proto: row.forward.proto.to_string(),
        client: SocketAddr::new(row.forward.src, row.forward.sport),
        vip: SocketAddr::new(row.forward.dst, row.forward.dport),
        endpoint: SocketAddr::new(row.reply.src, row.reply.sport),
        snat: SocketAddr::new(row.reply.dst, row.reply.dport),
        state: row.state.to_owned(),
        packets: row.packets,
        bytes: row.bytes,
        idle: row.idle,
        expires: row.expires,
        service: service.to_owned(),
    }
}

fn trouble(problem: &Problem) -> wire::Trouble {
    wire::Trouble {
        object: problem.object.clone(),
        field: problem.field.clone(),
        what: problem.what.clone(),
        remedy: problem.remedy.clone(),
    }
}
