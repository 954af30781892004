//! Services from the Kubernetes API: Services, EndpointSlices, our own Node and ServiceCIDRs are listed and watched
//! with exactly kube-proxy's selectors, for ever.
//!
//! The watcher of `kube` pages, resumes, and lists anew when it must; here its events become ours, its errors become
//! back-off and health, and what the selectors promise is checked again. Nothing is written to the API.

mod cidr;
pub mod client;
mod health;
mod node;
mod seen;
mod service;
mod slice;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use futures::future::{BoxFuture, join5};
use futures::stream::StreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff};
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;

use crate::model::decode::explain_path;
use crate::model::object::Decode;
use crate::model::{ObjectKey, Problem, Reading};
use crate::source::{Event, Kind, Source};
pub use client::{ApiError, ClientConfig};
use health::{Board, Reporter};
use seen::Seen;

/// The Kubernetes API as a source.
pub struct Api {
    client: kube::Client,
    server: String,
    addresses: Vec<IpAddr>,
    node_name: String,
    page_size: u32,
    board: Board,
    reporter: Reporter,
}

/// A watch is renewed after this many seconds; one that has died unnoticed is noticed 5 s later.
const WATCH_SECONDS: u32 = 60;

/// A server that did not know a kind may be a newer one by then.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The longest pause: how long a server that is back may not be noticed. client-go's is 30 s, which is how long
/// endpoints that are gone would go on being served.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// client-go's page size.
const PAGE_SIZE: u32 = 500;

impl Api {
    /// The API this configuration names. The server need not answer yet.
    ///
    /// # Errors
    /// The configuration cannot be read or used, or its server can only be reached through a Service.
    pub async fn new(config: &ClientConfig) -> Result<Self, ApiError> {
        let (board, reporter) = health::board();
        let (client, server, addresses) = client::client(config, board.clone()).await?;
        Ok(Self {
            client,
            server,
            addresses,
            node_name: config.node_name.clone(),
            page_size: PAGE_SIZE,
            board,
            reporter,
        })
    }

    /// The server, as messages name it.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// How many objects to ask for at once; 500 by default.
    #[must_use]
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }
}

impl Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("server", &self.server)
            .field("node_name", &self.node_name)
            .finish_non_exhaustive()
    }
}

impl Source for Api {
    fn reached_at(&self) -> Vec<IpAddr> {
        self.addresses.clone()
    }

    fn run(self: Box<Self>, events: Sender<Event>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let follow = Follow {
                client: self.client,
                node_name: self.node_name,
                page_size: self.page_size,
                board: self.board,
                events: events.clone(),
                answered: Notify::new(),
            };
            let gone = events.clone();
            let all = join5(
                follow.kind::<service::Watched>(),
                follow.kind::<slice::Watched>(),
                follow.kind::<node::Watched>(),
                follow.kind::<cidr::Watched>(),
                self.reporter.run(self.server, events),
            );
            tokio::select! {
                () = gone.closed() => {}
                _ = all => {}
            }
        })
    }
}

/// A kind of object as we watch it.
trait Watch {
    /// Its API type.
    type Object: Decode + Clone + Debug + Send + 'static;
    /// Its kind in our events.
    const KIND: Kind;
    /// A server may be too old to have this kind; then there is nothing of it and nothing is wrong.
    const MAY_BE_UNKNOWN: bool = false;
    /// Restricts the watch to what kube-proxy would watch.
    fn select(config: watcher::Config, node_name: &str) -> watcher::Config;
    /// As problems name it: `Service default/web`.
    fn name(key: &ObjectKey) -> String;
    /// The event that says what it is now; no value when it is not for us to serve.
    fn read(object: &Self::Object) -> Reading<Event>;
    /// The event that says it is gone, if that means anything.
    fn gone(key: ObjectKey) -> Option<Event>;
    /// Problems of a complete list as such.
    fn problems_of_list(_names: &BTreeSet<String>, _node_name: &str) -> Option<Vec<Problem>> {
        None
    }
}

/// The receiver of our events is gone.
struct Closed;

struct Follow {
    client: kube::Client,
    node_name: String,
    page_size: u32,
    board: Board,
    events: Sender<Event>,
    /// The server answered one kind after an error: the others need not wait any longer.
    answered: Notify,
}

/// What we told of one kind.
#[derive(Default)]
struct Told {
    /// Objects with problems.
    problems: BTreeSet<String>,
    /// Objects of the list that is under way.
    listed: BTreeSet<String>,
}

impl Follow {
    /// Follows one kind until nobody listens.
    async fn kind<W: Watch>(&self) -> Closed {
        let api = kube::Api::<Seen<W::Object>>::all(self.client.clone());
        let config =
            watcher::Config::default().timeout(WATCH_SECONDS).any_semantic().page_size(self.page_size);
        let config = W::select(config, &self.node_name);
        let mut backoff = DefaultBackoff::default();
        let mut failing = false;
        let mut told = Told::default();
        loop {
            let mut stream = pin!(watcher::watcher(api.clone(), config.clone()));
            while let Some(item) = stream.next().await {
                let error = match item {
                    Ok(event) => {
                        // A list that has only begun proves nothing: it begins before the server is asked.
                        if !matches!(event, watcher::Event::Init) {
                            backoff.reset();
                            if std::mem::take(&mut failing) {
                                self.answered.notify_waiters();
                            }
                        }
                        match self.forward::<W>(event, &mut told).await {
                            Ok(()) => continue,
                            Err(closed) => return closed,
                        }
                    }
                    Err(error) => error,
                };
                if W::MAY_BE_UNKNOWN && is_unknown(&error) {
                    self.board.succeeded(W::KIND);
                    tokio::time::sleep(ASK_AGAIN).await;
                    break;
                }
                if let Some(reason) = health::reason(&error) {
                    self.board.failed(W::KIND, reason);
                }
                // The back-off never ends; were it to, the longest pause would be right.
                let pause = capped(backoff.next().unwrap_or(LONGEST_PAUSE));
                if must_list_anew(&error) {
                    // The server does answer: whoever is told so here would list anew without a pause, and tell us.
                    tokio::time::sleep(pause).await;
                    break;
                }
                failing = true;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.answered.notified() => {}
                }
            }
        }
    }

    async fn forward<W: Watch>(
        &self,
        event: watcher::Event<Seen<W::Object>>,
        told: &mut Told,
    ) -> Result<(), Closed> {
        match event {
            watcher::Event::Init => {
                told.listed.clear();
                self.send(Event::Restart(W::KIND)).await
            }
            watcher::Event::InitApply(object) => {
                told.listed.insert(W::name(&object.key()));
                self.apply::<W>(object, told, true).await
            }
            watcher::Event::InitDone => {
                self.send(Event::Done(W::KIND)).await?;
                self.board.succeeded(W::KIND);
                let of_list = W::problems_of_list(&told.listed, &self.node_name).unwrap_or_default();
                let lasts = |object: &String| of_list.iter().any(|problem| problem.object == *object);
                let gone = told.problems.difference(&told.listed).filter(|object| !lasts(object)).cloned();
                for object in gone.collect::<Vec<_>>() {
                    self.tell(object, Vec::new(), told).await?;
                }
                for problem in of_list {
                    self.tell(problem.object.clone(), vec![problem], told).await?;
                }
                told.listed.clear();
                Ok(())
            }
            watcher::Event::Apply(object) => self.apply::<W>(object, told, false).await,
            watcher::Event::Delete(object) => {
                if let Some(gone) = W::gone(object.key()) {
                    self.send(gone).await?;
                }
                self.tell(W::name(&object.key()), Vec::new(), told).await
            }
        }
    }

    /// One object as it is now. In a list, what is not for us need not be said to be gone.
    async fn apply<W: Watch>(
        &self,
        object: Seen<W::Object>,
        told: &mut Told,
        in_list: bool,
    ) -> Result<(), Closed> {
        let key = object.key();
        let name = W::name(&key);
        let reading = match object.object {
            Ok(object) => W::read(&object),
            // It may have been well before: it goes on as it was, also if this is a list.
            Err(flaw) => {
                self.send(Event::Unreadable(W::KIND, key)).await?;
                let what =
                    flaw.what + "; the object stays as it was last read, and is not served if it never was";
                let path = explain_path(W::Object::KIND, &flaw.field);
                let remedy = format!("`kubectl explain {path}` says what belongs there");
                let problem = Problem { object: name.clone(), field: flaw.field, what, remedy };
                return self.tell(name, vec![problem], told).await;
            }
        };
        match (reading.value, W::gone(key)) {
            (Some(event), _) => self.send(event).await?,
            (None, Some(gone)) if !in_list => self.send(gone).await?,
            (None, _) => {}
        }
        self.tell(name, reading.problems, told).await
    }

    /// Problems of an object, when there are some or have been some.
    async fn tell(&self, object: String, problems: Vec<Problem>, told: &mut Told) -> Result<(), Closed> {
        if problems.is_empty() && !told.problems.remove(&object) {
            return Ok(());
        }
        if !problems.is_empty() {
            told.problems.insert(object.clone());
        }
        self.send(Event::Problems { object, problems }).await
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }
}

/// A pause of the back-off, at most the longest one. Behind the cap its jitter goes on: the nodes of a cluster lose their
/// server at one moment, and must not all ask again at one.
fn capped(pause: Duration) -> Duration {
    if pause <= LONGEST_PAUSE {
        return pause;
    }
    LONGEST_PAUSE - LONGEST_PAUSE.mul_f64(f64::from(pause.subsec_nanos()) / 5e9)
}

/// The server does not know the kind at all.
fn is_unknown(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// Must the whole list be asked for again? The watcher does so by itself when the server says in the stream that our
/// version is gone. It does not when the server refuses to start a watch at our version, which would then fail for
/// ever; nor when an event could not be read, which would then be lost.
fn must_list_anew(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 400 | 410 | 504),
        watcher::Error::WatchFailed(kube::Error::SerdeError(_)) => true,
        watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

#[cfg(test)]
mod tests;
