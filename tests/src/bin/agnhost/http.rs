//! The HTTP side: HTTP/1.1 with connections that stay open, a thread each.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::Host;

/// A connection nobody uses for so long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// Lines of a request longer than this end its connection.
const LINE: u64 = 8192;
/// Bodies at most.
const BODY: u64 = 64 << 20;

/// Serves for ever.
pub(crate) fn serve(listener: &TcpListener, host: &Arc<Host>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let host = Arc::clone(host);
        thread::spawn(move || connection(stream, &host));
    }
}

/// Serves one connection until its end; what goes wrong with it is its own end only.
fn connection(stream: TcpStream, host: &Host) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    let peer = stream.peer_addr()?;
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    while let Some(request) = read(&mut input, &mut output)? {
        let (status, body) = answer(&request, plain(peer), host);
        let connection = if request.keep { "keep-alive" } else { "close" };
        let mut whole = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        whole.extend(body);
        output.write_all(&whole)?;
        if !request.keep {
            break;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    target: String,
    body: Sum,
    keep: bool,
}

/// The next request, its body read and summed up; none at the end of the connection. `client` is told to go on where it
/// waits for that.
fn read(input: &mut impl BufRead, client: &mut impl Write) -> io::Result<Option<Request>> {
    let Some(first) = line(input)? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::other("not a request"));
    };
    let (mut length, mut keep, mut waits) = (0, version != "HTTP/1.0", false);
    while let Some(header) = line(input)?.filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "connection" => keep = value.trim().eq_ignore_ascii_case("keep-alive"),
            "expect" => waits = value.trim().eq_ignore_ascii_case("100-continue"),
            _ => {}
        }
    }
    if length > BODY {
        return Err(io::Error::other("a body too long"));
    }
    if waits {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = Sum::default();
    io::copy(&mut input.take(length), &mut body)?;
    if body.count < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(Request { method, target, body, keep }))
}

/// How many bytes, and their checksum: FNV-1a, 64 bits.
#[derive(Debug, PartialEq, Eq)]
struct Sum {
    count: u64,
    sum: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { count: 0, sum: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.sum = (self.sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.count += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    if input.take(LINE).read_line(&mut text)? == 0 {
        return Ok(None);
    }
    Ok(Some(text.trim_end().to_owned()))
}

fn answer(request: &Request, peer: SocketAddr, host: &Host) -> (&'static str, Vec<u8>) {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let parameter = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next().unwrap_or_default()
    };
    let ok = |text: String| ("200 OK", text.into_bytes());
    match path {
        "/hostname" | "/hostName" => ok(host.name.clone()),
        "/clientip" => ok(peer.to_string()),
        "/echo" => ok(decode(parameter("msg"))),
        "/healthz" => ok("ok".to_owned()),
        "/readyz/on" | "/readyz/off" => {
            host.ready.store(path.ends_with("on"), Ordering::Relaxed);
            ok(String::new())
        }
        "/readyz" if host.ready.load(Ordering::Relaxed) => ok("ok".to_owned()),
        "/readyz" => ("503 Service Unavailable", Vec::new()),
        "/upload" => ok(format!("{} {:016x}", request.body.count, request.body.sum)),
        "/bytes" => {
            let count = parameter("n").parse::<usize>().unwrap_or(0).min(64 << 20);
            ("200 OK", (b'a'..=b'z').cycle().take(count).collect())
        }
        "/exit" => std::process::exit(parameter("code").parse().unwrap_or(0)),
        _ => ("404 Not Found", Vec::new()),
    }
}

/// A value of a query: a plus sign is a blank, %41 is A; what is neither stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let two = after.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let byte = two.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        rest = after;
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An IPv4 client of an IPv6 socket, as IPv4.
pub(crate) fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn host() -> Arc<Host> {
        Arc::new(Host { name: "web-1".to_owned(), ready: AtomicBool::new(true) })
    }

    #[test]
    fn several_requests_are_answered_on_one_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        thread::spawn(move || serve(&listener, &host()));
        let own = client.local_addr().unwrap().to_string();
        let mut ask = |request: &str, close: bool| {
            client.write_all(request.as_bytes()).unwrap();
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.contains("\r\n\r\n") || close {
                let count = client.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
            text
        };
        assert!(ask("GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n", false).ends_with("\r\n\r\nweb-1"));
        assert!(ask("GET /clientip HTTP/1.1\r\n\r\n", false).ends_with(&own));
        assert!(
            ask("POST /upload HTTP/1.1\r\nContent-Length: 6\r\n\r\nfoobar", false)
                .ends_with("\r\n\r\n6 85944171f73967e8")
        );
        assert!(ask("GET /echo?msg=a+b%2Fc HTTP/1.1\r\n\r\n", false).ends_with("\r\n\r\na b/c"));
        assert!(ask("POST /readyz/off HTTP/1.1\r\n\r\n", false).starts_with("HTTP/1.1 200"));
        assert!(ask("GET /readyz HTTP/1.1\r\n\r\n", false).starts_with("HTTP/1.1 503"));
        let last = ask("GET /bytes?n=30 HTTP/1.0\r\n\r\n", true);
        assert!(last.ends_with("\r\n\r\nabcdefghijklmnopqrstuvwxyzabcd"), "{last}");
    }

    #[test]
    fn nonsense_ends_the_connection_only() {
        for bad in [
            "x\r\n",
            "GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\ncut",
        ] {
            assert!(read(&mut bad.as_bytes(), &mut io::sink()).is_err(), "{bad}");
        }
        assert_eq!(read(&mut &b""[..], &mut io::sink()).unwrap(), None);
    }

    #[test]
    fn who_waits_with_a_body_is_told_to_go_on() {
        let mut told = Vec::new();
        let text = "POST /upload HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na";
        assert_eq!(read(&mut text.as_bytes(), &mut told).unwrap().unwrap().body.count, 1);
        assert_eq!(told, b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    #[test]
    fn queries_are_decoded() {
        for (text, wanted) in
            [("a+b", "a b"), ("%c3%a9", "é"), ("%4", "%4"), ("%+1", "% 1"), ("100%", "100%")]
        {
            assert_eq!(decode(text), wanted);
        }
    }
}
