//! A server's segment far outside the window must not end the connection: if it reaches the client with the server's
//! own address, the client knows no such connection and resets it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use etherparse::{IpNumber, Ipv4Header, TcpHeader, TcpSlice};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use tests::kubernetes::Site;

use crate::client::Front;
use crate::kit::{From, LAG, Outcome, PATIENCE, StopOnDrop, ensure, eventually, holds, reaches};
use crate::objects::{Family, Service, address, all_ready, pod, port, service};

const PORT: u16 = 9000;
/// How long the connection is watched: upstream watches a minute with a segment now and then, here one is injected for
/// each one of the client, hundreds in all.
const WATCH: Duration = Duration::from_secs(20);

/// The connection lives, although the server sends segments from long ago, or from far `ahead`.
pub(crate) fn out_of_window(site: &Site<'_>, ahead: bool) -> Outcome {
    all_ready(site, vec![pod("client", 0, "none"), pod("pod1", 1, "boom")])?;
    let ports = [port("boom", "TCP", 80, PORT), port("web", "TCP", 81, 80)];
    let boom = Service::create(site, service("boom", "boom", &ports))?;
    reaches(site, From::Pod("client"), boom.tcp(Family::V4, 81), &["pod1"])?;
    let std::net::IpAddr::V4(own) = address(site, "pod1", Family::V4)? else {
        return Err("no IPv4 address".into());
    };
    let (listener, raw) = site.inside("pod1", || {
        let listener = TcpListener::bind((own, PORT))?;
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
        setsockopt(&raw, ReceiveTimeout, &TimeVal::new(0, 100_000))?;
        Ok::<_, std::io::Error>((listener, raw))
    })??;
    listener.set_nonblocking(true)?;
    let (stop, injected) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        scope.spawn(|| echo(&listener, &stop));
        scope.spawn(|| inject(&raw, own, ahead, &stop, &injected));
        watch(site, boom.tcp(Family::V4, 80), &injected)
    })
}

/// A client that talks all the time; resets it sent are in its namespace's counters.
fn watch(site: &Site<'_>, front: Front, injected: &AtomicU32) -> Outcome {
    let resets = || -> Outcome<u64> { site.inside("client", || super::snmp("Tcp", "OutRsts"))? };
    let mut stream = eventually("a connection", LAG, || {
        site.inside("client", || TcpStream::connect_timeout(&front.at, PATIENCE))?
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let before = resets()?;
    let mut count = 0_u32;
    holds("the connection lives", WATCH, || {
        count += 1;
        let mut back = [0; 4];
        stream.write_all(&count.to_be_bytes())?;
        stream.read_exact(&mut back)?;
        if back == count.to_be_bytes() {
            Ok(())
        } else {
            Err(std::io::Error::other(format!("{back:?} came back")))
        }
    })?;
    let sent = injected.load(Ordering::Relaxed);
    ensure(sent > 50, || format!("only {sent} segments were injected for {count} questions"))?;
    let after = resets()?;
    ensure(after == before, || format!("the client sent {} resets", after - before))
}

/// Sends back what comes, on every connection.
fn echo(listener: &TcpListener, stop: &AtomicBool) {
    let mut open: Vec<TcpStream> = Vec::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            open.push(stream);
        }
        open.retain_mut(|stream| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => stream.write_all(&buffer[..count]).is_ok(),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        thread::sleep(Duration::from_millis(2));
    }
}

/// For each segment of a client with data, one of the server from outside the window: from its own address and port.
fn inject(raw: &OwnedFd, own: Ipv4Addr, ahead: bool, stop: &AtomicBool, injected: &AtomicU32) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok(count) = recv(raw.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
        let Some((to, segment)) = stray_segment(&buffer[..count], own, ahead) else { continue };
        let to = SockaddrIn::from(to);
        if sendto(raw.as_raw_fd(), &segment, &to, MsgFlags::empty()).is_ok() {
            injected.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The answer to a client's packet that no server would give.
fn stray_segment(packet: &[u8], own: Ipv4Addr, ahead: bool) -> Option<(SocketAddrV4, Vec<u8>)> {
    let (ip, rest) = Ipv4Header::from_slice(packet).ok()?;
    let tcp = TcpSlice::from_slice(rest).ok()?;
    if ip.protocol != IpNumber::TCP || tcp.destination_port() != PORT || tcp.payload().is_empty() {
        return None;
    }
    let payload = b"boom!!!";
    // Neither is in any window: none is a gigabyte wide.
    let distance = if ahead { 1 << 30 } else { 100_000_u32.wrapping_neg() };
    let sequence = tcp.acknowledgment_number().wrapping_add(distance);
    let mut header = TcpHeader::new(PORT, tcp.source_port(), sequence, 65_535);
    header.ack = true;
    header.acknowledgment_number = tcp.sequence_number();
    header.checksum = header.calc_checksum_ipv4_raw(own.octets(), ip.source, payload).ok()?;
    let mut segment = header.to_bytes().to_vec();
    segment.extend(payload);
    let to = SocketAddr::from((ip.source, tcp.source_port()));
    match to {
        SocketAddr::V4(to) => Some((to, segment)),
        SocketAddr::V6(_) => None,
    }
}
