//! Datagrams, and the one rule that moves a flow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tests::http;
use tests::netns::wait_for;

use crate::site::{PATIENCE, Site, WEB, at, web};

/// Answers datagrams on port 7777 of a backend with the backend's number, until dropped.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(site: &Site, n: usize) -> Self {
        let bind = || UdpSocket::bind("[::]:7777");
        let socket = site.backends[n].enter(bind).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&[u8::try_from(n).unwrap()], from);
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One client socket keeps its endpoint while it is there, and finds the other with its next packet when it goes.
pub(crate) fn echo_and_move() {
    let site = Site::serving(1500);
    let _echoes = [Echo::start(&site, 0), Echo::start(&site, 1)];
    for vip in WEB {
        site.write("web.yaml", &web(&[0, 1]));
        wait_for("both are served", PATIENCE, || endpoints(&site) == 2);
        let to = at(vip, 7);
        let connect = || -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind(http::anywhere(to, 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(socket)
        };
        let socket = site.client.enter(connect).unwrap().unwrap();
        let first = ask(&socket);
        for _ in 0..20 {
            assert_eq!(ask(&socket), first, "a flow keeps its endpoint");
        }
        site.write("web.yaml", &web(&[1 - first]));
        wait_for("one is withdrawn", PATIENCE, || endpoints(&site) == 1);
        assert_eq!(ask(&socket), 1 - first, "the next packet goes to the one that is left");
    }
    assert!(site.counters().counters["flows_purged"] >= 2);
    site.assert_nothing_uncounted();
}

fn ask(socket: &UdpSocket) -> usize {
    socket.send(b"who").unwrap();
    let mut answer = [0; 8];
    assert_eq!(socket.recv(&mut answer).unwrap(), 1);
    answer[0].into()
}

/// IPv4 endpoints of the echo port.
fn endpoints(site: &Site) -> usize {
    let services = site.services().services;
    let port = services.iter().find(|port| port.name == "default/web:echo" && port.cluster_ip.is_ipv4());
    port.map_or(0, |port| port.endpoints.iter().filter(|endpoint| !endpoint.sets.is_empty()).count())
}

/// A TCP connection stays with its endpoint after that was withdrawn, until it ends.
pub(crate) fn stream_finishes() {
    let site = Site::serving(1500);
    let listen = || TcpListener::bind("[::]:5201");
    let server = site.backends[0].enter(listen).unwrap().unwrap();
    for vip in WEB {
        let to = at(vip, 5201);
        let dial = || http::dial(http::anywhere(to, 0), to, PATIENCE);
        let mut stream = site.client.enter(dial).unwrap().unwrap();
        let (mut peer, from): (_, SocketAddr) = server.accept().unwrap();
        assert!(
            ["10.255.0.1", "fd00:ff::1"].contains(&from.ip().to_canonical().to_string().as_str()),
            "{from}"
        );
        stream.write_all(b"before").unwrap();
        let mut text = [0; 6];
        peer.read_exact(&mut text).unwrap();
        site.write(
            "web.yaml",
            &web(&[1]).replace("10.2.0.2", "10.2.1.2").replace("fd00:2:0::2", "fd00:2:1::2"),
        );
        let moved = |site: &Site| {
            let ports = site.services().services;
            ports.iter().filter(|port| port.name == "default/web:bulk").all(|port| {
                port.endpoints.iter().all(|e| {
                    e.sets.is_empty()
                        || e.address.to_string().contains("2.1.2")
                        || e.address.to_string().contains("2:1::2")
                })
            })
        };
        wait_for("the endpoint is withdrawn", PATIENCE, || moved(&site));
        for _ in 0..10 {
            stream.write_all(b"after!").unwrap();
            peer.read_exact(&mut text).unwrap();
            peer.write_all(&text).unwrap();
            stream.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"after!");
        }
        drop(peer);
        assert_eq!(stream.read(&mut text).unwrap(), 0, "and it ends as it should");
        site.write("web.yaml", &web(&[0, 1]));
        wait_for("the endpoint is back", PATIENCE, || !moved(&site));
    }
}

/// Datagrams that find the device's queue full while nobody reads it are counted, each, and shown.
pub(crate) fn burst() {
    let site = Site::serving(1500);
    let to = at(WEB[0], 7);
    let burst: u64 = 5000;
    let full = || site.counters().counters["device_queue_full"];
    let before = full();
    site.signal("-STOP");
    let sent = site.client.enter(|| {
        let socket = UdpSocket::bind(http::anywhere(to, 0))?;
        (0..burst).map(|_| socket.send_to(b"?", to)).collect::<std::io::Result<Vec<_>>>()
    });
    site.signal("-CONT");
    assert_eq!(sent.unwrap().unwrap().len() as u64, burst);
    // The default queue holds 2000, and one queue has all packets of a flow.
    wait_for("what found no room is counted", PATIENCE, || full() - before >= burst - 2000);
    assert!(full() - before <= burst - 1900, "{} of {burst}", full() - before);
    let told = site.told("services");
    assert!(told.contains("packets found the device's queue full (queueLength)"), "{told}");
    // A signal that means nothing is told once and ends nothing.
    site.signal("-USR1");
    wait_for("it is told", PATIENCE, || site.log().contains("SIGUSR1 means nothing"));
    assert_eq!(site.log().matches("SIGUSR1").count(), 1);
    site.curl(&crate::site::url(WEB[0], 80)).unwrap();
}
