//! Any bytes on a connection to the control socket: the server answers or hangs up, and serves the next client; and
//! the questions in them, read and written again.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use control::explain::Question;
use control::socket::wire::{Answer, Counters, Flows, Query, Services, Status};
use control::socket::{Ask, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::timeout;

/// An answer that is due takes no longer than this.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the server gets its turn with what was sent, before the client closes its side.
const TURNS: usize = 24;

/// Runs the target.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    questions(data);
    thread_local! {
        static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
    }
    SERVER.with_borrow_mut(|server| server.get_or_insert_with(Server::start).meets(data));
}

/// Every line as a request's target.
fn questions(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        let target = line.split(' ').find(|word| word.starts_with('/')).unwrap_or(line);
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        if let Ok(query) = Query::parse(path, query) {
            let uri = query.uri();
            let (path, rest) = uri.split_once('?').map_or((uri.as_str(), None), |(p, q)| (p, Some(q)));
            assert_eq!(Query::parse(path, rest), Ok(query), "by way of {uri}");
        }
        if let Ok(question) = Question::from_json(line) {
            assert_eq!(Question::from_query_string(&question.query_string()), Ok(question));
        }
    }
}

/// A socket, and a loop that knows nothing.
struct Server {
    runtime: Runtime,
    path: PathBuf,
    asks: mpsc::Receiver<Ask>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
        let path = folder.path().join("s");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (ask, asks) = mpsc::channel(1);
        let socket = runtime.block_on(async { Socket::bind(&path) }).expect("a socket");
        runtime.spawn(socket.serve(ask));
        Self { runtime, path, asks, _folder: folder }
    }

    fn meets(&mut self, data: &[u8]) {
        let Self { runtime, path, asks, .. } = self;
        runtime.block_on(async {
            let mut client = UnixStream::connect(&*path).await.expect("a place");
            // The server may hang up in the middle.
            _ = client.write_all(data).await;
            let mut answer = Vec::new();
            for _ in 0..TURNS {
                yield_now().await;
                while let Ok(ask) = asks.try_recv() {
                    respond(ask);
                    // Serialized by another thread.
                    _ = timeout(PATIENCE, client.read_buf(&mut answer)).await.expect("an answer");
                }
            }
            _ = client.shutdown().await;
            let rest = async {
                loop {
                    tokio::select! {
                        Some(ask) = asks.recv() => respond(ask),
                        read = client.read_buf(&mut answer) => if read.unwrap_or(0) == 0 { return },
                    }
                }
            };
            timeout(PATIENCE, rest).await.expect("the end of the connection");
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{:?}", text(&answer));
            next_client(path, asks).await;
        });
    }
}

/// Whoever comes next is served.
async fn next_client(path: &PathBuf, asks: &mut mpsc::Receiver<Ask>) {
    let mut client = UnixStream::connect(path).await.expect("a place");
    client.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
    let ask = timeout(PATIENCE, asks.recv()).await.expect("a question").expect("a server");
    assert_eq!(ask.query, Query::Status);
    respond(ask);
    let mut answer = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("an answer").expect("all of it");
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{:?}", text(&answer));
}

fn respond(ask: Ask) {
    let answer = match &ask.query {
        Query::Flows { .. } => Answer::Flows(Flows::default()),
        Query::Services => Answer::Services(Services::default()),
        Query::Counters => Answer::Counters(Counters::default()),
        Query::Status => Answer::Status(Status::default()),
        Query::Explain(_) => Answer::Explanation(None),
    };
    // Nobody may be waiting any more.
    _ = ask.answer.send(answer);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
