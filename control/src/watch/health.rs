//! Whether the API can be reached, told when it changes and not at every attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use kube::runtime::watcher;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::source::{Event, Kind};

/// Where the watches write how they fare.
#[derive(Clone, Debug)]
pub(super) struct Board(UnboundedSender<Report>);

/// Makes events of what is on the board.
#[derive(Debug)]
pub(super) struct Reporter(UnboundedReceiver<Report>);

type Report = (Kind, Result<(), String>);

/// All kinds that must be well for us to be well.
const KINDS: [Kind; 4] = [Kind::Service, Kind::Slice, Kind::Node, Kind::ServiceCidr];

/// An empty board and its reader. One entry is written per list, watch or failed attempt, so it stays short.
pub(super) fn board() -> (Board, Reporter) {
    let (sender, receiver) = unbounded_channel();
    (Board(sender), Reporter(receiver))
}

impl Board {
    /// A complete list came, or a watch began.
    pub(super) fn succeeded(&self, kind: Kind) {
        _ = self.0.send((kind, Ok(())));
    }

    /// An attempt failed.
    pub(super) fn failed(&self, kind: Kind, reason: String) {
        _ = self.0.send((kind, Err(reason)));
    }
}

impl Reporter {
    /// Tells until nobody listens.
    pub(super) async fn run(mut self, server: String, events: Sender<Event>) {
        let mut state = State::default();
        while let Some((kind, outcome)) = self.0.recv().await {
            if let Some((connected, what)) = state.news(kind, outcome)
                && events
                    .send(Event::Health { connected, detail: format!("{server}: {what}") })
                    .await
                    .is_err()
            {
                return;
            }
        }
    }
}

/// How each kind fares, and what was told of it.
#[derive(Debug, Default)]
struct State {
    kinds: BTreeMap<Kind, Result<(), String>>,
    /// The reasons told last; none = all well.
    told: Option<BTreeSet<String>>,
}

impl State {
    /// What to tell after this, when it is news.
    fn news(&mut self, kind: Kind, outcome: Result<(), String>) -> Option<(bool, String)> {
        self.kinds.insert(kind, outcome);
        let reasons: BTreeSet<String> =
            self.kinds.values().filter_map(|outcome| outcome.clone().err()).collect();
        // Before every kind has been tried, being well is not known yet.
        let unknown = reasons.is_empty() && KINDS.iter().any(|kind| !self.kinds.contains_key(kind));
        if unknown || self.told.as_ref() == Some(&reasons) {
            return None;
        }
        let what = if reasons.is_empty() {
            "Services, EndpointSlices and this Node are watched".to_owned()
        } else {
            let all: Vec<&str> = reasons.iter().map(String::as_str).collect();
            format!("{}; retrying", all.join("; "))
        };
        let connected = reasons.is_empty();
        self.told = Some(reasons);
        Some((connected, what))
    }
}

/// Why an attempt failed, on one line; none for what mends itself at the next attempt: an expired version, a watch
/// that broke off.
pub(super) fn reason(error: &watcher::Error) -> Option<String> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => {
            let message = if status.message.is_empty() { &status.reason } else { &status.message };
            (status.code != 410).then(|| format!("{} {}", status.code, one_line(message)))
        }
        watcher::Error::WatchFailed(_) => None,
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            Some(root_cause(error))
        }
        watcher::Error::NoResourceVersion => Some(one_line(&error.to_string())),
    }
}

/// The innermost error says what happened; those around it say only who was told.
fn root_cause(error: &dyn Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    one_line(&inner.to_string())
}

/// Text from the network, fit for a log line.
fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn refused() -> Result<(), String> {
        Err("Connection refused (os error 111)".to_owned())
    }

    #[test]
    fn being_well_is_told_once_all_kinds_are() {
        let mut state = State::default();
        assert_eq!(state.news(Kind::Service, Ok(())), None);
        assert_eq!(state.news(Kind::Slice, Ok(())), None);
        assert_eq!(state.news(Kind::ServiceCidr, Ok(())), None);
        assert!(state.news(Kind::Node, Ok(())).is_some_and(|(connected, _)| connected));
        for kind in KINDS {
            assert_eq!(state.news(kind, Ok(())), None);
        }
    }

    #[test]
    fn a_failure_is_told_once_per_reason() {
        let mut state = State::default();
        let (connected, what) = state.news(Kind::Slice, refused()).unwrap();
        assert!(!connected && what.contains("refused") && what.contains("retrying"), "{what}");
        for kind in KINDS.into_iter().chain(KINDS) {
            assert_eq!(state.news(kind, refused()), None);
        }
        let (connected, what) = state.news(Kind::Node, Err("403 forbidden".to_owned())).unwrap();
        assert!(!connected && what.contains("403 forbidden") && what.contains("refused"), "{what}");
        assert_eq!(state.news(Kind::Service, refused()), None);
        assert_eq!(state.news(Kind::Slice, Ok(())), None);
        assert_eq!(state.news(Kind::ServiceCidr, Ok(())), None);
        assert!(
            state
                .news(Kind::Service, Ok(()))
                .is_some_and(|(connected, what)| !connected && !what.contains("refused"))
        );
        assert!(state.news(Kind::Node, Ok(())).is_some_and(|(connected, _)| connected));
    }

    #[test]
    fn what_mends_itself_is_no_reason_and_the_rest_is_one_line() {
        let status = |code: u16, message: &str| {
            Box::new(Status { code, message: message.to_owned(), ..Status::default() })
        };
        let api = |code, message| kube::Error::Api(status(code, message));
        assert_eq!(reason(&watcher::Error::WatchError(status(410, "too old"))), None);
        assert_eq!(reason(&watcher::Error::WatchStartFailed(api(410, "too old"))), None);
        assert_eq!(reason(&watcher::Error::InitialListFailed(api(410, "continue token expired"))), None);
        assert_eq!(
            reason(&watcher::Error::InitialListFailed(api(403, "services is forbidden:\nUser \"x\""))),
            Some("403 services is forbidden: User \"x\"".to_owned())
        );
        let inner = std::io::Error::other("\u{1b}[31mrefused");
        let outer = kube::Error::Service(Box::new(std::io::Error::other(inner)));
        assert_eq!(reason(&watcher::Error::WatchStartFailed(outer)), Some("[31mrefused".to_owned()));
    }
}
