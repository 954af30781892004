//! The two ends of every measurement: a server that sinks, echoes and counts, and a client that loads it through
//! a given address. Each runs in a process of its own, pinned, and talks to its parent in lines of JSON.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dataplane::clock::{Clock, Time};
use serde::{Deserialize, Serialize};

use super::sample::percentile;

/// Where the server sinks streams.
pub const SINK: u16 = 5001;
/// Where the server echoes, connection by connection.
pub const ECHO: u16 = 5002;
/// Where the server counts datagrams.
pub const COUNT: u16 = 5003;
/// Bytes of a request, and of its response.
const REQUEST: usize = 100;
/// Bytes of a small datagram.
const DATAGRAM: usize = 64;
const SECOND: f64 = 1e9;

/// What the client is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// One TCP stream of bytes to the sink.
    Bulk1,
    /// Four TCP streams at once.
    Bulk4,
    /// Connect, request, response, close; one after the other.
    Crr,
    /// Requests and responses on one connection.
    Rr,
    /// Small datagrams as fast as they go.
    Udp,
}

impl Load {
    /// All of them, in the order they are measured.
    pub const ALL: [Self; 5] = [Self::Bulk1, Self::Bulk4, Self::Crr, Self::Rr, Self::Udp];
}

/// One order to the client.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Order {
    /// What to do.
    pub load: Load,
    /// Through which address.
    pub to: Ipv4Addr,
    /// For how long, milliseconds.
    pub millis: u64,
}

/// What the client did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Bytes, transactions or datagrams per second, by load.
    pub per_second: f64,
    /// Median latency, microseconds (Rr only).
    pub p50: f64,
    /// 99th percentile of latency, microseconds (Rr only).
    pub p99: f64,
    /// Connections of a million that were reset instead of served (Crr only).
    pub reset_per_million: f64,
}

/// Serves until standard input ends. Each input line is answered with the datagrams counted so far.
///
/// # Errors
/// A port that cannot be bound, or standard streams that fail.
pub fn serve() -> io::Result<()> {
    let counted = Arc::new(AtomicU64::new(0));
    let sink = TcpListener::bind((Ipv4Addr::UNSPECIFIED, SINK))?;
    let echo = TcpListener::bind((Ipv4Addr::UNSPECIFIED, ECHO))?;
    let count = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, COUNT))?;
    accept_each(sink, swallow);
    accept_each(echo, answer);
    let counter = Arc::clone(&counted);
    thread::spawn(move || {
        let mut buffer = [0; 2 * DATAGRAM];
        while count.recv(&mut buffer).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut out = io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", counted.load(Ordering::Relaxed))?;
        out.flush()?;
    }
    Ok(())
}

/// Carries out orders, one JSON line each, until standard input ends.
///
/// # Errors
/// Standard streams that fail, or a line that is no order. A load that fails is reported in its answer.
pub fn load() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let answer: Result<Done, String> = carry_out(order).map_err(|error| error.to_string());
        serde_json::to_writer(&mut out, &answer)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

fn carry_out(order: Order) -> io::Result<Done> {
    let span = Duration::from_millis(order.millis);
    match order.load {
        Load::Bulk1 => bulk(order.to, 1, span),
        Load::Bulk4 => bulk(order.to, 4, span),
        Load::Crr => connect_request_response(order.to, span),
        Load::Rr => request_response(order.to, span),
        Load::Udp => datagrams(order.to, span),
    }
}

/// The span is measured from after the connections stand to when the last byte was accepted for sending.
fn bulk(to: Ipv4Addr, streams: usize, span: Duration) -> io::Result<Done> {
    let connections = (0..streams).map(|_| connect(to, SINK)).collect::<io::Result<Vec<_>>>()?;
    let over = Arc::new(AtomicBool::new(false));
    let start = Clock.now();
    let writers: Vec<_> = connections
        .into_iter()
        .map(|mut stream| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let block = vec![0x5a; 256 << 10];
                let mut sent = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    sent += stream.write(&block)? as u64;
                }
                stream.shutdown(Shutdown::Write)?;
                // The sink closes when it has read everything: what is counted was delivered.
                io::copy(&mut stream, &mut io::sink())?;
                Ok::<u64, io::Error>(sent)
            })
        })
        .collect();
    thread::sleep(span);
    over.store(true, Ordering::Relaxed);
    let mut bytes = 0;
    for writer in writers {
        bytes += writer.join().map_err(|_| io::Error::other("a writer panicked"))??;
    }
    Ok(Done { per_second: rate(bytes, start), ..Done::default() })
}

fn connect_request_response(to: Ipv4Addr, span: Duration) -> io::Result<Done> {
    let start = Clock.now();
    let (mut transactions, mut reset) = (0, 0);
    let mut buffer = [0; REQUEST];
    while within(start, span) {
        let mut stream = connect(to, ECHO)?;
        match stream.write_all(&buffer).and_then(|()| stream.read_exact(&mut buffer)) {
            Ok(()) => transactions += 1,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => reset += 1,
            Err(error) => return Err(error),
        }
    }
    let tried = (transactions + reset).max(1);
    let per_million = reset as f64 * 1e6 / tried as f64;
    Ok(Done { per_second: rate(transactions, start), reset_per_million: per_million, ..Done::default() })
}

fn request_response(to: Ipv4Addr, span: Duration) -> io::Result<Done> {
    let mut stream = connect(to, ECHO)?;
    let mut micros = Vec::with_capacity(1 << 16);
    let mut buffer = [0; REQUEST];
    let start = Clock.now();
    while within(start, span) {
        let asked = Clock.now();
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        micros.push(nanos(asked) / 1e3);
    }
    let per_second = rate(micros.len() as u64, start);
    let p50 = percentile(&mut micros, 50).unwrap_or(0.0);
    let p99 = percentile(&mut micros, 99).unwrap_or(0.0);
    Ok(Done { per_second, p50, p99, ..Done::default() })
}

/// Sends as fast as it goes; the rate that counts, of those delivered, is the server's.
fn datagrams(to: Ipv4Addr, span: Duration) -> io::Result<Done> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((to, COUNT))?;
    let start = Clock.now();
    let mut sent = 0;
    while within(start, span) {
        for _ in 0..32 {
            // A full queue on our own side is not a datagram sent.
            sent += u64::from(socket.send(&[0x5a; DATAGRAM]).is_ok());
        }
    }
    Ok(Done { per_second: rate(sent, start), ..Done::default() })
}

fn connect(to: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddrV4::new(to, port).into(), Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn accept_each(listener: TcpListener, serve: fn(TcpStream)) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
}

fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
}

fn answer(mut stream: TcpStream) {
    // Without it the delayed acknowledgement is measured, not the path.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut buffer = [0; REQUEST];
    while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
}

fn nanos(since: Time) -> f64 {
    Clock.now().since(since) as f64
}

fn within(start: Time, span: Duration) -> bool {
    u128::from(Clock.now().since(start)) < span.as_nanos()
}

fn rate(n: u64, start: Time) -> f64 {
    n as f64 * SECOND / nanos(start).max(1.0)
}
