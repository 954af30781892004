//! Session affinity as the model keeps it: who was where, since when.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use dataplane::clock::Time;

use super::Judgement;
use crate::cluster::{Cluster, Svc};

/// Where clients of sticky service ports were last.
#[derive(Debug, Default)]
pub(super) struct Seats {
    /// By service port and client.
    seats: BTreeMap<(u32, IpAddr), Seat>,
    /// Flows that had to go where their client was, though others were eligible.
    pub(super) remembered: u64,
    /// Flows of clients whose time was up.
    pub(super) expired: u64,
}

/// No endpoint: its flow was not opened, so nobody saw which one it was to get.
#[derive(Clone, Copy, Debug)]
struct Seat {
    at: Option<SocketAddr>,
    last: Time,
    seconds: u32,
}

impl Seats {
    /// The world was replaced: who was at an endpoint that is not usable in it was never there, even if it comes back.
    pub(super) fn published(&mut self, cluster: &Cluster) {
        self.seats.retain(|(service, _), seat| {
            let sticky = cluster.services.get(service).filter(|svc| svc.affinity.is_some());
            sticky.is_some_and(|svc| seat.at.is_none_or(|at| svc.usable().any(|one| one == at)))
        });
    }

    /// A new flow of this client was sent to `to`; without one it could not be opened.
    ///
    /// # Errors
    /// The client was elsewhere not long ago.
    pub(super) fn take(&mut self, svc: &Svc, client: IpAddr, to: Option<SocketAddr>, now: Time) -> Judgement {
        let Some(seconds) = svc.affinity else { return Ok(()) };
        let key = (svc.id.0, client);
        let seat = self.seats.get(&key).copied();
        let fresh = seat.filter(|seat| second(now) - second(seat.last) <= u64::from(seat.seconds));
        self.expired += u64::from(seat.is_some() && fresh.is_none());
        let must = fresh.and_then(|seat| seat.at);
        match (must, to) {
            (Some(must), Some(to)) if must != to => {
                return Err(format!("{client} was at {must}, but goes to {to}"));
            }
            (Some(_), Some(_)) => self.remembered += u64::from(svc.usable().count() > 1),
            (Some(_) | None, None) | (None, Some(_)) => {}
        }
        self.seats.insert(key, Seat { at: to.or(must), last: now, seconds });
        Ok(())
    }
}

fn second(time: Time) -> u64 {
    time.nanos() / 1_000_000_000
}
