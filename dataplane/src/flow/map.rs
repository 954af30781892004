//! The mapping of the region, and slices of atomics over it.
//!
//! Everything unsafe about conntrack is here: a mapping that other processes may write is only ever seen as
//! atomics, of types for which any bytes are a value. A model has no mapping: there the same slices lie on
//! loom's heap.

#![allow(unsafe_code, reason = "maps shared memory and hands out slices of atomics over it")]

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mlock, mmap, mmap_anonymous, munmap};

use super::index::Bucket;
use super::ledger::Ledger;
use super::record::Record;
use crate::sync::{AtomicU8, AtomicU64};

/// A type that may lie in shared memory.
///
/// # Safety
/// Made of atomics alone: any bytes are a value, and they may change at any time.
pub(super) unsafe trait Shared: Sync {}

// SAFETY: an atomic.
unsafe impl Shared for AtomicU8 {}
// SAFETY: an atomic.
unsafe impl Shared for AtomicU64 {}
// SAFETY: an array of atomics.
unsafe impl Shared for Bucket {}
// SAFETY: a struct of atomics.
unsafe impl<const N: usize> Shared for Record<N> {}
// SAFETY: a struct of atomics.
unsafe impl Shared for Ledger {}

/// Shared, writable memory of a file; unmapped when the last slice of it is gone.
#[derive(Debug)]
pub(super) struct Mapping {
    at: NonNull<c_void>,
    len: usize,
    /// The address range it lies in, and its length.
    reserved: (NonNull<c_void>, usize),
}

/// Bytes of a huge page on x86_64, and on aarch64 with small pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

// SAFETY: the memory is seen as atomics only, through `Slots`; the pointer itself never changes.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file, which must have them, where huge pages could hold them.
    pub(super) fn of(file: impl AsFd, len: NonZeroUsize) -> nix::Result<Self> {
        let room = len.checked_add(HUGE_PAGE).ok_or(Errno::ENOMEM)?;
        let (prot, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe { mmap_anonymous(None, room, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }?;
        let mut mapping = Self { at: start, len: len.get(), reserved: (start, room.get()) };
        let aligned = NonZeroUsize::new((start.as_ptr() as usize).next_multiple_of(HUGE_PAGE));
        // SAFETY: replaces pages of the reservation, which nobody looks at.
        mapping.at = unsafe { mmap(aligned, len, prot, flags | MapFlags::MAP_FIXED, file, 0) }?;
        Ok(mapping)
    }

    /// Keeps the memory from being swapped out and puts it into huge pages, as far as the system allows. A
    /// table walks all over it, and with small pages every step would miss the TLB as well. Takes a tenth of
    /// a second for 60 MiB.
    pub(super) fn settle(&self) {
        // SAFETY: the range is this mapping's.
        let _ = unsafe { mlock(self.at, self.len) };
        // SAFETY: the range is this mapping's, and its contents stay as they are.
        let _ = unsafe { libc::madvise(self.at.as_ptr(), self.len, libc::MADV_COLLAPSE) };
    }

    /// `len` values from `offset` bytes on.
    ///
    /// # Panics
    /// If they do not lie inside the mapping, or not aligned: the caller's own arithmetic is wrong.
    #[cfg_attr(tunway_loom, allow(dead_code, reason = "models have no mapping"))]
    pub(super) fn slots<T: Shared>(self: &Arc<Self>, offset: usize, len: usize) -> Slots<T> {
        let bytes = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(offset));
        assert!(bytes.is_some_and(|end| end <= self.len), "slots beyond the mapping");
        // SAFETY: offset is at most the mapping's length.
        let at = unsafe { self.at.byte_add(offset) }.cast::<T>();
        assert!(at.is_aligned(), "slots not aligned");
        Slots { at, len, keep: Keep::Mapping(Arc::clone(self)) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (start, len) = self.reserved;
        // SAFETY: every slice of it holds an Arc of this mapping, so nothing looks at it any more.
        let result = unsafe { munmap(start, len) };
        debug_assert_eq!(result, Ok(()));
    }
}

/// A slice of atomics in shared memory.
#[derive(Debug)]
pub(super) struct Slots<T> {
    at: NonNull<T>,
    len: usize,
    keep: Keep<T>,
}

/// What keeps the memory there.
#[derive(Debug)]
enum Keep<T> {
    #[cfg_attr(tunway_loom, allow(dead_code, reason = "models have no mapping"))]
    Mapping(Arc<Mapping>),
    #[cfg_attr(not(any(test, tunway_loom)), expect(dead_code, reason = "tests and models have no mapping"))]
    Heap(Arc<[T]>),
}

// SAFETY: only shared references to T ever come out of it, and T is Sync.
unsafe impl<T: Sync> Send for Slots<T> {}
// SAFETY: as for Send.
unsafe impl<T: Sync> Sync for Slots<T> {}

impl<T> Slots<T> {
    /// Slots on the heap.
    #[cfg(any(test, tunway_loom))]
    pub(super) fn fresh(values: impl Iterator<Item = T>) -> Self {
        let values: Arc<[T]> = values.collect();
        let at = NonNull::from(&*values).cast::<T>();
        Self { at, len: values.len(), keep: Keep::Heap(values) }
    }
}

impl<T> Clone for Slots<T> {
    fn clone(&self) -> Self {
        let keep = match &self.keep {
            Keep::Mapping(mapping) => Keep::Mapping(Arc::clone(mapping)),
            Keep::Heap(values) => Keep::Heap(Arc::clone(values)),
        };
        Self { at: self.at, len: self.len, keep }
    }
}

impl<T> Deref for Slots<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` values from `at` on lie in memory that `keep` holds; T is made of atomics (`Shared`),
        // or the values were initialised on the heap.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

/// Fills words from the kernel's random generator.
pub(super) fn random(words: &mut [u64]) -> nix::Result<()> {
    let mut bytes = vec![0_u8; size_of_val(words)];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: writes at most `rest.len()` bytes to `rest`.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(more) => filled += more,
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => return Err(Errno::last()),
        }
    }
    let mut chunks = bytes.chunks_exact(size_of::<u64>());
    for (word, chunk) in words.iter_mut().zip(&mut chunks) {
        *word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    Ok(())
}

/// The user files must belong to.
pub(super) fn user() -> u32 {
    // SAFETY: reads a number; always succeeds.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    fn mapping(len: usize) -> Arc<Mapping> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len as u64).unwrap();
        Arc::new(Mapping::of(&file, NonZeroUsize::new(len).unwrap()).unwrap())
    }

    #[test]
    fn slots_outlive_the_mapping_they_came_from_and_share_its_memory() {
        let mapping = mapping(8192);
        let (all, tail) = (mapping.slots::<AtomicU64>(0, 1024), mapping.slots::<Bucket>(4096, 64));
        drop(mapping);
        all[512].store(77, Ordering::Relaxed);
        assert!(format!("{:?}", tail[0]).contains("77"));
        assert_eq!(all.clone()[512].load(Ordering::Relaxed), 77);
    }

    #[test]
    #[should_panic(expected = "beyond the mapping")]
    fn slots_beyond_the_mapping_are_refused() {
        let _ = mapping(4096).slots::<AtomicU64>(8, 512);
    }

    #[test]
    #[should_panic(expected = "not aligned")]
    fn slots_not_aligned_are_refused() {
        let _ = mapping(4096).slots::<Bucket>(8, 1);
    }

    #[test]
    fn random_words_are_not_all_alike() {
        let mut words = [0_u64; 40];
        random(&mut words).unwrap();
        let distinct: std::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(distinct.len(), 40);
    }
}
