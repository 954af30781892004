//! Which endpoints a service port has, each with why it takes new flows or not, and how one of them would be picked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use dataplane::packet::tuple::{Family, Tuple};
use dataplane::service::{HashBy, Selector, Service, Set, Sticky};

use super::steps::Steps;
use super::{Ground, key_of, near};
use crate::categorize::{Fate, Topology};
use crate::compile::{Candidate, Outcome};
use crate::model::service::balance::{BALANCING, WEIGHTS};
use crate::model::{Endpoint, Node};

/// Tells of every endpoint. `asked` is the set the flow's endpoint comes from, when it gets one.
pub(super) fn tell(ground: &Ground<'_>, service: &Service, asked: Option<Set>, steps: &mut Steps<'_>) {
    let (key, port) = key_of(&service.name);
    let family = Family::of(service.cluster_ip);
    let Some(account) = ground.compiler.account(ground.desired, &key, port, service.port.proto, family)
    else {
        return;
    };
    let node = ground.desired.node();
    match account.topology.filter(|_| asked != Some(Set::Local)) {
        Some(Topology::SameNode) => steps.push(
            format!("Service {key}"),
            "endpoints[].hints.forNodes",
            format!("every ready endpoint is hinted for nodes, some for {}: these are used", node.name),
        ),
        Some(Topology::SameZone) => steps.push(
            format!("Node {}", node.name),
            "metadata.labels[topology.kubernetes.io/zone]",
            format!(
                "every ready endpoint is hinted for zones, some for {}: these are used",
                node.zone.as_deref().unwrap_or_default()
            ),
        ),
        Some(Topology::Everywhere) => near::hints(ground, &account, steps),
        None => {}
    }
    if account.candidates.is_empty() {
        let what = "no EndpointSlice names an endpoint for this port";
        steps.push(format!("Service {key}"), "", what);
    }
    near::slices(ground, service, &account, steps);
    for candidate in &account.candidates {
        tell_of(candidate, asked, node, steps);
    }
}

fn tell_of(candidate: &Candidate, asked: Option<Set>, node: &Node, steps: &mut Steps<'_>) {
    let pod = candidate.endpoint.target.as_deref().map(|pod| format!(" ({pod})")).unwrap_or_default();
    let name = format!("{}{pod}", candidate.at);
    match &candidate.outcome {
        Outcome::Refused(why) => steps.push(
            candidate.object.clone(),
            "endpoints[].addresses",
            format!("{name}: left out, the address {why}"),
        ),
        Outcome::Superseded => steps.push(
            candidate.object.clone(),
            "endpoints[].conditions",
            format!("{name}: left out, a running endpoint or a later slice has the same address and port"),
        ),
        Outcome::Sorted(fates) => {
            for (set, fate) in fates.iter().filter(|(set, _)| asked.is_none_or(|asked| asked == *set)) {
                let (field, kept, why) = in_words(*fate, &candidate.endpoint, node);
                let of =
                    if asked.is_some() { String::new() } else { format!(" in the {} set", set_name(*set)) };
                let word = if kept { "kept" } else { "left out" };
                steps.push(candidate.object.clone(), field, format!("{name}: {word}{of}, {why}"));
            }
        }
    }
}

const fn set_name(set: Set) -> &'static str {
    match set {
        Set::Cluster => "cluster",
        Set::Local => "local",
    }
}

/// The field, whether the endpoint is in, and why.
fn in_words(fate: Fate, endpoint: &Endpoint, here: &Node) -> (&'static str, bool, String) {
    let (field, kept, why) = match fate {
        Fate::Ready => ("endpoints[].conditions.ready", true, "it is ready"),
        Fate::Fallback => (
            "endpoints[].conditions.serving",
            true,
            "it is terminating and still serves, and no endpoint is ready",
        ),
        Fate::Unusable => {
            ("endpoints[].conditions.ready", false, "it is not ready, nor serving while it terminates")
        }
        Fate::Terminating => {
            ("endpoints[].conditions.terminating", false, "it is terminating, and others are ready")
        }
        Fate::HintedElsewhere => {
            let listed = |hints: &BTreeSet<String>| hints.iter().cloned().collect::<Vec<_>>().join(", ");
            let zone = here.zone.as_deref().unwrap_or("no zone");
            let hints = match (endpoint.node_hints.is_empty(), endpoint.zone_hints.is_empty()) {
                (false, _) => format!("for node {}, and this is {}", listed(&endpoint.node_hints), here.name),
                (true, false) => format!("for zone {}, and this is {zone}", listed(&endpoint.zone_hints)),
                (true, true) => "for elsewhere".to_owned(),
            };
            return ("endpoints[].hints", false, format!("its hints are {hints}"));
        }
        Fate::Remote => {
            let there = match &endpoint.node {
                Some(node) => format!("it runs on node {node}"),
                None => "nothing says on which node it runs".to_owned(),
            };
            return ("endpoints[].nodeName", false, format!("{there}, and this is {}", here.name));
        }
    };
    (field, kept, why.to_owned())
}

/// Tells how one of the set would be picked.
pub(super) fn tell_choice(
    ground: &Ground<'_>,
    service: &Service,
    set: Set,
    flow: &Tuple<IpAddr>,
    whole: bool,
    steps: &mut Steps<'_>,
) {
    let client = flow.src;
    let key = key_of(&service.name).0;
    let asks = ground
        .desired
        .services()
        .get(&key)
        .is_some_and(|known| known.balance.algorithm.is_some() || known.balance.hash_by.is_some());
    let object = format!("Service {key}");
    if let Some(seconds) = service.affinity.as_ref().map(Sticky::seconds) {
        let what = format!(
            "ClientIP, {seconds} s: {client} gets the endpoint it had, if it had one not longer ago and that is still among these"
        );
        steps.push(object.clone(), "spec.sessionAffinity", what);
    }
    let members = service.members(set);
    let backend = |position: usize| service.backends.get(usize::try_from(*members.get(position)?).ok()?);
    if let (1, Some(only)) = (members.len(), backend(0)) {
        return steps.push(object, "", format!("{} is the only one", SocketAddr::new(only.addr, only.port)));
    }
    let selector = service.balancing.selector();
    let fixed = service.balancing.fixed(set, members, flow).filter(|_| whole || by_client(selector));
    let one = fixed.and_then(backend).map(|one| format!(": {}", SocketAddr::new(one.addr, one.port)));
    let what = format!("one of these is picked {}{}", how(selector), one.unwrap_or_default());
    if asks {
        steps.push(object.clone(), format!("metadata.annotations[{BALANCING}]"), what);
    } else if ground.compiler.balances_by_default() {
        steps.push("", "", format!("{what}; that is the default"));
    } else {
        steps.push("Config", "loadBalancing", what);
    }
    let weighed = (0..members.len()).filter_map(|position| {
        let (weight, of) = service.balancing.weight(set, position)?;
        let backend = backend(position)?;
        Some(format!("{} weighs {weight} of {of}", SocketAddr::new(backend.addr, backend.port)))
    });
    for weighed in weighed {
        steps.push(object.clone(), format!("metadata.annotations[{WEIGHTS}]"), weighed);
    }
}

fn by_client(selector: Selector) -> bool {
    selector.hash_by() == Some(HashBy::Client)
}

/// How a selector picks.
fn how(selector: Selector) -> String {
    match selector {
        Selector::Random => "at random, each as likely as the others or by its weight".into(),
        Selector::RoundRobin => "in turn".into(),
        Selector::LeastConn => "by least connections: one with the fewest active flows".into(),
        Selector::P2c => "as the one with fewer active flows of two drawn at random".into(),
        Selector::Hrw(HashBy::Client) => "by rendezvous hashing of the client's address".into(),
        Selector::Hrw(HashBy::Tuple) => "by rendezvous hashing of addresses and ports".into(),
        Selector::Maglev(HashBy::Client) => "by Maglev hashing of the client's address".into(),
        Selector::Maglev(HashBy::Tuple) => "by Maglev hashing of addresses and ports".into(),
    }
}
