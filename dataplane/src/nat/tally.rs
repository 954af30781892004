//! Flow accounting of one batch: packets of the same flow and direction are added up here first, so that a flow's
//! ledger line is written once a batch and not once a packet, and long after it was asked for.

use crate::flow::{Dir, Hit, Table};
use crate::packet::frame::BATCH;

/// Twice what a batch can need, so that a free slot is near.
const SLOTS: usize = 2 * BATCH;

/// Sums of one batch. A slot is found by the record's low bits, or is the next free one behind.
#[derive(Debug)]
pub(crate) struct Tally<const N: usize> {
    slots: [Option<Slot<N>>; SLOTS],
    used: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot<const N: usize> {
    hit: Hit<N>,
    packets: u32,
    bytes: u64,
}

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self { slots: [None; SLOTS], used: 0 }
    }
}

const _: () = assert!(SLOTS == u64::BITS as usize, "one bit of `used` a slot");

impl<const N: usize> Tally<N> {
    /// Counts one packet of `bytes` bytes for the flow and direction of `hit`.
    pub(crate) fn add(&mut self, table: &Table<N>, hit: &Hit<N>, bytes: usize) {
        let first = hit.ix.0 as usize * 2 + usize::from(hit.dir == Dir::Reply);
        let bytes = bytes as u64;
        for n in 0..SLOTS {
            let at = (first + n) % SLOTS;
            match &mut self.slots[at] {
                Some(slot) if same_direction(&slot.hit, hit) => {
                    slot.packets += 1;
                    slot.bytes += bytes;
                    return;
                }
                Some(_) => {}
                free @ None => {
                    *free = Some(Slot { hit: *hit, packets: 1, bytes });
                    self.used |= 1 << at;
                    return;
                }
            }
        }
        // More flows than a batch has packets: not lost all the same.
        table.account(hit, 1, bytes);
    }

    /// Writes all sums to the ledger.
    pub(crate) fn write_out(&mut self, table: &Table<N>) {
        while self.used != 0 {
            let at = self.used.trailing_zeros() as usize;
            self.used &= self.used - 1;
            if let Some(slot) = self.slots[at].take() {
                table.account(&slot.hit, slot.packets, slot.bytes);
            }
        }
    }
}

fn same_direction<const N: usize>(a: &Hit<N>, b: &Hit<N>) -> bool {
    a.ix == b.ix && a.generation == b.generation && a.dir == b.dir
}
