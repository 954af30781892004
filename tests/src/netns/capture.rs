//! Packets as an interface saw them: an `AF_PACKET` socket in a namespace, read by a thread.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use super::Namespace;

/// A running capture of every IP packet on every interface of a namespace, in both directions.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Vec<u8>>>,
}

impl Capture {
    /// Starts one; packets from now on are in it.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or packet sockets are not allowed.
    pub fn start(namespace: &Namespace) -> io::Result<Self> {
        let fd: OwnedFd = namespace.enter(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)
        })??;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = thread::spawn(move || {
            let mut packets = Vec::new();
            let mut buffer = vec![0; 70_000];
            loop {
                // The flag first: what arrived before it was set is still read.
                let last = stopped.load(Ordering::Acquire);
                while let Ok(length) = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    if matches!(buffer[0] >> 4, 4 | 6) && length >= 20 {
                        packets.push(buffer[..length].to_vec());
                    }
                }
                if last {
                    return packets;
                }
                let mut readable = [PollFd::new(std::os::fd::AsFd::as_fd(&fd), PollFlags::POLLIN)];
                let _ = poll(&mut readable, PollTimeout::from(20_u8));
            }
        });
        Ok(Self { stop, reader })
    }

    /// Ends it; every IP packet seen.
    ///
    /// # Panics
    /// When the reading thread did.
    #[must_use]
    pub fn stop(self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Release);
        self.reader.join().expect("the capture's thread")
    }
}
