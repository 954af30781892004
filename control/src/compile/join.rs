//! A Service port that no slice has: its owner most often wrote another name in one of the two places.

use std::collections::BTreeSet;

use crate::desired::Desired;
use crate::model::{Problem, Service};
use crate::nearest::nearest;

/// Ports of this Service whose name and protocol no port of its slices has, though these have endpoints and ports.
pub(super) fn unjoined(service: &Service, desired: &Desired) -> Vec<Problem> {
    let slices = desired.slices(&service.key).filter(|slice| !slice.endpoints.is_empty());
    let offered: BTreeSet<_> =
        slices.flat_map(|slice| &slice.ports).map(|port| (port.name.as_str(), port.proto)).collect();
    if offered.is_empty() {
        return Vec::new();
    }
    let wanted: BTreeSet<_> = service.ports.iter().map(|port| (port.name.as_str(), port.proto)).collect();
    let lost = service.ports.iter().enumerate();
    let lost = lost.filter(|(_, port)| !offered.contains(&(port.name.as_str(), port.proto)));
    lost.map(|(at, port)| {
        let has =
            |name: &str| if name.is_empty() { "one without a name".to_owned() } else { format!("{name:?}") };
        let others: Vec<_> = offered.iter().map(|(name, proto)| format!("{} ({proto})", has(name))).collect();
        // What another port of the Service joins is not meant for this one.
        let free = || offered.iter().filter(|offer| !wanted.contains(offer));
        let same_name = offered.iter().find(|(name, _)| *name == port.name);
        let only = free().next().filter(|_| free().count() == 1).map(|(name, _)| *name);
        let meant = nearest(&port.name, free().map(|(name, _)| *name)).or(only);
        let remedy = match (same_name, meant) {
            (Some((_, proto)), _) => {
                format!("the slices have it with protocol {proto}: write the same in both")
            }
            (None, Some(name)) => format!("did you mean {}?", has(name)),
            (None, None) => "write the same name in both".to_owned(),
        };
        Problem {
            object: format!("Service {}", service.key),
            field: format!("spec.ports[{at}].name"),
            what: format!(
                "no EndpointSlice of it has a port {} ({}), they have {}: it has no endpoints",
                has(&port.name),
                port.proto,
                others.join(", ")
            ),
            remedy,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use dataplane::packet::tuple::Proto;

    use super::*;
    use crate::fixtures::{desired, port, service, slice};
    use crate::model::{Port, Slice, SlicePort};

    fn offers(ports: &[(&str, Proto)]) -> Slice {
        let ports =
            ports.iter().map(|(name, proto)| SlicePort { name: (*name).into(), proto: *proto, port: 8080 });
        Slice { ports: ports.collect(), ..slice("web-1", "web", &["10.1.0.1"]) }
    }

    fn told(ports: Vec<Port>, slices: &[Slice]) -> Vec<(String, String)> {
        let web = Service { ports, ..service("web", &["10.96.0.1"]) };
        let found = unjoined(&web, &desired(std::slice::from_ref(&web), slices));
        found.into_iter().map(|problem| (problem.field, problem.remedy)).collect()
    }

    #[test]
    fn a_port_that_no_slice_has_is_told_with_the_name_that_is_meant() {
        let http = || vec![port("http", 80, Proto::Tcp)];
        let row = |remedy: &str| vec![("spec.ports[0].name".to_owned(), remedy.to_owned())];
        assert_eq!(told(http(), &[offers(&[("http", Proto::Tcp)])]), []);
        assert_eq!(
            told(http(), &[offers(&[("htpp", Proto::Tcp), ("x", Proto::Tcp)])]),
            row("did you mean \"htpp\"?")
        );
        assert_eq!(told(http(), &[offers(&[("", Proto::Tcp)])]), row("did you mean one without a name?"));
        let udp = told(http(), &[offers(&[("http", Proto::Udp)])]);
        assert_eq!(udp, row("the slices have it with protocol UDP: write the same in both"));
        // The near name belongs to another port.
        let two = vec![port("http", 80, Proto::Tcp), port("https", 443, Proto::Tcp)];
        assert_eq!(told(two, &[offers(&[("https", Proto::Tcp)])]), row("write the same name in both"));
    }

    #[test]
    fn without_endpoints_or_ports_nothing_is_wrong() {
        let http = || vec![port("http", 80, Proto::Tcp)];
        assert_eq!(told(http(), &[]), []);
        assert_eq!(told(http(), &[offers(&[])]), []);
        assert_eq!(told(http(), &[Slice { endpoints: vec![], ..offers(&[("x", Proto::Tcp)]) }]), []);
    }
}
