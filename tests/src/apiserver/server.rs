//! The server's thread: listening, connections, faults on demand, and what everybody shares.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::http;
use super::store::{Resource, Store};

/// One request, as a server's audit log would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `list`, `watch`, `get`; for other methods what RBAC calls them.
    pub verb: &'static str,
    /// The path, without the query.
    pub path: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// What it is about; none when the server knows no such path.
    pub resource: Option<Resource>,
}

/// What a request meets instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This HTTP status, with a Status object.
    Status(u16),
    /// The answer, but only after this long.
    Slow(Duration),
    /// The connection closes without an answer.
    HangUp,
    /// 200 and something that is not JSON.
    Garbage,
}

/// A fault and the requests that meet it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    pub(super) count: usize,
    pub(super) fault: Fault,
    pub(super) only: fn(&Request) -> bool,
}

/// What open watches are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    Gone,
    Cut,
    End,
    Bookmark,
}

/// What the thread is told. The sender is answered when it is done.
#[derive(Debug)]
pub(super) enum Command {
    Listen(TcpListener, std::sync::mpsc::Sender<()>),
    Stop(std::sync::mpsc::Sender<()>),
}

/// What tests and connections share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Counts changes and interrupts, to wake the watches.
    wake: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) store: Store,
    pub(super) watch_limit: Option<Duration>,
    /// Every interrupt so far; a watch knows how many it has seen.
    pub(super) interrupts: Vec<Interrupt>,
    requests: Vec<Request>,
    fault: Option<Script>,
    open_watches: usize,
}

/// An open watch, counted while it lives.
#[derive(Debug)]
pub(super) struct OpenWatch(Arc<Shared>);

impl Shared {
    fn new() -> Self {
        let state = State {
            store: Store::new(),
            watch_limit: None,
            interrupts: Vec::new(),
            requests: Vec::new(),
            fault: None,
            open_watches: 0,
        };
        Self { state: Mutex::new(state), wake: watch::Sender::new(0) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let result = change(&mut self.state().store);
        self.wake.send_modify(|count| *count += 1);
        result
    }

    pub(super) fn interrupt(&self, interrupt: Interrupt) {
        self.state().interrupts.push(interrupt);
        self.wake.send_modify(|count| *count += 1);
    }

    pub(super) fn wakeups(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    pub(super) fn limit_watches(&self, longest: Option<Duration>) {
        self.state().watch_limit = longest;
    }

    pub(super) fn fail(&self, fault: Option<Script>) {
        self.state().fault = fault;
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    pub(super) fn forget_requests(&self) {
        self.state().requests.clear();
    }

    pub(super) fn open_watches(&self) -> usize {
        self.state().open_watches
    }

    pub(super) fn open_watch(self: &Arc<Self>) -> OpenWatch {
        self.state().open_watches += 1;
        OpenWatch(Arc::clone(self))
    }

    /// Remembers a request and says what it meets.
    pub(super) fn arrived(&self, request: Request) -> Option<Fault> {
        let mut state = self.state();
        let script = state.fault.filter(|script| (script.only)(&request));
        state.requests.push(request);
        let Script { count, fault, only } = script?;
        state.fault = (count > 1).then_some(Script { count: count - 1, fault, only });
        Some(fault)
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.state().open_watches -= 1;
    }
}

/// A thread that serves what it is told to, until its commands end.
pub(super) fn spawn() -> (Arc<Shared>, UnboundedSender<Command>, JoinHandle<()>) {
    let shared = Arc::new(Shared::new());
    let (commands, receiver) = unbounded_channel();
    let for_thread = Arc::clone(&shared);
    let thread = std::thread::Builder::new().name("fake-api".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve(for_thread, receiver));
    });
    (shared, commands, thread.expect("a thread"))
}

async fn serve(shared: Arc<Shared>, mut commands: UnboundedReceiver<Command>) {
    let mut listener: Option<tokio::net::TcpListener> = None;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Listen(from, done)) => {
                    listener = Some(tokio::net::TcpListener::from_std(from).expect("a listener of this runtime"));
                    _ = done.send(());
                }
                Some(Command::Stop(done)) => {
                    listener = None;
                    connections.shutdown().await;
                    _ = done.send(());
                }
            },
            Ok((stream, _)) = accept(listener.as_ref()) => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| http::answer(Arc::clone(&shared), request));
                    // A client that goes away is not our failure.
                    _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(
    listener: Option<&tokio::net::TcpListener>,
) -> std::io::Result<(tokio::net::TcpStream, std::net::SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
