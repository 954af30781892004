//! One owner per device: an flock on `<dir>/<device>.lock`.
//!
//! A second attach to a multi-queue TUN device succeeds, and the kernel then splits the packets between both
//! processes; so the lock, not the device, says who owns it. The kernel frees it when the owner dies.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A lock held. Dropping it frees the device for others.
#[derive(Debug)]
pub(super) struct DeviceLock {
    file: Flock<File>,
    path: PathBuf,
    new: bool,
}

/// Why the lock is not ours.
#[derive(Debug)]
pub(super) enum LockError {
    /// Somebody else has it; their process, if it is one of this PID namespace.
    Held(Option<u32>),
    /// The file cannot be had.
    Io(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Where the lock of a device is.
pub(super) fn path(dir: &Path, device: &str) -> PathBuf {
    dir.join(format!("{device}.lock"))
}

impl DeviceLock {
    /// Takes the lock without waiting, and writes our process number into the file, for people who look at it: it is
    /// that of our PID namespace and proves nothing to others.
    pub(super) fn take(path: PathBuf) -> Result<Self, LockError> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        loop {
            let file = open(&path)?;
            // Whoever held it wrote its number: an empty file was made just now.
            let new = file.metadata()?.len() == 0;
            let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((file, Errno::EWOULDBLOCK)) => return Err(LockError::Held(holder_of(&file))),
                Err((_, error)) => return Err(LockError::Io(error.into())),
            };
            // Between open and lock the last owner may have removed the file: then our lock is on nothing.
            if is_still(&file, &path)? {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Self { file, path, new });
            }
        }
    }

    /// There was no such file, so that nobody had a device of this name.
    pub(super) fn is_new(&self) -> bool {
        self.new
    }

    /// Removes the file, then frees the lock.
    pub(super) fn remove(self) -> io::Result<()> {
        let removed = fs::remove_file(&self.path);
        drop(self.file);
        removed
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

fn is_still(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(now) => Ok((now.dev(), now.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The living process that holds a lock on this file, by its number in our PID namespace; none when it is in another
/// one, as another container's is. The kernel is asked, in the words of flock's own list: a number that somebody wrote
/// into the file may be anybody's here.
#[must_use]
pub fn holder_of(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let pid = holder_among(&fs::read_to_string("/proc/locks").ok()?, major, minor, metadata.ino())?;
    // Where the list is that of the whole machine it also names owners that are dead.
    Path::new("/proc").join(pid.to_string()).exists().then_some(pid)
}

/// The kernel leaves out who is not seen from here; who only waits has an arrow.
fn holder_among(locks: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    let fields = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let held = locks.lines().map(fields).find_map(|fields| match fields.as_slice() {
        [_, kind, _, _, pid, file, ..] if kind == "FLOCK" && *file == wanted => Some(pid.clone()),
        _ => None,
    });
    held?.parse().ok().filter(|pid| *pid != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(&dir.path().join("run"), "t0");
        let first = DeviceLock::take(path.clone()).unwrap();
        assert!(first.is_new());
        let refused = DeviceLock::take(path.clone()).unwrap_err();
        assert!(matches!(refused, LockError::Held(Some(pid)) if pid == std::process::id()), "{refused:?}");
        drop(first);
        assert!(!DeviceLock::take(path).unwrap().is_new());
    }

    #[test]
    fn the_number_in_the_file_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "t0");
        fs::write(&path, "4194999 left over by somebody").unwrap();
        let lock = DeviceLock::take(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), std::process::id().to_string());
        // As somebody in another PID namespace would write it.
        for text in ["1", "not a number"] {
            fs::write(&path, text).unwrap();
            let refused = DeviceLock::take(path.clone()).unwrap_err();
            assert!(
                matches!(refused, LockError::Held(Some(pid)) if pid == std::process::id()),
                "{refused:?}"
            );
        }
        drop(lock);
        assert_eq!(holder_of(&open(&path).unwrap()), None);
    }

    #[test]
    fn the_kernels_list_names_who_holds_and_nobody_who_waits_or_is_elsewhere() {
        let list = "1: POSIX  ADVISORY  WRITE 11 00:1a:77 0 EOF\n\
                    2: FLOCK  ADVISORY  WRITE 12 00:1a:78 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 13 00:1a:77 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE 14 08:102:77 0 EOF\n\
                    4: FLOCK  ADVISORY  WRITE 0 00:1a:80 0 EOF\n\
                    5: FLOCK\n";
        assert_eq!(holder_among(list, 0, 0x1a, 78), Some(12));
        assert_eq!(holder_among(list, 8, 0x102, 77), Some(14));
        for inode in [77, 79, 80] {
            assert_eq!(holder_among(list, 0, 0x1a, inode), None, "{inode}");
        }
    }

    #[test]
    fn a_removed_lock_leaves_no_file_and_is_no_lock_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "t0");
        let first = DeviceLock::take(path.clone()).unwrap();
        let waiting = open(&path).unwrap();
        first.remove().unwrap();
        assert!(!path.exists());
        assert!(!is_still(&waiting, &path).unwrap());
        DeviceLock::take(path).unwrap();
    }

    #[test]
    fn a_link_in_the_files_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "t0");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(DeviceLock::take(path).unwrap_err(), LockError::Io(_)));
    }
}
