//! The UDP side: one datagram in, one out, to where it came from, from the address it was sent to. A node has several
//! addresses, and a client takes answers from the one it asked only.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::libc::in6_pktinfo;
use nix::sys::socket::sockopt::Ipv6RecvPacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
};

use crate::Host;
use crate::http::plain;

/// Serves for ever.
pub(crate) fn serve(socket: &UdpSocket, host: &Host) -> nix::Result<()> {
    setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
    let mut buffer = vec![0; 65_535];
    loop {
        // What an ICMP error says of an earlier answer is not this one's matter.
        let _ = serve_one(socket, &mut buffer, host);
    }
}

fn serve_one(socket: &UdpSocket, buffer: &mut [u8], host: &Host) -> nix::Result<()> {
    let mut space = nix::cmsg_space!(in6_pktinfo);
    let (length, peer, asked) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let message =
            recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
        let asked = message.cmsgs()?.find_map(|control| {
            if let ControlMessageOwned::Ipv6PacketInfo(asked) = control { Some(asked) } else { None }
        });
        (message.bytes, message.address, asked)
    };
    let (Some(peer), Some(mut asked)) = (peer, asked) else { return Ok(()) };
    let from = SocketAddr::from((peer.ip(), peer.port()));
    let Some(answer) = buffer.get(..length).and_then(|question| answer(question, from, host)) else {
        return Ok(());
    };
    // The way back is the routes' to choose: it need not be the way the question came.
    asked.ipi6_ifindex = 0;
    let control = [ControlMessage::Ipv6PacketInfo(&asked)];
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(&answer)], &control, MsgFlags::empty(), Some(&peer)).map(drop)
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
    fn answers_come_from_the_address_that_was_asked() {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let host = Host { name: "web-1".to_owned(), ready: AtomicBool::new(true) };
        std::thread::spawn(move || serve(&socket, &host));
        for (client, server) in [("127.0.0.1:0", "127.9.9.9"), ("[::1]:0", "::1")] {
            let asking = UdpSocket::bind(client).unwrap();
            asking.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            let at = SocketAddr::new(server.parse().unwrap(), port);
            asking.send_to(b"hostname", at).unwrap();
            let mut buffer = [0; 64];
            let (length, from) = asking.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&b"web-1"[..], at));
        }
    }

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
