//! What scenarios are told with: who asks, what must be answered, and for how long it may be otherwise.
//!
//! Nothing here compares with what a proxy ought to have programmed: only answers count.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use tests::kubernetes::{Outside, Site};

use super::client::{Failure, Front};

/// What a scenario, or a step of one, ends with.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// A change of endpoints must be seen everywhere after this long (the upstream suite's limit).
pub(crate) const LAG: Duration = Duration::from_secs(30);
/// One question: a SYN that is lost is sent again after a second, and after two more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// Silence of this length, which a SYN sent again did not end, is no answer.
const SILENCE: Duration = Duration::from_millis(1500);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(40);

thread_local! {
    static END: Cell<Option<SystemTime>> = const { Cell::new(None) };
}

/// Whatever this thread waits for, it waits no longer than this from now.
pub(crate) fn limit_this_thread(limit: Duration) {
    END.set(Some(SystemTime::now() + limit));
}

/// Tells threads to end, however the block it is in ends: a scope waits for its threads, also when what it is for
/// panics.
pub(crate) struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From<'a> {
    /// A pod.
    Pod(&'a str),
    /// A process of a node, by the node's index.
    Node(usize),
    /// A host off the cluster.
    Outside(&'a Outside<'a>),
}

impl From<'_> {
    /// Runs `f` there.
    ///
    /// # Errors
    /// There is no such place.
    pub(crate) fn run<R: Send>(self, site: &Site<'_>, f: impl FnOnce() -> R + Send) -> std::io::Result<R> {
        match self {
            Self::Pod(pod) => site.inside(pod, f),
            Self::Node(index) => site.on_node(index, f),
            Self::Outside(host) => host.enter(f),
        }
    }
}

impl fmt::Display for From<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "pod {pod}"),
            Self::Node(index) => write!(f, "node {}", index + 1),
            Self::Outside(_) => f.write_str("outside"),
        }
    }
}

/// Tries until it succeeds; what it said last when it does not within `limit`.
///
/// # Errors
/// It never succeeded.
pub(crate) fn eventually<T, E: fmt::Display>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Outcome<T> {
    let begun = SystemTime::now();
    let end = END.get().map_or(begun + limit, |end| end.min(begun + limit));
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(why) if SystemTime::now() > end => {
                let seconds = begun.elapsed().unwrap_or_default().as_secs();
                return Err(format!("{what}: not in {seconds} s: {why}").into());
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Checks again and again, for as long as `time`.
///
/// # Errors
/// It failed once.
pub(crate) fn holds<E: fmt::Display>(
    what: &str,
    time: Duration,
    mut check: impl FnMut() -> Result<(), E>,
) -> Outcome {
    let begun = SystemTime::now();
    loop {
        let passed = begun.elapsed().unwrap_or_default();
        check().map_err(|why| format!("{what}: {why}, after {:.1} s", passed.as_secs_f64()))?;
        if passed > time {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

/// Fails with this text unless it is so.
///
/// # Errors
/// It is not.
pub(crate) fn ensure(so: bool, why: impl FnOnce() -> String) -> Outcome {
    if so { Ok(()) } else { Err(why().into()) }
}

/// One question over a connection of its own.
///
/// # Errors
/// There was no answer.
pub(crate) fn ask(site: &Site<'_>, from: From<'_>, to: Front, what: &str) -> Result<String, Failure> {
    from.run(site, || to.ask(what, PATIENCE))?
}

/// Waits until exactly these pods answer, every question and all of them.
///
/// # Errors
/// Somebody is missing, somebody else answers, or a question is not answered.
pub(crate) fn reaches(site: &Site<'_>, from: From<'_>, to: Front, pods: &[&str]) -> Outcome {
    let wanted: BTreeSet<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
    eventually(&format!("{to} from {from} reaches {pods:?}"), LAG, || {
        let heard = hear(site, from, to, pods.len())?;
        if heard == wanted { Ok(()) } else { Err(format!("{heard:?} answered")) }
    })
}

/// Waits until every front is answered by exactly these pods.
///
/// # Errors
/// As [`reaches`].
pub(crate) fn all_reach(site: &Site<'_>, from: From<'_>, to: &[Front], pods: &[&str]) -> Outcome {
    together(to, |to| reaches(site, from, to, pods))
}

/// The same question for every front, or seat and front, all at once: most of the time of most of them is waiting.
///
/// # Errors
/// The first one's that has any.
pub(crate) fn together<T: Copy + Send>(to: &[T], check: impl Fn(T) -> Outcome + Sync) -> Outcome {
    let left = END.get().and_then(|end| end.duration_since(SystemTime::now()).ok());
    thread::scope(|scope| {
        let one = |to: T| {
            let check = &check;
            move || {
                if let Some(left) = left {
                    limit_this_thread(left);
                }
                check(to).map_err(|why| why.to_string())
            }
        };
        let asked: Vec<_> = to.iter().map(|to| scope.spawn(one(*to))).collect();
        for one in asked {
            one.join().map_err(|_| "a client panicked")??;
        }
        Ok(())
    })
}

/// Everybody at every front.
pub(crate) fn pairs<'a>(seats: &[From<'a>], fronts: &[Front]) -> Vec<(From<'a>, Front)> {
    seats.iter().flat_map(|from| fronts.iter().map(|front| (*from, *front))).collect()
}

/// Who answers: ten questions at least, and more until so many have answered. Of one alone twenty: ten of two pods'
/// answers are one pod's by chance, once in a thousand times.
fn hear(site: &Site<'_>, from: From<'_>, to: Front, pods: usize) -> Result<BTreeSet<String>, String> {
    let asking = from.run(site, || {
        let mut heard = BTreeSet::new();
        let least = if pods == 1 { 20 } else { 10 };
        for number in 1..=30 * pods.max(1) {
            heard.insert(to.ask("hostname", PATIENCE).map_err(|why| format!("question {number} {why}"))?);
            if number >= least && heard.len() >= pods {
                break;
            }
        }
        Ok(heard)
    });
    asking.map_err(|error| error.to_string())?
}

/// Waits until questions are refused: nobody answers, and the client is told so.
///
/// # Errors
/// Somebody answers, or nobody says anything.
pub(crate) fn refused(site: &Site<'_>, from: From<'_>, to: Front) -> Outcome {
    eventually(&format!("{to} from {from} is refused"), LAG, || {
        // The kernel makes a handful of ICMP errors at once, then one a second, for each client.
        let said: Vec<_> = (0..2).map(|_| ask(site, from, to, "hostname")).collect();
        if said.iter().all(|one| *one == Err(Failure::Refused)) { Ok(()) } else { Err(format!("{said:?}")) }
    })
}

/// Waits until questions get no answer of any kind.
///
/// # Errors
/// Somebody answers, or refuses.
pub(crate) fn dropped(site: &Site<'_>, from: From<'_>, to: Front) -> Outcome {
    eventually(&format!("{to} from {from} is dropped"), LAG, || {
        let said = from.run(site, || to.ask("hostname", SILENCE)).map_err(|error| error.to_string())?;
        if said == Err(Failure::TimedOut) { Ok(()) } else { Err(format!("{said:?}")) }
    })
}

/// Waits until nobody has anything to do with an address: packets for it find no way, or nobody says anything.
///
/// # Errors
/// Somebody answers, or refuses.
pub(crate) fn nobodys(site: &Site<'_>, from: From<'_>, to: Front) -> Outcome {
    eventually(&format!("{to} from {from} is nobody's"), LAG, || {
        let said = from.run(site, || to.ask("hostname", SILENCE)).map_err(|error| error.to_string())?;
        if matches!(said, Err(Failure::TimedOut | Failure::Unreachable)) {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    })
}

/// That nothing changes for a while: exactly these pods answer, and no question is lost.
///
/// # Errors
/// As [`reaches`], at any moment of it.
pub(crate) fn keeps_reaching(
    site: &Site<'_>,
    from: From<'_>,
    to: Front,
    pods: &[&str],
    time: Duration,
) -> Outcome {
    holds(&format!("{to} from {from} goes on reaching {pods:?}"), time, || {
        let heard = ask(site, from, to, "hostname").map_err(|why| why.to_string())?;
        if pods.contains(&heard.as_str()) { Ok(()) } else { Err(format!("{heard} answers")) }
    })
}
