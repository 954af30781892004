//! The TUN device: opened by us queue by queue, because no crate opens several queues with virtio-net headers and
//! offloads, then configured through the `tun` crate over the first queue's descriptor.
//!
//! The order matters. The lock first: a second attach to a running device would succeed. The offload mask before
//! the first read: it belongs to the device and survives on a persistent one, so what was queued under an earlier
//! mask is thrown away. The device comes up last, by [`Device::up`]: `addr_gen_mode` must be set before.
//!
//! Its owner is set before all else, and a device that is not ours is left alone: see [`super::owner`].
//!
//! Addresses, sysctls, rules and routes are not made here.

mod error;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use tun::AbstractDevice;

pub use error::DeviceError;
use error::{failed, not_attached, not_opened, too_old};

use super::lock::{self, DeviceLock, LockError};
use super::owner::{self, Link, NOBODY};
use super::{TunQueue, sys};
use crate::packet::vnet::VNET_LEN;

/// Queues a device may have: as many as there may be workers.
pub const MAX_QUEUES: usize = 64;

/// What the device is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// Queues, one for each worker; 1 to [`MAX_QUEUES`].
    pub queues: usize,
    /// The device outlives the process, so that routes stay while it restarts.
    pub persist: bool,
    /// Directory of the lock file `<name>.lock`; made (mode 0700) if missing.
    pub lock_dir: PathBuf,
    /// Bytes of the largest packet the kernel routes into the device without fragmenting it.
    pub mtu: u16,
    /// Frames the kernel keeps for each queue before it drops.
    pub txqueuelen: u32,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self {
            name: "tunway0".into(),
            queues: 1,
            persist: true,
            lock_dir: "/run/tunway".into(),
            mtu: u16::MAX,
            txqueuelen: 1_000,
        }
    }
}

/// A TUN device this process owns, with all its queues attached.
#[derive(Debug)]
pub struct Device {
    name: String,
    first: OwnedFd,
    others: Vec<OwnedFd>,
    udp_offload: bool,
    discarded: usize,
    lock: Arc<DeviceLock>,
}

impl Device {
    /// Takes the lock, creates the device or attaches to it, and sets offloads, MTU and queue length. The device is
    /// not brought up.
    ///
    /// It is made in the network namespace of the calling thread.
    ///
    /// # Errors
    /// As the variants of [`DeviceError`] say. Nothing stays behind, but for a lock file nobody holds.
    pub fn open(config: &DeviceConfig) -> Result<Self, DeviceError> {
        let name = config.name.as_str();
        check_name(name)?;
        if !(1..=MAX_QUEUES).contains(&config.queues) {
            return Err(DeviceError::BadQueues { device: name.into(), queues: config.queues });
        }
        let lock = take_lock(name, &config.lock_dir)?;
        match Self::open_locked(config, &lock) {
            Ok((first, others, udp_offload, discarded)) => {
                let name = name.into();
                Ok(Self { name, first, others, udp_offload, discarded, lock: Arc::new(lock) })
            }
            Err(error) => {
                // A lock file says that a device without an owner is ours: one we made says nothing.
                if lock.is_new() {
                    let _ = lock.remove();
                }
                Err(error)
            }
        }
    }

    fn open_locked(config: &DeviceConfig, lock: &DeviceLock) -> Result<Opened, DeviceError> {
        let name = config.name.as_str();
        must_be_ours(name, lock)?;
        let first = open_queue(name)?;
        own(name, &first)?;
        let udp_offload = sys::set_offload(&first).map_err(|error| too_old(name, "TUNSETOFFLOAD", error))?;
        check_vnet_len(name, &first)?;
        let discarded = sys::tx_queue_len(name)
            .and_then(|room| drain(&first, room))
            .map_err(|error| failed(name, "empty the queue", error))?;
        let mut others = Vec::with_capacity(config.queues - 1);
        for _ in 1..config.queues {
            // Attached under the mask just set: nothing in them is of another.
            others.push(open_queue(name)?);
        }
        match sys::set_tx_queue_len(name, config.txqueuelen) {
            // SIOCSIFTXQLEN asks for CAP_NET_ADMIN in the first user namespace (`dev_ioctl`), whoever owns the device.
            // In another one the length can be set through rtnetlink only: by whoever makes the host plan.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            outcome => outcome.map_err(|error| failed(name, "set the queue length", error))?,
        }

        configure(name, &first, "set the MTU", |tun| tun.set_mtu(config.mtu))?;
        // Last, so that what fails leaves nothing. Also off: a device of an earlier life then goes with its last queue.
        sys::set_persist(&first, config.persist).map_err(|error| failed(name, "set persistence", error))?;
        Ok((first, others, udp_offload, discarded))
    }

    /// Brings the interface up.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn up(&self) -> Result<(), DeviceError> {
        self.configure("bring it up", |tun| tun.enabled(true))
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's number in its network namespace.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn index(&self) -> Result<u32, DeviceError> {
        let index = self.configure("read its number", |tun| tun.tun_index())?;
        u32::try_from(index).map_err(|_| failed(&self.name, "read its number", Errno::ENODEV.into()))
    }

    /// Whether UDP super-packets pass too (Linux 6.2); those of TCP always do.
    #[must_use]
    pub fn udp_offload(&self) -> bool {
        self.udp_offload
    }

    /// Frames thrown away at the start, because they may have been queued under another offload mask.
    #[must_use]
    pub fn discarded(&self) -> usize {
        self.discarded
    }

    /// The queues, one for each worker. The device stays locked until the last of them is dropped.
    #[must_use]
    pub fn into_queues(self) -> Vec<TunQueue> {
        let Self { first, others, lock, .. } = self;
        std::iter::once(first).chain(others).map(|fd| TunQueue::new(fd, Arc::clone(&lock))).collect()
    }

    /// Removes a device that stayed behind, and its lock file. False if there was no such device.
    ///
    /// # Errors
    /// As [`Device::open`]: above all, an instance that runs keeps its device.
    pub fn destroy(name: &str, lock_dir: &Path) -> Result<bool, DeviceError> {
        check_name(name)?;
        let lock = take_lock(name, lock_dir)?;
        let exists = match must_be_ours(name, &lock) {
            Ok(exists) => exists,
            Err(error) => {
                if lock.is_new() {
                    let _ = lock.remove();
                }
                return Err(error);
            }
        };
        if exists {
            // The interface goes with the last descriptor of a device that is not persistent.
            let queue = open_queue(name)?;
            sys::set_persist(&queue, false).map_err(|error| failed(name, "set persistence", error))?;
        }
        lock.remove().map_err(|error| failed(name, "remove its lock file", error))?;
        Ok(exists)
    }

    /// Lets the `tun` crate work on the interface, through the first queue's descriptor, which stays ours.
    fn configure<T>(
        &self,
        what: &'static str,
        change: impl FnOnce(&mut tun::Device) -> tun::Result<T>,
    ) -> Result<T, DeviceError> {
        configure(&self.name, &self.first, what, change)
    }
}

/// The first queue, the others, whether UDP super-packets pass, and frames thrown away.
type Opened = (OwnedFd, Vec<OwnedFd>, bool, usize);

fn configure<T>(
    name: &str,
    queue: &OwnedFd,
    what: &'static str,
    change: impl FnOnce(&mut tun::Device) -> tun::Result<T>,
) -> Result<T, DeviceError> {
    let mut config = tun::Configuration::default();
    config.raw_fd(queue.as_raw_fd()).close_fd_on_drop(false).tun_name(name);
    tun::create(&config)
        .and_then(|mut tun| change(&mut tun))
        .map_err(|error| failed(name, what, io::Error::from(error)))
}

/// Whether there is such an interface, which then is a device of ours. Asked before a queue is attached: another
/// program's device would give us its packets.
fn must_be_ours(name: &str, lock: &DeviceLock) -> Result<bool, DeviceError> {
    let link = owner::link(name).map_err(|error| failed(name, "ask for its owner", error))?;
    let euid = nix::unistd::geteuid().as_raw();
    match link {
        Some(link) if !link.is_ours(!lock.is_new(), euid) => {
            Err(DeviceError::Foreign { device: name.into(), why: whose(&link) })
        }
        link => Ok(link.is_some()),
    }
}

fn whose(link: &Link) -> String {
    match (link.is_tun, link.owner, link.group) {
        (false, ..) => "it is no TUN device".into(),
        (_, Some(owner), _) => format!("it belongs to user {owner}"),
        (_, _, Some(group)) => format!("it belongs to group {group}"),
        _ => "no tunway left it here".into(),
    }
}

/// Keeps everybody without CAP_NET_ADMIN from attaching a queue, whatever the mode of the device node; and says so if
/// somebody did before.
fn own(name: &str, queue: &OwnedFd) -> Result<(), DeviceError> {
    match sys::set_owner(queue, NOBODY).and_then(|()| sys::set_group(queue, NOBODY)) {
        // A user namespace that does not have the id. Its root is whoever made it, and nobody else is let in.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            sys::set_owner(queue, nix::unistd::geteuid().as_raw())
        }
        outcome => outcome,
    }
    .map_err(|error| failed(name, "set its owner", error))?;
    let link = owner::link(name).map_err(|error| failed(name, "count its queues", error))?;
    match link.and_then(|link| link.queues) {
        Some(queues) if queues > 1 => Err(DeviceError::Shared { device: name.into(), others: queues - 1 }),
        _ => Ok(()),
    }
}

/// What `dev_valid_name` of the kernel asks, and no `%`, which it would replace by a number.
fn check_name(name: &str) -> Result<(), DeviceError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let why = match name {
        "" => "is empty",
        "." | ".." => "is a directory's name",
        _ if name.len() >= libc::IFNAMSIZ => "is longer than 15 bytes",
        _ if !name.bytes().all(allowed) => "has a character an interface name should not have",
        _ => return Ok(()),
    };
    Err(DeviceError::BadName { name: name.into(), why })
}

fn take_lock(name: &str, dir: &Path) -> Result<DeviceLock, DeviceError> {
    let path = lock::path(dir, name);
    DeviceLock::take(path.clone()).map_err(|error| match error {
        LockError::Held(holder) => DeviceError::InUse { device: name.into(), path, holder },
        LockError::Io(source) => DeviceError::Lock { device: name.into(), path, source },
    })
}

fn open_queue(name: &str) -> Result<OwnedFd, DeviceError> {
    let fd = sys::open_tun().map_err(|source| not_opened(name, source))?;
    sys::attach(&fd, name).map_err(|source| not_attached(name, source))?;
    match sys::has_queue_flags(&fd) {
        Ok(true) => Ok(fd),
        Ok(false) => Err(DeviceError::Mismatch { device: name.into(), source: Errno::EINVAL.into() }),
        Err(error) => Err(failed(name, "read its flags", error)),
    }
}

fn check_vnet_len(name: &str, queue: &OwnedFd) -> Result<(), DeviceError> {
    let what = "10-byte virtio-net header";
    match sys::set_vnet_len(queue, VNET_LEN) {
        Ok(VNET_LEN) => Ok(()),
        Ok(_) => Err(too_old(name, what, Errno::EINVAL.into())),
        Err(error) => Err(too_old(name, what, error)),
    }
}

/// Throws away what a persistent device queued for us between the attach and the offload mask. Bounded by what the
/// queue can hold, `room`: later frames came under the new mask.
fn drain(queue: &OwnedFd, room: usize) -> io::Result<usize> {
    // A frame longer than the buffer is cut, and gone all the same.
    let mut scratch = [0; 64];
    for discarded in 0..room {
        if sys::read_frame(queue.as_fd(), &mut scratch)?.is_none() {
            return Ok(discarded);
        }
    }
    Ok(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_or_a_path_would_take_amiss_are_refused() {
        for good in ["tunway0", "t", "a.b-c_d", "fifteen-bytes-0"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "tun%d", "a b", "a:1", "sixteen-bytes-00", "tun\0", "größe"] {
            let said = check_name(bad).unwrap_err().to_string();
            assert!(said.contains(&format!("{bad:?}")), "{said}");
        }
    }

    #[test]
    fn the_number_of_queues_is_checked_before_anything_is_touched() {
        for queues in [0, MAX_QUEUES + 1] {
            let config =
                DeviceConfig { queues, lock_dir: "/nonexistent/tunway".into(), ..DeviceConfig::default() };
            let refused = Device::open(&config).unwrap_err();
            assert!(matches!(refused, DeviceError::BadQueues { .. }), "{refused}");
        }
    }

    #[test]
    fn draining_stops_at_the_end_of_the_queue_or_at_what_it_can_hold() {
        let (queue, peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
        queue.set_nonblocking(true).unwrap();
        let queue = queue.into();
        for _ in 0..5 {
            peer.send(&[0; 2000]).unwrap();
        }
        assert_eq!(drain(&queue, 3).unwrap(), 3);
        assert_eq!(drain(&queue, 3).unwrap(), 2);
    }
}
