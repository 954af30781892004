//! The crate's front door: starts the workers over one region, gives them worlds, reads their counters, stops them.
//!
//! One thread owns a [`Plane`], the control thread. It is the only one that publishes, and the only one that
//! ever drops a world: a retired one stays in a list here until no worker can be reading it, because dropping
//! ten megabytes is no work for the packet path.
//!
//! A worker that ends on its own is fatal for the process. The others go on until they are stopped;
//! the owner asks [`Plane::failed`] once a second and then stops.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use crossbeam::utils::CachePadded;

use crate::clock::{Clock, Time};
use crate::engine::{Engine, EngineConfig, Tables};
use crate::flow::{FlowView, Key, Loads, Region, RegionConfig, RegionError, Table, TtlError, Ttls};
use crate::ids::{EndpointId, ServiceId, WorkerId};
use crate::io::{MAX_QUEUES, Queue, Waker, random_u64};
use crate::packet::tuple::{Address, Tuple};
use crate::service::{Affinity, Published, World};
use crate::stats::{Counter, Totals, WorkerStats};
use crate::worker::{Command, End, Exit, Worker};

/// Everything a plane needs to start.
#[derive(Clone, Debug)]
pub struct PlaneConfig {
    /// Where the flow tables live and how big they are.
    pub region: RegionConfig,
    /// Timers of flows.
    pub ttls: Ttls,
    /// What the engines do where there is a choice.
    pub engine: EngineConfig,
    /// Clients session affinity remembers at most.
    pub max_affinity: usize,
}

/// A flow of either family, as tables print it.
#[derive(Clone, Debug)]
pub struct FlowRow {
    /// As its packets arrive from the client: client to VIP.
    pub forward: Tuple<IpAddr>,
    /// As its packets arrive from the endpoint: endpoint to client or SNAT address.
    pub reply: Tuple<IpAddr>,
    /// The state's name.
    pub state: &'static str,
    /// Whose flow it is.
    pub service: ServiceId,
    /// Where it goes.
    pub endpoint: EndpointId,
    /// Seconds since its last packet.
    pub idle: u32,
    /// Seconds until it expires if no packet comes.
    pub expires: u32,
    /// Packets, forward and reply.
    pub packets: [u64; 2],
    /// Bytes, forward and reply.
    pub bytes: [u64; 2],
}

/// Running workers.
#[derive(Debug)]
pub struct Plane {
    region: Arc<Region>,
    tables: Tables,
    world: Arc<Published<World>>,
    current: Arc<World>,
    retired: Vec<Arc<World>>,
    workers: Vec<Handle>,
    exits: Receiver<Exit>,
    ended: Mutex<Vec<Exit>>,
    /// When clients whose time is up were last forgotten.
    tidied: Time,
}

/// What is left of a worker on this side.
#[derive(Debug)]
struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    stats: Arc<CachePadded<WorkerStats>>,
    thread: JoinHandle<()>,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaneError {
    /// No queue, or more than there may be workers.
    #[error("{0} queues: between 1 and {max} are possible", max = WorkerId::MAX)]
    Queues(usize),
    /// A timer the flow tables cannot keep.
    #[error(transparent)]
    Ttls(#[from] TtlError),
    /// The region for the flows cannot be had.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The system gives no thread, descriptor or randomness.
    #[error("cannot {what} for worker {worker}: {source}")]
    Start {
        /// What was asked for.
        what: &'static str,
        /// For which worker.
        worker: u8,
        /// What the system said.
        source: io::Error,
    },
    /// A worker ended on its own.
    #[error("worker dp-{worker} ended: {reason}")]
    Worker {
        /// Which.
        worker: u8,
        /// Why.
        reason: String,
    },
    /// Not all workers ended in time.
    #[error("{running} of {workers} workers did not stop within {deadline:?}")]
    Deadline {
        /// Still running.
        running: usize,
        /// Of how many.
        workers: usize,
        /// What they were given.
        deadline: Duration,
    },
}

impl Plane {
    /// Active flows by endpoint.
    #[must_use]
    pub fn loads(&self) -> &Arc<Loads> {
        self.region.loads()
    }

    /// Maps the region and starts one worker per queue. Until the first [`Plane::publish`] known flows are served and
    /// new ones are neither answered nor refused. A table of fewer than 4,096 flows a worker is made that large.
    ///
    /// # Errors
    /// As the variants of [`PlaneError`] say; workers already started end.
    pub fn start<Q: Queue + 'static>(config: &PlaneConfig, queues: Vec<Q>) -> Result<Self, PlaneError> {
        if !(1..=WorkerId::MAX).contains(&queues.len()) {
            return Err(PlaneError::Queues(queues.len()));
        }
        config.ttls.validate()?;
        let region = Region::open(&sized_for(queues.len(), &config.region), Clock.now())?;
        let tables = Tables::new(
            Table::new(&region, config.ttls.clone()),
            Table::new(&region, config.ttls.clone()),
            Affinity::new(config.max_affinity),
        );
        let current = Arc::new(World::NotReady);
        let world = Arc::new(Published::new(Arc::clone(&current)));
        let (report, exits) = unbounded();
        let workers = Vec::with_capacity(queues.len());
        let mut plane = Self {
            region,
            tables,
            world,
            current,
            retired: Vec::new(),
            workers,
            exits,
            ended: Mutex::default(),
            tidied: Clock.now(),
        };
        for (id, queue) in (0..).zip(queues) {
            let handle = plane.spawn(WorkerId(id), queue, &config.engine, report.clone())?;
            plane.workers.push(handle);
        }
        tracing::info!(workers = plane.workers.len(), "packet workers started");
        Ok(plane)
    }

    /// Makes a world current: every worker uses it from its next turn on. The previous one is dropped here, later.
    pub fn publish(&mut self, world: Arc<World>) {
        self.world.publish(Arc::clone(&world));
        self.retired.push(std::mem::replace(&mut self.current, world));
        self.collect();
    }

    /// Drops the retired worlds no worker reads any more, and returns how many are left. While that is not 0, call
    /// it again in 50 ms or so.
    pub fn collect(&mut self) -> usize {
        if !self.retired.is_empty() {
            self.world.flush();
            self.retired.retain(|world| Arc::strong_count(world) > 1);
        }
        self.retired.len()
    }

    /// Forgets clients of session affinity whose time is up, every ten seconds, or at once when room is short; then also
    /// those that have not come back for the longest time. Call it once a second.
    pub fn keep_house(&mut self) {
        let (now, affinity) = (Clock.now(), &self.tables.affinity);
        let World::Ready(snapshot) = &*self.current else { return };
        if affinity.is_tight() || (now.since(self.tidied) >= TIDY_NS && !affinity.is_empty()) {
            self.tidied = now;
            let tidied = affinity.tidy(snapshot, now.tick());
            tracing::debug!(ended = tidied.ended, evicted = tidied.evicted, "forgot clients");
        }
    }

    /// Clients session affinity remembers just now, and how many it may.
    #[must_use]
    pub fn affinity(&self) -> [usize; 2] {
        [self.tables.affinity.len(), self.tables.affinity.capacity()]
    }

    /// Advances the purge epoch, which goes into service ports that lost an endpoint, and returns the new one.
    pub fn advance_purge_epoch(&self) -> u16 {
        self.region.advance_purge_epoch()
    }

    /// The counters, summed over all workers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        self.workers.iter().for_each(|worker| sum.merge(&worker.stats.read()));
        sum.add(Counter::AffinityRefused, self.tables.affinity.refused());
        sum.add(Counter::AffinityEvicted, self.tables.affinity.evicted());
        sum
    }

    /// The counters of each worker.
    #[must_use]
    pub fn worker_totals(&self) -> Vec<Totals> {
        self.workers.iter().map(|worker| worker.stats.read()).collect()
    }

    /// Gives every live flow to `each`, IPv4 first. Workers go on meanwhile: the list is of no single moment, but no
    /// row is torn.
    pub fn flows(&self, each: &mut dyn FnMut(FlowRow)) {
        let now = Clock.now().tick();
        self.tables.v4.for_each(now, |flow| each(row::<2, std::net::Ipv4Addr>(&flow)));
        self.tables.v6.for_each(now, |flow| each(row::<5, std::net::Ipv6Addr>(&flow)));
    }

    /// Live flows and capacity: IPv4 live, IPv4 capacity, IPv6 live, IPv6 capacity. Walks the whole table.
    #[must_use]
    pub fn occupancy(&self) -> [usize; 4] {
        let Tables { v4, v6, .. } = &self.tables;
        [v4.live(), v4.capacity(), v6.live(), v6.capacity()]
    }

    /// The first worker that ended on its own: fatal. `None` while all run. Cheap enough to ask once a second.
    #[must_use]
    pub fn failed(&self) -> Option<PlaneError> {
        let mut ended = self.ended();
        ended.extend(self.exits.try_iter());
        ended.iter().find_map(failure)
    }

    /// Stops all workers, each after its turn, and waits for them for at most `deadline`. Frames the kernel has queued
    /// stay with the device.
    ///
    /// # Errors
    /// A worker had ended on its own, or one did not end in time.
    pub fn stop(mut self, deadline: Duration) -> Result<(), PlaneError> {
        self.tell_to_stop();
        let start = Clock.now();
        let mut ended = std::mem::take(&mut *self.ended());
        while ended.len() < self.workers.len() {
            let left = deadline.saturating_sub(Duration::from_nanos(Clock.now().since(start)));
            let Ok(exit) = self.exits.recv_timeout(left) else {
                let (running, workers) = (self.workers.len() - ended.len(), self.workers.len());
                return Err(PlaneError::Deadline { running, workers, deadline });
            };
            ended.push(exit);
        }
        for worker in self.workers.drain(..) {
            // It has reported, so this takes no time; a panic was reported too.
            let _ = worker.thread.join();
        }
        tracing::info!("packet workers stopped");
        ended.iter().find_map(failure).map_or(Ok(()), Err)
    }

    fn spawn<Q: Queue + 'static>(
        &self,
        id: WorkerId,
        queue: Q,
        config: &EngineConfig,
        report: Sender<Exit>,
    ) -> Result<Handle, PlaneError> {
        let failed = |what| move |source| PlaneError::Start { what, worker: id.0, source };
        let stats = Arc::new(CachePadded::new(WorkerStats::default()));
        let seed = random_u64().map_err(failed("draw a random seed"))?;
        let engine = Engine::new(id, self.tables.clone(), config.clone(), Arc::clone(&stats), seed);
        let waker = Waker::new().map_err(failed("make a wake-up"))?;
        let (commands, orders) = unbounded();
        let worker = Worker {
            queue,
            engine,
            world: Arc::clone(&self.world),
            commands: orders,
            waker: waker.clone(),
            stats: Arc::clone(&stats),
        };
        let thread = worker.spawn(id, report).map_err(failed("start a thread"))?;
        Ok(Handle { commands, waker, stats, thread })
    }

    fn tell_to_stop(&self) {
        for worker in &self.workers {
            // A worker that has ended needs no telling.
            let _ = worker.commands.send(Command::Stop);
            worker.waker.wake();
        }
    }

    fn ended(&self) -> MutexGuard<'_, Vec<Exit>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A plane that is dropped without a stop tells its workers to end, and does not wait for them.
impl Drop for Plane {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

/// How often clients whose time is up are forgotten, in nanoseconds.
const TIDY_NS: u64 = 10_000_000_000;
/// Flows of one chunk. Only the owner of a chunk may open flows in it, so a worker without one could open none.
const CHUNK: usize = 4_096;

fn sized_for(workers: usize, config: &RegionConfig) -> RegionConfig {
    let least = u32::try_from(workers * CHUNK).unwrap_or(u32::MAX);
    let RegionConfig { max_flows_v4, max_flows_v6, .. } = *config;
    RegionConfig {
        max_flows_v4: max_flows_v4.max(least),
        max_flows_v6: max_flows_v6.max(least),
        ..config.clone()
    }
}

// Every queue a device can have may have its worker.
const _: () = assert!(MAX_QUEUES <= WorkerId::MAX);

fn failure(exit: &Exit) -> Option<PlaneError> {
    let reason = match &exit.end {
        End::Stopped => return None,
        End::Failed(error) => format!("its queue failed: {error}"),
        End::Panicked(message) => format!("it panicked: {message}"),
    };
    Some(PlaneError::Worker { worker: exit.worker.0, reason })
}

fn row<const N: usize, A: Address>(flow: &FlowView<N>) -> FlowRow
where
    Key<N>: Into<Tuple<A>>,
{
    let tuple = |key: Key<N>| -> Tuple<IpAddr> { key.into().any() };
    FlowRow {
        forward: tuple(flow.forward),
        reply: tuple(flow.reply),
        state: flow.state,
        service: flow.service,
        endpoint: flow.endpoint,
        idle: flow.idle,
        expires: flow.expires,
        packets: flow.packets,
        bytes: flow.bytes,
    }
}

#[cfg(test)]
mod tests;
