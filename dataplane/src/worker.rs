//! A worker: one thread, one queue, one engine, and a loop.
//!
//! ```text
//! recv ─ pin, load the world, process, unpin ─ send ─ pin, sweep, unpin ─ nothing read? wait
//! ```
//!
//! It is never pinned in a syscall: a pin holds back every world retired since, on a thread that may sleep.
//! It reads the clock once per turn. It ends by a command, or by an error of its queue, which is fatal for the
//! process: half a dataplane is worse than a restart.
//!
//! Who counts what: `Engine::process` counts frames and bytes received and every verdict. Here frames the device
//! did not take are moved from their verdict to `WriteFailed`, and waits are counted. So at every moment
//! between two turns `received = translated + passed + replied + dropped + parked`, and after the end without the
//! last term. Fragments that wait for their first one are missing meanwhile; with them it holds of all workers
//! together.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use crossbeam::epoch;
use crossbeam::utils::CachePadded;

use crate::clock::{Clock, Time};
use crate::engine::Engine;
use crate::ids::WorkerId;
use crate::io::{Queue, Waker};
use crate::packet::frame::Batch;
use crate::service::{Published, World};
use crate::stats::{Counter, WorkerStats};

/// Longest sleep of an idle worker: how late the clock hand may start its next slice.
const IDLE: Duration = Duration::from_millis(250);
/// The same while the hand is behind its plan.
const BEHIND: Duration = Duration::from_millis(50);
/// The same while frames wait for another worker's open, a matter of microseconds, or fragments are due.
const PARKED: Duration = Duration::from_millis(1);
/// Turns after a stop in which parked frames may still find their end. The engine gives each 20 ms.
const LAST_TURNS: usize = 50;

/// What the control thread tells a worker; followed by a wake-up.
#[derive(Debug)]
pub(crate) enum Command {
    /// Finish the turn and end.
    Stop,
}

/// The last word of a worker.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) worker: WorkerId,
    pub(crate) end: End,
}

/// How a worker ended.
#[derive(Debug)]
pub(crate) enum End {
    /// As it was told.
    Stopped,
    /// Its queue is gone.
    Failed(io::Error),
    /// A bug. In release builds the process has aborted by now.
    Panicked(String),
}

/// Everything one thread works with.
#[derive(Debug)]
pub(crate) struct Worker<Q> {
    pub(crate) queue: Q,
    pub(crate) engine: Engine,
    pub(crate) world: Arc<Published<World>>,
    pub(crate) commands: Receiver<Command>,
    pub(crate) waker: Waker,
    pub(crate) stats: Arc<CachePadded<WorkerStats>>,
}

impl<Q: Queue + 'static> Worker<Q> {
    /// Starts the thread `dp-<id>`. Its end, whatever it is, goes to `exits`; by then the queue is closed.
    pub(crate) fn spawn(self, id: WorkerId, exits: Sender<Exit>) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(format!("dp-{}", id.0)).spawn(move || {
            let end = match catch_unwind(AssertUnwindSafe(|| self.run())) {
                Ok(Ok(())) => End::Stopped,
                Ok(Err(error)) => End::Failed(error),
                Err(panic) => End::Panicked(message(&*panic)),
            };
            // Nobody listens any more: then nobody needs to know.
            let _ = exits.send(Exit { worker: id, end });
        })
    }
}

impl<Q: Queue> Worker<Q> {
    /// Works until told to stop, or until the queue fails.
    fn run(mut self) -> io::Result<()> {
        let mut batch = Batch::default();
        while !self.told_to_stop() {
            batch.clear();
            let read = self.queue.recv(&mut batch)?;
            let now = Clock.now();
            if read > 0 || self.engine.parked() > 0 {
                self.turn(&mut batch, now)?;
            }
            if read > 0 && self.engine.parked() > 0 {
                // Once more with the whole batch's room: a busy queue must not keep parked frames waiting.
                batch.clear();
                self.turn(&mut batch, now)?;
            }
            let behind = self.sweep(now);
            if read == 0 {
                self.stats.add(Counter::Waits, 1);
                self.queue.wait(&self.waker, self.patience(behind))?;
            }
        }
        self.finish_parked(&mut batch)
    }

    /// Commands are looked for in every turn, so that a queue that never runs dry does not keep a worker from ending.
    fn told_to_stop(&self) -> bool {
        match self.commands.try_recv() {
            Ok(Command::Stop) | Err(TryRecvError::Disconnected) => true,
            Err(TryRecvError::Empty) => false,
        }
    }

    fn turn(&mut self, batch: &mut Batch, now: Time) -> io::Result<()> {
        {
            let pin = epoch::pin();
            self.engine.process(batch, self.world.load(&pin), now);
        }
        let stats = &self.stats;
        self.queue.send(batch, &mut |verdict| stats.write_failed(verdict))
    }

    /// True if the hand is behind its plan.
    fn sweep(&mut self, now: Time) -> bool {
        let pin = epoch::pin();
        self.engine.sweep(self.world.load(&pin), now)
    }

    fn patience(&self, behind: bool) -> Duration {
        if self.engine.parked() > 0 {
            PARKED
        } else if behind {
            BEHIND
        } else {
            IDLE
        }
    }

    /// Gives parked frames their end, so that every frame read has been counted.
    fn finish_parked(&mut self, batch: &mut Batch) -> io::Result<()> {
        for _ in 0..LAST_TURNS {
            if self.engine.parked() == 0 {
                break;
            }
            batch.clear();
            self.turn(batch, Clock.now())?;
            thread::sleep(PARKED);
        }
        self.engine.abandon_fragments();
        Ok(())
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
