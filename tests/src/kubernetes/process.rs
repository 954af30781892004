//! Programs as children of the test: daemons with a log, and commands with a limit of time.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::Output;

/// How long a daemon may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(15);

/// How to start a daemon, as often as needed.
type Line = Box<dyn Fn() -> Command + Send + Sync>;

/// A daemon: it can be ended and started again, and ends with its guard. What it prints goes to its log.
pub struct Daemon {
    name: String,
    log: PathBuf,
    line: Line,
    child: Mutex<Option<Child>>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("name", &self.name).field("log", &self.log).finish_non_exhaustive()
    }
}

impl Daemon {
    /// Starts what `line` makes; its log is `NAME.log` in `logs`.
    ///
    /// # Errors
    /// The log cannot be written, or the program cannot be started.
    pub fn start(
        name: &str,
        logs: &Path,
        line: impl Fn() -> Command + Send + Sync + 'static,
    ) -> io::Result<Self> {
        fs::create_dir_all(logs)?;
        let log = logs.join(format!("{name}.log"));
        let daemon = Self { name: name.to_owned(), log, line: Box::new(line), child: Mutex::new(None) };
        daemon.resume()?;
        Ok(daemon)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// That it runs.
    ///
    /// # Errors
    /// It was ended, or ended by itself: how, and the end of its log.
    pub fn running(&self) -> io::Result<()> {
        let Some(status) = self.child().as_mut().map(Child::try_wait).transpose()? else {
            return Err(io::Error::other(format!("{} does not run", self.name)));
        };
        match status {
            None => Ok(()),
            Some(status) => Err(self.complaint(&format!("ended, {status}"))),
        }
    }

    /// Waits for a condition that it brings about.
    ///
    /// # Errors
    /// It ended, or the condition did not hold within `limit`: with the end of its log.
    pub fn wait(&self, what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> io::Result<()> {
        let begun = SystemTime::now();
        while !condition() {
            self.running()?;
            if begun.elapsed().unwrap_or_default() > limit {
                return Err(self.complaint(&format!("{what}: not within {limit:?}")));
            }
            thread::sleep(Duration::from_millis(25));
        }
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match &*self.child() {
            Some(child) => Ok(kill(pid(child)?, signal)?),
            None => Err(io::Error::other(format!("{} does not run", self.name))),
        }
    }

    /// Stops it (SIGSTOP) and returns once every thread of it stands: until then one of them may still answer.
    ///
    /// # Errors
    /// It does not run, or does not stand after some seconds.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let Some(id) = self.child().as_ref().map(Child::id) else {
            return Err(io::Error::other(format!("{} does not run", self.name)));
        };
        for _ in 0..5_000 {
            if stands(id)? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err(io::Error::other(format!("{} goes on after SIGSTOP", self.name)))
    }

    /// Ends it by this signal and waits for its end; SIGKILL follows when it takes too long.
    ///
    /// # Errors
    /// It does not run, or it had to be killed although another signal was asked for.
    pub fn stop(&self, signal: Signal) -> io::Result<ExitStatus> {
        let Some(mut child) = self.child().take() else {
            return Err(io::Error::other(format!("{} does not run", self.name)));
        };
        // One that has ended and was waited for has no process id any more.
        if child.try_wait()?.is_none() {
            kill(pid(&child)?, signal)?;
        }
        let begun = SystemTime::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed().unwrap_or_default() > STOP {
                child.kill()?;
                child.wait()?;
                return Err(self.complaint(&format!("still ran {STOP:?} after {signal}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again, when it was stopped.
    ///
    /// # Errors
    /// It runs, or cannot be started.
    pub fn resume(&self) -> io::Result<()> {
        let mut held = self.child();
        if held.is_some() {
            return Err(io::Error::other(format!("{} runs already", self.name)));
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = (self.line)();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| io::Error::other(format!("{command:?}: {error}")))?;
        *held = Some(child);
        Ok(())
    }

    /// Starts it again, when it ended by itself.
    ///
    /// # Errors
    /// It was stopped, or cannot be started.
    pub fn revive(&self) -> io::Result<()> {
        let ended = match &mut *self.child() {
            Some(child) => child.try_wait()?.is_some(),
            None => return Err(io::Error::other(format!("{} was stopped", self.name))),
        };
        if ended {
            self.child().take();
            self.resume()?;
        }
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    fn complaint(&self, what: &str) -> io::Error {
        let log = self.log.display();
        io::Error::other(format!("{} {what}; the end of {log}:\n{}", self.name, self.tail(20)))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The last lines of a file; nothing when there is none.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a command to its end with this standard input; killed after `limit`, and its code is 124 then.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &mut Command, input: &str, limit: Duration) -> io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: what it started holds its streams open, and must end with it.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| io::Error::other(format!("{command:?}: {error}")))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read its input has ended, or will be.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let stdout = scope.spawn(move || all(stdout));
        let stderr = scope.spawn(move || all(stderr));
        let begun = SystemTime::now();
        let code = loop {
            if let Some(status) = child.try_wait()? {
                break status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            }
            if begun.elapsed().unwrap_or_default() > limit {
                killpg(pid(&child)?, Signal::SIGKILL)?;
                child.wait()?;
                break 124;
            }
            thread::sleep(Duration::from_millis(5));
        };
        let text = |reader: thread::ScopedJoinHandle<'_, String>| reader.join().unwrap_or_default();
        Ok(Output { code, stdout: text(stdout), stderr: text(stderr) })
    })
}

/// Every thread of the process is stopped by a signal.
fn stands(id: u32) -> io::Result<bool> {
    for task in fs::read_dir(format!("/proc/{id}/task"))? {
        // A thread that ended meanwhile stands, too.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        if !status.is_empty() && !status.contains("\nState:\tT") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

fn all(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn a_daemon_ends_and_starts_again_and_its_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::start("d", folder.path(), || shell("echo begun; exec sleep 60")).unwrap();
        let limit = Duration::from_secs(20);
        daemon.wait("it logs", limit, || daemon.tail(9).contains("begun")).unwrap();
        assert!(daemon.resume().unwrap_err().to_string().contains("runs already"));
        assert_eq!(daemon.stop(Signal::SIGTERM).unwrap().signal(), Some(Signal::SIGTERM as i32));
        assert!(daemon.running().is_err() && daemon.stop(Signal::SIGKILL).is_err());
        daemon.resume().unwrap();
        daemon.wait("it logs again", limit, || daemon.tail(9) == "begun\nbegun").unwrap();
        let id = i32::try_from(daemon.id().unwrap()).unwrap();
        drop(daemon);
        assert!(kill(Pid::from_raw(id), None).is_err(), "it ended with its guard");
    }

    #[test]
    fn a_daemon_that_ends_by_itself_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::start("d", folder.path(), || shell("echo no such flag; exit 3")).unwrap();
        let error = daemon.wait("never", Duration::from_secs(20), || false).unwrap_err().to_string();
        assert!(error.contains("no such flag") && error.contains("exit status: 3"), "{error}");
        daemon.revive().unwrap();
        let again = daemon.wait("never", Duration::from_secs(20), || false).unwrap_err().to_string();
        assert_eq!(again.matches("no such flag").count(), 2, "it ran twice: {again}");
        assert_eq!(daemon.stop(Signal::SIGTERM).unwrap().code(), Some(3), "it had ended");
        assert!(daemon.revive().is_err(), "it was stopped");
    }

    #[test]
    fn a_command_has_input_output_and_a_limit() {
        let limit = Duration::from_secs(20);
        let output = run(&mut shell("cat; echo oops >&2; exit 7"), "hello", limit).unwrap();
        assert_eq!((output.code, &*output.stdout, &*output.stderr), (7, "hello", "oops\n"));
        let late = run(&mut shell("echo early; sleep 60; true"), "", Duration::from_millis(300)).unwrap();
        assert_eq!((late.code, &*late.stdout), (124, "early\n"));
    }
}
