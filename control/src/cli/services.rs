//! `tunway services`: what a running tunway serves, with which endpoints, and what is wrong.

use std::io::Write;
use std::net::SocketAddr;

use crate::cli::table::Table;
use crate::cli::{Failure, ServicesArgs};
use crate::socket::client;
use crate::socket::wire::{Endpoint, Frontend, Query, ServicePort, Services};

/// Endpoints named of a Service port, each on a line of its own; further ones are counted.
const NAMED: usize = 8;

/// Asks and prints.
///
/// # Errors
/// No tunway answers, or the output cannot be written.
pub fn run(args: &ServicesArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let answer = client::ask_blocking(&args.at.at.path(), &Query::Services).map_err(anyhow::Error::from)?;
    if args.at.json {
        return super::print_json(out, answer);
    }
    let services: Services = super::for_people(&answer)?;
    super::print(out, render(&services).as_bytes())
}

/// The table, the problems, and how tunway is.
#[must_use]
pub fn render(services: &Services) -> String {
    let mut text = String::new();
    if !services.services.is_empty() {
        text.push_str(&table(&services.services).to_string());
    }
    if !services.problems.is_empty() {
        text.push_str("\nPROBLEMS\n");
        for trouble in &services.problems {
            let field = if trouble.field.is_empty() { String::new() } else { format!(": {}", trouble.field) };
            text.push_str(&format!(
                "  {}{field}: {}\n    remedy: {}\n",
                trouble.object, trouble.what, trouble.remedy
            ));
        }
        text.push('\n');
    }
    let status = &services.status;
    let state = match (status.stopping, status.ready) {
        (true, _) => "stopping".to_owned(),
        (false, true) => format!("ready, generation {}", status.generation),
        (false, false) => "not ready: waiting for the first full list; known flows are served".to_owned(),
    };
    let idle = services.services.iter().filter(|port| port.endpoints.iter().all(|end| end.sets.is_empty()));
    let idle = match idle.count() {
        0 => String::new(),
        n => format!(", {n} without endpoints,"),
    };
    let ports = match services.services.len() {
        1 => format!("1 service port{idle}"),
        n => format!("{n} service ports{idle}"),
    };
    let lost = match status.device_queue_full {
        0 => String::new(),
        1 => "; 1 packet found the device's queue full (queueLength)".to_owned(),
        n => format!("; {n} packets found the device's queue full (queueLength)"),
    };
    let touch = if status.connected { "" } else { "out of touch with the " };
    text.push_str(&format!(
        "{ports} on {} ({}); {state}{lost}; {touch}source: {}\n",
        status.device, status.node, status.source
    ));
    text
}

fn table(services: &[ServicePort]) -> Table {
    let mut table =
        Table::new(&["SERVICE", "PROTO", "ADDRESS", "POLICY", "AFFINITY", "BALANCING", "ENDPOINTS"]);
    for service in services {
        let (addresses, endpoints) = (addresses(service), endpoints(&service.endpoints));
        let mut first = [
            service.name.clone(),
            service.proto.clone(),
            policies(service),
            service.affinity_seconds.map_or_else(|| "None".to_owned(), |secs| format!("ClientIP {secs}s")),
            service.balancing.clone(),
        ];
        // The others below the first: on one line they would not fit a terminal.
        for line in 0..addresses.len().max(endpoints.len()) {
            let [name, proto, policy, affinity, balancing] = std::mem::take(&mut first);
            let nth = |list: &[String]| list.get(line).cloned().unwrap_or_default();
            table.row([name, proto, nth(&addresses), policy, affinity, balancing, nth(&endpoints)]);
        }
    }
    table
}

/// `10.96.0.1:80`, what is no ClusterIP by its kind, and the node port; one a line.
fn addresses(service: &ServicePort) -> Vec<String> {
    let (cluster, outside): (Vec<_>, Vec<_>) =
        service.frontends.iter().partition(|frontend| frontend.address == service.cluster_ip);
    let at = |frontend: &Frontend| SocketAddr::new(frontend.address, service.port);
    let mut lines: Vec<_> = cluster.into_iter().map(|frontend| at(frontend).to_string()).collect();
    lines.extend(outside.into_iter().map(|frontend| format!("{} {}", at(frontend), frontend.kind)));
    lines.extend(service.node_port.map(|port| format!("*:{port} NodePort")));
    lines
}

/// `Cluster`, or `Cluster/Local` where the external policy is another one.
fn policies(service: &ServicePort) -> String {
    let internal = &service.internal_traffic_policy;
    match service.external_traffic_policy.as_ref().filter(|external| *external != internal) {
        Some(external) => format!("{internal}/{external}"),
        None => internal.clone(),
    }
}

/// `10.0.0.1:80 pod-a`, one a line: those that take new flows; `(none)` refuses.
fn endpoints(all: &[Endpoint]) -> Vec<String> {
    let serving: Vec<_> = all.iter().filter(|endpoint| !endpoint.sets.is_empty()).collect();
    if serving.is_empty() {
        return vec!["(none)".to_owned()];
    }
    let name = |endpoint: &&Endpoint| match &endpoint.target {
        Some(pod) => format!("{} {pod}", endpoint.address),
        None => endpoint.address.to_string(),
    };
    let mut names: Vec<_> = serving.iter().take(NAMED).map(name).collect();
    if serving.len() > NAMED {
        names.push(format!("and {} more (--json names all)", serving.len() - NAMED));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::wire::{Status, Trouble};

    fn endpoint(last: u8, sets: &[&str]) -> Endpoint {
        Endpoint {
            address: SocketAddr::new([10, 0, 0, last].into(), 8080),
            target: (last == 1).then(|| "web-1".to_owned()),
            local: false,
            sets: sets.iter().map(|set| (*set).to_owned()).collect(),
            active_flows: 0,
        }
    }

    fn service(endpoints: Vec<Endpoint>) -> ServicePort {
        ServicePort {
            name: "default/web:80".into(),
            proto: "TCP".into(),
            cluster_ip: "fd00:10:96::7".parse().unwrap(),
            port: 80,
            frontends: vec![Frontend { address: "fd00:10:96::7".parse().unwrap(), kind: "ClusterIP".into() }],
            node_port: None,
            internal_traffic_policy: "Cluster".into(),
            external_traffic_policy: None,
            affinity_seconds: None,
            balancing: "random".into(),
            endpoints,
        }
    }

    #[test]
    fn services_problems_and_state() {
        let mut outside = ServicePort {
            affinity_seconds: Some(10_800),
            node_port: Some(30_080),
            external_traffic_policy: Some("Local".into()),
            ..service(vec![])
        };
        let vip = Frontend { address: "fd00:1::1".parse().unwrap(), kind: "LoadBalancer".into() };
        outside.frontends.insert(0, vip);
        let services = Services {
            services: vec![
                service(vec![endpoint(1, &["cluster"]), endpoint(2, &[]), endpoint(3, &["cluster"])]),
                outside,
            ],
            problems: vec![Trouble {
                object: "Service default/old".into(),
                field: "spec.clusterIP".into(),
                what: "missing; not served".into(),
                remedy: "set one".into(),
            }],
            status: Status {
                device: "tunway0".into(),
                node: "n1".into(),
                ready: true,
                generation: 4,
                connected: true,
                source: "/etc/m".into(),
                ..Status::default()
            },
        };
        let expected = "\
SERVICE         PROTO  ADDRESS                      POLICY         AFFINITY         BALANCING  ENDPOINTS
default/web:80  TCP    [fd00:10:96::7]:80           Cluster        None             random     10.0.0.1:8080 web-1
                                                                                               10.0.0.3:8080
default/web:80  TCP    [fd00:10:96::7]:80           Cluster/Local  ClientIP 10800s  random     (none)
                       [fd00:1::1]:80 LoadBalancer
                       *:30080 NodePort

PROBLEMS
  Service default/old: spec.clusterIP: missing; not served
    remedy: set one

2 service ports, 1 without endpoints, on tunway0 (n1); ready, generation 4; source: /etc/m
";
        assert_eq!(render(&services), expected);
    }

    #[test]
    fn packets_that_found_the_queue_full_are_shown() {
        let of = |device_queue_full| {
            render(&Services {
                status: Status { device_queue_full, ready: true, ..Status::default() },
                ..Services::default()
            })
        };
        assert!(of(7).contains("7 packets found the device's queue full"), "{}", of(7));
        assert!(!of(0).contains("queue"), "{}", of(0));
    }

    #[test]
    fn before_the_first_list_it_says_so() {
        let text = render(&Services {
            status: Status { source: "refused".into(), ..Status::default() },
            ..Services::default()
        });
        assert!(
            text.contains("not ready") && text.contains("out of touch with the source: refused"),
            "{text}"
        );
    }

    #[test]
    fn many_endpoints_are_counted_and_none_is_said() {
        let many: Vec<_> = (1..=10).map(|last| endpoint(last, &["cluster", "local"])).collect();
        let named = endpoints(&many);
        assert_eq!((named.len(), named[7].as_str()), (9, "10.0.0.8:8080"));
        assert_eq!(named[8], "and 2 more (--json names all)");
        assert_eq!(endpoints(&[endpoint(1, &[])]), ["(none)"]);
    }
}
