//! Time as a value. Nothing below `worker` reads a clock: it is given a [`Time`].
//!
//! Flow timers count in [`Tick`]s, 20-bit seconds of `CLOCK_MONOTONIC`, which runs since boot and not
//! since the process started, so that a region outlives the process that wrote it.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, read once per batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    ns: u64,
}

impl Time {
    /// A time from nanoseconds since boot.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self { ns }
    }

    /// A time from whole seconds since boot.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self { ns: secs * 1_000_000_000 }
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.ns
    }

    /// Nanoseconds from `earlier` to here; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.ns.saturating_sub(earlier.ns)
    }

    /// This time moved forward by `ns` nanoseconds.
    #[must_use]
    pub const fn plus_nanos(self, ns: u64) -> Self {
        Self { ns: self.ns.saturating_add(ns) }
    }

    /// The whole second it lies in, as flow timers count it.
    #[must_use]
    pub const fn tick(self) -> Tick {
        Tick::from_secs(self.ns / 1_000_000_000)
    }
}

/// Seconds since boot, modulo 2^20. Only differences mean something, and those are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tick(u32);

impl Tick {
    /// Bits of a tick inside a flow's state word.
    pub const BITS: u32 = 20;
    /// The longest time that may lie between two visits of a flow, in seconds: half the circle.
    pub const MAX_TTL: u32 = (1 << (Self::BITS - 1)) - 1;
    const MASK: u32 = (1 << Self::BITS) - 1;

    /// The tick of a second since boot.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "masked to 20 bits")]
    pub const fn from_secs(secs: u64) -> Self {
        Self((secs & Self::MASK as u64) as u32)
    }

    /// The tick's 20 bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Seconds from `earlier` to here, signed: another worker may have written a newer tick than our `now`.
    #[must_use]
    pub const fn diff(self, earlier: Self) -> i32 {
        let shift = 32 - Self::BITS;
        let wrapped = self.0.wrapping_sub(earlier.0) & Self::MASK;
        ((wrapped << shift) as i32) >> shift
    }

    /// Seconds from `earlier` to here, 0 when `earlier` is newer.
    #[must_use]
    pub const fn age(self, earlier: Self) -> u32 {
        let diff = self.diff(earlier);
        if diff < 0 { 0 } else { diff.unsigned_abs() }
    }
}

/// The clock a worker reads once per batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// The present, to 1 ns: 20 to 25 ns a call, once per batch.
    #[must_use]
    pub fn now(self) -> Time {
        read(ClockId::CLOCK_MONOTONIC)
    }
}

fn read(clock: ClockId) -> Time {
    // Linux always has the clock; a failure could only mean a foreign kernel, where time standing still is safe.
    clock_gettime(clock).map_or(Time::default(), |t| {
        let secs = u64::try_from(t.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(t.tv_nsec()).unwrap_or(0);
        Time::from_nanos(secs * 1_000_000_000 + nanos)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_signed_across_the_wrap() {
        let before = Tick::from_secs((1 << 20) - 2);
        let after = Tick::from_secs((1 << 20) + 3);
        assert_eq!(after.diff(before), 5);
        assert_eq!(before.diff(after), -5);
        assert_eq!(before.age(after), 0);
        assert_eq!(after.age(before), 5);
    }

    #[test]
    fn half_the_circle_is_the_longest_age() {
        let start = Tick::from_secs(7);
        assert_eq!(Tick::from_secs(7 + u64::from(Tick::MAX_TTL)).age(start), Tick::MAX_TTL);
        assert_eq!(Tick::from_secs(8 + u64::from(Tick::MAX_TTL)).age(start), 0);
    }

    #[test]
    fn the_clock_moves_forward() {
        let first = Clock.now();
        assert!(Clock.now() >= first && first.nanos() > 0);
    }
}
