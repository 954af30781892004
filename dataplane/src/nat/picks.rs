//! What a choice of endpoints looks at beyond the snapshot, on a worker.

use std::net::IpAddr;

use super::prng::Prng;
use crate::clock::Tick;
use crate::flow::Loads;
use crate::ids::{EndpointId, ServiceId};
use crate::service::{Affinity, Live, Seat};

/// One worker's draws, and everybody's memory of clients and counts of flows.
pub(super) struct Picks<'a> {
    pub(super) prng: &'a mut Prng,
    pub(super) affinity: &'a Affinity,
    pub(super) loads: &'a Loads,
    pub(super) now: Tick,
}

impl Live for Picks<'_> {
    fn draw(&mut self, below: u32) -> u32 {
        self.prng.below(below)
    }

    fn active(&self, endpoint: EndpointId) -> u32 {
        self.loads.active(endpoint)
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn recall(&self, service: ServiceId, client: IpAddr) -> Option<Seat> {
        self.affinity.recall(service, client)
    }

    fn settle(
        &mut self,
        service: ServiceId,
        client: IpAddr,
        seen: Option<Seat>,
        new: Seat,
    ) -> Result<(), Seat> {
        self.affinity.settle(service, client, seen, new)
    }
}
