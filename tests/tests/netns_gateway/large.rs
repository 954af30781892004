//! Datagrams of 64 KiB over links of 1,500 bytes: some forty-five fragments each, in both directions.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::site::{SNAT, Site, WEB, at};

/// Datagrams a client sends, one after another.
const EACH: u64 = 50;
/// The clients' addresses. Each pair of addresses has its own queue, and the SNAT address is in a pair with all of
/// them: its fragments are moved from queue to queue as the clients take turns.
const CLIENTS: [[&str; 4]; 2] = [
    ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"],
    ["fd00:1:0::2", "fd00:1:0::3", "fd00:1:0::4", "fd00:1:0::5"],
];
/// The longest payload of UDP over IPv4.
const PAYLOAD: usize = 65_507;

/// Sends every datagram on port 7777 of a backend back, until dropped.
struct Mirror {
    stop: Arc<AtomicBool>,
    /// Datagrams that did not come from a SNAT address.
    foreign: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    fn start(site: &Site, n: usize) -> Self {
        let socket = site.backends[n].enter(|| open("[::]:7777".parse().unwrap())).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (stop, foreign) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, strangers) = (Arc::clone(&stop), Arc::clone(&foreign));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let known = SNAT.contains(&from.ip().to_canonical().to_string().as_str());
                    strangers.fetch_add(u64::from(!known), Ordering::Relaxed);
                    let _ = socket.send_to(&buffer[..len], from);
                }
            }
        });
        Self { stop, foreign, thread: Some(thread) }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A socket with room for a few such datagrams, which count twice their bytes and more.
fn open(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(local)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    setsockopt(&socket, sockopt::SndBuf, &(1 << 20))?;
    Ok(socket)
}

/// What client `client` sends as its `n`th.
fn datagram(client: u64, n: u64) -> Vec<u8> {
    let start = client * 1_000 + n;
    (start..).flat_map(|n| (n * 0x9e37_79b9).to_le_bytes()).take(PAYLOAD).collect()
}

pub(crate) fn datagrams() {
    let site = Site::serving(1500);
    // All datagrams come from the VIP, or from the SNAT address, and two workers write them at once. A receiver gives
    // a datagram up when more than 64 fragments from the same source came between two of its own, unless told not to.
    for host in [&site.client, &site.backends[0], &site.backends[1]] {
        host.sysctl("net.ipv4.ipfrag_max_dist", "0").unwrap();
    }
    let mirrors = [Mirror::start(&site, 0), Mirror::start(&site, 1)];
    for (vip, clients) in WEB.into_iter().zip(CLIENTS) {
        for address in &clients[1..] {
            let len = if vip.contains(':') { "64 dev eth0 nodad" } else { "24 dev eth0" };
            site.client.ip(&format!("addr add {address}/{len}")).unwrap();
        }
        let before = site.counters();
        let sent = EACH * clients.len() as u64;
        let lost: u64 = thread::scope(|scope| {
            let converse = |(n, address)| {
                let socket = site.client.enter(|| open(at(address, 0))).unwrap().unwrap();
                scope.spawn(move || converse(&socket, at(vip, 7), n))
            };
            let clients: Vec<_> = (0..).zip(clients).map(converse).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        let after = site.counters();
        let moved = |name: &str| after.counters[name] - before.counters[name];
        let drops: Vec<_> = after.drops.iter().filter(|(reason, n)| before.drops[*reason] != **n).collect();
        println!(
            "measured: {vip}: {sent} datagrams of {PAYLOAD} bytes each way, {lost} lost; {} fragments, {} waited, \
             {} datagrams complete, {} not; drops {drops:?}",
            moved("fragments"),
            moved("fragments_held"),
            moved("datagrams_complete"),
            moved("datagrams_incomplete"),
        );
        assert_eq!(lost, 0);
        assert_eq!(moved("datagrams_complete"), 2 * sent);
        assert!(moved("fragments") >= 2 * sent * (PAYLOAD as u64 / 1_500));
        assert_eq!(moved("datagrams_incomplete"), 0);
        assert!(drops.is_empty(), "{drops:?}");
    }
    let foreign: u64 = mirrors.iter().map(|mirror| mirror.foreign.load(Ordering::Relaxed)).sum();
    assert_eq!(foreign, 0, "datagrams from elsewhere than a SNAT address");
    site.assert_nothing_uncounted();
}

/// Sends datagrams and waits for each to come back; how many did not.
fn converse(socket: &UdpSocket, vip: SocketAddr, client: u64) -> u64 {
    socket.connect(vip).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = vec![0; 65_536];
    let mut lost = 0;
    for n in 0..EACH {
        let datagram = datagram(client, n);
        socket.send(&datagram).unwrap();
        match socket.recv(&mut buffer) {
            Ok(len) => {
                assert!(buffer[..len] == datagram, "client {client}, datagram {n}: other bytes came back")
            }
            Err(_) => lost += 1,
        }
    }
    lost
}
