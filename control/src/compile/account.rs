//! What became of every endpoint of a service port, for those who ask: the same join and the same sorting as a compile
//! does, with every endpoint that was left out and why.

use std::net::{IpAddr, SocketAddr};

use dataplane::packet::tuple::{Family, Proto};
use dataplane::service::{FrontendKind, Set};

use super::Compiler;
use super::draft::{self, Accepted, Ground};
use super::refuse::Refusal;
use crate::categorize::{Fate, Recorded, Topology, categorize};
use crate::desired::Desired;
use crate::model::{Endpoint, ObjectKey};

/// A service port's endpoints, of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Which of the ready ones topology leaves in the cluster set; none when nobody uses that set.
    pub topology: Option<Topology>,
    /// Every endpoint its slices name on a port of its name and protocol, by slice.
    pub candidates: Vec<Candidate>,
}

/// One endpoint as a slice names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The object its owner wrote: `EndpointSlice default/web-x1`.
    pub object: String,
    /// Where it listens.
    pub at: SocketAddr,
    /// What the slice says of it.
    pub endpoint: Endpoint,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its address can be no endpoint's, in these words.
    Refused(&'static str),
    /// Another slice, or a running pod, has the same address and port: that one counts.
    Superseded,
    /// It was sorted: what became of it in each set that is used.
    Sorted(Vec<(Set, Fate)>),
}

impl Compiler {
    /// What became of the endpoints of a service port as the last compile saw it. `port` is the port's name.
    #[must_use]
    pub fn account(
        &self,
        desired: &Desired,
        service: &ObjectKey,
        port: &str,
        proto: Proto,
        family: Family,
    ) -> Option<Account> {
        let fabric = self.fabric.as_ref().ok()?;
        let ground = Ground { fabric, rules: &self.rules, claims: &self.claims, tables: &self.tables };
        let wanted = desired.services().get(service)?;
        let port = wanted.ports.iter().rfind(|known| known.name == port && known.proto == proto)?;
        let slices: Vec<_> = desired.slices(service).map(|slice| Accepted::of(slice, &ground)).collect();
        let joined = draft::join(port, family, &slices);
        let claims = self.objects.get(service).into_iter().flat_map(|object| &object.claims);
        let mut held = claims
            .filter(|claim| claim.family() == family && wanted.ports.get(claim.ordinal) == Some(port))
            .filter(|claim| self.claims.winner(claim.addr, claim.port) == Some(claim));
        let outside = held.any(|claim| claim.kind != FrontendKind::ClusterIp);
        let exposure = draft::exposure(wanted, outside);
        let endpoints: Vec<_> = joined.values().map(|(endpoint, _)| *endpoint).collect();
        let mut recorded = Recorded::default();
        categorize(exposure, &endpoints, desired.node(), &mut recorded);

        let mut candidates = Vec::new();
        for accepted in &slices {
            let (object, _) = accepted.slice.origin();
            let ports = accepted.slice.ports.iter();
            for number in ports.filter(|p| p.name == port.name && p.proto == port.proto).map(|p| p.port) {
                let candidate = |endpoint: &Endpoint, outcome| Candidate {
                    object: object.clone(),
                    at: SocketAddr::new(endpoint.addr, number),
                    endpoint: endpoint.clone(),
                    outcome,
                };
                let of_family = |addr: IpAddr| Family::of(addr) == family;
                for endpoint in accepted.endpoints.iter().filter(|endpoint| of_family(endpoint.addr)) {
                    let place = joined.range(..(endpoint.addr, number)).count();
                    let counts = joined
                        .get(&(endpoint.addr, number))
                        .is_some_and(|one| std::ptr::eq(one.0, *endpoint));
                    let of_it = recorded.fates.iter().filter(|(index, ..)| *index == place);
                    let outcome = if counts {
                        Outcome::Sorted(of_it.map(|(_, set, fate)| (*set, *fate)).collect())
                    } else {
                        Outcome::Superseded
                    };
                    candidates.push(candidate(endpoint, outcome));
                }
                for (endpoint, refusal) in accepted.refused.iter().filter(|(e, _)| of_family(e.addr)) {
                    let outcome = Outcome::Refused(Refusal::is(*refusal));
                    candidates.push(candidate(endpoint, outcome));
                }
            }
        }
        Some(Account { topology: recorded.topology, candidates })
    }
}
