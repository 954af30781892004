//! What must not notice anything: long-lived connections and UDP flows that talk all the time, and new connections all
//! the time, through one Service, from pods of both nodes and in both families.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use tests::kubernetes::Site;

use super::witness::{Span, Witness, behind, queue_losses};
use crate::client::{Connection, Failure, Front, Udp};
use crate::kit::{From, LAG, Outcome, PATIENCE, StopOnDrop, eventually};
use crate::objects::{Family, Service};

/// Connections held for each client and family.
const STREAMS: u16 = 4;
/// UDP sockets held for each client and family.
const FLOWS: u16 = 2;
/// Their ports: below those the kernel gives to others.
const PORTS: u16 = 20_000;
/// Between two requests of one connection or flow, and between two new connections of a client.
const PACE: Duration = Duration::from_millis(100);
/// A SYN that was lost is sent again after a second: a new connection that took this long has lost one.
const SLOW: Duration = Duration::from_millis(900);

/// What went through, and what did not.
#[derive(Debug)]
struct Tally {
    begun: SystemTime,
    streams: AtomicU64,
    requests: AtomicU64,
    flows: AtomicU64,
    datagrams: AtomicU64,
    connections: AtomicU64,
    /// Of a new connection and its answer, in milliseconds.
    slowest: AtomicU64,
    slow: Mutex<Vec<(Span, String)>>,
    lost: Mutex<Vec<String>>,
    /// What was slow with no proxy on the way.
    witness: Witness,
}

impl Tally {
    fn begin() -> Self {
        Self {
            begun: SystemTime::now(),
            streams: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            flows: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            slowest: AtomicU64::new(0),
            slow: Mutex::new(Vec::new()),
            lost: Mutex::new(Vec::new()),
            witness: Witness::default(),
        }
    }

    /// A few lines for people; an error when anything was lost, if only until it was sent again. What was slow while
    /// the same was slow without a proxy is the machine's, and told.
    fn judge(&self, story: &str, queue_losses: u64) -> Outcome {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut slow, mut excused) = (Vec::new(), Vec::new());
        for (span, what) in self.slow.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match self.witness.excuse(span) {
                Some(why) => excused.push(format!("{what} ({why})")),
                None => slow.push(what.clone()),
            }
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "measured: {story}: {} streams with {} requests, {} UDP flows with {} datagrams, {} new connections, \
             the slowest {} ms; slow: {}, lost: {}; the machine's: {excused:?}; {}; {queue_losses} packets found a \
             device full",
            count(&self.streams),
            count(&self.requests),
            count(&self.flows),
            count(&self.datagrams),
            count(&self.connections),
            count(&self.slowest),
            slow.len(),
            lost.len(),
            self.witness.told()
        );
        if count(&self.requests) < 50 || count(&self.datagrams) < 50 || count(&self.connections) < 20 {
            return Err("hardly anything was asked: the story proves nothing".into());
        }
        for (what, all) in [("lost", &*lost), ("slow", &slow)] {
            if !all.is_empty() {
                let (few, queue) = (&all[..all.len().min(5)], queue_losses);
                let told = self.witness.told();
                return Err(format!(
                    "{} {what}: {few:?}; {told}; {queue} packets found a device full",
                    all.len()
                )
                .into());
            }
        }
        Ok(())
    }

    fn at(&self, what: &str) -> String {
        format!("{:.1} s: {what}", self.begun.elapsed().unwrap_or_default().as_secs_f64())
    }

    fn lose(&self, what: &str) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(self.at(what));
    }

    fn wait(&self, span: Span, what: &str) {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).push((span, self.at(what)));
    }
}

/// Tells a story under load: the load begins before it and ends after it, and nothing of it may be lost.
///
/// # Errors
/// The story's, or what was lost.
pub(crate) fn under_load(
    site: &Site<'_>,
    name: &str,
    service: &Service,
    clients: &[&str],
    story: impl FnOnce() -> Outcome,
) -> Outcome {
    let (stop, tally) = (AtomicBool::new(false), Tally::begin());
    let directly = [behind(site, service, Family::V4)?, behind(site, service, Family::V6)?].concat();
    let full_before = queue_losses(site)?;
    let told = thread::scope(|scope| {
        // The scope waits for its threads, also when the story panics.
        let stopped = StopOnDrop(&stop);
        let mut users = Vec::new();
        scope.spawn(|| tally.witness.watch_clock(&stop));
        for client in clients {
            for pod in &directly {
                let (stop, witness, from) = (&stop, &tally.witness, From::Pod(client));
                users.push(
                    scope.spawn(move || from.run(site, || witness.ask_directly(*pod, PACE * 2, SLOW, stop))),
                );
            }
            for family in Family::BOTH {
                let (tcp, udp) = (service.tcp(family, 80), service.udp(family, 80));
                let (stop, tally) = (&stop, &tally);
                let from = From::Pod(client);
                users.push(scope.spawn(move || from.run(site, || hold_streams(tcp, stop, tally))));
                users.push(scope.spawn(move || from.run(site, || hold_flows(udp, stop, tally))));
                users.push(scope.spawn(move || from.run(site, || connect(tcp, stop, tally))));
            }
        }
        // The story is told to streams and flows that are open.
        let each = u64::try_from(clients.len() * Family::BOTH.len()).unwrap_or(u64::MAX);
        let wanted = [u64::from(STREAMS) * each, u64::from(FLOWS) * each];
        let ready = eventually("all streams and flows are open", LAG, || {
            let open = [&tally.streams, &tally.flows].map(|open| open.load(Ordering::Relaxed));
            if open == wanted { Ok(()) } else { Err(format!("{open:?} of {wanted:?}")) }
        });
        let told = ready.and_then(|()| story());
        drop(stopped);
        for user in users {
            user.join().map_err(|_| "a client panicked")??;
        }
        told
    });
    // A proxy that was started anew counts from zero.
    let full = queue_losses(site).map(|full| full.checked_sub(full_before).unwrap_or(full));
    let judged = full.and_then(|full| tally.judge(name, full));
    told?;
    judged
}

/// Long-lived connections: each is answered by one pod, to its end.
fn hold_streams(front: Front, stop: &AtomicBool, tally: &Tally) {
    let open = |_| Connection::open(front.at, PATIENCE);
    let streams = opened(&format!("a stream to {front}"), (0..STREAMS).map(open), &tally.streams, tally);
    hold(front, streams, stop, tally, &tally.requests, |stream| stream.get_text("/hostname", PATIENCE));
}

/// UDP flows: each keeps its port and is answered by one pod, to its end. No datagram is sent twice: nothing on the way
/// may lose one.
fn hold_flows(front: Front, stop: &AtomicBool, tally: &Tally) {
    // A socket of IPv6 takes its port in IPv4 too.
    let first = PORTS + if front.at.is_ipv4() { 0 } else { FLOWS };
    let open = |number| Udp::open(first + number, front.at);
    let flows = opened(&format!("a flow to {front}"), (0..FLOWS).map(open), &tally.flows, tally);
    hold(front, flows, stop, tally, &tally.datagrams, |flow| flow.ask("hostname", PATIENCE));
}

fn opened<T>(
    what: &str,
    all: impl Iterator<Item = Result<T, Failure>>,
    count: &AtomicU64,
    tally: &Tally,
) -> Vec<T> {
    let opened = all.filter_map(|one| one.map_err(|why| tally.lose(&format!("{what}: {why}"))).ok());
    let opened: Vec<T> = opened.collect();
    count.fetch_add(u64::try_from(opened.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
    opened
}

/// Asks over each again and again; one that is not answered, or by another pod than before, is lost.
fn hold<T>(
    front: Front,
    held: Vec<T>,
    stop: &AtomicBool,
    tally: &Tally,
    answered: &AtomicU64,
    ask: impl Fn(&mut T) -> Result<String, Failure>,
) {
    let mut held: Vec<(T, Option<String>)> = held.into_iter().map(|one| (one, None)).collect();
    while !stop.load(Ordering::Relaxed) {
        held.retain_mut(|(one, pod)| match ask(one) {
            Ok(said) if pod.as_ref().is_none_or(|pod| *pod == said) => {
                answered.fetch_add(1, Ordering::Relaxed);
                *pod = Some(said);
                true
            }
            other => {
                tally.lose(&format!("one held to {front}, of {pod:?}: {other:?}"));
                false
            }
        });
        thread::sleep(PACE);
    }
}

/// New connections, one after another.
fn connect(front: Front, stop: &AtomicBool, tally: &Tally) {
    while !stop.load(Ordering::Relaxed) {
        let asked = SystemTime::now();
        match front.ask("hostname", PATIENCE) {
            Ok(_) => {
                let span = Span::since(asked);
                let millis = u64::try_from(span.took().as_millis()).unwrap_or(u64::MAX);
                tally.connections.fetch_add(1, Ordering::Relaxed);
                tally.slowest.fetch_max(millis, Ordering::Relaxed);
                if span.took() >= SLOW {
                    tally.wait(span, &format!("a new connection to {front} took {millis} ms"));
                }
            }
            Err(why) => tally.lose(&format!("a new connection to {front}: {why}")),
        }
        thread::sleep(PACE);
    }
}
