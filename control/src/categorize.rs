//! Which endpoints a service port may use: readiness, traffic policies and topology hints, exactly as kube-proxy
//! 1.36 weighs them. Pure; every endpoint kept or left out is said to a [`Reasons`], whose no-op costs nothing,
//! so an explanation runs the same code as the snapshot.

use dataplane::service::{Policy, Set};

use crate::model::{Endpoint, Node};

/// How a service port is reached and what its policies say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// `internalTrafficPolicy`.
    pub internal: Policy,
    /// `externalTrafficPolicy` of a port that is reachable from outside; `None` for one that is not, whose
    /// external policy then means nothing.
    pub external: Option<Policy>,
}

/// The endpoints of a service port by use, as ascending indices into what was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// For policy `Cluster`.
    pub cluster: Vec<u32>,
    /// For policy `Local`.
    pub local: Vec<u32>,
    /// Some endpoint is usable, perhaps not from here: what tells a policy gap from a dead Service.
    pub any: bool,
}

/// Which endpoints topology leaves in the cluster set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// All: hints are absent, incomplete, or none is for here.
    Everywhere,
    /// Those hinted for this node.
    SameNode,
    /// Those hinted for this node's zone.
    SameZone,
}

/// What became of an endpoint in one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// In: it is ready.
    Ready,
    /// In: it is terminating but still serves, and none is ready.
    Fallback,
    /// Out: neither ready nor serving while it terminates.
    Unusable,
    /// Out: it is terminating, and ready ones exist.
    Terminating,
    /// Out: its hints are for other nodes.
    HintedElsewhere,
    /// Out of the local set: it runs on another node.
    Remote,
}

/// Takes down what became of endpoints.
pub trait Reasons {
    /// The topology mode of the cluster set.
    fn topology(&mut self, mode: Topology);
    /// What became of the endpoint at this index in this set.
    fn endpoint(&mut self, index: usize, set: Set, fate: Fate);
}

/// Takes nothing down.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReasons;

impl Reasons for NoReasons {
    #[inline(always)]
    fn topology(&mut self, _: Topology) {}
    #[inline(always)]
    fn endpoint(&mut self, _: usize, _: Set, _: Fate) {}
}

/// Takes everything down, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The topology mode, when there is a cluster set.
    pub topology: Option<Topology>,
    /// Endpoint index, set, fate.
    pub fates: Vec<(usize, Set, Fate)>,
}

impl Reasons for Recorded {
    fn topology(&mut self, mode: Topology) {
        self.topology = Some(mode);
    }

    fn endpoint(&mut self, index: usize, set: Set, fate: Fate) {
        self.fates.push((index, set, fate));
    }
}

/// Sorts a service port's endpoints into its sets.
///
/// The cluster set exists unless nothing but internal `Local` traffic can arrive (external `Local` traffic from
/// local pods uses it); the local set when a policy that means something is `Local`. Either takes its ready
/// endpoints, or if it has none the terminating ones that still serve. Hints narrow only the ready ones of the
/// cluster set.
pub fn categorize<R: Reasons>(
    exposure: Exposure,
    endpoints: &[&Endpoint],
    node: &Node,
    reasons: &mut R,
) -> Sets {
    let uses_cluster = exposure.internal == Policy::Cluster || exposure.external.is_some();
    let uses_local = exposure.internal == Policy::Local || exposure.external == Some(Policy::Local);
    let mut sets = Sets { any: endpoints.iter().any(|e| usable(e)), ..Sets::default() };
    if uses_cluster {
        let mode = topology(endpoints, node);
        reasons.topology(mode);
        let ready = |e: &Endpoint| if hinted(e, mode, node) { Ok(()) } else { Err(Fate::HintedElsewhere) };
        sets.cluster = pick(endpoints, Set::Cluster, |_| true, ready, reasons);
    }
    if uses_local {
        sets.local = pick(endpoints, Set::Local, |e| is_local(e, node), |_| Ok(()), reasons);
    }
    sets
}

/// The endpoint runs on this node. A node without a name has no endpoints.
#[must_use]
pub fn is_local(endpoint: &Endpoint, node: &Node) -> bool {
    !node.name.is_empty() && endpoint.node.as_ref() == Some(&node.name)
}

fn usable(endpoint: &Endpoint) -> bool {
    endpoint.ready || fallback(endpoint)
}

fn fallback(endpoint: &Endpoint) -> bool {
    !endpoint.ready && endpoint.serving && endpoint.terminating
}

/// The ready endpoints among those eligible that `ready` does not veto; if no eligible one is ready, those that
/// serve while they terminate. A veto never empties the set: a topology mode holds only where it selects some.
fn pick<R: Reasons>(
    endpoints: &[&Endpoint],
    set: Set,
    eligible: impl Fn(&Endpoint) -> bool,
    ready: impl Fn(&Endpoint) -> Result<(), Fate>,
    reasons: &mut R,
) -> Vec<u32> {
    let any_ready = endpoints.iter().any(|e| e.ready && eligible(e));
    let mut members = Vec::new();
    for (number, (index, endpoint)) in (0_u32..).zip(endpoints.iter().enumerate()) {
        let fate = if !usable(endpoint) {
            Fate::Unusable
        } else if !eligible(endpoint) {
            Fate::Remote
        } else if endpoint.ready {
            ready(endpoint).err().unwrap_or(Fate::Ready)
        } else if any_ready {
            Fate::Terminating
        } else {
            Fate::Fallback
        };
        if matches!(fate, Fate::Ready | Fate::Fallback) {
            members.push(number);
        }
        reasons.endpoint(index, set, fate);
    }
    members
}

/// Node hints win over zone hints; either counts only if every ready endpoint has some and one is for here.
fn topology(endpoints: &[&Endpoint], node: &Node) -> Topology {
    let ready = || endpoints.iter().filter(|e| e.ready);
    let holds = |hints: &dyn Fn(&Endpoint) -> (bool, bool)| {
        let (mut all, mut here) = (true, false);
        for (hinted, for_us) in ready().map(|e| hints(e)) {
            all &= hinted;
            here |= for_us;
        }
        all && here
    };
    if holds(&|e| (!e.node_hints.is_empty(), e.node_hints.contains(&node.name))) {
        Topology::SameNode
    } else if holds(&|e| (!e.zone_hints.is_empty(), in_zone(e, node))) {
        Topology::SameZone
    } else {
        Topology::Everywhere
    }
}

fn hinted(endpoint: &Endpoint, mode: Topology, node: &Node) -> bool {
    match mode {
        Topology::Everywhere => true,
        Topology::SameNode => endpoint.node_hints.contains(&node.name),
        Topology::SameZone => in_zone(endpoint, node),
    }
}

fn in_zone(endpoint: &Endpoint, node: &Node) -> bool {
    node.zone.as_ref().is_some_and(|zone| !zone.is_empty() && endpoint.zone_hints.contains(zone))
}

#[cfg(test)]
mod tests;
