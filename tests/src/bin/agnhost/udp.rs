//! The UDP side: one datagram in, one out, to where it came from.

use std::net::{SocketAddr, UdpSocket};

use crate::Host;
use crate::http::plain;

/// Serves for ever.
pub(crate) fn serve(socket: &UdpSocket, host: &Host) {
    let mut buffer = vec![0; 65_535];
    loop {
        // What an ICMP error says of an earlier answer is not this one's matter.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = buffer.get(..length).and_then(|question| answer(question, peer, host)) {
            let _ = socket.send_to(&answer, peer);
        }
    }
}

/// None: not worth an answer, so that two of these cannot talk for ever.
fn answer(question: &[u8], peer: SocketAddr, host: &Host) -> Option<Vec<u8>> {
    if let Some(text) = question.strip_prefix(b"echo ") {
        return Some(text.to_vec());
    }
    match question.trim_ascii() {
        b"hostname" => Some(host.name.clone().into_bytes()),
        b"clientip" => Some(plain(peer).to_string().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn questions_are_answered_and_answers_are_not() {
        let host = Host { name: "web-1".to_owned(), ready: AtomicBool::new(true) };
        let peer = "[::ffff:10.0.0.1]:5000".parse().unwrap();
        let of = |question: &[u8]| answer(question, peer, &host);
        assert_eq!(of(b"hostname\n"), Some(b"web-1".to_vec()));
        assert_eq!(of(b"clientip"), Some(b"10.0.0.1:5000".to_vec()));
        let long = [b"echo ".to_vec(), vec![7; 60_000]].concat();
        assert_eq!(of(&long), Some(vec![7; 60_000]));
        assert_eq!(of(b"web-1"), None);
        assert_eq!(of(b""), None);
    }
}
