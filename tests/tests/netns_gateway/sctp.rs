//! SCTP with the kernel as the judge: its connection tracking, on both sides, verifies every CRC. This needs no SCTP
//! sockets: packets are built and sent raw, and a host without SCTP answers an INIT with an ICMP error.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use tests::check::{L4, View, valid};
use tests::netns::{Capture, Namespace, wait_for};
use tests::packets::{Wire, chunks, sctp};

use crate::site::{PATIENCE, Site, at, service};

/// The ClusterIPs of Service `core`, port 3868; its endpoint listens on another.
const CORE: [&str; 2] = ["10.96.0.38", "fd00:96::38"];
const PORT: u16 = 13_868;
/// An INIT's value: the tag of the answers (the one of all our packets), windows, streams, first number.
const INIT: [u8; 16] = [0x12, 0x34, 0x56, 0x78, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];

/// Counts what connection tracking takes for valid, and what not.
const JUDGE: &str = "table inet judge {\n\
    counter good {}\n counter bad {}\n\
    chain in {\n type filter hook prerouting priority 0;\n\
    meta l4proto sctp ct state new,established counter name good\n\
    meta l4proto sctp ct state invalid counter name bad\n }\n}\n";

/// An INIT and its answer, with other addresses and another port, are right to the kernel; so is its ICMP error.
pub(crate) fn judged_by_the_kernel() {
    let site = Site::serving(1500);
    site.write("core.yaml", &manifest());
    wait_for("the Service is there", PATIENCE, || site.told("services").contains("SCTP"));
    for (n, vip) in CORE.iter().enumerate() {
        let (client, vip) = (at(["10.1.0.2", "fd00:1:0::2"][n], 40_000), at(vip, 3_868));
        let backend = at(["10.2.0.2", "fd00:2:0::2"][n], PORT);
        for host in [&site.client, &site.backends[0]] {
            let _ = host.nft("delete table inet judge");
            host.nft(JUDGE).unwrap();
        }
        let (here, there) =
            (Capture::start(&site.client).unwrap(), Capture::start(&site.backends[0]).unwrap());
        let init = sctp(client, vip, &[chunks::INIT]).payload(INIT).bytes();
        send(&site.client, &init, vip);
        wait_for("the INIT arrives", PATIENCE, || judged(&site.backends[0], "good") == 1);
        let arrived = find(&there.stop(), |view| view.dst == backend && matches!(view.l4, L4::Sctp { .. }));
        let answer = sctp(backend, arrived.src, &[chunks::INIT_ACK]).payload(INIT).bytes();
        send(&site.backends[0], &answer, arrived.src);
        wait_for("the answer arrives", PATIENCE, || judged(&site.client, "good") == 1);
        let packets = here.stop();
        find(&packets, |view| (view.src, view.dst) == (vip, client) && matches!(view.l4, L4::Sctp { .. }));
        let quoted = |view: &View| matches!(view.l4, L4::Icmp { quoted: Some(quoted), .. } if (quoted.src, quoted.dst) == (client, vip));
        let error = find(&packets, quoted);
        assert_eq!(error.src.ip(), vip.ip(), "from whom the client knows");
        for host in [&site.client, &site.backends[0]] {
            assert_eq!(judged(host, "bad"), 0);
        }
        // What is corrupt arrives so, and the judge finds it.
        let mut corrupt = init;
        *corrupt.last_mut().unwrap() ^= 1;
        send(&site.client, &corrupt, vip);
        wait_for("the corrupt INIT arrives", PATIENCE, || judged(&site.backends[0], "bad") == 1);
        assert_eq!(judged(&site.backends[0], "good"), 1);
    }
    site.assert_nothing_uncounted();
}

/// Packets connection tracking has judged so.
fn judged(host: &Namespace, counter: &str) -> u64 {
    let text = host.run(&format!("nft list counter inet judge {counter}")).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

/// The packet that is wanted; all its checksums are right.
fn find(packets: &[Vec<u8>], wanted: impl Fn(&View) -> bool) -> View {
    let views = packets.iter().filter_map(|packet| valid(&Wire::plain(packet.clone())).ok());
    let views: Vec<View> = views.collect();
    views.iter().find(|view| wanted(view)).cloned().unwrap_or_else(|| panic!("{views:#?}"))
}

/// Sends a packet as it is.
fn send(host: &Namespace, bytes: &[u8], to: SocketAddr) {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    let sent = host.enter(|| -> nix::Result<usize> {
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        sendto(socket.as_raw_fd(), bytes, &to, MsgFlags::empty())
    });
    assert_eq!(sent.unwrap(), Ok(bytes.len()));
}

fn manifest() -> String {
    let mut text = service("core", CORE, &[("s", "SCTP", 3_868)]);
    for (family, address) in [("IPv4", "10.2.0.2"), ("IPv6", "fd00:2:0::2")] {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: core-{}\n  \
             namespace: default\n  labels: {{kubernetes.io/service-name: core}}\naddressType: {family}\n\
             ports: [{{name: s, port: {PORT}, protocol: SCTP}}]\n\
             endpoints:\n- {{addresses: [\"{address}\"], conditions: {{ready: true}}}}\n",
            family.to_lowercase()
        );
    }
    text
}
