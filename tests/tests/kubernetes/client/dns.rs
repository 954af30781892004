//! DNS questions (RFC 1035) over UDP and TCP.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::{Deadline, Failure, Proto, Udp};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// IPv4 addresses.
    A = 1,
    /// IPv6 addresses.
    Aaaa = 28,
}

/// What a name server said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0 is fine, 3 is no such name.
    pub code: u8,
    /// Addresses, sorted.
    pub addresses: Vec<IpAddr>,
    /// Names that stand for the name.
    pub aliases: Vec<String>,
}

/// Asks a name server for a whole name.
///
/// # Errors
/// No answer in time, or one that cannot be read.
pub(crate) fn ask(
    server: IpAddr,
    over: Proto,
    name: &str,
    kind: Kind,
    limit: Duration,
) -> Result<Answer, Failure> {
    let at = SocketAddr::new(server, 53);
    let question = question(name, kind);
    let bytes = match over {
        Proto::Udp => Udp::open(0, at)?.exchange(&question, limit)?,
        Proto::Tcp => over_tcp(at, &question, limit)?,
    };
    if bytes.get(..2) != question.get(..2) {
        return Err(Failure::Other("the answer to another question".to_owned()));
    }
    parse(&bytes).ok_or_else(|| Failure::Other(format!("no DNS answer: {bytes:?}")))
}

fn over_tcp(at: SocketAddr, question: &[u8], limit: Duration) -> Result<Vec<u8>, Failure> {
    let deadline = Deadline::after(limit);
    let mut stream = TcpStream::connect_timeout(&at, limit)?;
    stream.set_read_timeout(Some(deadline.left()?))?;
    let length = u16::try_from(question.len()).map_err(|_| Failure::Other("a long name".to_owned()))?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.set_read_timeout(Some(deadline.left()?))?;
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn question(name: &str, kind: Kind) -> Vec<u8> {
    // An id, recursion desired, one question.
    let mut bytes = vec![0x54, 0x57, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, kind as u8, 0, 1]);
    bytes
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let mut answer = Answer { code: bytes.get(3)? & 15, ..Answer::default() };
    let mut at = 12;
    for _ in 0..word(4)? {
        at = name(bytes, at)?.1 + 4;
    }
    for _ in 0..word(6)? {
        at = name(bytes, at)?.1;
        let kind = word(at)?;
        let length = usize::from(word(at + 8)?);
        at += 10;
        let data = bytes.get(at..at + length)?;
        match kind {
            1 => answer.addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            28 => answer.addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            5 => answer.aliases.push(name(bytes, at)?.0),
            _ => {}
        }
        at += length;
    }
    answer.addresses.sort();
    Some(answer)
}

/// A name, compressed or not, and where what follows it begins.
fn name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut labels, mut at, mut after) = (Vec::new(), start, None);
    // A loop of pointers ends as well.
    for _ in 0..128 {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some((labels.join("."), after.unwrap_or(at + 1))),
            192.. => {
                after = after.or(Some(at + 2));
                at = (length & 63) << 8 | usize::from(*bytes.get(at + 1)?);
            }
            _ => {
                labels.push(String::from_utf8_lossy(bytes.get(at + 1..at + 1 + length)?).into_owned());
                at += 1 + length;
            }
        }
    }
    None
}
