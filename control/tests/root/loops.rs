//! What we write back must not come back: a counting reader on the device that returns everything unchanged.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::host::{QUIET, block_on, conntrack, enter, installed, ip_or_nothing, shell};
use crate::runner::{join, wait_for};

pub(crate) fn where_sources_are_kept_neither() {
    // The kernel's answer to what it cannot send on quotes the packet, and may cross once more.
    for default_route in [true, false] {
        join(thread::spawn(move || {
            enter();
            if !default_route {
                shell("ip route del default; ip -6 route del default");
            }
            let reader = Reader::start();
            let host = block_on(installed(conntrack(), &["203.0.113.10", "fd00:203::10"]));
            for target in ["10.96.0.10:80", "203.0.113.10:80", "[fd00:96::10]:80", "[fd00:203::10]:80"] {
                let crossings = reader.crossings(target.parse().unwrap());
                assert!(crossings <= 2, "{target}, default route: {default_route}: {crossings}");
            }
            drop(host);
        }));
    }
}

/// Writes back every packet and counts those that carry a marked payload.
struct Reader {
    marked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reader {
    fn start() -> Self {
        let mut configuration = tun::Configuration::default();
        configuration.tun_name("tunway0").up();
        let device = tun::create(&configuration).unwrap();
        let (marked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end) = (Arc::clone(&marked), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut packet = vec![0; 65_536];
            device.set_nonblock().unwrap();
            while !end.load(Ordering::Relaxed) {
                let Ok(length) = device.recv(&mut packet) else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                if packet[..length].windows(MARK.len()).any(|window| window == MARK) {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                let _ = device.send(&packet[..length]);
            }
        });
        Self { marked, stop, thread: Some(thread) }
    }

    /// How often one datagram to `target` crosses the device.
    fn crossings(&self, target: SocketAddr) -> usize {
        self.marked.store(0, Ordering::Relaxed);
        let any: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = UdpSocket::bind(any).unwrap();
        socket
            .send_to(MARK, target)
            .unwrap_or_else(|error| panic!("{target}: {error}; {}", ip_or_nothing("route show table local")));
        wait_for("the datagram comes in", Duration::from_secs(5), || self.marked.load(Ordering::Relaxed) > 0);
        // A loop is over within milliseconds: TTL 64.
        let mut last = 0;
        loop {
            thread::sleep(QUIET);
            let now = self.marked.load(Ordering::Relaxed);
            if now == last {
                return now;
            }
            last = now;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What no other packet carries.
const MARK: &[u8] = b"tunway loop test 5f3c";
