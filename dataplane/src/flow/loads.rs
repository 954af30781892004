//! How many active flows each endpoint has: what least connections looks at.
//!
//! A flow is active from its opening until it begins to close (the first FIN of either side, a RST, SCTP's SHUTDOWN)
//! or ends. Its state word says so in COUNTED, which changes only together with what it stands for, in one
//! compare-and-swap: whoever's took place moves the counter, so each flow is counted once, by whatever hands it goes.
//! A flow a RST is undone of is active again.

use std::sync::OnceLock;

use crate::ids::EndpointId;
use crate::sync::{AtomicU32, Ordering};

/// Endpoints that share an allocation.
const LEAF: usize = if cfg!(tunway_loom) { 4 } else { 1 << 12 };
/// Allocations at most: 2^24 endpoints at once, and the flows of those beyond are not counted.
const LEAVES: usize = if cfg!(tunway_loom) { 2 } else { 1 << 12 };

/// Active flows by endpoint, of both families. Memory comes by [`Loads::reserve`], else with an endpoint's first flow, and
/// stays.
#[derive(Debug)]
pub struct Loads {
    leaves: Box<[OnceLock<Box<[AtomicU32]>>]>,
}

impl Default for Loads {
    fn default() -> Self {
        Self { leaves: (0..LEAVES).map(|_| OnceLock::new()).collect() }
    }
}

impl Loads {
    /// Flows of an endpoint that are active; 0 when there never was one.
    #[must_use]
    pub fn active(&self, endpoint: EndpointId) -> u32 {
        // A flow that begins to close right after it was counted may be taken back first: less than none is none.
        self.balance(endpoint).max(0).cast_unsigned()
    }

    /// What was added and not taken back; below 0 only while a worker is about to add.
    pub(super) fn balance(&self, endpoint: EndpointId) -> i32 {
        self.counter(endpoint).map_or(0, |counter| counter.load(Ordering::Relaxed)).cast_signed()
    }

    /// Makes room for an endpoint, so that no worker has to.
    pub fn reserve(&self, endpoint: EndpointId) {
        let _ = self.made(endpoint);
    }

    /// Counts one more.
    pub fn add(&self, endpoint: EndpointId) {
        if let Some(counter) = self.made(endpoint) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes back one [`Loads::add`].
    pub fn remove(&self, endpoint: EndpointId) {
        if let Some(counter) = self.counter(endpoint) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn made(&self, endpoint: EndpointId) -> Option<&AtomicU32> {
        let (leaf, at) = place(endpoint);
        let leaf = self.leaves.get(leaf)?;
        leaf.get_or_init(|| (0..LEAF).map(|_| AtomicU32::new(0)).collect()).get(at)
    }

    fn counter(&self, endpoint: EndpointId) -> Option<&AtomicU32> {
        let (leaf, at) = place(endpoint);
        self.leaves.get(leaf)?.get()?.get(at)
    }
}

const fn place(endpoint: EndpointId) -> (usize, usize) {
    (endpoint.0 as usize / LEAF, endpoint.0 as usize % LEAF)
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_has_its_own_counter_and_what_is_too_far_out_has_none() {
        let loads = Loads::default();
        let ids = [0, 1, 4095, 4096, (1 << 24) - 1].map(EndpointId);
        for (n, id) in ids.iter().enumerate() {
            (0..=n).for_each(|_| loads.add(*id));
        }
        assert_eq!(ids.map(|id| loads.active(id)), [1, 2, 3, 4, 5]);
        ids.iter().for_each(|id| loads.remove(*id));
        assert_eq!(ids.map(|id| loads.active(id)), [0, 1, 2, 3, 4]);
        loads.remove(EndpointId(0));
        assert_eq!(loads.active(EndpointId(0)), 0, "taken back before it was counted");
        loads.add(EndpointId(0));
        assert_eq!(loads.active(EndpointId(0)), 0);
        let far = EndpointId(1 << 24);
        loads.add(far);
        loads.remove(far);
        loads.remove(EndpointId(9_000));
        assert_eq!((loads.active(far), loads.active(EndpointId(9_000))), (0, 0));
    }
}
