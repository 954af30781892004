//! Network namespaces for small clusters on one machine: named ones (`ip netns exec NAME` works), joined by veth
//! pairs, with addresses and routes, all through rtnetlink and without any external program.
//!
//! A [`Namespace`] removes itself when it is dropped; its devices go with it. Work inside one is done on a thread
//! that enters it: the namespace belongs to the thread, and everything the thread opens or starts (sockets, child
//! processes, further threads) belongs to it too. Works as root, and inside [`enter_user_namespace`] as anybody.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

pub use self::user::enter_user_namespace;

mod user;
mod wire;

/// Where named namespaces live; `ip netns` looks there.
pub const NAMESPACE_DIR: &str = "/run/netns";

/// Why a namespace or something in it could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// A name that is no file name.
    #[error("{0:?} cannot name a network namespace: use letters, digits and dashes")]
    Name(String),
    /// Somebody has a namespace of this name, perhaps an earlier run that was killed.
    #[error("network namespace {0} exists already (remove it: ip netns del {0})")]
    Exists(String),
    /// There is no device of this name in the namespace.
    #[error("network namespace {namespace} has no device {device}")]
    NoDevice {
        /// The namespace.
        namespace: String,
        /// The device.
        device: String,
    },
    /// User namespaces are closed to this user.
    #[error("cannot make a user namespace: {source} ({remedy})")]
    UserNamespace {
        /// The kernel's word.
        source: io::Error,
        /// What the owner of the machine can do.
        remedy: String,
    },
    /// The kernel refused a step.
    #[error("cannot {doing}: {source}")]
    Step {
        /// The step.
        doing: String,
        /// The kernel's word.
        source: io::Error,
    },
}

/// A named network namespace of ours.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    fd: OwnedFd,
    keep: bool,
}

impl Namespace {
    /// Makes a namespace with its loopback device up. Needs CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// The name is unusable or taken, or the kernel refuses.
    pub fn create(name: &str) -> Result<Self, NetnsError> {
        let path = path_of(name)?;
        fs::create_dir_all(NAMESPACE_DIR).map_err(step(|| format!("make {NAMESPACE_DIR}")))?;
        match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(NetnsError::Exists(name.to_owned()));
            }
            Err(source) => {
                return Err(NetnsError::Step { doing: format!("make {}", path.display()), source });
            }
        }
        // A new namespace is entered by its maker, so the maker is a thread that ends afterwards.
        let made = thread::scope(|scope| match scope.spawn(|| make(&path)).join() {
            Ok(made) => made,
            Err(panic) => resume_unwind(panic),
        });
        match made {
            Ok(fd) => {
                remember(&path);
                let namespace = Self { name: name.to_owned(), fd, keep: false };
                namespace.set_up("lo")?;
                Ok(namespace)
            }
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// The name `ip netns` knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does `work` on a thread inside this namespace and waits for it. A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let fd = &self.fd;
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name(self.name.clone())
                .spawn_scoped(scope, move || enter(fd).map(|()| work()))
                .map_err(step(|| "start a thread".to_owned()))?;
            match worker.join() {
                Ok(done) => done,
                Err(panic) => resume_unwind(panic),
            }
        })
    }

    /// Starts a thread that lives inside this namespace (a server). The thread may outlive the `Namespace`, and
    /// keeps the kernel's side of it alive as long as it runs.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn spawn<T: Send + 'static>(
        &self,
        thread_name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>, NetnsError> {
        // A thread starts in the namespace of the thread that starts it.
        self.run(|| thread::Builder::new().name(thread_name.to_owned()).spawn(work))?
            .map_err(step(|| "start a thread".to_owned()))
    }

    /// Leaves the namespace in place when this is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        if let Ok(path) = path_of(&self.name) {
            forget(&path);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove(&self.name)
        {
            tracing::warn!(namespace = self.name, %error, "could not remove a network namespace");
        }
    }
}

/// Removes the namespace of this name, also one that an earlier process left. Removing what is not there is no
/// error. Its devices go as soon as nothing runs inside any more.
///
/// # Errors
/// The kernel refuses.
pub fn remove(name: &str) -> Result<(), NetnsError> {
    let path = path_of(name)?;
    forget(&path);
    remove_path(&path).map_err(step(|| format!("remove {}", path.display())))
}

/// Removes every namespace this process made and still has, for a panic hook: with `panic = "abort"` nothing is
/// dropped. Never blocks and never panics.
pub fn remove_all_made() {
    let made = match MADE.try_lock() {
        Ok(mut made) => std::mem::take(&mut *made),
        Err(_) => return,
    };
    for path in made {
        let _ = remove_path(&path);
    }
}

/// Inside a fresh thread: a new network namespace, mounted at `path` so that it has a name and a life of its own.
fn make(path: &Path) -> Result<OwnedFd, NetnsError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| NetnsError::Step {
        doing: "make a network namespace (it takes CAP_SYS_ADMIN: run as root)".to_owned(),
        source: error.into(),
    })?;
    let fd = fs::File::open(THREAD_NAMESPACE).map_err(step(|| format!("open {THREAD_NAMESPACE}")))?;
    mount(Some(THREAD_NAMESPACE), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|error| {
        NetnsError::Step { doing: format!("mount {}", path.display()), source: error.into() }
    })?;
    Ok(fd.into())
}

fn enter(fd: &OwnedFd) -> Result<(), NetnsError> {
    setns(fd, CloneFlags::CLONE_NEWNET).map_err(|error| NetnsError::Step {
        doing: "enter a network namespace".to_owned(),
        source: error.into(),
    })
}

fn remove_path(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: a plain file, the mount of which failed or is gone.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn path_of(name: &str) -> Result<PathBuf, NetnsError> {
    let usable = !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if usable { Ok(Path::new(NAMESPACE_DIR).join(name)) } else { Err(NetnsError::Name(name.to_owned())) }
}

fn remember(path: &Path) {
    MADE.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
}

fn forget(path: &Path) {
    MADE.lock().unwrap_or_else(PoisonError::into_inner).retain(|made| made != path);
}

/// Turns the kernel's word into an error that says what was being done.
fn step(doing: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> NetnsError {
    move |source| NetnsError::Step { doing: doing(), source }
}

/// Namespaces this process made and has neither removed nor been told to keep.
static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// The calling thread's namespace; `/proc/self` would be the main thread's.
const THREAD_NAMESPACE: &str = "/proc/thread-self/ns/net";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "../etc", "a b", "a\0b"] {
            assert!(matches!(path_of(name), Err(NetnsError::Name(_))), "{name:?}");
        }
        assert_eq!(path_of("tw-demo_1").unwrap(), Path::new("/run/netns/tw-demo_1"));
    }
}
