//! Every syscall the packet path and the device need, each behind a safe function.
//!
//! Reading, writing, polling and locking go through `nix`; only the ioctls of `drivers/net/tun.c`, two
//! interface requests, and `getrandom` have no safe wrapper.
#![allow(unsafe_code, reason = "tun ioctls, interface requests and getrandom have no safe wrapper")]

use std::ffi::{c_char, c_int, c_short, c_uint};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Waker;

/// Where the TUN driver is opened.
pub(in crate::io) const TUN_NODE: &str = "/dev/net/tun";

/// What every queue of ours is: layer 3, no packet information, virtio-net headers, one of several queues.
#[allow(clippy::cast_possible_truncation, reason = "flags of 16 bits, checked below")]
const QUEUE_FLAGS: c_short = FLAGS as c_short;
const FLAGS: c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
const _: () = assert!(FLAGS < 1 << 15);

/// Offloads of every kernel since 4.4: whole TCP super-packets with partial checksums, ECN included.
const OFFLOAD_TCP: c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// The same for UDP, Linux 6.2.
const OFFLOAD_UDP: c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

mod ioctl {
    nix::ioctl_readwrite_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_read_bad!(tungetiff, libc::TUNGETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(tunsetpersist, libc::TUNSETPERSIST);
    nix::ioctl_write_int_bad!(tunsetowner, libc::TUNSETOWNER);
    nix::ioctl_write_int_bad!(tunsetgroup, libc::TUNSETGROUP);
    nix::ioctl_write_int_bad!(tunsetoffload, libc::TUNSETOFFLOAD);
    nix::ioctl_read_bad!(tungetvnethdrsz, libc::TUNGETVNETHDRSZ, libc::c_int);
    nix::ioctl_write_ptr_bad!(tunsetvnethdrsz, libc::TUNSETVNETHDRSZ, libc::c_int);
    nix::ioctl_readwrite_bad!(siocgiftxqlen, libc::SIOCGIFTXQLEN, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsiftxqlen, libc::SIOCSIFTXQLEN, libc::ifreq);
}

/// Opens the TUN driver: a descriptor that is no queue yet, non-blocking and closed on exec.
pub(super) fn open_tun() -> io::Result<OwnedFd> {
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN_NODE)?;
    Ok(file.into())
}

/// Makes the descriptor a queue of the device, which is created if there is none of this name.
pub(super) fn attach(fd: &OwnedFd, name: &str) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = QUEUE_FLAGS;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is ours and initialised.
    unsafe { ioctl::tunsetiff(fd.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

/// Whether the device the queue belongs to has all the flags our queues are opened with.
///
/// An attach to a device that another process holds succeeds with different flags and changes nothing.
pub(super) fn has_queue_flags(fd: &OwnedFd) -> io::Result<bool> {
    let mut request = request("")?;
    // SAFETY: TUNGETIFF writes one `ifreq`, which is ours.
    unsafe { ioctl::tungetiff(fd.as_raw_fd(), &raw mut request) }?;
    // SAFETY: TUNGETIFF filled the flags, and every bit pattern is a valid integer.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(flags & QUEUE_FLAGS == QUEUE_FLAGS)
}

/// Makes the device outlive its descriptors, or not.
pub(super) fn set_persist(fd: &OwnedFd, persist: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes a number, no pointer.
    unsafe { ioctl::tunsetpersist(fd.as_raw_fd(), c_int::from(persist)) }?;
    Ok(())
}

/// Lets only this user, and who has CAP_NET_ADMIN, attach queues.
pub(super) fn set_owner(fd: &OwnedFd, uid: u32) -> io::Result<()> {
    let uid = c_int::try_from(uid).map_err(|_| Errno::EINVAL)?;
    // SAFETY: TUNSETOWNER takes a number, no pointer.
    unsafe { ioctl::tunsetowner(fd.as_raw_fd(), uid) }?;
    Ok(())
}

/// The same for a group, beside the user.
pub(super) fn set_group(fd: &OwnedFd, gid: u32) -> io::Result<()> {
    let gid = c_int::try_from(gid).map_err(|_| Errno::EINVAL)?;
    // SAFETY: TUNSETGROUP takes a number, no pointer.
    unsafe { ioctl::tunsetgroup(fd.as_raw_fd(), gid) }?;
    Ok(())
}

/// Asks for super-packets and partial checksums. True if UDP super-packets are among them.
///
/// The mask is the device's, not the descriptor's, and survives on a persistent device.
pub(super) fn set_offload(fd: &OwnedFd) -> io::Result<bool> {
    match offload(fd.as_raw_fd(), OFFLOAD_TCP | OFFLOAD_UDP) {
        Err(Errno::EINVAL) => Ok(offload(fd.as_raw_fd(), OFFLOAD_TCP).map(|()| false)?),
        with_udp => Ok(with_udp.map(|()| true)?),
    }
}

fn offload(fd: RawFd, mask: c_uint) -> nix::Result<()> {
    let mask = c_int::try_from(mask).map_err(|_| Errno::EINVAL)?;
    // SAFETY: TUNSETOFFLOAD takes a number, no pointer.
    unsafe { ioctl::tunsetoffload(fd, mask) }.map(drop)
}

/// Bytes of the virtio-net header in front of each packet, after asking for `wanted`.
pub(super) fn set_vnet_len(fd: &OwnedFd, wanted: usize) -> io::Result<usize> {
    let mut size = c_int::try_from(wanted).map_err(|_| Errno::EINVAL)?;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which is ours.
    unsafe { ioctl::tunsetvnethdrsz(fd.as_raw_fd(), &raw const size) }?;
    // SAFETY: TUNGETVNETHDRSZ writes one int, which is ours.
    unsafe { ioctl::tungetvnethdrsz(fd.as_raw_fd(), &raw mut size) }?;
    Ok(usize::try_from(size).map_err(|_| Errno::EINVAL)?)
}

/// Frames the kernel keeps for one queue of the interface before it drops.
pub(super) fn tx_queue_len(name: &str) -> io::Result<usize> {
    let socket = UnixDatagram::unbound()?;
    let mut request = request(name)?;
    // SAFETY: SIOCGIFTXQLEN reads and writes one `ifreq`, which is ours and initialised.
    unsafe { ioctl::siocgiftxqlen(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the kernel filled `ifr_qlen`, an int at the union's start as `ifru_metric` is.
    let len = unsafe { request.ifr_ifru.ifru_metric };
    Ok(usize::try_from(len).unwrap_or(0))
}

/// Sets [`tx_queue_len`].
pub(super) fn set_tx_queue_len(name: &str, frames: u32) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_metric = c_int::try_from(frames).map_err(|_| Errno::EINVAL)?;
    // SAFETY: SIOCSIFTXQLEN reads one `ifreq`, which is ours and initialised.
    unsafe { ioctl::siocsiftxqlen(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// An empty request that names an interface of at most 15 bytes.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is integers, an array of them, and a raw pointer; all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(Errno::ENAMETOOLONG.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

/// Reads one frame. `Ok(None)`: there is none now.
pub(super) fn read_frame(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match nix::unistd::read(fd, buffer) {
            Ok(len) => return Ok(Some(len)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(Errno::EBADFD) => return Err(device_gone()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes one frame in one contiguous write. `Ok(false)`: the device did not take this one.
///
/// EINVAL is a packet the kernel finds malformed, EIO a device that is down, ENOBUFS, ENOMEM and EAGAIN
/// are want of memory: each is about this frame or this moment. Only a queue without a device (EBADFD) ends it.
pub(super) fn write_frame(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<bool> {
    loop {
        match nix::unistd::write(fd, bytes) {
            Ok(len) => return Ok(len == bytes.len()),
            Err(Errno::EINTR) => {}
            Err(Errno::EBADFD) => return Err(device_gone()),
            Err(error @ (Errno::EBADF | Errno::ENODEV | Errno::ENXIO)) => return Err(error.into()),
            Err(_) => return Ok(false),
        }
    }
}

/// Waits until `fd` is readable, `waker` was used, a signal came, or `limit` is over (rounded up to whole milliseconds).
pub(super) fn wait(fd: BorrowedFd<'_>, waker: &Waker, limit: Duration) -> io::Result<()> {
    let millis = limit.as_nanos().div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [queue, event] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    if event.contains(PollFlags::POLLIN) {
        waker.take();
    }
    // tun_chr_poll says POLLERR when the descriptor has lost its device; waiting on would spin.
    if queue.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL) {
        return Err(device_gone());
    }
    Ok(())
}

/// What the kernel calls "file descriptor in bad state" (EBADFD), in words.
pub(super) fn device_gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the TUN device was deleted while it was in use")
}

/// 64 bits of the kernel's randomness.
///
/// # Errors
/// The kernel has no getrandom (before 3.17), or a filter forbids it.
pub(crate) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0_u8; 8];
    // SAFETY: the pointer and the length are of one array, which is ours and writable.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) != Ok(bytes.len()) {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from_ne_bytes(bytes))
}
