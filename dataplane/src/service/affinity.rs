//! Session affinity: the endpoint a client's next flow gets because its last one got it.
//!
//! One entry stands for a client of a service port, shared by all workers and by all frontends of the port. It is looked
//! at once per new flow, never per packet. Nothing is done to it when endpoints change: an entry names the snapshot
//! since which its endpoint was in a set without a break ([`Sticky`]), so one whose endpoint left, and perhaps came
//! back, means nothing to any later snapshot, and no worker on an older one can bring it back to life.
//!
//! Two workers that see the first flows of one client at once must agree, and yet picks must be uniform and a client
//! whose time is up must be able to land elsewhere. A pick computed from the client's address (rendezvous) agrees by
//! itself but lands on the same endpoint for ever; salting it with time makes workers on both sides of a second
//! disagree. So the pick is random and the first to write wins: [`Affinity::settle`] is a compare-and-swap on the
//! entry, and who comes second takes what the first one wrote.
//!
//! Memory is bounded by a number of clients. The control thread keeps an eighth of it free ([`Affinity::tidy`]), so a
//! client is turned away only when more than that come new within a second, or when its IPv6 prefix has its share.

use std::hash::BuildHasher;
use std::net::IpAddr;

use dashmap::{DashMap, Entry};

use super::{Backend, Service, Snapshot};
use crate::clock::Tick;
use crate::ids::{EndpointId, ServiceId};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The longest timeout in seconds, a day: Kubernetes allows no longer one.
pub const MAX_AFFINITY_SECONDS: u32 = 86_400;

/// Locks the map has. A pass over it holds one of them at a time, so a worker waits for one shard's entries at most: a
/// thousand with the default capacity.
const SHARDS: usize = 256;
/// Counters for IPv6 prefixes; several may share one, and then share its limit.
const PREFIXES: usize = 1 << 14;

/// `sessionAffinity: ClientIP` of a service port.
#[derive(Clone, Debug)]
pub struct Sticky {
    seconds: u32,
    /// By backend: since which snapshot it has been in a set without a break, 0 for one in none. The builder's.
    since: Box<[u32]>,
}

impl Sticky {
    /// A client is remembered this many seconds after its last new flow; 1 to [`MAX_AFFINITY_SECONDS`].
    #[must_use]
    pub fn new(seconds: u32) -> Self {
        Self { seconds, since: Box::default() }
    }

    /// The timeout.
    #[must_use]
    pub const fn seconds(&self) -> u32 {
        self.seconds
    }
}

/// How long a backend has been there is history, not what the service port is.
impl PartialEq for Sticky {
    fn eq(&self, other: &Self) -> bool {
        self.seconds == other.seconds
    }
}

impl Eq for Sticky {}

/// What is remembered of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    endpoint: EndpointId,
    /// Where in `backends` it was found: where to look first.
    place: u32,
    since: u32,
    last: Tick,
    /// The timeout when its last flow began: another one is for flows to come.
    seconds: u32,
}

impl Seat {
    /// When the client's last flow began.
    #[must_use]
    pub const fn last(&self) -> Tick {
        self.last
    }

    /// This seat, if the client's last flow is not even younger: another worker's second may be ahead of ours.
    pub(super) fn not_before(self, last: Tick) -> Self {
        Self { last: if self.last.diff(last) < 0 { last } else { self.last }, ..self }
    }
}

impl Service {
    /// Writes down since when each backend has been in a set, given the service port as the snapshot before had it.
    pub(super) fn note_presence(&mut self, before: Option<&Self>, generation: u64) {
        // Compared for equality only, and 0 is taken.
        let stamp = u32::try_from(generation & u64::from(u32::MAX)).unwrap_or_default().max(1);
        let Some(mut sticky) = self.affinity.take() else { return };
        let mut since = vec![0; self.backends.len()];
        for place in self.cluster.iter().chain(&self.local).map(|place| *place as usize) {
            let present = |backend: &Backend| before.and_then(|before| before.present_since(backend));
            if let (Some(since), Some(backend)) = (since.get_mut(place), self.backends.get(place)) {
                *since = present(backend).unwrap_or(stamp);
            }
        }
        sticky.since = since.into();
        self.affinity = Some(sticky);
    }

    /// The seat a client gets at this place of `backends`.
    pub(super) fn seat(&self, place: u32, now: Tick) -> Option<Seat> {
        let endpoint = self.backends.get(place as usize)?.id;
        let sticky = self.affinity.as_ref()?;
        let since = *sticky.since.get(place as usize)?;
        Some(Seat { endpoint, place, since, last: now, seconds: sticky.seconds })
    }

    /// Where in `backends` the endpoint of a seat is; `None` when the seat's time is up, or its endpoint was out of
    /// all sets since.
    pub(super) fn place_of(&self, seat: &Seat, now: Tick) -> Option<u32> {
        let sticky = self.affinity.as_ref()?;
        let at = |place: u32| self.backends.get(place as usize).is_some_and(|b| b.id == seat.endpoint);
        // Both ends are cut to seconds: no client is forgotten early, and none is kept a whole second too long.
        if now.age(seat.last) > seat.seconds {
            return None;
        }
        let place =
            if at(seat.place) { seat.place } else { (0..).take(self.backends.len()).find(|n| at(*n))? };
        (sticky.since.get(place as usize) == Some(&seat.since)).then_some(place)
    }

    fn present_since(&self, backend: &Backend) -> Option<u32> {
        let place =
            self.backends.binary_search_by_key(&(backend.addr, backend.port), |b| (b.addr, b.port)).ok()?;
        let since = *self.affinity.as_ref()?.since.get(place)?;
        (since != 0 && self.backends.get(place)?.id == backend.id).then_some(since)
    }
}

/// A client of a service port. IPv6 clients are told apart by their whole address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    service: ServiceId,
    addr: IpAddr,
}

/// Everybody remembered.
#[derive(Debug)]
pub struct Affinity {
    seats: DashMap<Client, Seat>,
    /// `DashMap::len` takes every lock.
    count: AtomicUsize,
    capacity: usize,
    prefixes: Box<[AtomicU32]>,
    per_prefix: u32,
    refused: AtomicU64,
    evicted: AtomicU64,
}

/// What [`Affinity::tidy`] took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Clients whose time was up, or whose endpoint is gone.
    pub ended: usize,
    /// Clients whose time was not up: those that have not come back for the longest time.
    pub evicted: usize,
}

impl Affinity {
    /// A memory for so many clients; of one IPv6 /64 and service port at most a 64th of them, but 256 at least, so that
    /// nobody who owns a prefix owns the memory.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            seats: DashMap::with_shard_amount(SHARDS),
            count: AtomicUsize::new(0),
            capacity,
            prefixes: (0..PREFIXES).map(|_| AtomicU32::new(0)).collect(),
            per_prefix: u32::try_from(capacity / 64).unwrap_or(u32::MAX).max(256),
            refused: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// What is remembered of this client of the service port.
    #[must_use]
    pub fn recall(&self, service: ServiceId, addr: IpAddr) -> Option<Seat> {
        self.seats.get(&Client { service, addr }).map(|seat| *seat)
    }

    /// Remembers `new` of this client if `seen` is what is remembered, or nothing is. Without room nothing is
    /// remembered, which is counted. Only for a client nobody remembers it may allocate.
    ///
    /// # Errors
    /// Another worker was faster: what it remembered.
    #[expect(
        clippy::disallowed_methods,
        reason = "`insert` overwrites what another worker wrote; these guards live as long as its own, and nothing but a comparison runs under them"
    )]
    pub fn settle(
        &self,
        service: ServiceId,
        addr: IpAddr,
        seen: Option<Seat>,
        new: Seat,
    ) -> Result<(), Seat> {
        let client = Client { service, addr };
        // `entry` makes room even for a key that is there.
        if seen.is_some()
            && let Some(mut there) = self.seats.get_mut(&client)
        {
            if seen != Some(*there) {
                return Err(*there);
            }
            *there = new;
            return Ok(());
        }
        match self.seats.entry(client) {
            Entry::Occupied(there) => return Err(*there.get()),
            Entry::Vacant(free) => {
                if self.admit(&client) {
                    free.insert(new);
                } else {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Takes away what means nothing any more under this snapshot; and, with less than an eighth of the capacity free,
    /// whoever has not come back for the longest time, until a quarter is. The control thread calls it now and then.
    pub fn tidy(&self, snapshot: &Snapshot, now: Tick) -> Tidied {
        let mut tidied = Tidied::default();
        let full = self.is_tight();
        let mut ages = vec![0_usize; if full { MAX_AFFINITY_SECONDS as usize + 1 } else { 0 }];
        self.seats.retain(|client, seat| {
            let place = snapshot.service(client.service).and_then(|service| service.place_of(seat, now));
            if let Some(place) = place {
                // Searched for once, not at every pass.
                seat.place = place;
                if let Some(count) = ages.get_mut(now.age(seat.last) as usize) {
                    *count += 1;
                }
            } else {
                self.leave_prefix(client);
                tidied.ended += 1;
            }
            place.is_some()
        });
        // After the entries: there are never more of them than are counted.
        let left = self.count.fetch_sub(tidied.ended, Ordering::Relaxed) - tidied.ended;
        if full {
            tidied.evicted = self.evict(&ages, left.saturating_sub(self.capacity - self.capacity / 4), now);
        }
        tidied
    }

    /// There is less room than [`Affinity::tidy`] wants there to be.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.len() > self.capacity - self.capacity / 8
    }

    /// How many clients are remembered, those whose time is up and who were not taken away yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How many clients may be remembered.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows whose clients could not be remembered, for want of room or because of their prefix.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Clients forgotten before their time to make room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Takes `surplus` clients away, the oldest first. `ages` counts clients by the seconds since their last flow.
    fn evict(&self, ages: &[usize], surplus: usize, now: Tick) -> usize {
        let (mut older, mut cut) = (0, ages.len());
        while cut > 0 && older + ages[cut - 1] <= surplus {
            cut -= 1;
            older += ages[cut];
        }
        // Everybody older than `cut`, and as many of the next age as are missing. Who came back meanwhile is young.
        let mut of_last = surplus - older;
        let mut evicted = 0;
        self.seats.retain(|client, seat| {
            let age = now.age(seat.last) as usize;
            let goes = age >= cut || (age + 1 == cut && of_last > 0);
            if goes {
                of_last -= usize::from(age < cut);
                self.leave_prefix(client);
                evicted += 1;
            }
            !goes
        });
        self.count.fetch_sub(evicted, Ordering::Relaxed);
        self.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
        evicted
    }

    /// Counts a new client in, if there is room for it.
    fn admit(&self, client: &Client) -> bool {
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let Some(prefix) = self.prefix(client) else { return true };
        let room = prefix.fetch_add(1, Ordering::Relaxed) < self.per_prefix;
        if !room {
            prefix.fetch_sub(1, Ordering::Relaxed);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        room
    }

    fn leave_prefix(&self, client: &Client) {
        if let Some(prefix) = self.prefix(client) {
            prefix.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The counter of an IPv6 client's /64.
    fn prefix(&self, client: &Client) -> Option<&AtomicU32> {
        let IpAddr::V6(addr) = client.addr else { return None };
        let hash = self.seats.hasher().hash_one((client.service, addr.to_bits() >> 64));
        self.prefixes.get(usize::try_from(hash % PREFIXES as u64).ok()?)
    }
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests;
