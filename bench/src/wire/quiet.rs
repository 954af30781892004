//! How quiet the machine is while it is measured: a session of its own for this program, and the share of the CPU that
//! others took.
//!
//! With `kernel.sched_autogroup_enabled` niceness counts only within a session: a build at nice 19 in another one takes
//! as much as the measurement.

use std::collections::HashMap;
use std::process::{Command, ExitStatus};
use std::{fs, io};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgrp, getpid, getsid, setsid};

/// The nice value asked for our session's group.
const RAISED: &str = "-20";

/// Tells a program that it was started again, to lead a session of its own.
const AGAIN: &str = "TUNWAY_WIRE_SESSION";

/// Starts this program again where it cannot lead a session because it leads its starter's process group, as from a
/// shell, and gives how that ended. None: this process is the one to measure.
///
/// # Errors
/// It cannot be started.
pub fn again() -> io::Result<Option<ExitStatus>> {
    if std::env::var_os(AGAIN).is_some() {
        // Nobody could end it from the terminal any more.
        set_pdeathsig(Signal::SIGTERM)?;
        return Ok(None);
    }
    if getpgrp() != getpid() {
        return Ok(None);
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env(AGAIN, "own").status().map(Some)
}

/// Puts this process, and those it will start, into a session of its own, and raises that session's weight where it
/// may. What of it could be done, for the report.
#[must_use]
pub fn own_session() -> &'static str {
    let own = setsid().is_ok() || getsid(None).is_ok_and(|session| session == getpid());
    let raised = own && fs::write("/proc/self/autogroup", RAISED).is_ok();
    match (own, raised) {
        (true, true) => "a session of its own, raised",
        (true, false) => "a session of its own, not raised (no autogroups, or no right to)",
        (false, _) => "the session of whoever started it",
    }
}

/// CPU seconds, of the whole machine and of one process with all it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Of everybody, but idling.
    pub all: f64,
    /// Of our own processes, interrupts in their time included.
    pub own: f64,
}

impl Used {
    /// So far.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn now() -> io::Result<Self> {
        let all = super::pin::busy_seconds()?;
        Ok(Self { all, own: own_seconds(&processes()?, getpid()) })
    }

    /// The share of the machine's used CPU that was not ours since `before`: 0 to 1. Interrupts (softirqs of the very
    /// traffic that is measured) are counted for nobody by the kernel and are no strangers' either.
    #[must_use]
    pub fn foreign_since(self, before: Self, interrupts: f64) -> f64 {
        let all = self.all - before.all;
        if all <= 0.0 {
            return 0.0;
        }
        ((all - interrupts - (self.own - before.own)) / all).clamp(0.0, 1.0)
    }
}

/// A process as `/proc/PID/stat` has it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    parent: i32,
    /// `ksoftirqd`: on a busy machine the kernel forwards there, for whoever sends.
    softirqs: bool,
    seconds: f64,
}

/// User and system time, its own and that of its dead children.
fn parse(stat: &str) -> Option<Process> {
    // The name in parentheses may hold anything, parentheses too.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let softirqs = name.starts_with("ksoftirqd/");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<f64>().ok()).sum::<Option<f64>>()?;
    // USER_HZ is 100 on every architecture Linux exports these figures for.
    Some(Process { parent: fields.get(1)?.parse().ok()?, softirqs, seconds: ticks / 100.0 })
}

fn processes() -> io::Result<HashMap<i32, Process>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        if let Some(process) =
            fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| parse(&stat))
        {
            found.insert(pid, process);
        }
    }
    Ok(found)
}

/// Of this process and everything below it, and of the kernel threads that forward packets.
fn own_seconds(all: &HashMap<i32, Process>, root: Pid) -> f64 {
    let is_ours = |pid: i32| {
        let mut at = pid;
        // A circle there is none, but a snapshot of a tree that moves may show one.
        for _ in 0..64 {
            if at == root.as_raw() {
                return true;
            }
            match all.get(&at) {
                Some(process) => at = process.parent,
                None => return false,
            }
        }
        false
    };
    all.iter()
        .filter(|(pid, process)| process.softirqs || is_ours(**pid))
        .map(|(_, process)| process.seconds)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "42 (a) (b c) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 20 30 20 0 1 0 9";
        assert_eq!(parse(stat), Some(Process { parent: 7, softirqs: false, seconds: 2.5 }));
        assert!(parse(&stat.replace("a) (b c", "ksoftirqd/1")).unwrap().softirqs);
        assert_eq!(parse("42 (x"), None);
        assert_eq!(parse("42 (x) S 7"), None);
    }

    #[test]
    fn only_what_is_below_us_is_ours() {
        let of = |parent, seconds| Process { parent, softirqs: false, seconds };
        let all =
            [(1, of(0, 100.0)), (10, of(1, 1.0)), (11, of(10, 2.0)), (12, of(11, 4.0)), (20, of(1, 8.0))];
        let all: HashMap<_, _> = all.into();
        assert!((own_seconds(&all, Pid::from_raw(10)) - 7.0).abs() < 1e-9);
        let (before, after) = (Used { all: 100.0, own: 5.0 }, Used { all: 110.0, own: 11.0 });
        assert!((after.foreign_since(before, 1.0) - 0.3).abs() < 1e-9, "10 used, 6 ours, 1 interrupts");
        assert!(before.foreign_since(before, 0.0).abs() < f64::EPSILON);
    }

    #[test]
    fn our_own_work_is_no_strangers() {
        let before = Used::now().unwrap();
        let mut n = 0_u64;
        let mut now = before;
        while now.own - before.own < 0.05 {
            n = (0..1_000_000).fold(n, |n, more| n.wrapping_mul(31).wrapping_add(more));
            now = Used::now().unwrap();
        }
        assert!(n != 1 && now.all >= before.all);
    }
}
