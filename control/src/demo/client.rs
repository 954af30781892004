//! The client pod's side: one HTTP request over a kernel TCP socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dataplane::clock::Clock;

use super::pod::POD_HEADER;

/// The page, who sent it, and the connection it came over.
#[derive(Debug)]
pub struct Page {
    /// `<title>`.
    pub title: String,
    /// The pod that answered.
    pub pod: String,
    /// The page.
    pub body: String,
    /// From connect to the last byte.
    pub took: Duration,
    /// Still open.
    pub connection: TcpStream,
}

/// Fetches `http://ADDRESS/`, as the thread's network namespace reaches it.
///
/// # Errors
/// No connection or no answer in time, or no page.
pub fn fetch(address: SocketAddr) -> io::Result<Page> {
    let begin = Clock.now();
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    write!(connection, "GET / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: tunway-demo\r\n\r\n")?;
    let (head, body) = answer(&mut connection)?;
    let took = Duration::from_nanos(Clock.now().since(begin));
    let title = between(&body, "<title>", "</title>").unwrap_or("(no title)").to_owned();
    let pod = field(&head, POD_HEADER).unwrap_or("(it does not say)").to_owned();
    Ok(Page { title, pod, body, took, connection })
}

/// Head and body of one response whose length its head tells.
fn answer(from: &mut impl Read) -> io::Result<(String, String)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(parts) = parts(&bytes)? {
            return Ok(parts);
        }
        match from.read(&mut chunk)? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection ended in the answer",
                ));
            }
            n => bytes.extend_from_slice(&chunk[..n]),
        }
        if bytes.len() > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer does not end"));
        }
    }
}

/// None while something is missing.
fn parts(bytes: &[u8]) -> io::Result<Option<(String, String)>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("the answer is not HTTP"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(wrong(&format!("the answer is: {}", head.lines().next().unwrap_or_default())));
    }
    let length = field(head, "content-length").and_then(|length| length.parse().ok());
    let length: usize = length.ok_or_else(|| wrong("the answer does not tell its length"))?;
    let body = &bytes[end + 4..];
    if body.len() < length {
        return Ok(None);
    }
    let body = String::from_utf8_lossy(&body[..length]).into_owned();
    Ok(Some((head.to_owned(), body)))
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split_once(from)?.1.split_once(to).map(|(inner, _)| inner)
}

/// For each step of a request; a SYN is sent again after one second.
const PATIENCE: Duration = Duration::from_secs(4);
/// No page of ours is longer.
const LONGEST: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_when_its_length_has_come() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nPod-Name: a\r\n\r\n<title>x</title>";
        let (head, body) = answer(&mut text.as_bytes()).unwrap();
        assert_eq!((field(&head, "pod-name"), body.as_str()), (Some("a"), "<title>x</ti"));
        for cut in 0..text.len() - 4 {
            let error = answer(&mut &text.as_bytes()[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_page_is_an_error() {
        let error = |text: &str| answer(&mut text.as_bytes()).unwrap_err().to_string();
        assert!(error("HTTP/1.1 404 Not Found\r\n\r\n").contains("404 Not Found"));
        assert!(error("HTTP/1.1 200 OK\r\n\r\nx").contains("length"));
        assert!(error(&"x".repeat(LONGEST + 1)).contains("does not end"));
        assert_eq!(between("a<b>c</b>", "<b>", "</b>"), Some("c"));
    }
}
