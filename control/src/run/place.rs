//! Where the flow table lives: memory that outlives the process, which is a tmpfs.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::config::{Config, FlowPlace};

/// Tried in this order.
const CANDIDATES: [&str; 2] = ["/run/tunway", "/dev/shm/tunway"];

/// The directory for the region's file; none is memory that dies with the process.
#[must_use]
pub fn region_dir(place: &FlowPlace) -> Option<PathBuf> {
    match place {
        FlowPlace::Memory => None,
        FlowPlace::Dir(dir) => Some(dir.clone()),
        FlowPlace::Auto => {
            let found = CANDIDATES.into_iter().map(Path::new).find(|dir| is_in_memory(dir));
            if found.is_none() {
                tracing::warn!(
                    tried = ?CANDIDATES,
                    "no tmpfs found: flows live in this process only and end with it; the start goes on; \
                     mount one and name it with --flow-file"
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

/// The directory, or where it would be made, is on a tmpfs.
fn is_in_memory(dir: &Path) -> bool {
    let existing = if dir.exists() { Some(dir) } else { dir.parent() };
    existing.is_some_and(is_tmpfs)
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
        assert_eq!(region_dir(&FlowPlace::Dir("/x".into())), Some("/x".into()));
        assert_eq!(region_dir(&FlowPlace::Memory), None);
    }

    #[test]
    fn proc_is_no_tmpfs_and_automatic_places_are() {
        assert!(!is_tmpfs(Path::new("/proc")) && !is_tmpfs(Path::new("/nonexistent")));
        if let Some(dir) = region_dir(&FlowPlace::Auto) {
            assert!(is_in_memory(&dir), "{}", dir.display());
        }
    }
}
