//! A queue of a TUN device by plain `read` and `write`: works on every kernel, needs no set-up.
//!
//! One call moves one frame, `[virtio-net header | IP packet]`. A super-packet of up to 64 KiB is one frame, so
//! for bulk traffic the cost of a call is shared by some forty packets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::lock::DeviceLock;
use super::{Queue, Waker, sys, write_all};
use crate::packet::frame::Batch;
use crate::verdict::Verdict;

/// One queue of a [`Device`](super::Device). The device stays locked until its last queue is dropped.
#[derive(Debug)]
pub struct TunQueue {
    fd: OwnedFd,
    /// None only in tests, where the descriptor is a socket.
    _lock: Option<Arc<DeviceLock>>,
}

impl TunQueue {
    pub(super) fn new(fd: OwnedFd, lock: Arc<DeviceLock>) -> Self {
        Self { fd, _lock: Some(lock) }
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Queue for TunQueue {
    fn recv(&mut self, batch: &mut Batch) -> io::Result<usize> {
        let mut added = 0;
        while let Some(frame) = batch.spare() {
            match sys::read_frame(self.fd.as_fd(), frame.buffer_mut()) {
                Ok(Some(len)) => {
                    frame.set_len(len);
                    batch.push();
                    added += 1;
                    if len == 0 {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) if added == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(added)
    }

    fn send(&mut self, batch: &mut Batch, failed: &mut dyn FnMut(Verdict)) -> io::Result<()> {
        write_all(batch, failed, |bytes| sys::write_frame(self.fd.as_fd(), bytes))
    }

    fn wait(&mut self, waker: &Waker, limit: Duration) -> io::Result<()> {
        sys::wait(self.fd.as_fd(), waker, limit)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::packet::frame::BATCH;

    /// A queue over one end of a pair of datagram sockets: like a TUN queue, one call is one frame.
    fn queue() -> (TunQueue, UnixDatagram) {
        let (queue, peer) = UnixDatagram::pair().unwrap();
        queue.set_nonblocking(true).unwrap();
        (TunQueue { fd: queue.into(), _lock: None }, peer)
    }

    #[test]
    fn a_batch_takes_what_there_is_in_order_and_then_nothing() {
        let (mut queue, peer) = queue();
        for len in [20, 1500, 3] {
            peer.send(&vec![7; len]).unwrap();
        }
        let mut batch = Batch::default();
        assert_eq!(queue.recv(&mut batch).unwrap(), 3);
        assert_eq!(batch.frames().iter().map(|f| f.bytes().len()).collect::<Vec<_>>(), [20, 1500, 3]);
        assert_eq!(queue.recv(&mut batch).unwrap(), 0);
        assert_eq!(batch.frames().len(), 3);
    }

    #[test]
    fn a_batch_that_is_full_leaves_the_rest_in_the_queue() {
        let (mut queue, peer) = queue();
        peer.set_nonblocking(true).unwrap();
        let sent = (0..BATCH + 5).take_while(|_| peer.send(b"x").is_ok()).count();
        let mut batch = Batch::default();
        assert_eq!(queue.recv(&mut batch).unwrap(), sent.min(BATCH));
        batch.clear();
        assert_eq!(queue.recv(&mut batch).unwrap(), sent.saturating_sub(BATCH));
    }

    #[test]
    fn a_zero_length_read_is_one_frame_and_ends_the_batch() {
        let (mut queue, peer) = queue();
        peer.send(b"").unwrap();
        peer.send(b"next").unwrap();
        let mut batch = Batch::default();
        assert_eq!(queue.recv(&mut batch).unwrap(), 1);
        assert!(batch.frames()[0].bytes().is_empty());
        assert!(batch.frames()[0].vnet().is_none());
        assert_eq!(queue.recv(&mut batch).unwrap(), 1);
        assert_eq!(batch.frames()[1].bytes(), b"next");
    }

    #[test]
    fn a_full_device_refuses_frames_and_the_queue_lives_on() {
        let (mut queue, peer) = queue();
        let mut batch = Batch::default();
        batch.spare().unwrap().set_len(1000);
        batch.push();
        batch.frames_mut()[0].verdict = Some(Verdict::Passed);
        let (mut written, mut refused) = (0, 0);
        while refused == 0 {
            queue.send(&mut batch, &mut |_| refused += 1).unwrap();
            written += 1;
            assert!(written < 100_000, "a socket without an end");
        }
        peer.recv(&mut [0; 1000]).unwrap();
        queue.send(&mut batch, &mut |verdict| panic!("{verdict:?} failed")).unwrap();
    }

    #[test]
    fn waiting_ends_with_a_frame_with_a_wake_up_and_with_the_limit() {
        let (mut queue, peer) = queue();
        let waker = Waker::new().unwrap();
        let (returned, returns) = mpsc::channel();
        let woken = waker.clone();
        let hour = Duration::from_secs(3_600);
        let waiting = thread::spawn(move || {
            queue.wait(&waker, hour).unwrap();
            assert_eq!(queue.recv(&mut Batch::default()).unwrap(), 1);
            returned.send("a frame").unwrap();
            queue.wait(&waker, hour).unwrap();
            returned.send("a wake-up").unwrap();
            queue.wait(&waker, Duration::from_micros(1)).unwrap();
            returned.send("the limit").unwrap();
        });
        let within = Duration::from_secs(20);
        peer.send(b"x").unwrap();
        assert_eq!(returns.recv_timeout(within).unwrap(), "a frame");
        woken.wake();
        assert_eq!(returns.recv_timeout(within).unwrap(), "a wake-up");
        assert_eq!(returns.recv_timeout(within).unwrap(), "the limit");
        waiting.join().unwrap();
    }
}
