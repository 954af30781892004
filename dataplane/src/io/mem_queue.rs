//! A queue without a device: two lists of frames, for tests, benches and fuzzing.
//!
//! The queue goes to a worker, or is driven by hand; its [`MemPeer`] stays outside and plays the kernel. Frames are
//! bytes as a TUN queue has them, virtio-net header first, so that broken ones can be written too.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Queue, Waker, sys, write_all};
use crate::packet::frame::Batch;
use crate::packet::vnet::VnetHdr;
use crate::verdict::Verdict;

/// The worker's end.
#[derive(Debug)]
pub struct MemQueue {
    shared: Arc<Shared>,
}

/// The other end: what the kernel would be. Clones are the same end.
#[derive(Clone, Debug)]
pub struct MemPeer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lists: Mutex<Lists>,
    written: Condvar,
    readable: Waker,
}

#[derive(Debug, Default)]
struct Lists {
    to_worker: VecDeque<Vec<u8>>,
    from_worker: VecDeque<Vec<u8>>,
    refuse: usize,
    gone: bool,
}

impl Shared {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemQueue {
    /// An empty queue and its other end.
    ///
    /// # Errors
    /// No file descriptor is left for the wake-up.
    pub fn new() -> io::Result<(Self, MemPeer)> {
        let readable = Waker::new()?;
        let shared = Arc::new(Shared { lists: Mutex::default(), written: Condvar::new(), readable });
        Ok((Self { shared: Arc::clone(&shared) }, MemPeer { shared }))
    }
}

impl Queue for MemQueue {
    fn recv(&mut self, batch: &mut Batch) -> io::Result<usize> {
        let mut lists = self.shared.lists();
        let mut added = 0;
        while let Some(frame) = batch.spare() {
            let Some(bytes) = lists.to_worker.pop_front() else { break };
            let buffer = frame.buffer_mut();
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            frame.set_len(len);
            batch.push();
            added += 1;
        }
        if lists.gone && added == 0 { Err(gone()) } else { Ok(added) }
    }

    fn send(&mut self, batch: &mut Batch, failed: &mut dyn FnMut(Verdict)) -> io::Result<()> {
        let mut lists = self.shared.lists();
        let result = write_all(batch, failed, |bytes| {
            if lists.gone {
                return Err(gone());
            }
            if lists.refuse > 0 {
                lists.refuse -= 1;
                return Ok(false);
            }
            lists.from_worker.push_back(bytes.to_vec());
            Ok(true)
        });
        self.shared.written.notify_all();
        result
    }

    fn wait(&mut self, waker: &Waker, limit: Duration) -> io::Result<()> {
        // Taken before the look, so that a frame pushed after it is noticed.
        self.shared.readable.take();
        let lists = self.shared.lists();
        if lists.gone {
            return Err(gone());
        }
        if !lists.to_worker.is_empty() {
            return Ok(());
        }
        drop(lists);
        sys::wait(self.shared.readable.as_fd(), waker, limit)
    }
}

impl MemPeer {
    /// Gives the worker a packet with its virtio-net header.
    pub fn send(&self, vnet: VnetHdr, packet: &[u8]) {
        let mut frame = vnet.write().to_vec();
        frame.extend_from_slice(packet);
        self.send_frame(frame);
    }

    /// Gives the worker a frame, whatever its bytes are.
    pub fn send_frame(&self, frame: Vec<u8>) {
        self.shared.lists().to_worker.push_back(frame);
        self.shared.readable.wake();
    }

    /// The next frame the worker wrote, virtio-net header first.
    #[must_use]
    pub fn recv_frame(&self) -> Option<Vec<u8>> {
        self.shared.lists().from_worker.pop_front()
    }

    /// As [`MemPeer::recv_frame`], but waits for one for at most `limit`.
    #[must_use]
    pub fn await_frame(&self, limit: Duration) -> Option<Vec<u8>> {
        let lists = self.shared.lists();
        let waited = self.shared.written.wait_timeout_while(lists, limit, |l| l.from_worker.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.from_worker.pop_front()
    }

    /// Frames the worker has not read yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.shared.lists().to_worker.len()
    }

    /// Lets the next `frames` writes fail, as a device that is down does.
    pub fn refuse(&self, frames: usize) {
        self.shared.lists().refuse = frames;
    }

    /// Takes the device away: what is queued can still be read, then reads, writes and waits fail.
    pub fn unplug(&self) {
        self.shared.lists().gone = true;
        self.shared.readable.wake();
    }
}

fn gone() -> io::Error {
    sys::device_gone()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn frames_keep_their_bytes_and_order_in_both_directions() {
        let (mut queue, peer) = MemQueue::new().unwrap();
        for frame in [&b"first"[..], b"", b"third"] {
            peer.send_frame(frame.to_vec());
        }
        assert_eq!(peer.unread(), 3);
        let mut batch = Batch::default();
        assert_eq!(queue.recv(&mut batch).unwrap(), 3);
        for frame in batch.frames_mut() {
            frame.verdict = Some(Verdict::Passed);
        }
        queue.send(&mut batch, &mut |verdict| panic!("{verdict:?} failed")).unwrap();
        let back: Vec<_> = std::iter::from_fn(|| peer.recv_frame()).collect();
        assert_eq!(back, [&b"first"[..], b"", b"third"]);
    }

    #[test]
    fn a_frame_pushed_before_or_during_the_wait_ends_it() {
        let (mut queue, peer) = MemQueue::new().unwrap();
        let waker = Waker::new().unwrap();
        let mut batch = Batch::default();
        peer.send_frame(vec![1]);
        queue.wait(&waker, LONG).unwrap();
        assert_eq!(queue.recv(&mut batch).unwrap(), 1);
        std::thread::scope(|scope| {
            scope.spawn(|| peer.send_frame(vec![2]));
            while queue.recv(&mut batch).unwrap() == 0 {
                queue.wait(&waker, LONG).unwrap();
            }
        });
        assert_eq!(batch.frames()[1].bytes(), [2]);
    }

    #[test]
    fn refused_frames_fail_and_an_unplugged_queue_errs_after_its_last_frame() {
        let (mut queue, peer) = MemQueue::new().unwrap();
        let mut batch = Batch::default();
        peer.send_frame(vec![1]);
        peer.send_frame(vec![2]);
        queue.recv(&mut batch).unwrap();
        for frame in batch.frames_mut() {
            frame.verdict = Some(Verdict::Translated);
        }
        peer.refuse(1);
        let mut failed = Vec::new();
        queue.send(&mut batch, &mut |verdict| failed.push(verdict)).unwrap();
        assert_eq!(failed, [Verdict::Translated]);
        assert_eq!(peer.await_frame(LONG).unwrap(), [2]);

        peer.send_frame(vec![3]);
        peer.unplug();
        batch.clear();
        assert_eq!(queue.recv(&mut batch).unwrap(), 1);
        assert!(queue.recv(&mut batch).is_err());
        assert!(queue.wait(&Waker::new().unwrap(), LONG).is_err());
    }
}
