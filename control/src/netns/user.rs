//! Root without being root: a user namespace of our own.

use std::fs;
use std::io;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::{NAMESPACE_DIR, NetnsError, step};

/// Makes this process root of a new user namespace with network and mount namespaces of its own, so that
/// [`super::Namespace`], rtnetlink and per-namespace sysctls work without privileges. `/run` is an empty tmpfs there,
/// and nothing of it is seen outside; all of it ends with the process.
///
/// Call it first thing in `main`: the kernel allows it to a process of one thread only.
///
/// What it cannot give: access to files. `/dev/net/tun` must be open to the user, as udev makes it.
///
/// # Errors
/// The machine keeps user namespaces from this user; the error says which setting does.
pub fn enter_user_namespace() -> Result<(), NetnsError> {
    let (uid, gid) = (geteuid(), getegid());
    let all = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    unshare(all).map_err(|error| refused(error.into()))?;
    match fs::write("/proc/self/setgroups", "deny") {
        // Kernels before 3.19 have no such file and need none.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        Ok(()) | Err(_) => {}
    }
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(refused)?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(refused)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .map_err(|error| refused(error.into()))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
        .map_err(|error| refused(error.into()))?;
    fs::create_dir(NAMESPACE_DIR).map_err(step(|| format!("make {NAMESPACE_DIR}")))
}

fn refused(source: io::Error) -> NetnsError {
    let setting =
        |path: &str| fs::read_to_string(path).map(|value| value.trim().to_owned()).unwrap_or_default();
    let remedy = remedy(
        &setting("/proc/sys/user/max_user_namespaces"),
        &setting("/proc/sys/kernel/unprivileged_userns_clone"),
        &setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
    );
    NetnsError::UserNamespace { source, remedy }
}

/// What keeps user namespaces shut, by the three settings that can (empty: the kernel has no such setting).
fn remedy(most: &str, clone: &str, apparmor: &str) -> String {
    let setting = if most == "0" {
        "sysctl -w user.max_user_namespaces=10000"
    } else if clone == "0" {
        "sysctl -w kernel.unprivileged_userns_clone=1"
    } else if apparmor == "1" {
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        return "run as root; no known setting forbids it, so perhaps a container's seccomp profile does"
            .to_owned();
    };
    format!("run as root, or: {setting}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_setting_that_forbids() {
        assert!(remedy("0", "", "").contains("user.max_user_namespaces"));
        assert!(remedy("96364", "0", "").contains("unprivileged_userns_clone"));
        assert!(remedy("96364", "1", "1").contains("apparmor_restrict"));
        assert!(remedy("96364", "", "").contains("seccomp"));
    }
}
