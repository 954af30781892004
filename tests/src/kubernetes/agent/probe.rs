//! Readiness probes: what they ask, when, and what follows from the answers. A thread of its own asks.
//! <https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/>

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::action::{Action, Target};
use super::pod::Told;

/// A container that was never ready is asked this often, if its period is longer: nothing is to be gained by waiting.
const EAGER: Duration = Duration::from_millis(100);

/// A container's readiness, kept up to date until this is dropped.
#[derive(Debug)]
pub(super) struct Prober {
    ready: Arc<AtomicBool>,
    /// The thread ends when this is dropped.
    _stop: Sender<()>,
}

/// A probe and what its answers say so far.
#[derive(Debug)]
struct Probe {
    action: Action,
    period: Duration,
    timeout: Duration,
    after_failures: u64,
    after_successes: u64,
    due: SystemTime,
    /// Equal answers in a row, and which.
    row: (bool, u64),
    ready: bool,
}

impl Prober {
    /// Begins to ask a container that starts now; its pod's thread is told of every change. None: it has no probe, and
    /// is ready as soon as it runs.
    pub(super) fn start(container: &Value, target: &Target, tell: &Sender<Told>) -> io::Result<Option<Self>> {
        let Some(mut probe) = Probe::of(container, SystemTime::now()) else { return Ok(None) };
        let ready = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = mpsc::channel::<()>();
        let (known, target, tell) = (Arc::clone(&ready), target.clone(), tell.clone());
        let ask = move || {
            loop {
                let pause = probe.due.duration_since(SystemTime::now()).unwrap_or_default();
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let good = probe.action.perform(&target, probe.timeout);
                if probe.judge(good, SystemTime::now()) {
                    known.store(probe.ready, Ordering::Relaxed);
                    // Nobody listens: the pod is over.
                    let _ = tell.send(Told::Look);
                }
            }
        };
        thread::Builder::new().name("probe".to_owned()).spawn(ask)?;
        Ok(Some(Self { ready, _stop: stop }))
    }

    pub(super) fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

impl Probe {
    fn of(container: &Value, now: SystemTime) -> Option<Self> {
        let probe = &container["readinessProbe"];
        let number = |field: &str, default: u64| probe[field].as_u64().unwrap_or(default);
        (!probe.is_null()).then(|| Self {
            action: Action::of(probe, container),
            period: Duration::from_secs(number("periodSeconds", 10).max(1)),
            timeout: Duration::from_secs(number("timeoutSeconds", 1).max(1)),
            after_failures: number("failureThreshold", 3).max(1),
            after_successes: number("successThreshold", 1).max(1),
            due: now + Duration::from_secs(number("initialDelaySeconds", 0)),
            row: (false, 0),
            ready: false,
        })
    }

    /// Takes an answer; true when readiness changed.
    fn judge(&mut self, good: bool, now: SystemTime) -> bool {
        self.due = now + if self.ready || good { self.period } else { self.period.min(EAGER) };
        self.row = if self.row.0 == good { (good, self.row.1 + 1) } else { (good, 1) };
        let enough = if good { self.after_successes } else { self.after_failures };
        let changes = good != self.ready && self.row.1 >= enough;
        if changes {
            self.ready = good;
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn probe(spec: Value) -> Probe {
        Probe::of(&json!({"readinessProbe": spec}), SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn readiness_follows_answers_in_a_row() {
        let mut probe = probe(json!({"tcpSocket": {"port": 1}, "successThreshold": 2}));
        let answers = [true, false, true, true, false, true, false, false, false];
        let changes: Vec<bool> =
            answers.into_iter().map(|good| probe.judge(good, SystemTime::UNIX_EPOCH)).collect();
        assert_eq!(changes, [false, false, false, true, false, false, false, false, true]);
        assert!(!probe.ready);
    }

    #[test]
    fn questions_come_after_the_delay_in_their_period_and_sooner_before_the_first_good_answer() {
        let at = |seconds: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        let mut probe = probe(
            json!({"tcpSocket": {"port": 1}, "initialDelaySeconds": 3, "periodSeconds": 5, "failureThreshold": 1}),
        );
        assert_eq!(probe.due, at(3.0));
        assert!(!probe.judge(false, at(3.0)), "it was not ready");
        assert_eq!(probe.due, at(3.1));
        assert!(probe.judge(true, at(4.0)));
        assert_eq!(probe.due, at(9.0));
        assert!(probe.judge(false, at(9.0)));
    }

    #[test]
    fn a_container_without_a_probe_has_none_and_defaults_are_the_apis() {
        assert!(Probe::of(&json!({"name": "c"}), SystemTime::UNIX_EPOCH).is_none());
        let probe = probe(json!({"httpGet": {"port": 80}}));
        assert_eq!((probe.period, probe.timeout), (Duration::from_secs(10), Duration::from_secs(1)));
        assert_eq!((probe.after_failures, probe.after_successes), (3, 1));
    }
}
