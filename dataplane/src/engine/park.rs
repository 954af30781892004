//! Frames that wait because another worker is opening the same flow just now.
//!
//! Nobody spins, and nobody drops in the normal case: a dropped first datagram is a 5 second DNS delay. Frames are
//! swapped in and out, never copied.

use crate::clock::Time;
use crate::packet::frame::Frame;

/// Frames one worker may have waiting.
pub(crate) const PARKED: usize = 16;
/// How long a frame may wait, ns.
pub(crate) const PATIENCE: u64 = 20_000_000;

/// The waiting frames, oldest first.
#[derive(Debug)]
pub(crate) struct Park {
    frames: Vec<Frame>,
    since: [Time; PARKED],
    len: usize,
}

impl Default for Park {
    fn default() -> Self {
        Self {
            frames: (0..PARKED).map(|_| Frame::default()).collect(),
            since: [Time::default(); PARKED],
            len: 0,
        }
    }
}

impl Park {
    /// How many frames wait.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Takes a frame in, leaving an empty one. False when there is no room.
    pub(crate) fn put(&mut self, frame: &mut Frame, since: Time) -> bool {
        let Some(room) = self.frames.get_mut(self.len) else { return false };
        std::mem::swap(room, frame);
        frame.set_len(0);
        self.since[self.len] = since;
        self.len += 1;
        true
    }

    /// Gives the oldest frame back into `frame` and says since when it waited.
    pub(crate) fn take(&mut self, frame: &mut Frame) -> Option<Time> {
        if self.len == 0 {
            return None;
        }
        std::mem::swap(&mut self.frames[0], frame);
        let since = self.since[0];
        self.frames[..self.len].rotate_left(1);
        self.since[..self.len].rotate_left(1);
        self.len -= 1;
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::vnet::VnetHdr;

    #[test]
    fn frames_come_out_in_order_and_a_full_park_refuses() {
        let mut park = Park::default();
        let mut frame = Frame::default();
        for n in 0..PARKED {
            frame.fill(VnetHdr::default(), &[u8::try_from(n).unwrap(); 20]);
            assert!(park.put(&mut frame, Time::from_secs(n as u64)));
            assert!(frame.packet().is_empty());
        }
        frame.fill(VnetHdr::default(), &[99; 20]);
        assert!(!park.put(&mut frame, Time::default()));
        assert_eq!(frame.packet(), [99; 20]);
        for n in 0..PARKED {
            assert_eq!(park.take(&mut frame), Some(Time::from_secs(n as u64)));
            assert_eq!(frame.packet()[0], u8::try_from(n).unwrap());
        }
        assert_eq!(park.take(&mut frame), None);
        assert_eq!(park.len(), 0);
    }
}
