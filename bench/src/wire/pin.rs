//! Which CPU runs what, and what the CPUs did.

use std::time::Duration;
use std::{fs, io, thread};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Binds the calling thread, and the threads it will make, to one CPU (modulo those there are).
///
/// # Errors
/// When the kernel refuses.
pub fn this_thread(cpu: usize) -> io::Result<()> {
    bind(Pid::from_raw(0), cpu)
}

/// Binds the workers of tunway's plane, the threads of this process named `dp-N`, to CPU N (modulo those there are).
/// A thread takes its name after it was started, so that they are waited for, a second at most.
///
/// # Errors
/// When fewer than `workers` such threads appear, or the kernel refuses.
pub fn workers(workers: usize) -> io::Result<()> {
    for _ in 0..100 {
        let threads = worker_threads()?;
        if threads.len() == workers {
            return threads.into_iter().try_for_each(|(thread, number)| bind(thread, number));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other(format!("no {workers} worker threads to bind to CPUs")))
}

fn worker_threads() -> io::Result<Vec<(Pid, usize)>> {
    let mut threads = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        let name = fs::read_to_string(task.path().join("comm"))?;
        if let Some(number) = name.trim().strip_prefix("dp-").and_then(|n| n.parse().ok()) {
            let thread = task.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
            threads.push((Pid::from_raw(thread), number));
        }
    }
    Ok(threads)
}

/// CPUs this machine has.
#[must_use]
pub fn cpus() -> usize {
    // Not `available_parallelism`: that counts the CPUs this thread is bound to.
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|n| usize::try_from(n).ok()).map_or(1, |n| n.max(1))
}

/// Seconds all CPUs of this machine spent on anything but idling, since boot (`/proc/stat`, `proc(5)`).
///
/// # Errors
/// When `/proc/stat` cannot be read or has no `cpu` line.
pub fn busy_seconds() -> io::Result<f64> {
    let [user, nice, system, interrupts] = cpu_seconds()?;
    Ok(user + nice + system + interrupts)
}

/// Seconds of those in interrupts, hard and soft, which no process is charged for.
///
/// # Errors
/// As [`busy_seconds`].
pub fn interrupt_seconds() -> io::Result<f64> {
    cpu_seconds().map(|[.., interrupts]| interrupts)
}

fn cpu_seconds() -> io::Result<[f64; 4]> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal: all but idle, iowait and steal.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
        return Err(io::Error::other(format!("/proc/stat begins with {line:?}")));
    };
    // USER_HZ is 100 on every architecture Linux exports these figures for.
    Ok([user, nice, system, irq + softirq].map(|ticks| ticks / 100.0))
}

fn bind(thread: Pid, cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu % cpus())?;
    sched_setaffinity(thread, &set)?;
    Ok(())
}
