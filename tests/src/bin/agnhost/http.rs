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
    while let Some(request) = read(&mut input)? {
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
    body: u64,
    keep: bool,
}

/// The next request, its body read and counted; none at the end of the connection.
fn read(input: &mut impl BufRead) -> io::Result<Option<Request>> {
    let Some(first) = line(input)? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::other("not a request"));
    };
    let (mut length, mut keep) = (0, version != "HTTP/1.0");
    while let Some(header) = line(input)?.filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "connection" => keep = value.trim().eq_ignore_ascii_case("keep-alive"),
            _ => {}
        }
    }
    if length > BODY {
        return Err(io::Error::other("a body too long"));
    }
    let body = io::copy(&mut input.take(length), &mut io::sink())?;
    Ok(Some(Request { method, target, body, keep }))
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
        "/echo" => ok(parameter("msg").to_owned()),
        "/healthz" => ok("ok".to_owned()),
        "/readyz/on" | "/readyz/off" => {
            host.ready.store(path.ends_with("on"), Ordering::Relaxed);
            ok(String::new())
        }
        "/readyz" if host.ready.load(Ordering::Relaxed) => ok("ok".to_owned()),
        "/readyz" => ("503 Service Unavailable", Vec::new()),
        "/upload" => ok(request.body.to_string()),
        "/bytes" => {
            let count = parameter("n").parse::<usize>().unwrap_or(0).min(64 << 20);
            ("200 OK", (b'a'..=b'z').cycle().take(count).collect())
        }
        "/exit" => std::process::exit(parameter("code").parse().unwrap_or(0)),
        _ => ("404 Not Found", Vec::new()),
    }
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
        assert!(ask("POST /upload HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", false).ends_with("\r\n\r\n5"));
        assert!(ask("POST /readyz/off HTTP/1.1\r\n\r\n", false).starts_with("HTTP/1.1 200"));
        assert!(ask("GET /readyz HTTP/1.1\r\n\r\n", false).starts_with("HTTP/1.1 503"));
        let last = ask("GET /bytes?n=30 HTTP/1.0\r\n\r\n", true);
        assert!(last.ends_with("\r\n\r\nabcdefghijklmnopqrstuvwxyzabcd"), "{last}");
    }

    #[test]
    fn nonsense_ends_the_connection_only() {
        for bad in ["x\r\n", "GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n"] {
            assert!(read(&mut bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(read(&mut &b""[..]).unwrap(), None);
    }
}
