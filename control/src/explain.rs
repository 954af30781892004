//! What tunway would do with the first packet of a flow, and why: every step with the object and the field behind it.
//!
//! It asks the very functions the packet path asks, `decide` and `masquerades` on the published snapshot and
//! `categorize` on the objects behind it, only with somebody who writes the reasons down. What would be drawn (one
//! endpoint of a set) is not drawn: the whole set is named.

mod account;
pub mod name;
mod near;
mod offline;
pub mod question;
mod steps;
pub mod text;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use dataplane::packet::tuple::Tuple;
use dataplane::service::{
    Decision, NoReasons, Origin, Place, Service, Set, Snapshot, SvcPort, decide, decide_portless, masquerades,
};
use serde::{Deserialize, Serialize};

pub use self::offline::{Offline, OfflineError, Site};
pub use self::question::Question;

use self::steps::Steps;
use crate::compile::Compiler;
use crate::config::detect::DetectLocal;
use crate::desired::Desired;
use crate::model::ObjectKey;

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Its flow goes to one of the endpoints.
    Dnat,
    /// It is refused: the client hears at once.
    Reject,
    /// It is dropped without a word.
    Drop,
    /// It is none of ours.
    Pass,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Every endpoint the flow may go to, by address.
    pub endpoints: Vec<SocketAddr>,
    /// Whether the flow is to get a SNAT address in place of the client's: by the rules for its frontend and source, or
    /// because an endpoint is the client. A step tells of an endpoint for which it is otherwise.
    pub masquerade: Masquerade,
    /// `ClusterIP`, `NodePort`, `ExternalIP` or `LoadBalancer`; none when the destination is no frontend.
    pub frontend: Option<String>,
    /// `namespace/name:port`, or `namespace/name` when the port has no name.
    pub service: Option<String>,
    /// Why, in one sentence.
    pub reason: String,
    /// How it came to that, in order.
    pub steps: Vec<Step>,
    /// The flow that is there already: its packets go on as they did, whatever a new one would get.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flow: Option<KnownFlow>,
}

/// To how many of the endpoints a flow gets a SNAT address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Masqueraded", into = "Masqueraded")]
pub enum Masquerade {
    /// To none: `false`.
    #[default]
    None,
    /// To some and not to others: `"some"`.
    Some,
    /// To all: `true`.
    All,
}

impl Masquerade {
    /// To one of them at least.
    #[must_use]
    pub const fn any(self) -> bool {
        !matches!(self, Self::None)
    }
}

/// [`Masquerade`] as JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Masqueraded {
    Whether(bool),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Some,
}

impl From<Masquerade> for Masqueraded {
    fn from(masquerade: Masquerade) -> Self {
        match masquerade {
            Masquerade::None => Self::Whether(false),
            Masquerade::Some => Self::Word(Word::Some),
            Masquerade::All => Self::Whether(true),
        }
    }
}

impl From<Masqueraded> for Masquerade {
    fn from(said: Masqueraded) -> Self {
        match said {
            Masqueraded::Whether(false) => Self::None,
            Masqueraded::Word(Word::Some) => Self::Some,
            Masqueraded::Whether(true) => Self::All,
        }
    }
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What says so: `Service default/web`, `EndpointSlice default/web-x1`, `Node n1`, `Config`.
    pub object: String,
    /// Which field of it; empty when it is the object as a whole.
    pub field: String,
    /// What follows from it.
    pub what: String,
}

/// A flow of the asked tuple, in either direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownFlow {
    /// Where its client's packets go.
    pub endpoint: SocketAddr,
    /// Who the endpoint takes for the client.
    pub source: SocketAddr,
    /// `ESTABLISHED`, `UNREPLIED`, …
    pub state: String,
    /// Seconds until it ends if no packet comes.
    pub expires: u32,
}

/// What an explanation is made from.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// What workers serve from.
    pub world: &'a Snapshot,
    /// The objects behind it.
    pub desired: &'a Desired,
    /// What made the one from the other.
    pub compiler: &'a Compiler,
    /// How local pods are told.
    pub detect: &'a DetectLocal,
    /// Addresses of this host.
    pub hosts: &'a BTreeSet<IpAddr>,
}

/// Explains what a new flow of the asked packet would get.
#[must_use]
pub fn explain(ground: &Ground<'_>, question: &Question) -> Explanation {
    let mut steps = Steps::new(ground.desired, question.dst);
    let origin = origin(ground, question, &mut steps);
    let world = ground.world;
    let tuple = question.tuple();
    let decision = match &tuple {
        Some(tuple) => decide(world, tuple, &origin, &mut steps),
        None => decide_portless(world, question.dst, &mut steps),
    };
    let (mut verdict, mut served) = match decision {
        Decision::Serve { service, set, masquerade } => (Verdict::Dnat, Some((service, set, masquerade))),
        Decision::Reject => (Verdict::Reject, None),
        Decision::Drop(_) => (Verdict::Drop, None),
        Decision::NotOurs => (Verdict::Pass, None),
    };
    let found = tuple.as_ref().and_then(|tuple| {
        let port = SvcPort { port: tuple.dport, proto: tuple.proto };
        world.frontend(tuple.dst, port)
    });
    let (mut endpoints, mut masquerade) = (Vec::new(), Masquerade::None);
    let mut reason = steps.decisive();
    if let Some(kept) = near::own_address(ground, question, found.map(|(kind, _)| kind), &mut steps) {
        (verdict, served, reason) = (Verdict::Pass, None, kept);
    }
    if found.is_none() {
        near::destination(ground, question, &mut steps);
    }
    if let Some((_, service)) = found {
        account::tell(ground, service, served.map(|(_, set, _)| set), &mut steps);
    }
    if let (Some((service, set, asked)), Some(tuple)) = (served, &tuple) {
        endpoints = members(service, set);
        reason = format!("{reason}: {}", count(endpoints.len(), "endpoint"));
        account::tell_choice(ground, service, set, tuple, question.sport != 0, &mut steps);
        masquerade = masqueraded(world, asked, tuple, &origin, &endpoints, &mut steps);
    }
    tell_problems(ground, found.map(|(_, service)| &**service), &mut steps);
    Explanation {
        verdict,
        endpoints,
        masquerade,
        frontend: found.map(|(kind, _)| kind.label().to_owned()),
        service: found.map(|(_, service)| service.name.to_string()),
        reason,
        steps: steps.into_steps(),
        flow: None,
    }
}

/// Where the client is. Where sources are kept a packet is taken to come from where its source is routed to; a link that
/// is named says better.
fn origin(ground: &Ground<'_>, question: &Question, steps: &mut Steps<'_>) -> Origin {
    let fabric = ground.world.fabric();
    let by_address = fabric.local.place(question.src);
    let place = question.in_interface.as_deref().filter(|_| ground.detect.by_link()).map(|link| {
        match (by_address, ground.detect.is_pods_link(link)) {
            (host @ (Place::Host | Place::HostAmongPods), _) => host,
            (Place::LocalPod | Place::Elsewhere, true) => Place::LocalPod,
            (Place::LocalPod | Place::Elsewhere, false) => Place::Elsewhere,
        }
    });
    steps.source(question, place.unwrap_or(by_address), ground.detect, &fabric.local);
    Origin { place }
}

fn members(service: &Service, set: Set) -> Vec<SocketAddr> {
    let members = service.members(set).iter();
    let backends = members.filter_map(|index| service.backends.get(usize::try_from(*index).ok()?));
    backends.map(|backend| SocketAddr::new(backend.addr, backend.port)).collect()
}

/// Whether some endpoint would see a SNAT address. Endpoints of which the answer differs are named.
fn masqueraded(
    world: &Snapshot,
    asked: bool,
    tuple: &Tuple<IpAddr>,
    origin: &Origin,
    endpoints: &[SocketAddr],
    steps: &mut Steps<'_>,
) -> Masquerade {
    let mut of_them = 0;
    for endpoint in endpoints {
        let ask =
            |reasons: &mut Steps<'_>| masquerades(world, asked, tuple.src, endpoint.ip(), origin, reasons);
        let is = masquerades(world, asked, tuple.src, endpoint.ip(), origin, &mut NoReasons);
        of_them += usize::from(is);
        if is != asked {
            steps.about(*endpoint);
            ask(steps);
        }
    }
    steps.about_all();
    match of_them {
        n if n == endpoints.len() => Masquerade::All,
        // What is asked for counts: a lone endpoint that is this host was told of, as the exception it is.
        0 if asked => Masquerade::All,
        0 => Masquerade::None,
        _ => Masquerade::Some,
    }
}

/// What the Service's owner was told, which may be why something is not as expected.
fn tell_problems(ground: &Ground<'_>, service: Option<&Service>, steps: &mut Steps<'_>) {
    let Some(service) = service else { return };
    steps.reported(ground, &format!("Service {}", key_of(&service.name).0));
}

/// The Service and the port's name of a service port's name.
fn key_of(name: &str) -> (ObjectKey, &str) {
    let (object, port) = name.split_once(':').unwrap_or((name, ""));
    let (namespace, name) = object.split_once('/').unwrap_or(("default", object));
    (ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() }, port)
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod law;
#[cfg(test)]
mod tests;
