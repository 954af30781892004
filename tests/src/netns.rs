//! Network namespaces for tests and measurements: made by the `ip` command, gone on drop, with every process in them.
//!
//! Names carry the process id and a counter, so that tests running beside each other never meet. Nothing here
//! touches the namespace the test itself runs in: veth pairs are made inside.

use std::fs::File;
use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sched::{CloneFlags, setns};

pub use capture::Capture;

mod capture;

/// A named network namespace with its loopback up. Dropping it kills what runs in it and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes `tw-PID-N-LABEL`.
    ///
    /// # Errors
    /// When the `ip` command is missing or refuses (root is needed).
    pub fn new(label: &str) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("tw-{}-{number}-{label}", std::process::id()) };
        checked(Command::new("ip").args(["netns", "add", &namespace.name]))?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns exec` takes it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `ip ARGS` inside; the arguments are split at blanks.
    ///
    /// # Errors
    /// When it does not succeed; the error holds the command and what it said.
    pub fn ip(&self, args: &str) -> io::Result<String> {
        checked(Command::new("ip").args(["-n", &self.name]).args(args.split_whitespace()))
    }

    /// Runs a whole command line inside; split at blanks.
    ///
    /// # Errors
    /// As [`Namespace::ip`].
    pub fn run(&self, line: &str) -> io::Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().ok_or_else(|| io::Error::other("an empty command line"))?;
        checked(self.command(program).args(words))
    }

    /// Runs `nft -f -` inside with this ruleset.
    ///
    /// # Errors
    /// When `nft` is missing or refuses the ruleset.
    pub fn nft(&self, ruleset: &str) -> io::Result<()> {
        let mut child = self
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            io::Write::write_all(&mut input, ruleset.as_bytes())?;
        }
        said("nft -f -", &child.wait_with_output()?).map(drop)
    }

    /// Writes a sysctl inside, `net.ipv4.ip_forward` style.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        let mut child = self.command("tee").arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            io::Write::write_all(&mut input, value.as_bytes())?;
        }
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("{key} = {value}: {status}"))) }
    }

    /// Runs `f` on a thread inside: sockets it opens belong to the namespace for ever.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// As `f` does.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> io::Result<R> {
        enter(&self.name, f)
    }

    /// Starts a process inside; it is killed when the guard is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Process> {
        Ok(Process { child: command.spawn()? })
    }

    /// Joins this namespace with another by a veth pair, both ends up.
    ///
    /// # Errors
    /// When a name is taken or too long.
    pub fn veth(&self, here: &str, other: &Self, there: &str, mtu: u32) -> io::Result<()> {
        self.ip(&format!(
            "link add {here} mtu {mtu} type veth peer name {there} mtu {mtu} netns {}",
            other.name
        ))?;
        self.ip(&format!("link set {here} up"))?;
        other.ip(&format!("link set {there} up"))?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Ok(pids) = checked(Command::new("ip").args(["netns", "pids", &self.name])) {
            for pid in pids.split_whitespace() {
                let _ = checked(Command::new("kill").args(["-9", pid]));
            }
        }
        let _ = checked(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// Runs `f` on a thread inside the namespace of this name, as [`Namespace::enter`] does.
///
/// # Errors
/// When there is no such namespace, or it cannot be entered.
///
/// # Panics
/// As `f` does.
pub fn enter<R: Send>(name: &str, f: impl FnOnce() -> R + Send) -> io::Result<R> {
    let here = File::open(format!("/run/netns/{name}"))?;
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            setns(here, CloneFlags::CLONE_NEWNET)?;
            Ok(f())
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Gives `ip` these lines to do inside the namespace of this name, in one process; the first that fails is the last.
///
/// # Errors
/// As [`Namespace::ip`].
pub fn ip_lines(name: &str, lines: &str) -> io::Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", name, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        io::Write::write_all(&mut input, lines.as_bytes())?;
    }
    said(&format!("ip -n {name} -batch - <<{lines}"), &child.wait_with_output()?).map(drop)
}

/// A process that ends with its guard.
#[derive(Debug)]
pub struct Process {
    /// The process, for its streams and its exit.
    pub child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks every few milliseconds until `condition` holds.
///
/// # Panics
/// With `what`, when it does not hold within `limit`.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let begun = SystemTime::now();
    while !condition() {
        assert!(begun.elapsed().unwrap_or_default() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn checked(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    said(&format!("{command:?}"), &output)
}

fn said(command: &str, output: &Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command}: {}: {}", output.status, complaint.trim())))
}
