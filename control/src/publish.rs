//! When to publish: on the leading edge, then paced. A lone change after idle goes out at once; a storm of
//! changes goes out in steps of one interval, so its cost is bounded and the last state is never late by more.

use std::time::Duration;

use dataplane::clock::Time;

/// The shortest time between two publishes while changes keep coming.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// Says when the next publish may happen. Pure: time is given.
#[derive(Clone, Debug)]
pub struct Pacer {
    interval: Duration,
    last: Option<Time>,
}

impl Pacer {
    /// A pacer that has not published yet.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: None }
    }

    /// How long a change seen now has to wait for its publish: zero when it may happen at once.
    #[must_use]
    pub fn delay(&self, now: Time) -> Duration {
        self.last.map_or(Duration::ZERO, |last| {
            self.interval.saturating_sub(Duration::from_nanos(now.since(last)))
        })
    }

    /// A publish happened.
    pub fn published(&mut self, now: Time) {
        self.last = Some(now);
    }
}

impl Default for Pacer {
    /// A pacer with [`INTERVAL`].
    fn default() -> Self {
        Self::new(INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn the_first_change_after_idle_goes_at_once_the_next_waits_its_turn() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.delay(at(0)), Duration::ZERO);
        pacer.published(at(1_000));
        assert_eq!(pacer.delay(at(1_000)), INTERVAL);
        assert_eq!(pacer.delay(at(1_030)), Duration::from_millis(20));
        assert_eq!(pacer.delay(at(1_050)), Duration::ZERO);
        assert_eq!(pacer.delay(at(9_000)), Duration::ZERO);
        assert_eq!(pacer.delay(at(999)), INTERVAL, "a clock read out of order waits, it does not panic");
    }

    proptest! {
        /// Whatever the storm: publishes are at least an interval apart and no change waits longer than one.
        #[test]
        fn a_storm_is_paced(gaps in prop::collection::vec(0_u64..120, 1..200)) {
            let (mut pacer, mut now, mut last) = (Pacer::default(), 0, None::<u64>);
            for gap in gaps {
                now += gap;
                let wait = u64::try_from(pacer.delay(at(now)).as_millis()).unwrap();
                prop_assert!(wait <= 50);
                prop_assert!(wait == 0 || last.is_some_and(|last| now - last < 50));
                now += wait;
                prop_assert!(last.is_none_or(|last| now - last >= 50));
                pacer.published(at(now));
                last = Some(now);
            }
        }
    }
}
