//! Counters. One block per worker, written by that worker only, read by anyone.
//!
//! A counter moves by a relaxed load and a relaxed store: with a single writer no read-modify-write is
//! needed. At every moment between batches `received = translated + passed + replied + dropped`, plus
//! the frames that wait in an engine's park and the fragments that wait for their first one just then. A fragment
//! may come with one worker and leave with another, so with fragments this holds of the sum over the workers.

use crate::sync::{AtomicU64, Ordering};
use crate::verdict::{DropReason, Verdict};

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident = $label:literal,)+) => {
        /// What a worker counts besides drops.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Counter { $($(#[$doc])+ $name,)+ }

        impl Counter {
            /// Every counter, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The counter's stable name.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

counters! {
    /// Frames read from the queue.
    Received = "received",
    /// Bytes read, without virtio headers.
    ReceivedBytes = "received_bytes",
    /// Frames translated and written back.
    Translated = "translated",
    /// Frames written back unchanged.
    Passed = "passed",
    /// Frames answered by an ICMP error or a RST.
    Replied = "replied",
    /// Flows opened by this worker.
    FlowsOpened = "flows_opened",
    /// Flows ended by time.
    FlowsExpired = "flows_expired",
    /// Half-open, closing or unanswered flows ended early because the table was full.
    FlowsEvicted = "flows_evicted",
    /// Closed flows ended by a client's new SYN or INIT on the same tuple.
    FlowsReopened = "flows_reopened",
    /// UDP flows ended because their endpoint was withdrawn.
    FlowsPurged = "flows_purged",
    /// Frames that waited because another worker was opening the same flow.
    Parked = "parked",
    /// Frames that were fragments of datagrams, and valid by themselves.
    Fragments = "fragments",
    /// Fragments that waited because the first one of their datagram had not come.
    FragmentsHeld = "fragments_held",
    /// Datagrams of which every fragment came.
    DatagramsComplete = "datagrams_complete",
    /// Datagrams given up because fragments did not come in time, did not fit together, or were too many.
    DatagramsIncomplete = "datagrams_incomplete",
    /// Reply tuples that clashed with a live flow's, so that another source port was tried.
    PortClashes = "port_clashes",
    /// ICMP errors translated.
    IcmpErrorsTranslated = "icmp_errors_translated",
    /// Flows of sticky Services whose clients could not be remembered: no room, or too many of one IPv6 prefix.
    AffinityRefused = "affinity_refused",
    /// Clients forgotten before their time, the oldest first, to make room for new ones.
    AffinityEvicted = "affinity_evicted",
    /// Times the queue was found empty.
    Waits = "waits",
}

impl Counter {
    /// How many counters there are.
    pub const COUNT: usize = Self::ALL.len();
}

/// One worker's counters. Wrap it in `CachePadded`: two workers never write one line.
#[derive(Debug)]
pub struct WorkerStats {
    counters: [AtomicU64; Counter::COUNT],
    drops: [AtomicU64; DropReason::COUNT],
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl WorkerStats {
    /// Adds to a counter. Only the owning worker may call it.
    pub fn add(&self, counter: Counter, n: u64) {
        bump(&self.counters[counter as usize], n);
    }

    /// Counts a dropped frame. Only the owning worker may call it.
    pub fn dropped(&self, reason: DropReason) {
        bump(&self.drops[reason as usize], 1);
    }

    /// Counts flows ended by a sweep: by time, under pressure, and because their endpoint was withdrawn. Only the
    /// owning worker may call it.
    pub fn swept(&self, expired: u32, evicted: u32, purged: u32) {
        for (counter, n) in [
            (Counter::FlowsExpired, expired),
            (Counter::FlowsEvicted, evicted),
            (Counter::FlowsPurged, purged),
        ] {
            if n > 0 {
                self.add(counter, u64::from(n));
            }
        }
    }

    /// Counts a frame's end. Only the owning worker may call it.
    pub fn verdict(&self, verdict: Verdict) {
        match verdict {
            Verdict::Translated => self.add(Counter::Translated, 1),
            Verdict::Passed => self.add(Counter::Passed, 1),
            Verdict::Replied => self.add(Counter::Replied, 1),
            Verdict::Dropped(reason) => self.dropped(reason),
        }
    }

    /// Takes back a verdict given too early: the device did not take the frame. Only the owning worker may call it.
    pub fn write_failed(&self, given: Verdict) {
        let counter = match given {
            Verdict::Translated => Counter::Translated,
            Verdict::Passed => Counter::Passed,
            Verdict::Replied => Counter::Replied,
            Verdict::Dropped(_) => return,
        };
        let cell = &self.counters[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
        self.dropped(DropReason::WriteFailed);
    }

    /// A copy of the counters as they stand.
    #[must_use]
    pub fn read(&self) -> Totals {
        Totals {
            counters: std::array::from_fn(|i| self.counters[i].load(Ordering::Relaxed)),
            drops: std::array::from_fn(|i| self.drops[i].load(Ordering::Relaxed)),
        }
    }
}

fn bump(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// Counters at one moment, of one worker or summed over several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    counters: [u64; Counter::COUNT],
    drops: [u64; DropReason::COUNT],
}

impl Default for Totals {
    fn default() -> Self {
        Self { counters: [0; Counter::COUNT], drops: [0; DropReason::COUNT] }
    }
}

impl Totals {
    /// A counter's value.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// Frames dropped for this reason.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Frames dropped for any reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Adds to a counter: for what no worker counts.
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.counters[counter as usize] += n;
    }

    /// Adds another worker's counters.
    pub fn merge(&mut self, other: &Self) {
        for (sum, n) in self.counters.iter_mut().zip(other.counters) {
            *sum += n;
        }
        for (sum, n) in self.drops.iter_mut().zip(other.drops) {
            *sum += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_moves_one_counter_and_a_failed_write_moves_it_to_a_drop() {
        let stats = WorkerStats::default();
        stats.verdict(Verdict::Translated);
        stats.verdict(Verdict::Dropped(DropReason::Martian));
        stats.write_failed(Verdict::Translated);
        let totals = stats.read();
        assert_eq!(totals.get(Counter::Translated), 0);
        assert_eq!(totals.drops(DropReason::WriteFailed), 1);
        assert_eq!(totals.drops(DropReason::Martian), 1);
        assert_eq!(totals.dropped(), 2);
    }

    #[test]
    fn merging_adds() {
        let stats = WorkerStats::default();
        stats.add(Counter::Received, 3);
        let mut sum = stats.read();
        sum.merge(&stats.read());
        assert_eq!(sum.get(Counter::Received), 6);
    }
}
