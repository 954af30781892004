//! Where the flow table lives: memory that outlives the process, which is a tmpfs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use crate::config::{Config, FlowPlace};

/// Tried in this order.
const CANDIDATES: [&str; 2] = ["/run/tunway", "/dev/shm/tunway"];

/// The directory for the region's file `name` of so many bytes; none is memory that dies with the process.
#[must_use]
pub fn region_dir(place: &FlowPlace, name: &str, bytes: u64) -> Option<PathBuf> {
    match place {
        FlowPlace::Memory => None,
        FlowPlace::Dir(dir) => Some(dir.clone()),
        FlowPlace::Auto => {
            let found = CANDIDATES.into_iter().map(Path::new).find(|dir| has_room(dir, name, bytes));
            if found.is_none() {
                tracing::warn!(
                    tried = ?CANDIDATES,
                    bytes,
                    "no tmpfs with that much room found: flows live in this process only and end with it; the start \
                     goes on; make room, or mount one and name it with --flow-file"
                );
            }
            found.map(Path::to_owned)
        }
    }
}

/// Files a run with this configuration may have left, other than those `cleanup` of the host finds by itself.
#[must_use]
pub fn files(config: &Config) -> Vec<PathBuf> {
    let name = format!("{}.flows", config.device);
    let mut files: Vec<_> = CANDIDATES.into_iter().map(|dir| Path::new(dir).join(&name)).collect();
    if let FlowPlace::Dir(dir) = &config.flows {
        files.push(dir.join(&name));
    }
    files.push(config.socket.clone());
    files
}

/// The directory, or where it would be made, is on a tmpfs with room for a file of that size in the place of the one that
/// is there.
fn has_room(dir: &Path, name: &str, bytes: u64) -> bool {
    let existing = if dir.exists() { Some(dir) } else { dir.parent() };
    let taken =
        dir.join(dataplane::flow::file_name(name)).symlink_metadata().map_or(0, |old| old.blocks() * 512);
    existing.is_some_and(|dir| is_tmpfs(dir) && free(dir).saturating_add(taken) >= bytes)
}

/// Bytes a file system has left for us. A tmpfs without a limit says 0 blocks in all, and has room.
fn free(dir: &Path) -> u64 {
    let stat = statvfs(dir).ok();
    let limited = stat.filter(|stat| stat.blocks() > 0);
    limited.map_or(u64::MAX, |stat| stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// A file on a disk would be written back in the middle of packets.
fn is_tmpfs(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_place_is_taken_and_memory_is_none() {
        assert_eq!(region_dir(&FlowPlace::Dir("/x".into()), "tun", 1), Some("/x".into()));
        assert_eq!(region_dir(&FlowPlace::Memory, "tun", 1), None);
    }

    #[test]
    fn proc_is_no_tmpfs_and_automatic_places_are() {
        assert!(!is_tmpfs(Path::new("/proc")) && !is_tmpfs(Path::new("/nonexistent")));
        if let Some(dir) = region_dir(&FlowPlace::Auto, "tun", 4_096) {
            assert!(has_room(&dir, "tun", 4_096), "{}", dir.display());
        }
    }

    #[test]
    fn a_place_without_room_is_no_place_unless_the_old_file_makes_it() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (path, left) = (dir.path().join(dataplane::flow::file_name("tun")), free(dir.path()));
        assert!(
            has_room(dir.path(), "tun", 4_096) && !has_room(dir.path(), "tun", left.saturating_add(1 << 30))
        );
        assert_eq!(region_dir(&FlowPlace::Auto, "tun", u64::MAX), None);
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        let with_old = |name| has_room(dir.path(), name, free(dir.path()) + (1 << 20) - 65_536);
        assert!(with_old("tun") && !with_old("other"));
    }
}
