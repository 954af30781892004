//! Whole planes over queues in memory, with real engines and tables.

use std::net::Ipv4Addr;
use std::sync::Weak;
use std::thread;

use crossbeam::{channel, epoch};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::*;
use crate::io::{MemPeer, MemQueue};
use crate::packet::frame::Batch;
use crate::packet::tuple::Proto;
use crate::packet::vnet::{VNET_LEN, VnetHdr};
use crate::service::{Backend, Fabric, ReturnPath, Service, SnapshotBuilder, Sticky, SvcPort};
use crate::stats::Counter;
use crate::verdict::{DropReason, Verdict};

const LIMIT: Duration = Duration::from_secs(20);
const CLIENT: [u8; 4] = [192, 168, 1, 2];
const VIP: [u8; 4] = [10, 96, 0, 1];
const POD: [u8; 4] = [10, 244, 0, 5];
const SNAT: [u8; 4] = [192, 168, 77, 1];
/// Service ports of the VIP: one with an endpoint, one without.
const SERVED: u16 = 80;
const EMPTY: u16 = 81;

fn config() -> PlaneConfig {
    let region =
        RegionConfig { dir: None, name: "plane-test".into(), max_flows_v4: 4_096, max_flows_v6: 4_096 };
    PlaneConfig { region, ttls: Ttls::default(), engine: EngineConfig::default(), max_affinity: 1_024 }
}

fn plane(workers: usize) -> (Plane, Vec<MemPeer>) {
    let (queues, peers): (Vec<_>, Vec<_>) = (0..workers).map(|_| MemQueue::new().unwrap()).unzip();
    (Plane::start(&config(), queues).unwrap(), peers)
}

fn ready() -> Arc<World> {
    sticky(None)
}

fn sticky(seconds: Option<u32>) -> Arc<World> {
    let mut builder = SnapshotBuilder::new(Fabric {
        return_path: ReturnPath::Masquerade,
        snat: vec![Ipv4Addr::from(SNAT).into()],
        service_cidrs: vec![(Ipv4Addr::new(10, 96, 0, 0).into(), 12)],
        ..Fabric::default()
    });
    let pod = Backend {
        id: EndpointId(1),
        addr: Ipv4Addr::from(POD).into(),
        port: 8080,
        local: false,
        ready_or_serving: true,
    };
    for (id, port, backends) in [(1, SERVED, vec![pod]), (2, EMPTY, vec![])] {
        let (name, frontend) = (format!("default/web:{port}"), SvcPort { port, proto: Proto::Udp });
        builder.upsert(Service {
            any: !backends.is_empty(),
            cluster: (0..).take(backends.len()).collect(),
            backends: backends.into(),
            affinity: seconds.map(Sticky::new),
            ..Service::bare(ServiceId(id), &name, Ipv4Addr::from(VIP).into(), frontend)
        });
    }
    Arc::new(World::Ready(builder.build().unwrap()))
}

fn udp(src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(src.0, dst.0, 64).udp(src.1, dst.1).write(&mut packet, b"data").unwrap();
    packet
}

/// Source and destination of a UDP frame.
fn ends(frame: &[u8]) -> (([u8; 4], u16), ([u8; 4], u16)) {
    let packet = SlicedPacket::from_ip(&frame[VNET_LEN..]).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&packet.net, &packet.transport) else {
        panic!("not UDP over IPv4: {packet:?}")
    };
    ((ip.header().source(), udp.source_port()), (ip.header().destination(), udp.destination_port()))
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Clock.now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Clock.now().since(start) < 20_000_000_000, "waited 20 s for {what}");
        thread::yield_now();
    }
}

/// Waits until `received` frames have had their end, and returns the counters.
fn settled(plane: &Plane, received: u64) -> Totals {
    eventually("all frames to be counted", || {
        let totals = plane.totals();
        let ended = [Counter::Translated, Counter::Passed, Counter::Replied]
            .map(|c| totals.get(c))
            .iter()
            .sum::<u64>();
        (totals.get(Counter::Received) == received && ended + totals.dropped() == received).then_some(totals)
    })
}

#[test]
fn a_flow_opened_through_one_queue_is_answered_through_another() {
    let (mut plane, peers) = plane(2);
    peers[0].send(VnetHdr::default(), &udp((CLIENT, 4000), (VIP, SERVED)));
    assert_eq!(settled(&plane, 1).drops(DropReason::NotReady), 1);

    plane.publish(ready());
    peers[0].send(VnetHdr::default(), &udp((CLIENT, 4000), (VIP, SERVED)));
    let (from, to) = ends(&peers[0].await_frame(LIMIT).unwrap());
    assert_eq!((from.0, to), (SNAT, (POD, 8080)));
    peers[1].send(VnetHdr::default(), &udp((POD, 8080), from));
    assert_eq!(ends(&peers[1].await_frame(LIMIT).unwrap()), ((VIP, SERVED), (CLIENT, 4000)));

    let mut rows = Vec::new();
    plane.flows(&mut |row| rows.push(row));
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(row.forward.to_string(), "UDP 192.168.1.2:4000 > 10.96.0.1:80");
    assert_eq!(row.reply.to_string(), format!("UDP 10.244.0.5:8080 > 192.168.77.1:{}", from.1));
    assert_eq!((row.service, row.endpoint, row.packets), (ServiceId(1), EndpointId(1), [1, 1]));
    assert_eq!(plane.occupancy(), [1, 8_192, 0, 8_192], "a chunk for each worker, whatever was asked for");
    assert_eq!(settled(&plane, 3).get(Counter::Translated), 2);
    let each: Vec<_> = plane.worker_totals().iter().map(|t| t.get(Counter::Received)).collect();
    assert_eq!(each, [2, 1]);
    plane.stop(LIMIT).unwrap();
}

#[test]
fn clients_are_remembered_as_far_as_there_is_room_and_room_is_made() {
    let (mut plane, peers) = plane(1);
    plane.publish(sticky(Some(600)));
    for n in 0..1_100_u16 {
        let [high, low] = n.to_be_bytes();
        peers[0].send(VnetHdr::default(), &udp(([10, 7, high, low], 1_024 + n), (VIP, SERVED)));
        if n % 100 == 99 {
            settled(&plane, u64::from(n) + 1);
        }
    }
    let of_affinity = |plane: &Plane| {
        let totals = plane.totals();
        let counted = [Counter::AffinityRefused, Counter::AffinityEvicted].map(|c| totals.get(c));
        (plane.affinity(), counted, totals.get(Counter::Translated))
    };
    assert_eq!(of_affinity(&plane), ([1_024, 1_024], [76, 0], 1_100));
    plane.keep_house();
    assert_eq!(of_affinity(&plane), ([768, 1_024], [76, 256], 1_100));
    plane.keep_house();
    assert_eq!(plane.affinity(), [768, 1_024], "that is enough");
    plane.stop(LIMIT).unwrap();
}

#[test]
fn a_frame_the_device_refused_is_a_drop_and_so_is_a_frame_whose_answer_it_refused() {
    let (mut plane, peers) = plane(1);
    plane.publish(ready());
    let send = |port| peers[0].send(VnetHdr::default(), &udp((CLIENT, 4000), (VIP, port)));
    peers[0].send_frame(vec![0; 3]);
    peers[0].send_frame(Vec::new());
    send(EMPTY);
    assert!(peers[0].await_frame(LIMIT).is_some(), "the port unreachable");
    let totals = settled(&plane, 3);
    assert_eq!((totals.drops(DropReason::Truncated), totals.get(Counter::Replied)), (2, 1));

    peers[0].refuse(2);
    send(EMPTY);
    send(SERVED);
    // The verdicts come first, and are taken back when the writes have failed.
    let totals = eventually("two failed writes", || {
        Some(settled(&plane, 5)).filter(|totals| totals.drops(DropReason::WriteFailed) == 2)
    });
    assert_eq!((totals.get(Counter::Replied), totals.get(Counter::Translated)), (1, 0));
    assert_eq!(peers[0].recv_frame(), None);
    plane.stop(LIMIT).unwrap();
}

#[test]
fn a_flow_that_two_workers_open_at_once_is_one_flow_and_no_frame_is_lost() {
    const FLOWS: u16 = 500;
    let (mut plane, peers) = plane(2);
    plane.publish(ready());
    for port in 1_000..1_000 + FLOWS {
        for peer in &peers {
            peer.send(VnetHdr::default(), &udp((CLIENT, port), (VIP, SERVED)));
        }
    }
    let totals = settled(&plane, 2 * u64::from(FLOWS));
    // A worker that was off its core for 20 ms in the middle of an open costs the other's frame; nothing else may.
    let (raced, translated) = (totals.drops(DropReason::Raced), totals.get(Counter::Translated));
    assert_eq!((translated + raced, totals.dropped()), (2 * u64::from(FLOWS), raced), "{totals:?}");
    assert_eq!(plane.occupancy()[0], usize::from(FLOWS));
    plane.stop(LIMIT).unwrap();
    let mut sources: Vec<_> =
        peers.iter().flat_map(|peer| std::iter::from_fn(|| peer.recv_frame())).collect();
    assert_eq!(sources.len() as u64, translated);
    sources.sort_by_key(|frame| ends(frame));
    sources.dedup_by_key(|frame| ends(frame));
    assert_eq!(sources.len(), usize::from(FLOWS), "one SNAT port a flow, whichever worker saw it first");
}

#[test]
fn retired_worlds_go_while_workers_sleep_and_while_they_work() {
    let (mut plane, peers) = plane(2);
    let mut worlds: Vec<Weak<World>> = Vec::new();
    let mut longest = 0;
    for round in 0..300 {
        let world = ready();
        worlds.push(Arc::downgrade(&world));
        plane.publish(world);
        if round > 150 {
            peers[round % 2].send(VnetHdr::default(), &udp((CLIENT, 4000), (VIP, SERVED)));
        }
        longest = longest.max(plane.retired.len());
    }
    eventually("all retired worlds to go", || (plane.collect() == 0).then_some(()));
    let alive = worlds.iter().filter(|world| world.strong_count() > 0).count();
    assert_eq!(alive, 1, "only the current one lives; at most {longest} were retired at once");
    settled(&plane, 149);
    plane.stop(LIMIT).unwrap();
    eventually("the last world to go", || {
        epoch::pin().flush();
        worlds.iter().all(|world| world.strong_count() == 0).then_some(())
    });
}

#[test]
fn a_queue_that_fails_is_reported_and_the_others_go_on_until_they_are_stopped() {
    let (mut plane, peers) = plane(2);
    plane.publish(ready());
    assert!(plane.failed().is_none());
    peers[0].unplug();
    let said = eventually("the failure", || plane.failed()).to_string();
    assert!(said.starts_with("worker dp-0 ended: its queue failed: "), "{said}");
    peers[1].send(VnetHdr::default(), &udp((CLIENT, 4000), (VIP, SERVED)));
    assert!(peers[1].await_frame(LIMIT).is_some());
    assert!(plane.failed().is_some(), "asked twice, told twice");
    assert!(matches!(plane.stop(LIMIT), Err(PlaneError::Worker { worker: 0, .. })));
}

#[test]
fn the_number_of_queues_and_the_timers_are_checked() {
    let queues = |n: usize| (0..n).map(|_| MemQueue::new().unwrap().0).collect::<Vec<_>>();
    assert!(matches!(Plane::start(&config(), queues(0)), Err(PlaneError::Queues(0))));
    assert!(matches!(Plane::start(&config(), queues(65)), Err(PlaneError::Queues(65))));
    let never = PlaneConfig { ttls: Ttls { udp: 0, ..Ttls::default() }, ..config() };
    assert!(matches!(Plane::start(&never, queues(1)), Err(PlaneError::Ttls(_))));
}

/// A queue of the test's own making: looks at the worker from inside, and does what it is told in `wait`.
struct Spy<F> {
    events: Sender<String>,
    on_wait: F,
}

impl<F> Spy<F> {
    fn see(&self, call: &str) {
        let thread = thread::current();
        let pinned = if epoch::is_pinned() { " pinned" } else { "" };
        let _ = self.events.send(format!("{} {call}{pinned}", thread.name().unwrap_or("unnamed")));
    }
}

impl<F: FnMut(&Waker, Duration) + Send> Queue for Spy<F> {
    fn recv(&mut self, _: &mut Batch) -> io::Result<usize> {
        self.see("recv");
        Ok(0)
    }

    fn send(&mut self, _: &mut Batch, _: &mut dyn FnMut(Verdict)) -> io::Result<()> {
        self.see("send");
        Ok(())
    }

    fn wait(&mut self, waker: &Waker, limit: Duration) -> io::Result<()> {
        self.see("wait");
        (self.on_wait)(waker, limit);
        Ok(())
    }
}

impl<F> Drop for Spy<F> {
    fn drop(&mut self) {
        self.see("closed");
    }
}

/// Waits for an event, and fails on what may never be seen.
fn until(seen: &Receiver<String>, wanted: &str) {
    loop {
        let event = seen.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("waited 20 s for {wanted:?}"));
        assert!(!event.contains("pinned"), "{event}");
        if event == wanted {
            return;
        }
    }
}

fn spied<F: FnMut(&Waker, Duration) + Send + 'static>(on_wait: F) -> (Plane, Receiver<String>) {
    let (events, seen) = unbounded();
    (Plane::start(&config(), vec![Spy { events, on_wait }]).unwrap(), seen)
}

#[test]
fn a_worker_has_its_name_is_never_pinned_in_a_queue_and_sleeps_a_quarter_second_at_most() {
    let (limits, asked) = unbounded();
    let (plane, seen) = spied(move |_, limit| limits.send(limit).unwrap());
    for call in ["dp-0 recv", "dp-0 wait", "dp-0 recv"] {
        assert_eq!(seen.recv_timeout(LIMIT).unwrap(), call);
    }
    assert!(asked.recv_timeout(LIMIT).unwrap() <= Duration::from_millis(250));
    assert!(plane.totals().get(Counter::Waits) >= 1);
    plane.stop(LIMIT).unwrap();
    let rest: Vec<_> = seen.try_iter().collect();
    assert!(rest.iter().all(|event| !event.contains("pinned")), "{rest:?}");
    assert_eq!(rest.last().unwrap(), "dp-0 closed", "stopped before its queue was closed");
}

#[test]
fn a_worker_that_does_not_come_back_is_an_error_after_the_deadline() {
    let (release, held) = channel::bounded::<()>(0);
    let (plane, seen) = spied(move |_, _| {
        let _ = held.recv();
    });
    until(&seen, "dp-0 wait");
    let error = plane.stop(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.to_string(), "1 of 1 workers did not stop within 50ms");
    drop(release);
    until(&seen, "dp-0 closed");
}

#[test]
fn a_worker_that_panics_is_a_failure() {
    let (plane, _seen) = spied(|_, _| panic!("of the test's own making"));
    let said = eventually("the failure", || plane.failed()).to_string();
    assert_eq!(said, "worker dp-0 ended: it panicked: of the test's own making");
    assert!(plane.stop(LIMIT).is_err());
}

#[test]
fn a_plane_that_is_dropped_wakes_its_workers_to_end() {
    let (mut sleeper, _peer) = MemQueue::new().unwrap();
    let (plane, seen) = spied(move |waker, _| sleeper.wait(waker, Duration::from_secs(3_600)).unwrap());
    until(&seen, "dp-0 wait");
    drop(plane);
    until(&seen, "dp-0 closed");
}
