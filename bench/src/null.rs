//! The null forwarder: what a userspace gateway costs before it decides anything. The same device, queues,
//! validation and rewrite as tunway's, in the same loop, but one constant rewrite in each direction: no tables,
//! no Services, no state. What lies between it and tunway is the price of tunway's decisions.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use dataplane::io::{Queue, Waker};
use dataplane::packet::Packet;
use dataplane::packet::checksum::Delta;
use dataplane::packet::frame::{Batch, Frame};
use dataplane::packet::layout::{Kind, Layout};
use dataplane::packet::tuple::{Family, Proto, Tuple};
use dataplane::verdict::{DropReason, Verdict};

/// As long as an idle worker of tunway sleeps.
const IDLE: Duration = Duration::from_millis(250);

/// The constant rewrite, ports kept: what comes to `vip` goes from `snat` to `server`; what comes to `snat` goes
/// from `vip` to `client`. There is one client, because to tell two apart would take a table.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    /// The client.
    pub client: Ipv4Addr,
    /// The address it asks for.
    pub vip: Ipv4Addr,
    /// Where it is served.
    pub server: Ipv4Addr,
    /// Where the server's replies go.
    pub snat: Ipv4Addr,
}

/// Serves one queue on the calling thread, until the queue fails. A frame that is neither from the client to the VIP
/// nor from the server to the SNAT address, or not TCP or UDP over IPv4, is dropped.
///
/// # Errors
/// The queue's: there is no other end.
pub fn forward<Q: Queue>(mut queue: Q, rewrite: Rewrite) -> io::Result<()> {
    match Forwarder::new(rewrite).serve(&mut queue)? {}
}

/// Both directions with their checksum differences. They depend on the addresses alone, as ports stay.
struct Forwarder {
    rewrite: Rewrite,
    there: Delta,
    back: Delta,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    received: u64,
    forwarded: u64,
    failed: u64,
}

impl Forwarder {
    fn new(rewrite: Rewrite) -> Self {
        let Rewrite { client, vip, server, snat } = rewrite;
        let tuple = |src, dst| Tuple { src, dst, sport: 0, dport: 0, proto: Proto::Tcp };
        Self {
            rewrite,
            there: Delta::between(&tuple(client, vip), &tuple(snat, server)),
            back: Delta::between(&tuple(server, snat), &tuple(vip, client)),
            counts: Counts::default(),
        }
    }

    fn serve<Q: Queue>(&mut self, queue: &mut Q) -> io::Result<Infallible> {
        let (mut batch, waker) = (Batch::default(), Waker::new()?);
        loop {
            batch.clear();
            if queue.recv(&mut batch)? == 0 {
                queue.wait(&waker, IDLE)?;
                continue;
            }
            for frame in batch.frames_mut() {
                self.counts.received += 1;
                let verdict = self.one(frame).map_or_else(Verdict::Dropped, |()| Verdict::Translated);
                self.counts.forwarded += u64::from(verdict == Verdict::Translated);
                frame.verdict = Some(verdict);
            }
            let counts = &mut self.counts;
            queue.send(&mut batch, &mut |_| {
                counts.forwarded -= 1;
                counts.failed += 1;
            })?;
        }
    }

    fn one(&self, frame: &mut Frame) -> Result<(), DropReason> {
        let vnet = frame.vnet().ok_or(DropReason::Truncated)?;
        let layout = Layout::of(frame.packet())?;
        let csum = vnet.check(&layout, frame.packet())?;
        let (Family::V4, Kind::Flow(_)) = (layout.family(), layout.kind()) else {
            return Err(DropReason::NoFlow);
        };
        let tuple = layout.tuple::<Ipv4Addr>(frame.packet());
        let Rewrite { client, vip, server, snat } = self.rewrite;
        let (to, delta) = match (tuple.src, tuple.dst) {
            (src, dst) if (src, dst) == (client, vip) => {
                (Tuple { src: snat, dst: server, ..tuple }, self.there)
            }
            (src, dst) if (src, dst) == (server, snat) => {
                (Tuple { src: vip, dst: client, ..tuple }, self.back)
            }
            _ => return Err(DropReason::NoFlow),
        };
        Packet::from_parts(frame.packet_mut(), layout, csum).apply(&to, delta);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use dataplane::io::{MemPeer, MemQueue};
    use dataplane::packet::vnet::{VNET_LEN, VnetHdr};

    use super::*;

    const REWRITE: Rewrite = Rewrite {
        client: Ipv4Addr::new(192, 168, 1, 2),
        vip: Ipv4Addr::new(10, 96, 0, 3),
        server: Ipv4Addr::new(192, 168, 2, 2),
        snat: Ipv4Addr::new(192, 168, 77, 3),
    };
    const LIMIT: Duration = Duration::from_secs(20);

    /// An IPv4 UDP packet, ports 1000 to 2000, four bytes of payload, checksums by RFC 1071 written out here.
    fn udp(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0];
        packet.extend(src.octets().into_iter().chain(dst.octets()));
        packet.extend([1000_u16, 2000, 12, 0].into_iter().flat_map(u16::to_be_bytes));
        packet.extend(*b"data");
        let header = !sum(&packet[..20]);
        packet[10..12].copy_from_slice(&header.to_be_bytes());
        let checksum = !udp_sum(&packet);
        packet[26..28].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    fn sum(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let wide: u32 = words.sum();
        let folded = (wide & 0xffff) + (wide >> 16);
        u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
    }

    fn udp_sum(packet: &[u8]) -> u16 {
        sum(&[&packet[12..20], &[0, 17, 0, 12], &packet[20..]].concat())
    }

    fn run(frames: impl FnOnce(&MemPeer)) -> Counts {
        let (mut queue, peer) = MemQueue::new().unwrap();
        let mut forwarder = Forwarder::new(REWRITE);
        thread::scope(|scope| {
            let served = scope.spawn(|| forwarder.serve(&mut queue));
            frames(&peer);
            peer.unplug();
            served.join().unwrap().unwrap_err();
        });
        forwarder.counts
    }

    #[test]
    fn both_directions_are_rewritten_with_checksums_right_and_the_rest_kept() {
        let counts = run(|peer| {
            let Rewrite { client, vip, server, snat } = REWRITE;
            for (src, dst, wanted) in [(client, vip, udp(snat, server)), (server, snat, udp(vip, client))] {
                peer.send(VnetHdr::default(), &udp(src, dst));
                let frame = peer.await_frame(LIMIT).unwrap();
                assert_eq!(frame[VNET_LEN..], wanted);
                assert_eq!((sum(&frame[VNET_LEN..][..20]), udp_sum(&frame[VNET_LEN..])), (0xffff, 0xffff));
            }
        });
        assert_eq!(counts, Counts { received: 2, forwarded: 2, failed: 0 });
    }

    #[test]
    fn what_is_not_its_own_is_dropped_and_a_refused_frame_is_counted() {
        let counts = run(|peer| {
            let Rewrite { client, vip, server, .. } = REWRITE;
            peer.refuse(1);
            peer.send_frame(vec![1, 2, 3]);
            peer.send(VnetHdr::default(), &udp(client, server));
            peer.send(VnetHdr::default(), &udp(client, vip));
            peer.send(VnetHdr::default(), &udp(client, vip));
            assert!(peer.await_frame(LIMIT).is_some());
            assert!(peer.recv_frame().is_none());
        });
        assert_eq!(counts, Counts { received: 4, forwarded: 1, failed: 1 });
    }
}
