//! The region: one piece of memory that holds the tables of both families, and outlives the process that
//! wrote it.
//!
//! ```text
//! header (4 KiB) | IPv4: chunk owners, index, records, ledgers | IPv6: the same        each part page-aligned
//! ```
//! Offsets only, no pointers. All sizes are powers of two and every index read from the region is masked, so
//! no byte in it can lead outside. A region found at start is made anew: what a previous process knew is not
//! taken over yet.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::arena::CHUNK;
use super::hash::SEED_WORDS;
use super::index::{Bucket, WAYS};
use super::ledger::Ledger;
use super::loads::Loads;
use super::map::{Mapping, Slots, random};
use super::place::{self, Placement, RegionConfig, RegionError};
use super::record::Record;
use super::state::next_epoch;
use crate::clock::Time;
use crate::ids::FlowIx;
use crate::sync::{AtomicU8, AtomicU64, Ordering};

const PAGE: usize = 4096;
/// Anonymous memory below this stays as the kernel hands it out, page by page: small tables are tests'
/// tables.
const WORTH_HUGE_PAGES: usize = 32 << 20;
const MAGIC: u64 = u64::from_be_bytes(*b"tunwayfl");
const VERSION: u64 = 2;

/// Words of the header.
mod at {
    use super::SEED_WORDS;
    pub(super) const MAGIC: usize = 0;
    pub(super) const LAYOUT: usize = 1;
    pub(super) const VERSION: usize = 2;
    pub(super) const BOOT: usize = 3;
    pub(super) const BYTES: usize = 5;
    pub(super) const FLOWS: usize = 6;
    pub(super) const INCARNATION: usize = 8;
    pub(super) const EPOCH: usize = 9;
    pub(super) const MADE: usize = 10;
    pub(super) const SEEDS: usize = 16;
    pub(super) const END: usize = SEEDS + 2 * SEED_WORDS;
}
const _: () = assert!(at::END * size_of::<u64>() <= PAGE);

/// Changes whenever the region's meaning does: two builds agree on it exactly when they may share one.
const LAYOUT_HASH: u64 = {
    let parts =
        [at::END, size_of::<Record<2>>(), size_of::<Record<5>>(), size_of::<Bucket>(), size_of::<Ledger>()];
    let more = [CHUNK as usize, FlowIx::BITS as usize, super::word::GEN_BITS as usize, SEED_WORDS, WAYS];
    let (mut hash, mut n) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while n < parts.len() {
        hash = (hash ^ parts[n] as u64).wrapping_mul(0x100_0000_01b3);
        hash = (hash ^ more[n] as u64).wrapping_mul(0x100_0000_01b3);
        n += 1;
    }
    hash
};

/// Where one family's parts begin, in bytes from the start of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Family {
    flows: usize,
    owners: usize,
    index: usize,
    records: usize,
    ledgers: usize,
    end: usize,
}

impl Family {
    fn new(start: usize, flows: usize, record: usize) -> Self {
        let page = |end: usize| end.next_multiple_of(PAGE);
        let owners = page(start);
        let index = page(owners + flows / CHUNK as usize);
        let records = page(index + buckets(flows) * size_of::<Bucket>());
        let ledgers = page(records + flows * record);
        Self { flows, owners, index, records, ledgers, end: page(ledgers + flows * size_of::<Ledger>()) }
    }
}

/// Buckets for so many flows: two words each, at most half of the slots taken.
pub(super) const fn buckets(flows: usize) -> usize {
    4 * flows / WAYS
}

/// The four parts of one family.
#[derive(Debug)]
pub(super) struct Parts<const N: usize> {
    pub(super) owners: Slots<AtomicU8>,
    pub(super) buckets: Slots<Bucket>,
    pub(super) records: Slots<Record<N>>,
    pub(super) ledgers: Slots<Ledger>,
}

/// The mapped region of both families.
#[derive(Debug)]
pub struct Region {
    map: Arc<Mapping>,
    header: Slots<AtomicU64>,
    families: [Family; 2],
    placement: Placement,
    /// Not in the memory: what a process counts is its own.
    loads: Arc<Loads>,
}

impl Region {
    /// Creates the region, or makes the one it finds anew.
    ///
    /// # Errors
    /// The place is not fit for it (not tmpfs, not ours alone, no space) or the system refused; the message
    /// names the path, the size and what to do.
    pub fn open(config: &RegionConfig, now: Time) -> Result<Arc<Self>, RegionError> {
        let families = families(config);
        let bytes = families[1].end;
        match &config.dir {
            Some(dir) => {
                let (file, placement) = place::file(dir, &config.name, bytes)?;
                let map = map(&file, bytes)?;
                map.settle();
                Self::format(map, families, placement, now)
            }
            None => Self::in_memory(config, families, Vec::new(), now),
        }
    }

    /// Opens the region where the defaults say: `/run/tunway`, else `/dev/shm/tunway`, else anonymous memory.
    /// Which one was taken, and why not one before it, is in [`Region::placement`]. `config.dir` is not
    /// looked at.
    ///
    /// # Errors
    /// Not even anonymous memory can be had.
    pub fn open_default(config: &RegionConfig, now: Time) -> Result<Arc<Self>, RegionError> {
        Self::open_first(&place::DEFAULT_DIRS.map(Path::new), config, now)
    }

    /// Opens the region in the first of these directories that takes it, else in anonymous memory.
    pub(super) fn open_first(
        dirs: &[&Path],
        config: &RegionConfig,
        now: Time,
    ) -> Result<Arc<Self>, RegionError> {
        let mut refused = Vec::new();
        for dir in dirs {
            let here = RegionConfig { dir: Some(dir.to_path_buf()), ..config.clone() };
            match Self::open(&here, now) {
                Ok(region) => return Ok(region),
                Err(error) => refused.push(error.to_string()),
            }
        }
        Self::in_memory(config, families(config), refused, now)
    }

    /// Where it lies.
    #[must_use]
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Active flows of every endpoint, in the tables of both families.
    #[must_use]
    pub const fn loads(&self) -> &Arc<Loads> {
        &self.loads
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.families[1].end
    }

    /// Advances the purge epoch and returns the new one: 14 bits, never 0. One thread only.
    pub fn advance_purge_epoch(&self) -> u16 {
        let next = next_epoch(self.header[at::EPOCH].load(Ordering::Relaxed));
        self.header[at::EPOCH].store(next, Ordering::Release);
        narrow(next)
    }

    /// The current purge epoch.
    #[must_use]
    pub fn purge_epoch(&self) -> u16 {
        narrow(self.header[at::EPOCH].load(Ordering::Acquire))
    }

    /// Which run of the dataplane wrote it last; endpoint ids cached in records belong to one run.
    pub(super) fn incarnation(&self) -> u16 {
        narrow(self.header[at::INCARNATION].load(Ordering::Relaxed))
    }

    /// The secret of the family with keys of `N` words.
    pub(super) fn seed<const N: usize>(&self) -> [u64; SEED_WORDS] {
        let first = at::SEEDS + Self::family_of::<N>() * SEED_WORDS;
        std::array::from_fn(|n| self.header[first + n].load(Ordering::Relaxed))
    }

    /// The parts of the family with keys of `N` words.
    #[cfg(not(tunway_loom))]
    pub(super) fn parts<const N: usize>(&self) -> Parts<N> {
        let family = &self.families[Self::family_of::<N>()];
        Parts {
            owners: self.map.slots(family.owners, family.flows / CHUNK as usize),
            buckets: self.map.slots(family.index, buckets(family.flows)),
            records: self.map.slots(family.records, family.flows),
            ledgers: self.map.slots(family.ledgers, family.flows),
        }
    }

    /// Fresh parts of the same size: models have no mapping.
    #[cfg(tunway_loom)]
    pub(super) fn parts<const N: usize>(&self) -> Parts<N> {
        let _ = &self.map;
        Parts::fresh(self.families[Self::family_of::<N>()].flows)
    }

    fn family_of<const N: usize>() -> usize {
        const { assert!(N == 2 || N == 5, "IPv4 keys have 2 words, IPv6 keys 5") };
        usize::from(N == 5)
    }

    fn in_memory(
        config: &RegionConfig,
        families: [Family; 2],
        refused: Vec<String>,
        now: Time,
    ) -> Result<Arc<Self>, RegionError> {
        let bytes = families[1].end;
        place::fits_limit(bytes)?;
        let failed = |error: nix::Error| RegionError::Memory { bytes, error: error.into() };
        let file = memfd_create(config.name.as_str(), MFdFlags::MFD_CLOEXEC).map_err(failed)?;
        let file = std::fs::File::from(file);
        file.set_len(bytes as u64).map_err(|error| RegionError::Memory { bytes, error })?;
        let map = map(&file, bytes)?;
        if bytes >= WORTH_HUGE_PAGES {
            place::allocate(&file, bytes).map_err(failed)?;
            map.settle();
        }
        Self::format(map, families, Placement::Memory { refused }, now)
    }

    /// Writes the header of a region that is all zero.
    fn format(
        map: Arc<Mapping>,
        families: [Family; 2],
        placement: Placement,
        now: Time,
    ) -> Result<Arc<Self>, RegionError> {
        let header = header(&map);
        let mut seeds = [0; 2 * SEED_WORDS];
        random(&mut seeds).map_err(|error| RegionError::Random(error.into()))?;
        let set = |word: usize, value: u64| header[word].store(value, Ordering::Relaxed);
        seeds.iter().enumerate().for_each(|(n, seed)| set(at::SEEDS + n, *seed));
        let boot = place::boot_id();
        set(at::LAYOUT, LAYOUT_HASH);
        set(at::VERSION, VERSION);
        set(at::BOOT, boot[0]);
        set(at::BOOT + 1, boot[1]);
        set(at::BYTES, families[1].end as u64);
        set(at::FLOWS, families[0].flows as u64);
        set(at::FLOWS + 1, families[1].flows as u64);
        set(at::INCARNATION, 1);
        set(at::EPOCH, 1);
        set(at::MADE, now.nanos());
        // Last: a region without its magic is none.
        header[at::MAGIC].store(MAGIC, Ordering::Release);
        Ok(Arc::new(Self { map, header, families, placement, loads: Arc::default() }))
    }
}

/// Bytes of a region for these flows.
#[must_use]
pub fn region_bytes(config: &RegionConfig) -> usize {
    families(config)[1].end
}

fn families(config: &RegionConfig) -> [Family; 2] {
    let flows = |wanted: u32| {
        let least = CHUNK.next_power_of_two();
        wanted.clamp(least, 1 << FlowIx::BITS).next_power_of_two() as usize
    };
    let v4 = Family::new(PAGE, flows(config.max_flows_v4), size_of::<Record<2>>());
    [v4, Family::new(v4.end, flows(config.max_flows_v6), size_of::<Record<5>>())]
}

fn map(file: &std::fs::File, bytes: usize) -> Result<Arc<Mapping>, RegionError> {
    let refused = |error: nix::Error| RegionError::Memory { bytes, error: error.into() };
    let len = NonZeroUsize::new(bytes).ok_or(nix::Error::EINVAL).map_err(refused)?;
    Mapping::of(file, len).map(Arc::new).map_err(refused)
}

#[cfg(not(tunway_loom))]
fn header(map: &Arc<Mapping>) -> Slots<AtomicU64> {
    map.slots(0, at::END)
}

#[cfg(tunway_loom)]
fn header(_: &Arc<Mapping>) -> Slots<AtomicU64> {
    Slots::fresh((0..at::END).map(|_| AtomicU64::new(0)))
}

#[cfg(tunway_loom)]
impl<const N: usize> Parts<N> {
    /// Parts for so many flows on the heap.
    pub(super) fn fresh(flows: usize) -> Self {
        Self {
            owners: Slots::fresh((0..flows.div_ceil(CHUNK as usize)).map(|_| AtomicU8::new(0))),
            buckets: Slots::fresh((0..buckets(flows).max(2)).map(|_| Bucket::unused())),
            records: Slots::fresh((0..flows).map(|_| Record::unused())),
            ledgers: Slots::fresh((0..flows).map(|_| Ledger::unused())),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "epochs and incarnations are written as 16 bits")]
const fn narrow(word: u64) -> u16 {
    word as u16
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    fn config(v4: u32, v6: u32) -> RegionConfig {
        RegionConfig { dir: None, name: "test".into(), max_flows_v4: v4, max_flows_v6: v6 }
    }

    #[test]
    fn flows_are_rounded_up_and_cost_what_the_design_says() {
        let region = Region::open(&config(1, 5000), Time::from_secs(1)).unwrap();
        assert_eq!((region.parts::<2>().records.len(), region.parts::<5>().records.len()), (4096, 8192));
        let largest = families(&config(u32::MAX, u32::MAX));
        assert_eq!((largest[0].flows, largest[1].flows), (1 << 24, 1 << 24));
        let of = |family: &Family, start: usize| (family.end - start) / family.flows;
        assert_eq!((of(&largest[0], 0), of(&largest[1], largest[0].end)), (128, 192), "bytes a flow");
        let default = families(&config(262_144, 131_072));
        assert!(default[1].end < 60 << 20, "{}", default[1].end);
    }

    #[test]
    fn parts_do_not_overlap_and_lie_inside() {
        let families = families(&config(4096, 16384));
        let mut end = PAGE;
        for (family, record) in families.iter().zip([64, 128]) {
            let flows = family.flows;
            for (start, len) in [
                (family.owners, flows / CHUNK as usize),
                (family.index, buckets(flows) * 64),
                (family.records, flows * record),
                (family.ledgers, flows * 32),
            ] {
                assert!(start >= end && start % PAGE == 0);
                end = start + len;
            }
        }
        assert!(end <= families[1].end);
    }

    #[test]
    fn two_regions_have_two_secrets_and_a_purge_epoch_never_is_zero() {
        let (a, b) = (
            Region::open(&config(1, 1), Time::from_secs(1)),
            Region::open(&config(1, 1), Time::from_secs(1)),
        );
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_ne!(a.seed::<2>(), b.seed::<2>());
        assert_ne!(a.seed::<2>(), a.seed::<5>());
        assert_eq!((a.purge_epoch(), a.advance_purge_epoch(), a.purge_epoch()), (1, 2, 2));
        for _ in 0..20_000 {
            assert!((1..1 << 14).contains(&a.advance_purge_epoch()));
        }
        assert_eq!(b.purge_epoch(), 1);
        assert!(matches!(a.placement(), Placement::Memory { refused } if refused.is_empty()));
    }
}
