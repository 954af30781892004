//! What test processes left that died before they could clean up: their namespaces and files, found by the process id
//! in their names.

use std::path::Path;
use std::process::Command;
use std::{env, fs, io, process};

use tempfile::TempDir;

/// Directories with entries that begin with `tw-PID-` and, for devices, `twPIDc`, `twPIDx` or `mxPIDn`; so has the one
/// for temporary files.
const PLACES: [&str; 4] = ["/run/netns", "/etc/netns", "/run/tunway", "/dev/shm/tunway"];

/// A folder for a cluster, removed when it is dropped, and swept away by another test if this one is killed.
///
/// # Errors
/// It cannot be made.
pub fn folder() -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(&format!("tw-{}-", process::id())).tempdir()
}

/// Ends and removes everything of test processes that are gone. Nothing of those that run.
pub(super) fn sweep() {
    let temporary = env::temp_dir();
    for place in PLACES.iter().map(Path::new).chain([temporary.as_path()]) {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if owner(&name).is_none_or(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
                continue;
            }
            if place == Path::new("/run/netns") {
                remove_namespace(&name);
            } else if entry.path().is_dir() {
                let _ = fs::remove_dir_all(entry.path());
            } else {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn remove_namespace(name: &str) {
    if let Ok(pids) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            let _ = Command::new("kill").args(["-9", pid]).output();
        }
    }
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

/// The process a name says it belongs to.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("tw").or_else(|| name.strip_prefix("mx"))?;
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
    let (digits, rest) = rest.split_at(end);
    rest.starts_with(['-', 'c', 'n', 'x']).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_they_are() {
        assert_eq!(owner("tw-4711-3-hub"), Some(4711));
        assert_eq!(owner("tw4711c0n1.sock"), Some(4711));
        assert_eq!(owner("tw12x0.lock"), Some(12));
        assert_eq!(owner("mx12n3b.lock"), Some(12));
        for of_others in ["tunway0.lock", "tw-", "tw-x-1", "tw12", "tw12y0.lock", "cni-1-2"] {
            assert_eq!(owner(of_others), None, "{of_others}");
        }
    }
}
