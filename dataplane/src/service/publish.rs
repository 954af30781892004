//! The slot workers read the world from. Reading is a pin and a load; replacing never waits for a reader.
//!
//! The slot owns a box of an [`Arc`], and only the box is handed to the epoch collector: crossbeam runs deferred
//! drops on whichever thread pins next, and a worker must never drop ten megabytes of snapshot. It decrements
//! a count instead. The publishing side keeps its own clone of what it retired and drops that once it is the
//! last one. Every publish flushes, as crossbeam otherwise keeps up to 64 deferred drops in the thread that made
//! them, for ever if no further one comes.
#![allow(unsafe_code, reason = "dereferences what an epoch pin keeps alive; nothing else does")]

use std::fmt;
use std::sync::Arc;

use crossbeam::epoch::{self, Atomic, Guard, Owned, Shared};

use crate::sync::Ordering;

/// A value workers read under a pin and one thread replaces.
pub struct Published<T> {
    slot: Atomic<Arc<T>>,
}

impl<T: Send + Sync + 'static> Published<T> {
    /// A slot with its first value.
    #[must_use]
    pub fn new(first: Arc<T>) -> Self {
        Self { slot: Atomic::new(first) }
    }

    /// The present value, for as long as the pin. Never older than one this thread has read before.
    ///
    /// # Panics
    /// When the guard is not of crossbeam's default collector, which is the one this slot retires to.
    #[must_use]
    pub fn load<'g>(&self, guard: &'g Guard) -> &'g T {
        assert!(
            guard.collector() == Some(epoch::default_collector()),
            "a guard of another collector pins nothing here"
        );
        let current = self.slot.load(Ordering::Acquire, guard);
        // SAFETY: the slot is never null while `self` can be borrowed: `new` fills it and only `drop` empties it.
        // The box was fully written before the release store that put it here. It is destroyed only through
        // `retire`, that is by the default collector after every pin older than its removal has ended; `guard` is
        // such a pin (asserted above) and outlives 'g. The Arc in the box keeps the value alive just as long.
        let value: &'g Arc<T> = unsafe { current.deref() };
        value
    }

    /// Puts `next` in the place of the present value and lets go of that one once nobody reads it.
    pub fn publish(&self, next: Arc<T>) {
        let guard = epoch::pin();
        let old = self.slot.swap(Owned::new(next), Ordering::AcqRel, &guard);
        retire(old, &guard);
    }

    /// Pins and flushes once, so that values retired earlier are let go although nothing new is published.
    pub fn flush(&self) {
        epoch::pin().flush();
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // A reader's pin may outlive the slot, so the last value goes the same way as every other.
        let guard = epoch::pin();
        let last = self.slot.swap(Shared::null(), Ordering::AcqRel, &guard);
        retire(last, &guard);
    }
}

impl<T> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").finish_non_exhaustive()
    }
}

fn retire<T>(old: Shared<'_, Arc<T>>, guard: &Guard) {
    // SAFETY: `old` came out of the slot by a swap, so no later load can find it and nobody retires it twice; it
    // is a box made by `Owned::new` or `Atomic::new`. `T` is Send, Sync and 'static by the bounds of `new`, the
    // only way to make a slot, so the box may be dropped by any thread at any later time.
    unsafe { guard.defer_destroy(old) };
    guard.flush();
}

#[cfg(all(test, not(tunway_loom)))]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::sync::AtomicU64;

    struct Counted {
        generation: u64,
        dropped: Arc<AtomicU64>,
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Ends the reader also when the test fails, which else would wait for it.
    struct Stop<'a>(&'a AtomicU64);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(1, Ordering::Release);
        }
    }

    /// Does this until it is done. Bounded.
    fn until(done: impl Fn() -> bool, meanwhile: impl Fn()) {
        let start = Clock.now();
        while !done() {
            assert!(Clock.now().since(start) < 20_000_000_000, "not within 20 s");
            meanwhile();
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_thousand_publishes_leave_nothing_behind_and_never_go_back() {
        const PUBLISHES: u64 = 1_000;
        let dropped = Arc::new(AtomicU64::new(0));
        let value = |generation| Arc::new(Counted { generation, dropped: Arc::clone(&dropped) });
        let mut current = value(1);
        let slot = Published::new(Arc::clone(&current));
        let (stop, seen) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut retired = Vec::new();
        let held = |retired: &[Arc<Counted>]| retired.iter().filter(|old| Arc::strong_count(old) > 1).count();
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| {
                while stop.load(Ordering::Acquire) == 0 {
                    let guard = epoch::pin();
                    let (now, last) = (slot.load(&guard).generation, seen.load(Ordering::Relaxed));
                    assert!(now >= last, "went back from {last} to {now}");
                    seen.store(now, Ordering::Release);
                }
            });
            for generation in 2..=PUBLISHES {
                let next = value(generation);
                slot.publish(Arc::clone(&next));
                retired.push(std::mem::replace(&mut current, next));
                retired.retain(|old| Arc::strong_count(old) > 1);
                if generation % 50 == 0 {
                    until(|| seen.load(Ordering::Acquire) == generation, || ());
                }
            }
            until(|| held(&retired) <= 1, || slot.flush());
        });
        until(|| held(&retired) == 0, || slot.flush());
        drop(retired);
        assert_eq!(dropped.load(Ordering::SeqCst), PUBLISHES - 1, "all but the current one");
        assert_eq!(slot.load(&epoch::pin()).generation, PUBLISHES);
    }

    #[test]
    fn a_pinned_reader_keeps_its_value_beyond_publish_and_slot() {
        let dropped = Arc::new(AtomicU64::new(0));
        let slot = Published::new(Arc::new(Counted { generation: 1, dropped: Arc::clone(&dropped) }));
        let guard = epoch::pin();
        let held = slot.load(&guard);
        slot.publish(Arc::new(Counted { generation: 2, dropped: Arc::clone(&dropped) }));
        let newer = slot.load(&guard);
        slot.flush();
        drop(slot);
        assert_eq!((held.generation, newer.generation, dropped.load(Ordering::SeqCst)), (1, 2, 0));
        drop(guard);
        let other = Published::new(Arc::new(Counted { generation: 3, dropped: Arc::new(AtomicU64::new(0)) }));
        until(|| dropped.load(Ordering::SeqCst) == 2, || other.flush());
    }

    #[test]
    #[should_panic(expected = "another collector")]
    fn a_foreign_guard_is_refused() {
        let slot = Published::new(Arc::new(1_u8));
        let collector = epoch::Collector::new();
        let handle = collector.register();
        let _ = slot.load(&handle.pin());
    }
}
