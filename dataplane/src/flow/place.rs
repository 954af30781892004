//! Where the region's file lies: a private directory on tmpfs, checked before a byte is written.
//!
//! On a disk the kernel would write the packet path's memory back; in a shared directory the hash seed would
//! be public.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, posix_fallocate};
use nix::sys::stat::Mode;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::limit::{self, Limit};
use super::map::user;

/// Where a region is looked for when nothing is configured, in this order.
pub const DEFAULT_DIRS: [&str; 2] = ["/run/tunway", "/dev/shm/tunway"];

/// Where and how big.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    /// The directory of its file: on tmpfs, mode 0700, ours; made when missing. `None`: anonymous memory,
    /// which a crash loses.
    pub dir: Option<PathBuf>,
    /// File name stem: the device's name. See [`file_name`].
    pub name: String,
    /// IPv4 flows, rounded up to a power of two, at least 4,096 (one chunk), at most 2^24.
    pub max_flows_v4: u32,
    /// IPv6 flows, likewise.
    pub max_flows_v6: u32,
}

/// The name of a region's file in its directory.
#[must_use]
pub fn file_name(name: &str) -> String {
    format!("{name}.flows")
}

/// Where a region ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A file that a crash of the process leaves behind.
    File {
        /// Its path.
        path: PathBuf,
        /// A file was there already, and was replaced.
        found: bool,
    },
    /// Anonymous memory: gone with the process.
    Memory {
        /// Why each place tried before was not taken.
        refused: Vec<String>,
    },
}

impl Placement {
    /// What an operator should hear about it, if anything.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::File { .. } => None,
            Self::Memory { refused } => Some(format!(
                "the flow table is in anonymous memory: a crash loses every connection. {}",
                refused.join("; ")
            )),
        }
    }
}

/// Why a region could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Its directory is not in memory.
    #[error("{path}: not on tmpfs; name a directory on tmpfs as flowFile, for instance /dev/shm/tunway")]
    NotTmpfs {
        /// The directory.
        path: PathBuf,
    },
    /// The file system is full.
    #[error("{path}: no space for {bytes} bytes ({} MiB): enlarge the tmpfs or lower maxFlows", bytes.div_ceil(1 << 20))]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
    /// More than the process may have.
    #[error(
        "a flow table of {bytes} bytes ({} MiB) does not fit the memory limit: {} allows {limit} bytes, of which {used} \
         are in use; raise the limit or lower maxFlows",
        bytes.div_ceil(1 << 20), path.display()
    )]
    Limit {
        /// The file that has the limit.
        path: PathBuf,
        /// The region's size.
        bytes: usize,
        /// The limit.
        limit: u64,
        /// What is taken of it.
        used: u64,
    },
    /// Somebody else's.
    #[error("{path}: belongs to user {owner}, not to user {user}: remove it or choose another flowFile")]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others may read or write it.
    #[error("{path}: mode {mode:04o} lets others in, and it holds the hash seed: chmod go= {path}")]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link, a directory, a device, or a file with a second name.
    #[error("{path}: not a plain file of one name (or a directory that is a link): remove it")]
    NotPlain {
        /// What was found.
        path: PathBuf,
    },
    /// The name would leave the directory.
    #[error("{name:?} is no file name")]
    Name {
        /// As configured.
        name: String,
    },
    /// Anonymous or mapped memory was refused.
    #[error("no memory for a flow table of {bytes} bytes: {error}")]
    Memory {
        /// Its size.
        bytes: usize,
        /// What the system said.
        error: io::Error,
    },
    /// No random numbers for the hash seed.
    #[error("no random hash seed: {0}")]
    Random(io::Error),
    /// Anything else.
    #[error("{path}: {error}")]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Makes the region's file anew: all zero, all of it allocated (a hole in a full tmpfs would be a SIGBUS
/// later).
pub(super) fn file(dir: &Path, name: &str, bytes: usize) -> Result<(File, Placement), RegionError> {
    if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
        return Err(RegionError::Name { name: name.to_owned() });
    }
    let name = file_name(name);
    let path = dir.join(&name);
    let dir = directory(dir)?;
    let failed = |error: Errno| RegionError::Io { path: path.clone(), error: error.into() };
    // O_NONBLOCK: a FIFO put in its place must not stop us.
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let found = match openat(&dir, name.as_str(), flags, Mode::empty()) {
        Ok(old) => {
            check_ours(&File::from(old), &path, |meta| meta.is_file() && meta.nlink() == 1)?;
            // A new file instead of the old one emptied: whoever still had that mapped would die of it.
            unlinkat(&dir, name.as_str(), UnlinkatFlags::NoRemoveDir).map_err(failed)?;
            true
        }
        Err(Errno::ENOENT) => false,
        Err(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => return Err(RegionError::NotPlain { path }),
        Err(error) => return Err(failed(error)),
    };
    fits_limit(bytes)?;
    let create = flags | OFlag::O_CREAT | OFlag::O_EXCL;
    let file = openat(&dir, name.as_str(), create, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
    let full = |error| matches!(error, Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG);
    let outcome = allocate(&file, bytes).map_err(|error| {
        if full(error) { RegionError::NoSpace { path: path.clone(), bytes } } else { failed(error) }
    });
    if outcome.is_err() {
        // Half a region is of no use, and holds the memory.
        let _ = unlinkat(&dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    outcome.map(|()| (File::from(file), Placement::File { path, found }))
}

/// Refuses what the memory limit would kill us for. The old region's file is gone by now, so it does not count.
pub(super) fn fits_limit(bytes: usize) -> Result<(), RegionError> {
    match limit::nearest() {
        Some(nearest) if nearest.left() < bytes as u64 => {
            let Limit { path, bytes: limit, used } = nearest;
            Err(RegionError::Limit { path, bytes, limit, used })
        }
        _ => Ok(()),
    }
}

/// The kernel's id of this boot; zero where it has none.
pub(super) fn boot_id() -> [u64; 2] {
    let mut text = String::new();
    let read =
        File::open("/proc/sys/kernel/random/boot_id").and_then(|mut file| file.read_to_string(&mut text));
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match (read, u128::from_str_radix(&digits, 16)) {
        #[allow(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
        (Ok(_), Ok(id)) => [(id >> 64) as u64, id as u64],
        _ => [0, 0],
    }
}

fn directory(path: &Path) -> Result<OwnedFd, RegionError> {
    let failed = |error: io::Error| RegionError::Io { path: path.to_owned(), error };
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = match openat(AT_FDCWD, path, flags, Mode::empty()) {
        Ok(dir) => File::from(dir),
        Err(Errno::ELOOP | Errno::ENOTDIR) => return Err(RegionError::NotPlain { path: path.to_owned() }),
        Err(error) => return Err(failed(error.into())),
    };
    if fstatfs(&dir).map_err(|error| failed(error.into()))?.filesystem_type() != TMPFS_MAGIC {
        return Err(RegionError::NotTmpfs { path: path.to_owned() });
    }
    check_ours(&dir, path, std::fs::Metadata::is_dir)?;
    Ok(dir.into())
}

fn check_ours(
    file: &File,
    path: &Path,
    plain: impl FnOnce(&std::fs::Metadata) -> bool,
) -> Result<(), RegionError> {
    let path = path.to_owned();
    let meta = match file.metadata() {
        Ok(meta) => meta,
        Err(error) => return Err(RegionError::Io { path, error }),
    };
    let (owner, user, mode) = (meta.uid(), user(), meta.mode() & 0o7777);
    match () {
        () if !plain(&meta) => Err(RegionError::NotPlain { path }),
        () if owner != user => Err(RegionError::Foreign { path, owner, user }),
        () if mode & 0o077 != 0 => Err(RegionError::Open { path, mode }),
        () => Ok(()),
    }
}

/// Allocates all of a file's memory.
pub(super) fn allocate(file: impl AsFd, bytes: usize) -> nix::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| Errno::EFBIG)?;
    loop {
        match posix_fallocate(file.as_fd(), 0, bytes) {
            Err(Errno::EINTR) => {}
            outcome => return outcome,
        }
    }
}
