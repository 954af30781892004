//! Who may attach a queue, and what is left alone.

use std::process::Command;

use dataplane::io::{Device, DeviceConfig, DeviceError, Queue as _};
use dataplane::packet::frame::Batch;
use etherparse::PacketBuilder;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use smoltcp::phy::{self, Device as _, Medium, TxToken as _};
use smoltcp::time::Instant;

use super::rooted::ip;
use super::{DEV, VNET, config, exists, is_udp, network, read_udp};

/// An ordinary user, and root of a container that has dropped everything.
const STRANGERS: [&[&str]; 2] = [
    &["--reuid", "65534", "--regid", "65534", "--clear-groups"],
    &["--bounding-set", "-all", "--inh-caps", "-all"],
];

/// Attaches a queue as whoever setpriv makes of us, and takes persistence from the device through it; what was said on
/// failure comes back. (`ip tuntap add` only makes devices.)
fn attach_as(who: &[&str], device: &str) -> Result<(), String> {
    let queue = ["tuntap", "del", "dev", device, "mode", "tun", "multi_queue", "vnet_hdr"];
    let output = Command::new("setpriv").args(who).arg("ip").args(queue).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Makes `/dev/net/tun` open to everybody, as udev does, for this thread only.
fn open_the_node() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    let everybody = Mode::from_bits_truncate(0o666);
    let before = umask(Mode::empty());
    mknod("/dev/net/tun", SFlag::S_IFCHR, everybody, makedev(10, 200)).unwrap();
    umask(before);
}

pub(super) fn nobody_without_the_capability_attaches_though_the_node_is_open() {
    open_the_node();
    // The probe is sound: a device that nobody owns lets both in.
    for who in STRANGERS {
        ip(&["tuntap", "add", "dev", DEV, "mode", "tun", "multi_queue", "vnet_hdr"]);
        attach_as(who, DEV).unwrap();
        assert!(!exists(), "taken away through the queue, as {who:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let device = Device::open(&DeviceConfig { persist: true, ..config(&dir, 1) }).unwrap();
    let refused = |when: &str| {
        for who in STRANGERS {
            let said = attach_as(who, DEV).expect_err(when);
            assert!(said.contains("TUNSETIFF") && said.contains("not permitted"), "{when}, {who:?}: {said}");
        }
    };
    refused("while it runs");
    drop(device);
    refused("while the device waits for the next process");
    drop(Device::open(&DeviceConfig { persist: true, ..config(&dir, 2) }).unwrap());
    refused("after the next one");
}

pub(super) fn a_device_of_ours_is_known_without_its_lock_and_an_older_one_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("run").join(format!("{DEV}.lock"));
    let persistent = DeviceConfig { persist: true, ..config(&dir, 1) };
    drop(Device::open(&persistent).unwrap());
    std::fs::remove_file(&lock).unwrap();
    drop(Device::open(&persistent).unwrap());
    assert!(Device::destroy(DEV, &dir.path().join("run")).unwrap());

    // As a version left it that set no owner.
    let older = || ip(&["tuntap", "add", "dev", DEV, "mode", "tun", "multi_queue", "vnet_hdr"]);
    older();
    for _ in 0..2 {
        let error = Device::open(&persistent).unwrap_err();
        assert!(matches!(error, DeviceError::Foreign { .. }), "{error}");
        assert!(!lock.exists(), "a refused start leaves nothing that makes the next one take it");
        assert!(matches!(Device::destroy(DEV, &dir.path().join("run")), Err(DeviceError::Foreign { .. })));
    }
    std::fs::create_dir_all(dir.path().join("run")).unwrap();
    std::fs::write(&lock, "4194999\n").unwrap();
    drop(Device::open(&persistent).unwrap());
    let shown = ip(&["-d", "link", "show", DEV]);
    assert!(shown.contains("user 2104847991") && shown.contains("group 2104847991"), "{shown}");
}

pub(super) fn a_device_of_another_program_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("run")).unwrap();
    std::fs::write(dir.path().join("run").join(format!("{DEV}.lock")), "4194999\n").unwrap();
    for owner in [&["user", "1000"][..], &["group", "1000"], &["user", "1000", "group", "1000"]] {
        ip(&[&["tuntap", "add", "dev", DEV, "mode", "tun", "multi_queue", "vnet_hdr"], owner].concat());
        let before = ip(&["-d", "link", "show", DEV]);
        let said = Device::open(&config(&dir, 1)).unwrap_err().to_string();
        assert!(said.contains("1000") && said.contains("left alone") && !said.contains("link del"), "{said}");
        assert!(Device::destroy(DEV, &dir.path().join("run")).is_err() && exists());
        assert_eq!(ip(&["-d", "link", "show", DEV]), before, "nothing of it was changed");
        ip(&["link", "del", DEV]);
    }
}

pub(super) fn a_queue_somebody_attached_before_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let device = Device::open(&DeviceConfig { persist: true, ..config(&dir, 2) }).unwrap();
    // Another mount of /run, say: the lock does not see who holds it.
    std::fs::remove_file(run.join(format!("{DEV}.lock"))).unwrap();
    let error = Device::open(&config(&dir, 1)).unwrap_err();
    assert!(matches!(error, DeviceError::Shared { others: 2, .. }), "{error}");
    drop(device);
    drop(Device::open(&config(&dir, 1)).unwrap());
}

pub(super) fn a_packet_sockets_packets_come_as_routed_ones_do() {
    let (mut queues, _dir) = network(1);
    let mut packet = Vec::new();
    PacketBuilder::ipv4([10, 9, 0, 77], [10, 9, 0, 2], 64).udp(7, 9).write(&mut packet, b"sent").unwrap();
    let mut socket = phy::RawSocket::new(DEV, Medium::Ip).unwrap();
    let token = socket.transmit(Instant::ZERO).unwrap();
    token.consume(packet.len(), |buffer| buffer.copy_from_slice(&packet));
    let frame = read_udp(&mut queues[0]);
    assert_eq!(frame[..VNET], [0; VNET], "no offload is claimed for it");
    assert_eq!(frame[VNET..], packet);
    let mut batch = Batch::default();
    queues[0].recv(&mut batch).unwrap();
    assert!(!batch.frames().iter().any(|frame| is_udp(frame.bytes())), "once");
}
