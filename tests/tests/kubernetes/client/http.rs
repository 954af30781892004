//! HTTP/1.1, as much of it as the agnhost stand-in and nginx answer with.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Deadline, Failure};

/// No answer a scenario asks for is larger.
const LARGEST: usize = 4 << 20;

/// The body of `http://AT/PATH` over a connection of its own, within `limit`.
///
/// # Errors
/// No connection, no answer in time, or not 200.
pub(crate) fn http_get(at: SocketAddr, path: &str, limit: Duration) -> Result<String, Failure> {
    let mut connection = Connection::open(at, limit)?;
    connection.last = true;
    text(connection.get(path, limit)?)
}

/// Sends a body; what was answered.
///
/// # Errors
/// As [`http_get`].
pub(crate) fn http_post(at: SocketAddr, path: &str, body: &[u8], limit: Duration) -> Result<String, Failure> {
    let mut connection = Connection::open(at, limit)?;
    connection.last = true;
    text(connection.request("POST", path, body, limit)?)
}

/// The bytes of a body as text.
pub(crate) fn text(body: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(body).map_err(|_| Failure::Other("an answer that is no text".to_owned()))
}

/// A connection that stays open between requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    at: SocketAddr,
    /// What was read beyond the last answer.
    rest: Vec<u8>,
    last: bool,
}

impl Connection {
    /// Connects within `limit`.
    ///
    /// # Errors
    /// The network says no, or nothing.
    pub(crate) fn open(at: SocketAddr, limit: Duration) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&at, limit)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, at, rest: Vec::new(), last: false })
    }

    /// The body at a path, whole within `limit`.
    ///
    /// # Errors
    /// As [`http_get`].
    pub(crate) fn get(&mut self, path: &str, limit: Duration) -> Result<Vec<u8>, Failure> {
        self.request("GET", path, &[], limit)
    }

    /// The same, as text.
    ///
    /// # Errors
    /// As [`http_get`].
    pub(crate) fn get_text(&mut self, path: &str, limit: Duration) -> Result<String, Failure> {
        text(self.get(path, limit)?)
    }

    fn request(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let deadline = Deadline::after(limit);
        let keep = if self.last { "close" } else { "keep-alive" };
        let mut bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: {keep}\r\nContent-Length: {}\r\n\r\n",
            self.at,
            body.len()
        )
        .into_bytes();
        bytes.extend(body);
        self.stream.set_write_timeout(Some(deadline.left()?))?;
        self.stream.write_all(&bytes)?;
        self.answer(deadline)
    }

    fn answer(&mut self, deadline: Deadline) -> Result<Vec<u8>, Failure> {
        let end = loop {
            if let Some(at) = find(&self.rest, b"\r\n\r\n") {
                break at;
            }
            if !self.more(deadline)? {
                return Err(Failure::Other("the connection ended before an answer".to_owned()));
            }
        };
        let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest.drain(..end + 4);
        let length = head.lines().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let body = match length {
            Some(length) => {
                while self.rest.len() < length {
                    if !self.more(deadline)? {
                        let got = self.rest.len();
                        return Err(Failure::Other(format!(
                            "the connection ended after {got} of {length} bytes"
                        )));
                    }
                }
                self.rest.drain(..length).collect()
            }
            None => {
                while self.more(deadline)? {}
                std::mem::take(&mut self.rest)
            }
        };
        match head.split(' ').nth(1) {
            Some("200") => Ok(body),
            _ => Err(Failure::Other(format!("answered {}", head.lines().next().unwrap_or_default()))),
        }
    }

    /// Reads what is there; false at the end.
    fn more(&mut self, deadline: Deadline) -> Result<bool, Failure> {
        self.stream.set_read_timeout(Some(deadline.left()?))?;
        let mut buffer = vec![0; 64 << 10];
        let count = self.stream.read(&mut buffer)?;
        self.rest.extend(&buffer[..count]);
        if self.rest.len() > LARGEST {
            return Err(Failure::Other("an answer without end".to_owned()));
        }
        Ok(count > 0)
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
