//! Answers we make ourselves: ICMP port unreachable and RST, from the VIP, behind a limiter.
//!
//! The kernel limits such answers to one a second and destination, which makes "refused" look like a time-out
//! under load. Ours is a token bucket per worker with a far higher rate, still bounded.

use crate::clock::Time;
use crate::packet::answer::{MAX_ERROR, port_unreachable, tcp_reset};
use crate::packet::frame::Frame;
use crate::packet::tuple::{Address, Family};
use crate::packet::vnet::{VNET_LEN, VnetHdr};
use crate::verdict::DropReason;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An answer that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// ICMP port unreachable (RFC 792 type 3 code 3, RFC 4443 type 1 code 4), for TCP too.
    Unreachable,
    /// A TCP RST (RFC 9293, 3.10.7.1).
    Reset,
}

/// A token bucket: `per_second` answers in the long run, a tenth of that (at least 10) at once.
#[derive(Clone, Debug)]
pub struct Limiter {
    per_second: u64,
    /// Tokens, in billionths, so that a nanosecond is worth `per_second` of them.
    level: u64,
    filled: Time,
}

const TOKEN: u64 = 1_000_000_000;

impl Limiter {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        Self { per_second, level: Self::burst(per_second), filled: Time::default() }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Time) -> bool {
        let gained = now.since(self.filled).saturating_mul(self.per_second);
        self.level = self.level.saturating_add(gained).min(Self::burst(self.per_second));
        self.filled = self.filled.max(now);
        let Some(rest) = self.level.checked_sub(TOKEN) else { return false };
        self.level = rest;
        true
    }

    fn burst(per_second: u64) -> u64 {
        if per_second == 0 { 0 } else { (per_second / 10).max(10) * TOKEN }
    }
}

/// Builds the answer to `offending` in `reply`.
///
/// # Errors
/// `NotAnswerable` for a packet that must not be answered (an ICMP error, a RST).
pub(crate) fn answer(offending: &Frame, answer: Answer, reply: &mut Frame) -> Result<(), DropReason> {
    let len = match offending.layout.family() {
        Family::V4 => build::<Ipv4Addr>(offending, answer, reply),
        Family::V6 => build::<Ipv6Addr>(offending, answer, reply),
    };
    if len == 0 {
        return Err(DropReason::NotAnswerable);
    }
    reply.buffer_mut()[..VNET_LEN].copy_from_slice(&VnetHdr::default().write());
    reply.set_len(VNET_LEN + len);
    Ok(())
}

fn build<A: Address>(offending: &Frame, answer: Answer, reply: &mut Frame) -> usize {
    let out = &mut reply.buffer_mut()[VNET_LEN..VNET_LEN + MAX_ERROR];
    match answer {
        Answer::Unreachable => {
            port_unreachable::<A>(offending.packet(), &offending.layout, offending.csum, out)
        }
        Answer::Reset => tcp_reset::<A>(offending.packet(), &offending.layout, offending.csum, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_gives_its_burst_and_then_its_rate() {
        let mut limiter = Limiter::new(1_000);
        let start = Time::from_secs(100);
        let at_once = (0..1_000).filter(|_| limiter.take(start)).count();
        assert_eq!(at_once, 100);
        assert!(!limiter.take(start.plus_nanos(900_000)));
        assert!(limiter.take(start.plus_nanos(1_000_000)));
        let later = start.plus_nanos(20 * TOKEN);
        assert_eq!((0..1_000).filter(|_| limiter.take(later)).count(), 100);
    }

    #[test]
    fn a_rate_of_zero_answers_nothing_and_time_may_stand_still() {
        let mut limiter = Limiter::new(0);
        assert!(!limiter.take(Time::from_secs(5)));
        let mut limiter = Limiter::new(10);
        let now = Time::from_secs(5);
        assert_eq!((0..50).filter(|_| limiter.take(now)).count(), 10);
        assert!(!limiter.take(Time::from_secs(4)));
    }
}
