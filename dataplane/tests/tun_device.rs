//! The TUN device and its queues against the real kernel, each test in a network namespace of its own that dies
//! with the test's thread. Needs root; without it every test is reported as ignored, and as failed if
//! `TUNWAY_REQUIRE_ROOT=1`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "it is its own test harness")]

#[path = "tun_device/owner.rs"]
mod owner;
#[path = "tun_device/plane.rs"]
mod plane;
#[path = "tun_device/rooted.rs"]
mod rooted;

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

use dataplane::clock::Clock;
use dataplane::io::{Device, DeviceConfig, DeviceError, Queue, TunQueue, Waker};
use dataplane::packet::frame::Batch;
use dataplane::verdict::Verdict;
use etherparse::PacketBuilder;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use rooted::{eventually, ip};
use tempfile::TempDir;

const DEV: &str = "twtest0";
const VNET: usize = 10;
const LIMIT: Duration = Duration::from_secs(10);

fn config(dir: &TempDir, queues: usize) -> DeviceConfig {
    let lock_dir = dir.path().join("run");
    DeviceConfig { name: DEV.into(), queues, persist: false, lock_dir, mtu: 9_000, txqueuelen: 700 }
}

fn opening_makes_what_was_asked_for_and_leaves_it_down() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::open(&config(&dir, 1)).unwrap();
    let shown = ip(&["-d", "link", "show", DEV]);
    for word in
        ["mtu 9000", "qlen 700", "state DOWN", "tun type tun", "vnet_hdr on", "multi_queue", "persist off"]
    {
        assert!(shown.contains(word), "no {word:?} in {shown}");
    }
    assert!(shown.starts_with(&format!("{}: {DEV}", device.index().unwrap())), "{shown}");
    device.up().unwrap();
    assert!(ip(&["link", "show", DEV]).contains(",UP"));
    assert_eq!((device.name(), device.discarded()), (DEV, 0));
    drop(device);
    assert!(!exists());
}

fn every_packet_arrives_on_one_of_two_queues() {
    let (mut queues, _dir) = network(2);
    assert_eq!(queues.len(), 2);
    let (mut wanted, mut batch) = (64, Batch::default());
    for number in 0..wanted {
        // A socket each: another port is another flow, and flows are spread over the queues.
        local_socket().send_to(&[number; 100], "10.9.0.2:7").unwrap();
    }
    let mut seen = [0; 2];
    eventually("all packets", || {
        for (queue, seen) in queues.iter_mut().zip(&mut seen) {
            batch.clear();
            queue.recv(&mut batch).unwrap();
            let here = batch.frames().iter().filter(|frame| is_udp(frame.bytes())).count();
            *seen += here;
            wanted -= u8::try_from(here).unwrap();
        }
        wanted == 0
    });
    assert!(seen.iter().all(|n| *n > 0), "one queue got nothing: {seen:?}");
}

fn a_second_owner_is_refused_until_the_last_queue_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::open(&config(&dir, 2)).unwrap();
    let refused = |why: &str| {
        let error = Device::open(&config(&dir, 1)).expect_err(why);
        let said = error.to_string();
        assert!(matches!(error, DeviceError::InUse { .. }), "{said}");
        let lock = dir.path().join("run").join(format!("{DEV}.lock"));
        for word in [DEV, &std::process::id().to_string(), lock.to_str().unwrap()] {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
        assert!(
            matches!(Device::destroy(DEV, &dir.path().join("run")), Err(DeviceError::InUse { .. })),
            "{why}"
        );
    };
    refused("the device is held");
    let mut queues = device.into_queues();
    refused("its queues are held");
    queues.remove(0);
    refused("one queue is held");
    drop(queues);
    Device::open(&config(&dir, 1)).unwrap();
}

fn a_persistent_device_stays_and_is_taken_over_with_any_number_of_queues() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let persistent = |queues| DeviceConfig { persist: true, ..config(&dir, queues) };
    let first = Device::open(&persistent(1)).unwrap();
    first.up().unwrap();
    let index = first.index().unwrap();
    drop(first);
    assert!(exists());
    let again = Device::open(&persistent(4)).unwrap();
    assert_eq!(again.index().unwrap(), index);
    assert_eq!(again.into_queues().len(), 4);
    assert!(ip(&["-d", "link", "show", DEV]).contains("persist on"));

    assert!(Device::destroy(DEV, &run).unwrap());
    assert!(!exists() && !run.join(format!("{DEV}.lock")).exists());
    assert!(!Device::destroy(DEV, &run).unwrap(), "destroyed twice");

    drop(Device::open(&persistent(1)).unwrap());
    drop(Device::open(&config(&dir, 1)).unwrap());
    assert!(!exists(), "opened as not persistent, so it goes with its last queue");
}

fn interfaces_of_another_kind_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, kind: &str| {
        let error = Device::open(&DeviceConfig { name: name.into(), ..config(&dir, 1) }).expect_err(kind);
        assert!(matches!(error, DeviceError::Foreign { .. }), "{kind}: {error}");
        assert!(error.to_string().contains("left alone"), "{error}");
        ip(&["link", "show", name]);
    };
    refused("lo", "loopback");
    for kind in [&["mode", "tap", "multi_queue"][..], &["mode", "tun"]] {
        ip(&[&["tuntap", "add", DEV], kind].concat());
        refused(DEV, &kind.join(" "));
        ip(&[&["tuntap", "del", DEV], kind].concat());
    }
    // Where a lock file names it, it is of a kind no version of ours makes.
    let run = dir.path().join("run");
    std::fs::write(run.join(format!("{DEV}.lock")), "4194999\n").unwrap();
    ip(&["tuntap", "add", DEV, "mode", "tun"]);
    let error = Device::open(&config(&dir, 1)).unwrap_err();
    assert!(matches!(error, DeviceError::Mismatch { .. }), "{error}");
}

fn super_packets_come_whole_with_their_segment_size() {
    let (mut queues, _dir) = network(1);
    let socket = local_socket();
    setsockopt(&socket, UdpGsoSegment, &1000).unwrap();
    socket.send_to(&[7; 10_000], "10.9.0.2:7").unwrap();
    let frame = read_udp(&mut queues[0]);
    assert_eq!(frame.len(), VNET + 20 + 8 + 10_000);
    // flags NEEDS_CSUM, gso_type UDP_L4, gso_size, csum_start, csum_offset: struct virtio_net_hdr.
    assert_eq!((frame[0], frame[1]), (1, 5), "{:?}", &frame[..VNET]);
    let word = |at: usize| u16::from_ne_bytes([frame[at], frame[at + 1]]);
    assert_eq!((word(4), word(6), word(8)), (1000, 20, 6));

    // And back the same way: the kernel splits it for the socket.
    let (mut back, receiver) = (frame, local_socket());
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let packet = &mut back[VNET..];
    for at in 0..4 {
        packet.swap(12 + at, 16 + at);
    }
    packet[22..24].copy_from_slice(&receiver.local_addr().unwrap().port().to_be_bytes());
    assert_eq!(write(&mut queues[0], &[&back]), 0);
    for segment in 0..10 {
        let len = receiver.recv(&mut [0; 2000]).unwrap();
        assert_eq!(len, 1000, "segment {segment}");
    }
}

fn frames_the_kernel_finds_malformed_are_counted_and_the_next_one_passes() {
    let (mut queues, _dir) = network(1);
    let receiver = local_socket();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let good = udp_to(&receiver);
    let mut bad_offsets = good.clone();
    bad_offsets[0] = 1;
    bad_offsets[6..8].copy_from_slice(&60_000_u16.to_ne_bytes());
    let bad: [&[u8]; 5] = [&[], &[0; 5], &[0; VNET], &[0; VNET + 40], &bad_offsets];
    assert_eq!(write(&mut queues[0], &bad), bad.len());
    assert_eq!(write(&mut queues[0], &[&good]), 0);
    assert_eq!(receiver.recv(&mut [0; 100]).unwrap(), 4);
}

fn a_device_that_is_down_refuses_frames_and_works_again_when_it_is_up() {
    let (mut queues, _dir) = network(1);
    let receiver = local_socket();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let good = udp_to(&receiver);
    ip(&["link", "set", DEV, "down"]);
    assert_eq!(write(&mut queues[0], &[&good, &good]), 2);
    // Meanwhile it is a device without packets, once those from before are read.
    while queues[0].recv(&mut Batch::default()).unwrap() > 0 {}
    let pause = Duration::from_millis(50);
    let start = Clock.now();
    queues[0].wait(&Waker::new().unwrap(), pause).unwrap();
    assert!(Clock.now().since(start) >= 50_000_000, "waiting on a device that is down spins");
    ip(&["link", "set", DEV, "up"]);
    assert_eq!(write(&mut queues[0], &[&good]), 0);
    assert_eq!(receiver.recv(&mut [0; 100]).unwrap(), 4);
}

fn a_device_that_was_deleted_is_an_error_for_every_call() {
    let (mut queues, _dir) = network(1);
    let good = udp_to(&local_socket());
    ip(&["link", "del", DEV]);
    let queue = &mut queues[0];
    let start = Clock.now();
    assert!(queue.wait(&Waker::new().unwrap(), LIMIT).is_err());
    assert!(Clock.now().since(start) < 5_000_000_000, "the wait ran to its limit");
    assert!(queue.recv(&mut Batch::default()).is_err());
    let (mut batch, mut failed) = (batch_of(&[&good, &good]), 0);
    assert!(queue.send(&mut batch, &mut |_| failed += 1).is_err());
    assert_eq!(failed, 2);
}

/// A device that is up as 10.9.0.1/24, its queues, and the directory of its lock.
fn network(queues: usize) -> (Vec<TunQueue>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::open(&config(&dir, queues)).unwrap();
    assert!(device.udp_offload(), "kernels since 6.2 have it");
    device.up().unwrap();
    ip(&["addr", "add", "10.9.0.1/24", "dev", DEV]);
    (device.into_queues(), dir)
}

fn local_socket() -> UdpSocket {
    UdpSocket::bind("10.9.0.1:0").unwrap()
}

fn udp_to(receiver: &UdpSocket) -> Vec<u8> {
    let mut frame = vec![0; VNET];
    let builder = PacketBuilder::ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64);
    builder.udp(7, receiver.local_addr().unwrap().port()).write(&mut frame, b"good").unwrap();
    frame
}

fn is_udp(frame: &[u8]) -> bool {
    frame.get(VNET).is_some_and(|b| b >> 4 == 4) && frame.get(VNET + 9) == Some(&17)
}

/// The next IPv4 UDP frame; the kernel's own IPv6 chatter is passed over.
fn read_udp(queue: &mut TunQueue) -> Vec<u8> {
    let (mut batch, mut found) = (Batch::default(), None);
    let waker = Waker::new().unwrap();
    eventually("a UDP packet", || {
        batch.clear();
        queue.wait(&waker, Duration::from_millis(100)).unwrap();
        queue.recv(&mut batch).unwrap();
        found = batch
            .frames()
            .iter()
            .map(dataplane::packet::frame::Frame::bytes)
            .find(|b| is_udp(b))
            .map(<[u8]>::to_vec);
        found.is_some()
    });
    found.unwrap()
}

fn batch_of(frames: &[&[u8]]) -> Batch {
    let mut batch = Batch::default();
    for bytes in frames {
        let frame = batch.spare().unwrap();
        frame.buffer_mut()[..bytes.len()].copy_from_slice(bytes);
        frame.set_len(bytes.len());
        frame.verdict = Some(Verdict::Translated);
        batch.push();
    }
    batch
}

/// How many of the frames the device did not take.
fn write(queue: &mut TunQueue, frames: &[&[u8]]) -> usize {
    let (mut batch, mut failed) = (batch_of(frames), 0);
    queue
        .send(&mut batch, &mut |verdict| {
            assert_eq!(verdict, Verdict::Translated);
            failed += 1;
        })
        .unwrap();
    failed
}

fn exists() -> bool {
    rooted::try_ip(&["link", "show", DEV]).is_ok()
}

fn main() -> ExitCode {
    let tests: &[rooted::Test] = &rooted::tests![
        opening_makes_what_was_asked_for_and_leaves_it_down,
        every_packet_arrives_on_one_of_two_queues,
        a_second_owner_is_refused_until_the_last_queue_is_gone,
        a_persistent_device_stays_and_is_taken_over_with_any_number_of_queues,
        interfaces_of_another_kind_are_refused_and_left_alone,
        super_packets_come_whole_with_their_segment_size,
        frames_the_kernel_finds_malformed_are_counted_and_the_next_one_passes,
        a_device_that_is_down_refuses_frames_and_works_again_when_it_is_up,
        a_device_that_was_deleted_is_an_error_for_every_call,
        owner::nobody_without_the_capability_attaches_though_the_node_is_open,
        owner::a_device_of_ours_is_known_without_its_lock_and_an_older_one_by_it,
        owner::a_device_of_another_program_is_left_alone,
        owner::a_queue_somebody_attached_before_is_told,
        owner::a_packet_sockets_packets_come_as_routed_ones_do,
        plane::a_service_is_served_over_tcp_with_super_packets_and_every_frame_is_counted,
        plane::a_device_deleted_under_a_plane_is_a_failure,
    ];
    rooted::run(tests)
}
