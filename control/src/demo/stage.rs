//! Where the demo plays: out of sight of the host, unless somebody is to look around in it.
//!
//! As root, and nothing to be kept: a mount namespace of our own with an empty `/run`, so that even a SIGKILL leaves
//! nothing behind. To be kept: names in `/run/netns` for `ip netns exec`. Without privileges: a user namespace.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use caps::{CapSet, Capability};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::netns::{self, NAMESPACE_DIR};

/// Where this demo's namespaces and files are.
#[derive(Debug)]
pub struct Stage {
    dir: PathBuf,
    prefix: String,
    way_in: String,
}

impl Stage {
    /// Goes there. Must come before any thread: the kernel lets only a single-threaded process enter a user namespace.
    ///
    /// # Errors
    /// Neither root nor user namespaces; or the kernel refused.
    pub fn enter(keep: bool) -> anyhow::Result<Self> {
        let pid = std::process::id();
        let root = [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN]
            .into_iter()
            .all(|cap| caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false));
        if root {
            // Before we hide: what was left is where everybody sees it.
            sweep(Path::new(NAMESPACE_DIR), &std::env::temp_dir());
        }
        let (prefix, way_in) = match (root, keep) {
            (true, true) => (format!("{VISIBLE}{pid}-"), "ip netns exec ".to_owned()),
            (true, false) => {
                hide().context("cannot make a mount namespace")?;
                ("demo-".to_owned(), String::new())
            }
            (false, _) => {
                netns::enter_user_namespace()?;
                let enter = format!("nsenter --target {pid} --user --mount --preserve-credentials ");
                ("demo-".to_owned(), enter + "ip netns exec ")
            }
        };
        // To be kept is to be seen, also from outside our mount namespace. Else it is in the `/run` only we see.
        let base = if keep { std::env::temp_dir() } else { PathBuf::from("/run") };
        let dir = base.join(format!("{DIR}{pid}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make {} (is TMPDIR set well?)", dir.display()))?;
        Ok(Self { dir, prefix, way_in })
    }

    /// For files: nobody else can look into it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The namespace of one of the players.
    #[must_use]
    pub fn name_of(&self, player: &str) -> String {
        format!("{}{player}", self.prefix)
    }

    /// The beginning of a command that runs inside a player's namespace, for a person in another terminal.
    #[must_use]
    pub fn way_into(&self, player: &str) -> String {
        format!("{}{}", self.way_in, self.name_of(player))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "could not remove the demo's files");
        }
    }
}

/// A mount namespace of our own in which `/run` is empty: what we name there nobody else sees.
fn hide() -> io::Result<()> {
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))?;
    Ok(())
}

/// Removes what demos that were killed left where everybody sees it. What cannot be removed is in nobody's way: our
/// names have our own number in them.
fn sweep(namespaces: &Path, dirs: &Path) {
    for name in names(namespaces).filter(|name| dead_owner(name, VISIBLE, is_demo)) {
        let _ = netns::remove(&name);
    }
    for name in names(dirs).filter(|name| dead_owner(name, DIR, is_demo)) {
        // Of another user: not ours to remove, and refused.
        let _ = fs::remove_dir_all(dirs.join(name));
    }
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// A process of this number is there and not only a number its parent has not asked for yet.
fn is_demo(pid: &str) -> bool {
    let path = Path::new("/proc").join(pid).join("cmdline");
    fs::read(path).is_ok_and(|cmdline| !cmdline.is_empty())
}

/// A name made of `prefix`, a process number, and what it is, whose process is gone.
fn dead_owner(name: &str, prefix: &str, lives: impl Fn(&str) -> bool) -> bool {
    let Some(rest) = name.strip_prefix(prefix) else { return false };
    let pid = rest.split_once('-').map_or(rest, |(pid, _)| pid);
    !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) && !lives(pid)
}

/// A namespace's name: followed by the process number and the player.
const VISIBLE: &str = "tunway-";
/// A directory's name: followed by the process number.
const DIR: &str = "tunway-demo-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dead_demos_namespaces_are_swept() {
        let lives = |pid: &str| pid == "77";
        for (name, prefix) in [("tunway-78-client", VISIBLE), ("tunway-demo-78", DIR)] {
            assert!(dead_owner(name, prefix, lives), "{name}");
        }
        for name in
            ["tunway-77-client", "tunway-client", "tunway--client", "tunway-7x-client", "other-78-client"]
        {
            assert!(!dead_owner(name, VISIBLE, lives), "{name}");
        }
        assert!(!dead_owner("tunway-demo-77", DIR, lives) && !dead_owner("tunway-demo-", DIR, lives));
    }

    #[test]
    fn we_live_and_nobody_has_the_number_nought() {
        assert!(is_demo(&std::process::id().to_string()) && !is_demo("0"));
    }
}
