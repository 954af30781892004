//! Servers that say whom they saw, and clients that check what comes back.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tests::http;
use tests::netns::Namespace;

/// Where servers listen.
pub(crate) const PORT: u16 = 8080;
/// Bytes of a stream in each direction.
pub(crate) const BULK: usize = 200_000;
/// Longer than any address, and shorter than the shortest datagram.
const HEAD: usize = 64;

/// A TCP and a UDP server on one address, until dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    address: SocketAddr,
    space: std::path::PathBuf,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(space: &Namespace, address: SocketAddr) -> Self {
        let bind = || (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
        let (tcp, udp) = space.enter(bind).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (first, second) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            thread::spawn(move || streams(&tcp, &first)),
            thread::spawn(move || datagrams(&udp, &second)),
        ];
        Self { stop, address, space: space.name().into(), threads }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || thread::panicking(), "{} in {:?}", self.address, self.space);
        }
    }
}

/// Serves one connection after another, each on a thread of its own: `BULK` bytes in, then the client's address and
/// `BULK` bytes out; or, if the first byte is a `?`, one byte back for each that comes.
fn streams(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, from)) => drop(thread::spawn(move || serve(stream, from))),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn serve(mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    if first == *b"?" {
        loop {
            stream.write_all(&head(from))?;
            stream.read_exact(&mut first)?;
        }
    }
    let mut request = vec![0; BULK - 1];
    stream.read_exact(&mut request)?;
    if request == pattern(BULK)[1..] {
        stream.write_all(&head(from))?;
        stream.write_all(&pattern(BULK))?;
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && length >= HEAD
            && buffer[..length] == pattern(length)
        {
            let mut answer = pattern(length);
            answer[..HEAD].copy_from_slice(&head(from));
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// Sends `BULK` bytes and gets as many; the source the server saw.
pub(crate) fn stream(space: &Namespace, to: SocketAddr, limit: Duration) -> io::Result<IpAddr> {
    exchange(connect(space, to, limit)?)
}

/// A connection; it belongs to the space wherever it is used.
pub(crate) fn connect(space: &Namespace, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    connect_from(space, http::anywhere(to, 0), to, limit)
}

/// One from this local address.
pub(crate) fn connect_from(
    space: &Namespace,
    from: SocketAddr,
    to: SocketAddr,
    limit: Duration,
) -> io::Result<TcpStream> {
    space.enter(|| http::dial(from, to, limit))?
}

/// Sends `BULK` bytes and gets as many; the source the server saw.
pub(crate) fn exchange(mut stream: TcpStream) -> io::Result<IpAddr> {
    stream.write_all(&pattern(BULK))?;
    let mut head = [0; HEAD];
    stream.read_exact(&mut head)?;
    let mut answer = Vec::with_capacity(BULK);
    stream.read_to_end(&mut answer)?;
    if answer != pattern(BULK) {
        return Err(io::Error::other(format!("{} bytes, not those sent", answer.len())));
    }
    seen(&head)
}

/// Sends one datagram of this length and gets one; the source the server saw.
pub(crate) fn datagram(
    space: &Namespace,
    to: SocketAddr,
    length: usize,
    limit: Duration,
) -> io::Result<IpAddr> {
    datagram_from(space, http::anywhere(to, 0), to, length, limit)
}

/// One from this local address.
pub(crate) fn datagram_from(
    space: &Namespace,
    from: SocketAddr,
    to: SocketAddr,
    length: usize,
    limit: Duration,
) -> io::Result<IpAddr> {
    space.enter(|| {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(limit))?;
        socket.send(&pattern(length))?;
        let mut answer = vec![0; 65_536];
        let got = socket.recv(&mut answer)?;
        if got != length || answer[HEAD..got] != pattern(length)[HEAD..] {
            return Err(io::Error::other(format!("{got} bytes, not those sent")));
        }
        seen(&answer[..HEAD])
    })?
}

/// A socket that has sent one datagram and got its answer.
pub(crate) fn talk(space: &Namespace, to: SocketAddr, limit: Duration) -> io::Result<UdpSocket> {
    let socket = space.enter(|| {
        let socket = UdpSocket::bind(http::anywhere(to, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(limit))?;
        Ok::<_, io::Error>(socket)
    })??;
    ask_again(&socket)?;
    Ok(socket)
}

/// One more datagram by it, and the source the server saw.
pub(crate) fn ask_again(socket: &UdpSocket) -> io::Result<IpAddr> {
    socket.send(&pattern(100))?;
    let mut answer = [0; 1_000];
    let got = socket.recv(&mut answer)?;
    if got == 100 { seen(&answer[..HEAD]) } else { Err(io::Error::other(format!("{got} bytes"))) }
}

/// A connection on which one byte asks for one answer.
pub(crate) struct Chat(TcpStream);

impl Chat {
    pub(crate) fn open(space: &Namespace, to: SocketAddr, limit: Duration) -> io::Result<Self> {
        connect(space, to, limit).map(Self)
    }

    /// The source the server saw.
    pub(crate) fn ask(&mut self) -> io::Result<IpAddr> {
        self.0.write_all(b"?")?;
        let mut head = [0; HEAD];
        self.0.read_exact(&mut head)?;
        seen(&head)
    }
}

/// Bytes that are their own position.
fn pattern(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

fn head(from: SocketAddr) -> [u8; HEAD] {
    let mut head = [b' '; HEAD];
    let text = from.ip().to_canonical().to_string();
    head[..text.len()].copy_from_slice(text.as_bytes());
    head
}

fn seen(head: &[u8]) -> io::Result<IpAddr> {
    let text = String::from_utf8_lossy(head);
    text.trim().parse().map_err(|_| io::Error::other(format!("an answer that begins {text:?}")))
}
