//! What went through a flow: a second array beside the records, so that counting dirties no line a look-up
//! reads.

use super::word::Dir;
use crate::clock::{Tick, Time};
use crate::sync::{AtomicU64, Ordering};

/// 32 bytes a flow. Both counters are added to with relaxed order, once per flow, direction and batch.
#[repr(C, align(32))]
#[derive(Debug)]
pub(super) struct Ledger {
    bytes: [AtomicU64; 2],
    /// 40 bits of packets each. Above the forward ones: the second the flow was opened in, 24 bits. Above the
    /// replies': spare. A count of 2^40 runs over into them: twelve days at a million packets per second, and
    /// then a flow looks one second older.
    packets: [AtomicU64; 2],
}

#[cfg(not(tunway_loom))]
const _: () = assert!(size_of::<Ledger>() == 32);

const PACKET_BITS: u32 = 40;
const PACKETS: u64 = (1 << PACKET_BITS) - 1;
const OPENED: u64 = (1 << (u64::BITS - PACKET_BITS)) - 1;

impl Ledger {
    /// An account never used, as a fresh region holds it.
    #[cfg(any(test, tunway_loom))]
    pub(super) fn unused() -> Self {
        let zero = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { bytes: zero(), packets: zero() }
    }

    /// Starts a new flow's account. Owner of the record only.
    pub(super) fn open(&self, now: Time) {
        for bytes in &self.bytes {
            bytes.store(0, Ordering::Relaxed);
        }
        self.packets[Dir::Forward as usize].store((seconds(now) & OPENED) << PACKET_BITS, Ordering::Relaxed);
        self.packets[Dir::Reply as usize].store(0, Ordering::Relaxed);
    }

    pub(super) fn add(&self, dir: Dir, packets: u32, bytes: u64) {
        self.bytes[dir as usize].fetch_add(bytes, Ordering::Relaxed);
        self.packets[dir as usize].fetch_add(u64::from(packets), Ordering::Relaxed);
    }

    /// Seconds since the flow was opened; means something for a flow younger than [`Tick::MAX_TTL`].
    pub(super) fn age(&self, now: Tick) -> u32 {
        now.age(Tick::from_secs(self.packets[Dir::Forward as usize].load(Ordering::Relaxed) >> PACKET_BITS))
    }

    /// Packets, forward and reply.
    pub(super) fn packets(&self) -> [u64; 2] {
        [0, 1].map(|dir| self.packets[dir].load(Ordering::Relaxed) & PACKETS)
    }

    /// Bytes, forward and reply.
    pub(super) fn bytes(&self) -> [u64; 2] {
        [0, 1].map(|dir| self.bytes[dir].load(Ordering::Relaxed))
    }
}

const fn seconds(time: Time) -> u64 {
    time.nanos() / 1_000_000_000
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    #[test]
    fn an_account_counts_both_directions_from_its_opening() {
        let ledger = Ledger::unused();
        ledger.add(Dir::Forward, 3, 100);
        ledger.open(Time::from_secs(1_000));
        assert_eq!((ledger.packets(), ledger.bytes()), ([0, 0], [0, 0]));
        ledger.add(Dir::Forward, 2, 120);
        ledger.add(Dir::Reply, 1, 1 << 33);
        ledger.add(Dir::Forward, 1, 1);
        assert_eq!((ledger.packets(), ledger.bytes()), ([3, 1], [121, 1 << 33]));
        assert_eq!([1_002, 1_000, 999].map(|at| ledger.age(Tick::from_secs(at))), [2, 0, 0]);
    }
}
