//! Services from a directory of YAML or JSON manifests, watched.
//!
//! The directory as a whole is one state: it is read when nothing has changed in it for a moment, and what has changed
//! since the last time goes out as complete lists. What is broken keeps its last good state and is reported.

mod directory;
mod documents;
mod files;
mod objects;
mod scan;
mod unknown;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, timeout};

use crate::model::Problem;
use crate::source::{Event, Kind, Source};
use directory::{Directory, View};

pub use scan::Scanner;

/// A directory of manifests as a source.
#[derive(Debug)]
pub struct Manifests {
    directory: PathBuf,
    node_name: String,
    rescan: Duration,
}

/// The directory is read when no event has come for this long.
const SETTLE: Duration = Duration::from_millis(100);

/// ... but a file that is written without end does not hold back the others for longer than this.
const LONGEST_SETTLE: Duration = Duration::from_secs(2);

/// How often to look without being told, when being told does not work.
const UNWATCHED_RESCAN: Duration = Duration::from_secs(1);

/// Everything in a directory of manifests as it is now, read as [`Manifests`] reads it.
///
/// # Errors
/// The directory cannot be read.
pub fn read_once(directory: &Path, node_name: &str) -> io::Result<Vec<Event>> {
    let mut directory = Directory::new(directory.to_owned(), node_name.to_owned());
    directory.scan()?;
    let view = directory.view();
    let mut events: Vec<Event> = KINDS.map(Event::Restart).into();
    events.extend(view.objects(&KINDS));
    events.extend(KINDS.map(Event::Done));
    let problems = view.problems.into_iter();
    events.extend(problems.map(|(object, problems)| Event::Problems { object, problems }));
    Ok(events)
}

/// The kinds a directory may say something of.
const KINDS: [Kind; 4] = [Kind::Node, Kind::ServiceCidr, Kind::Slice, Kind::Service];

/// The receiver of our events is gone.
struct Closed;

impl Manifests {
    /// The manifests in this directory, for the Node of this name. Nothing is read before [`Source::run`], and the
    /// directory need not exist yet.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, node_name: &str) -> Self {
        let rescan = Duration::from_secs(10);
        Self { directory: directory.into(), node_name: node_name.to_owned(), rescan }
    }

    /// How often to look for changes nobody told of: on file systems without inotify, behind links, after an overflow.
    /// 10 s by default.
    #[must_use]
    pub fn rescan_every(mut self, rescan: Duration) -> Self {
        self.rescan = rescan;
        self
    }
}

impl Source for Manifests {
    fn run(self: Box<Self>, events: Sender<Event>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut follower = Follower {
                directory: Some(Directory::new(self.directory.clone(), self.node_name)),
                path: self.directory,
                rescan: self.rescan,
                sent: None,
                healthy: None,
                watch: None,
                events,
            };
            // The only way to end is that nobody listens any more.
            let Closed = follower.follow().await;
        })
    }
}

struct Follower {
    /// Away only while a blocking thread reads it.
    directory: Option<Directory>,
    path: PathBuf,
    rescan: Duration,
    /// What the receiver knows.
    sent: Option<View>,
    /// What the receiver knows of our health, and why.
    healthy: Option<Result<(), String>>,
    watch: Option<Watch>,
    events: Sender<Event>,
}

/// A live inotify watch and its wake-ups. Dropping it ends it.
struct Watch {
    _watcher: RecommendedWatcher,
    wakeups: Receiver<()>,
    identity: Option<(u64, u64)>,
}

impl Follower {
    async fn follow(&mut self) -> Closed {
        loop {
            // Watch first, then read: what changes in between wakes us up.
            self.watch_directory();
            let outcome = self.scan().await;
            if let Err(closed) = self.publish(outcome).await {
                return closed;
            }
            if let Err(closed) = self.wait_for_change().await {
                return closed;
            }
        }
    }

    /// Reads the directory on a thread that may block.
    async fn scan(&mut self) -> io::Result<View> {
        let Some(mut directory) = self.directory.take() else {
            return Err(io::Error::other("it is being read"));
        };
        let scanned = tokio::task::spawn_blocking(move || {
            let outcome = directory.scan();
            (outcome.map(|()| directory.view()), directory)
        });
        let (outcome, directory) = scanned.await.map_err(io::Error::other)?;
        self.directory = Some(directory);
        outcome
    }

    async fn publish(&mut self, outcome: io::Result<View>) -> Result<(), Closed> {
        let path = self.path.display();
        match outcome {
            Ok(view) => {
                self.health(Ok(()), format!("manifests are read from {path}")).await?;
                send_difference(&self.events, self.sent.as_ref(), &view).await?;
                self.sent = Some(view);
            }
            Err(error) => {
                self.watch = None;
                let state = if self.sent.is_some() {
                    "what it last said still serves"
                } else {
                    "nothing is served yet"
                };
                let detail =
                    format!("manifests cannot be read from {path}: {error}; {state}, retrying every second");
                self.health(Err(error.to_string()), detail).await?;
            }
        }
        Ok(())
    }

    /// Tells our health when it is news.
    async fn health(&mut self, state: Result<(), String>, detail: String) -> Result<(), Closed> {
        if self.healthy.as_ref() == Some(&state) {
            return Ok(());
        }
        let connected = state.is_ok();
        self.healthy = Some(state);
        send(&self.events, Event::Health { connected, detail }).await
    }

    /// Returns when the directory should be read again.
    async fn wait_for_change(&mut self) -> Result<(), Closed> {
        loop {
            let pause = if self.watch.is_some() { self.rescan } else { self.rescan.min(UNWATCHED_RESCAN) };
            tokio::select! {
                () = self.events.closed() => return Err(Closed),
                true = next_wakeup(&mut self.watch) => {
                    self.settle().await;
                    return Ok(());
                }
                () = sleep(pause) => {}
            }
            // Nobody told us of a change. If there is one, let it come to rest as well.
            let known = self.directory.as_ref().and_then(Directory::fingerprint);
            let well = self.healthy == Some(Ok(()));
            let mut last = self.fingerprint().await;
            if well && last.is_some() && last == known {
                continue;
            }
            let deadline = Instant::now() + LONGEST_SETTLE;
            loop {
                sleep(SETTLE).await;
                let now = self.fingerprint().await;
                if now == last || Instant::now() > deadline {
                    return Ok(());
                }
                last = now;
            }
        }
    }

    /// Waits until nothing has happened for a moment.
    async fn settle(&mut self) {
        let deadline = Instant::now() + LONGEST_SETTLE;
        while Instant::now() < deadline && timeout(SETTLE, next_wakeup(&mut self.watch)).await == Ok(true) {}
    }

    /// None when the directory cannot be read.
    async fn fingerprint(&self) -> Option<u64> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || files::fingerprint(&path)).await.ok()?.ok()
    }

    /// Makes sure the directory is watched, if it is there. Where inotify does not work we look every second.
    fn watch_directory(&mut self) {
        // A directory that was replaced is another one, and the watch is still on the old one.
        if self.watch.as_ref().is_some_and(|watch| watch.identity != identity(&self.path)) {
            self.watch = None;
        }
        if self.watch.is_none() && self.path.is_dir() {
            match Watch::new(&self.path) {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => tracing::warn!(
                    directory = %self.path.display(), %error,
                    "manifests cannot be watched and are read every second; if it is a limit, raise fs.inotify.max_user_instances",
                ),
            }
        }
    }
}

impl Watch {
    fn new(path: &Path) -> notify::Result<Self> {
        // One wake-up waiting is as good as a thousand.
        let (wake, wakeups) = channel(1);
        let identity = identity(path);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !is_news(&event)) {
                return;
            }
            _ = wake.try_send(());
        })?;
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher, wakeups, identity })
    }
}

/// Could this event change what the manifests say? Our own reading of them is an event, too. A hidden entry counts
/// when it is created, moved or removed: that is how a mounted ConfigMap changes.
fn is_news(event: &notify::Event) -> bool {
    let manifest = event.paths.is_empty()
        || event.need_rescan()
        || event
            .paths
            .iter()
            .filter_map(|path| path.file_name())
            .any(|name| files::is_manifest(&name.to_string_lossy()));
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(notify::event::ModifyKind::Data(_)) => manifest,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

/// Device and inode of what is there.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// True when there was one; never when nothing is watched.
async fn next_wakeup(watch: &mut Option<Watch>) -> bool {
    match watch {
        Some(watch) => watch.wakeups.recv().await.is_some(),
        None => std::future::pending().await,
    }
}

/// Sends complete lists of the kinds that differ. Their ends go out at once, so that a receiver that takes what is
/// there before it acts sees all of them or none.
async fn send_difference(events: &Sender<Event>, known: Option<&View>, view: &View) -> Result<(), Closed> {
    let differs = |kind: &Kind| known.is_none_or(|known| known.differs(view, *kind));
    let kinds: Vec<Kind> = KINDS.into_iter().filter(differs).collect();
    for event in kinds.iter().map(|kind| Event::Restart(*kind)).chain(view.objects(&kinds)) {
        send(events, event).await?;
    }
    let ends = events.reserve_many(kinds.len()).await.map_err(|_| Closed)?;
    ends.zip(kinds).for_each(|(place, kind)| place.send(Event::Done(kind)));
    send_problems(events, known.map(|known| &known.problems), &view.problems).await
}

async fn send_problems(
    events: &Sender<Event>,
    known: Option<&BTreeMap<String, Vec<Problem>>>,
    now: &BTreeMap<String, Vec<Problem>>,
) -> Result<(), Closed> {
    for object in known.into_iter().flat_map(BTreeMap::keys).filter(|object| !now.contains_key(*object)) {
        send(events, Event::Problems { object: object.clone(), problems: Vec::new() }).await?;
    }
    for (object, problems) in
        now.iter().filter(|(object, problems)| known.and_then(|k| k.get(*object)) != Some(problems))
    {
        send(events, Event::Problems { object: object.clone(), problems: problems.clone() }).await?;
    }
    Ok(())
}

async fn send(events: &Sender<Event>, event: Event) -> Result<(), Closed> {
    events.send(event).await.map_err(|_| Closed)
}
