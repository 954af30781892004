//! What can go wrong with a device. Every error says which device, what was tried, and what to do.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use super::MAX_QUEUES;
use crate::io::sys::TUN_NODE;

/// Why the device cannot be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The name is no interface name.
    #[error("device name {name:?} {why}: choose 1 to 15 letters, digits, '.', '_' or '-'")]
    BadName {
        /// As given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Too few or too many queues.
    #[error("device {device}: {queues} queues asked for: between 1 and {max} are possible", max = MAX_QUEUES)]
    BadQueues {
        /// The device.
        device: String,
        /// As given.
        queues: usize,
    },
    /// Another instance owns the device.
    #[error(
        "device {device} is in use by {}, which holds {}: stop it, or choose another device name",
        holder.map_or_else(
            || "a process of another PID namespace, as another container's is".to_owned(),
            |pid| format!("process {pid}"),
        ),
        path.display()
    )]
    InUse {
        /// The device.
        device: String,
        /// The lock file.
        path: PathBuf,
        /// The owner's process, if it is one of this PID namespace.
        holder: Option<u32>,
    },
    /// The lock file cannot be made or locked.
    #[error("device {device}: lock file {}: {source}: the directory must exist or be makeable, and be writable", path.display())]
    Lock {
        /// The device.
        device: String,
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no TUN driver to open.
    #[error(
        "{} cannot be opened ({source}): load the driver with `modprobe tun`; \
         in a container, give it that device node",
        TUN_NODE
    )]
    NoTunNode {
        /// What the system said.
        source: io::Error,
    },
    /// The kernel does not let us.
    #[error("device {device}: not allowed to {what}: run as root or with CAP_NET_ADMIN")]
    NotPermitted {
        /// The device.
        device: String,
        /// What was tried.
        what: &'static str,
    },
    /// An interface of this name exists that is another program's.
    #[error(
        "device {device} exists and is not tunway's ({why}): it is left alone; choose another device name"
    )]
    Foreign {
        /// The device.
        device: String,
        /// How that was told.
        why: String,
    },
    /// Other processes have queues of the device and would get a share of its packets.
    #[error(
        "device {device}: {others} of its queues are attached to other processes, which get a share of its packets: \
         stop them (they have /dev/net/tun open), or choose another device name"
    )]
    Shared {
        /// The device.
        device: String,
        /// Queues that are not ours.
        others: u32,
    },
    /// An interface of this name exists that is not a multi-queue TUN device, or one another program holds.
    #[error(
        "device {device} exists and cannot be attached to ({source}): it is not a multi-queue TUN device with \
         virtio-net headers, or another program holds it: choose another device name"
    )]
    Mismatch {
        /// The device.
        device: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel lacks something we cannot do without.
    #[error(
        "device {device}: this kernel has no {what} for TUN devices ({source}): use a newer one; Linux 5.10 has it"
    )]
    KernelTooOld {
        /// The device.
        device: String,
        /// What it lacks.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else the system refused.
    #[error("device {device}: cannot {what}: {source}")]
    Io {
        /// The device.
        device: String,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

pub(super) fn not_opened(name: &str, source: io::Error) -> DeviceError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return failed(name, "open /dev/net/tun", source);
    }
    DeviceError::NoTunNode { source }
}

pub(super) fn not_attached(name: &str, source: io::Error) -> DeviceError {
    if matches!(errno(&source), Some(Errno::EINVAL | Errno::EBUSY)) {
        return DeviceError::Mismatch { device: name.into(), source };
    }
    failed(name, "attach a queue", source)
}

pub(super) fn too_old(name: &str, what: &'static str, source: io::Error) -> DeviceError {
    DeviceError::KernelTooOld { device: name.into(), what, source }
}

pub(super) fn failed(name: &str, what: &'static str, source: io::Error) -> DeviceError {
    if matches!(errno(&source), Some(Errno::EPERM | Errno::EACCES)) {
        return DeviceError::NotPermitted { device: name.into(), what };
    }
    DeviceError::Io { device: name.into(), what, source }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_device_and_the_remedy() {
        let path = PathBuf::from("/run/tunway/t0.lock");
        let held =
            DeviceError::InUse { device: "t0".into(), path: path.clone(), holder: Some(77) }.to_string();
        assert_eq!(
            held,
            "device t0 is in use by process 77, which holds /run/tunway/t0.lock: stop it, or choose another device name"
        );
        let unknown = DeviceError::InUse { device: "t0".into(), path, holder: None }.to_string();
        assert!(unknown.contains("in use by a process of another PID namespace"), "{unknown}");
        let remedy = |error: DeviceError, words: [&str; 2]| {
            let said = error.to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        };
        remedy(
            failed("t0", "set the MTU", Errno::EPERM.into()),
            ["t0: not allowed to set the MTU", "CAP_NET_ADMIN"],
        );
        remedy(not_attached("t0", Errno::EPERM.into()), ["not allowed to attach", "CAP_NET_ADMIN"]);
        remedy(not_attached("t0", Errno::EINVAL.into()), ["not a multi-queue TUN", "choose another"]);
        remedy(not_opened("t0", Errno::EACCES.into()), ["not allowed to open /dev/net/tun", "CAP_NET_ADMIN"]);
        remedy(not_opened("t0", Errno::ENOENT.into()), ["/dev/net/tun cannot be opened", "modprobe tun"]);
        remedy(too_old("t0", "TUNSETOFFLOAD", Errno::EINVAL.into()), ["no TUNSETOFFLOAD", "newer"]);
    }
}
