//! What was slow without any proxy on the way: asked before a proxy is blamed for a slow connection. A storm of changes
//! that starved a proxy's workers or filled its queue slows nothing that goes directly; a machine without time slows both.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use tests::kubernetes::Site;

use super::status;
use crate::client::Front;
use crate::kit::{Outcome, PATIENCE};
use crate::objects::{Family, Service};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(20);
/// A thread that sleeps and wakes so much later than it asked for was kept waiting for a processor.
const LATE: Duration = Duration::from_millis(500);

/// When something began and ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    from: SystemTime,
    to: SystemTime,
}

impl Span {
    /// Since then.
    pub(crate) fn since(from: SystemTime) -> Self {
        Self { from, to: SystemTime::now() }
    }

    /// How long it took.
    pub(crate) fn took(self) -> Duration {
        self.to.duration_since(self.from).unwrap_or_default()
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// Watches the machine while a story is told.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// When directly asked pods, or sleeping threads, were late, too.
    late: Mutex<Vec<(Span, String)>>,
    asked: AtomicU64,
    /// In milliseconds.
    slowest: AtomicU64,
    latest_tick: AtomicU64,
}

impl Witness {
    /// Notes when a thread that only sleeps is late.
    pub(crate) fn watch_clock(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let asleep = SystemTime::now();
            thread::sleep(TICK);
            let span = Span::since(asleep);
            let late = span.took().saturating_sub(TICK);
            self.latest_tick.fetch_max(millis(late), Ordering::Relaxed);
            if late >= LATE {
                self.note(span, format!("a sleeping thread woke {} ms late", millis(late)));
            }
        }
    }

    /// Asks a pod by its own address, at a pace, and notes what takes longer than `slow` or fails.
    pub(crate) fn ask_directly(&self, pod: Front, pace: Duration, slow: Duration, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let begun = SystemTime::now();
            let answer = pod.ask("hostname", PATIENCE);
            let span = Span::since(begun);
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.slowest.fetch_max(millis(span.took()), Ordering::Relaxed);
            match answer {
                Ok(_) if span.took() < slow => {}
                Ok(_) => self.note(span, format!("{pod} itself took {} ms", millis(span.took()))),
                Err(why) => self.note(span, format!("{pod} itself: {why}")),
            }
            thread::sleep(pace);
        }
    }

    fn note(&self, span: Span, what: String) {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).push((span, what));
    }

    /// What was late without a proxy at the same time, if anything was.
    pub(crate) fn excuse(&self, span: &Span) -> Option<String> {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.iter().find(|(other, _)| other.overlaps(span)).map(|(_, what)| what.clone())
    }

    /// One line for people.
    pub(crate) fn told(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "directly {} connections, the slowest {} ms; a sleeping thread at most {} ms late",
            count(&self.asked),
            count(&self.slowest),
            count(&self.latest_tick)
        )
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The pods behind a Service, by their own addresses.
///
/// # Errors
/// The API server does not say.
pub(crate) fn behind(site: &Site<'_>, service: &Service, family: Family) -> Outcome<Vec<Front>> {
    let selector = format!("kubernetes.io/service-name={}", service.name);
    let slices = site.list("EndpointSlice", &selector)?;
    let mut pods = Vec::new();
    for slice in slices {
        let tcp = slice["ports"].as_array().into_iter().flatten().find(|port| port["protocol"] == "TCP");
        let Some(port) = tcp.and_then(|port| u16::try_from(port["port"].as_u64()?).ok()) else { continue };
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let addresses = endpoints.filter_map(|one| one["addresses"][0].as_str()?.parse().ok());
        pods.extend(addresses.filter(|ip| family.has(*ip)).map(|ip| Front::tcp(ip, port)));
    }
    if pods.is_empty() {
        Err(format!("no {} pod is behind {}", family.name(), service.name).into())
    } else {
        Ok(pods)
    }
}

/// Packets that found a device of tunway full so far, on all nodes; none of kube-proxy, which has no queue.
///
/// # Errors
/// A tunway does not say.
pub(crate) fn queue_losses(site: &Site<'_>) -> Outcome<u64> {
    status::counted(site.cluster(), "device_queue_full").map(|nodes| nodes.iter().sum())
}
