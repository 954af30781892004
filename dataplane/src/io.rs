//! Packets in and out. A [`Queue`] is one queue of a device: a worker owns it, reads from it, writes to it, and
//! waits on it; nobody else touches it. It knows frames and verdicts, not what they mean.
//!
//! [`Device`] makes the queues of a TUN device ([`TunQueue`]); [`MemQueue`] is two lists in memory, for
//! tests, benches and fuzzing. Everything is non-blocking: a queue is drained until it is empty, and only then
//! waited on, together with the worker's [`Waker`].
//!
//! Each worker writes to its own queue: the kernel learns from the writing queue where to put a flow's
//! packets (`tun_flow_update`), so both directions of a flow usually meet on one worker.

pub mod device;
mod lock;
pub mod mem_queue;
mod owner;
mod sys;
pub mod tun_queue;
pub mod waker;

use std::io;
use std::time::Duration;

pub use device::{Device, DeviceConfig, DeviceError, MAX_QUEUES};
pub use lock::holder_of;
pub use mem_queue::{MemPeer, MemQueue};
pub use tun_queue::TunQueue;
pub use waker::Waker;

pub(crate) use sys::random_u64;

use crate::packet::frame::Batch;
use crate::verdict::Verdict;

/// One queue of packets, in and out.
pub trait Queue: Send {
    /// Reads without blocking until the batch has no room or the queue is empty. Returns how many frames it added.
    ///
    /// A frame of length zero is a frame: it is added, so that it is counted, and ends the batch.
    ///
    /// # Errors
    /// The queue is gone for good. Frames read before that are returned first; the error comes with the next call.
    fn recv(&mut self, batch: &mut Batch) -> io::Result<usize>;

    /// Writes the frames whose verdict is `Translated` or `Passed`, in order, then every reply frame. Frames with
    /// another verdict, or with none, are left alone.
    ///
    /// A frame the device does not take is given to `failed` with the verdict it had, a reply frame with
    /// [`Verdict::Replied`]: each reply stands for exactly one frame with that verdict, so taking the verdict back
    /// (`WorkerStats::write_failed`) keeps the counters exact in both cases.
    ///
    /// # Errors
    /// The queue is gone for good. By then every frame not written has been given to `failed`.
    fn send(&mut self, batch: &mut Batch, failed: &mut dyn FnMut(Verdict)) -> io::Result<()>;

    /// Blocks until there may be something to read, `waker` was used, a signal came, or `limit` is over.
    ///
    /// # Errors
    /// The queue is gone for good, or it cannot be waited on.
    fn wait(&mut self, waker: &Waker, limit: Duration) -> io::Result<()>;
}

/// Gives the bytes of each frame to be written to `write`, in order; `Ok(false)` is a frame that was not taken.
/// After an `Err` nothing more is written, and the rest counts as not taken.
fn write_all(
    batch: &Batch,
    failed: &mut dyn FnMut(Verdict),
    mut write: impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<()> {
    let translated = batch.frames().iter().filter_map(|frame| match frame.verdict {
        Some(verdict @ (Verdict::Translated | Verdict::Passed)) => Some((verdict, frame)),
        Some(Verdict::Replied | Verdict::Dropped(_)) | None => None,
    });
    let replies = batch.replies().iter().map(|frame| (Verdict::Replied, frame));
    let mut gone = None;
    for (verdict, frame) in translated.chain(replies) {
        if gone.is_none() {
            match write(frame.bytes()) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => gone = Some(error),
            }
        }
        failed(verdict);
    }
    gone.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::DropReason;

    fn batch() -> Batch {
        let mut batch = Batch::default();
        let verdicts = [
            Some(Verdict::Translated),
            Some(Verdict::Replied),
            None,
            Some(Verdict::Dropped(DropReason::Martian)),
            Some(Verdict::Passed),
        ];
        for (number, verdict) in (0_u8..).zip(verdicts) {
            let frame = batch.spare().unwrap();
            frame.buffer_mut()[0] = number;
            frame.set_len(1);
            frame.verdict = verdict;
            batch.push();
        }
        let reply = batch.spare_reply().unwrap();
        reply.buffer_mut()[0] = 9;
        reply.set_len(1);
        batch.push_reply();
        batch
    }

    #[test]
    fn only_what_is_to_leave_is_written_and_replies_come_last() {
        let mut written = Vec::new();
        let write = |bytes: &[u8]| {
            written.push(bytes[0]);
            Ok(true)
        };
        write_all(&batch(), &mut |verdict| panic!("{verdict:?} failed"), write).unwrap();
        assert_eq!(written, [0, 4, 9]);
    }

    #[test]
    fn a_refused_frame_is_told_with_its_verdict_and_a_reply_as_replied() {
        let mut failed = Vec::new();
        write_all(&batch(), &mut |verdict| failed.push(verdict), |_| Ok(false)).unwrap();
        assert_eq!(failed, [Verdict::Translated, Verdict::Passed, Verdict::Replied]);
    }

    #[test]
    fn after_the_device_went_everything_left_has_failed_and_nothing_is_tried_again() {
        let (mut failed, mut tries) = (Vec::new(), 0);
        let write = |_: &[u8]| {
            tries += 1;
            if tries == 2 { Err(io::Error::other("gone")) } else { Ok(true) }
        };
        assert!(write_all(&batch(), &mut |verdict| failed.push(verdict), write).is_err());
        assert_eq!(tries, 2);
        assert_eq!(failed, [Verdict::Passed, Verdict::Replied]);
    }
}
