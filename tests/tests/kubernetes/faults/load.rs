//! What must not notice anything: long-lived connections that talk all the time, and new ones all the time, through
//! one Service, from pods of both nodes and in both families.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use tests::kubernetes::Site;

use crate::client::{Connection, Failure, Front};
use crate::kit::{From, Outcome, PATIENCE};
use crate::objects::{Family, Service};

/// Connections held for each client and family.
const STREAMS: usize = 4;
/// Between two requests of one connection, and between two new connections of a client.
const PACE: Duration = Duration::from_millis(100);

/// What went through, and what did not.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    streams: AtomicU64,
    requests: AtomicU64,
    connections: AtomicU64,
    lost: Mutex<Vec<String>>,
}

impl Tally {
    /// One line for people; an error when anything was lost.
    ///
    /// # Errors
    /// What was lost.
    pub(crate) fn judge(&self, story: &str) -> Outcome {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "measured: {story}: {} streams with {} requests, {} new connections; lost: {}",
            count(&self.streams),
            count(&self.requests),
            count(&self.connections),
            lost.len()
        );
        if count(&self.requests) < 50 || count(&self.connections) < 20 {
            return Err("hardly anything was asked: the story proves nothing".into());
        }
        if lost.is_empty() {
            Ok(())
        } else {
            Err(format!("{} lost: {:?}", lost.len(), &lost[..lost.len().min(5)]).into())
        }
    }

    fn lose(&self, begun: SystemTime, what: String) {
        let at = begun.elapsed().unwrap_or_default().as_secs_f64();
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{at:.1} s: {what}"));
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
    let (stop, tally, begun) = (AtomicBool::new(false), Tally::default(), SystemTime::now());
    let told = thread::scope(|scope| {
        let mut users = Vec::new();
        for client in clients {
            for family in Family::BOTH {
                let front = service.tcp(family, 80);
                let (stop, tally) = (&stop, &tally);
                let from = From::Pod(client);
                users.push(scope.spawn(move || from.run(site, || hold(front, stop, tally, begun))));
                users.push(scope.spawn(move || from.run(site, || connect(front, stop, tally, begun))));
            }
        }
        // The story is told to streams that are open.
        let wanted = u64::try_from(STREAMS * clients.len() * 2).unwrap_or(u64::MAX);
        let ready = crate::kit::eventually("all streams are open", PATIENCE, || {
            let open = tally.streams.load(Ordering::Relaxed);
            if open == wanted { Ok(()) } else { Err(format!("{open} of {wanted}")) }
        });
        let told = ready.and_then(|()| story());
        stop.store(true, Ordering::Relaxed);
        for user in users {
            user.join().map_err(|_| "a client panicked")??;
        }
        told
    });
    let judged = tally.judge(name);
    told?;
    judged
}

/// Long-lived connections: each is answered by one pod, to its end.
fn hold(front: Front, stop: &AtomicBool, tally: &Tally, begun: SystemTime) {
    let mut streams: Vec<(Connection, Option<String>)> = Vec::new();
    for _ in 0..STREAMS {
        match Connection::open(front.at, PATIENCE) {
            Ok(stream) => {
                tally.streams.fetch_add(1, Ordering::Relaxed);
                streams.push((stream, None));
            }
            Err(why) => tally.lose(begun, format!("a stream to {front}: {why}")),
        }
    }
    while !stop.load(Ordering::Relaxed) {
        streams.retain_mut(|(stream, pod)| match stream.get_text("/hostname", PATIENCE) {
            Ok(said) if pod.as_ref().is_none_or(|pod| *pod == said) => {
                tally.requests.fetch_add(1, Ordering::Relaxed);
                *pod = Some(said);
                true
            }
            other => {
                tally.lose(begun, format!("a stream to {front}, of {pod:?}: {other:?}"));
                false
            }
        });
        thread::sleep(PACE);
    }
}

/// New connections, one after another.
fn connect(front: Front, stop: &AtomicBool, tally: &Tally, begun: SystemTime) {
    while !stop.load(Ordering::Relaxed) {
        let said: Result<String, Failure> = front.ask("hostname", PATIENCE);
        match said {
            Ok(_) => drop(tally.connections.fetch_add(1, Ordering::Relaxed)),
            Err(why) => tally.lose(begun, format!("a new connection to {front}: {why}")),
        }
        thread::sleep(PACE);
    }
}
