//! Which endpoint a new flow gets.

use std::net::IpAddr;

use super::{Backend, Reason, Reasons, Seat, Service, Set};
use crate::clock::Tick;
use crate::ids::{EndpointId, ServiceId};
use crate::packet::tuple::Tuple;

/// What a choice may look at beyond the snapshot.
pub trait Live {
    /// A number drawn uniformly from `0..below`. `below` is never 0.
    fn draw(&mut self, below: u32) -> u32;

    /// How many active flows an endpoint has.
    fn active(&self, endpoint: EndpointId) -> u32;

    /// The present, as session affinity counts it.
    fn now(&self) -> Tick;

    /// What is remembered of a client of a service port.
    fn recall(&self, service: ServiceId, client: IpAddr) -> Option<Seat>;

    /// Remembers `new` of the client, if `seen` still is what is remembered of it.
    ///
    /// # Errors
    /// What is remembered instead.
    fn settle(
        &mut self,
        service: ServiceId,
        client: IpAddr,
        seen: Option<Seat>,
        new: Seat,
    ) -> Result<(), Seat>;
}

/// How often a choice starts over because another worker settled the client meanwhile. Twice takes an endpoint that
/// left its set in between; after that a flow goes where it was to go, and is not remembered.
const ATTEMPTS: usize = 4;

/// Picks an endpoint of the set: the one the client is remembered at if the service port has session affinity and the
/// endpoint is in the set, else by its balancing; `None` only if the set is empty.
///
/// `flow` is its tuple as it arrives. With affinity its client is remembered, or remembered for longer.
pub fn choose<'a, L: Live, R: Reasons>(
    service: &'a Service,
    set: Set,
    live: &mut L,
    flow: &Tuple<IpAddr>,
    reasons: &mut R,
) -> Option<&'a Backend> {
    let (members, client) = (service.members(set), flow.src);
    let position = match &service.affinity {
        None => pick(service, set, live, flow)?,
        Some(sticky) => {
            let (position, remembered) = settle(service, set, live, flow)?;
            reasons.note(Reason::Affinity { client, seconds: sticky.seconds(), remembered });
            position
        }
    };
    let backend = service.backends.get(*members.get(position)? as usize)?;
    reasons.note(Reason::Picked { backend, position, of: members.len(), client });
    Some(backend)
}

fn pick<L: Live>(service: &Service, set: Set, live: &mut L, flow: &Tuple<IpAddr>) -> Option<usize> {
    service.balancing.pick(set, service.members(set), &service.backends, flow, live)
}

/// The member a client of a sticky service port gets, and whether because it is remembered there.
fn settle<L: Live>(service: &Service, set: Set, live: &mut L, flow: &Tuple<IpAddr>) -> Option<(usize, bool)> {
    let (members, client, now) = (service.members(set), flow.src, live.now());
    let mut seen = live.recall(service.id, client);
    let mut choice = None;
    for _ in 0..ATTEMPTS {
        let remembered = seen.and_then(|seat| members.binary_search(&service.place_of(&seat, now)?).ok());
        let position = remembered.map_or_else(|| pick(service, set, live, flow), Some)?;
        choice = Some((position, remembered.is_some()));
        let last = seen.map_or(now, |seat| seat.last());
        let seat = service.seat(*members.get(position)?, now)?.not_before(last);
        if seen == Some(seat) {
            break;
        }
        match live.settle(service.id, client, seen, seat) {
            Ok(()) => break,
            Err(other) => seen = Some(other),
        }
    }
    choice
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests;
