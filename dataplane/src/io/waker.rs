//! How another thread wakes a worker that waits: an eventfd the worker polls beside its queue.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one worker. Clones wake the same one. A wake-up that comes while nobody waits is kept for the next wait.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<EventFd>,
}

impl Waker {
    /// A waker of its own.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { event: Arc::new(event) })
    }

    /// Ends the wait under way, or the next one. Never blocks.
    pub fn wake(&self) {
        // It can only fail when the counter is at its end, and then it is awake already.
        let _ = self.event.write(1);
    }

    /// Takes the wake-ups that came so far, however many; false if there were none.
    pub(super) fn take(&self) -> bool {
        self.event.read().is_ok()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wake_ups_are_taken_at_once() {
        let waker = Waker::new().unwrap();
        assert!(!waker.take());
        waker.wake();
        waker.clone().wake();
        assert!(waker.take());
        assert!(!waker.take());
    }
}
