//! The control socket: HTTP with JSON over a Unix socket, for the owner of the process and root only.
//!
//! It reads and changes nothing itself: every question goes over a channel to the loop that owns the state,
//! which answers between two events. The answers' forms are in [`wire`], the other end in [`client`].

pub mod client;
pub mod patient;
pub mod wire;

use std::convert::Infallible;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use patient::Patient;
use wire::{Answer, Query};

/// Connections served at one time; a further one waits.
const CONNECTIONS: usize = 16;
/// A client that does not finish its request within this time, or takes nothing of its answer for so long, is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// A question for the loop, and where its answer goes.
#[derive(Debug)]
pub struct Ask {
    /// What is asked.
    pub query: Query,
    /// Where the answer goes; nobody may be waiting any more.
    pub answer: oneshot::Sender<Answer>,
}

/// The bound socket. Dropping it removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds `path`, mode 0600, in a directory it makes when missing. A file a dead process left is replaced.
    ///
    /// # Errors
    /// Somebody answers there already, something that is no socket has the name, or the path cannot be bound.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        // A file of another kind also refuses a connection, and is not ours to remove.
        if std::fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
            let what = "something that is no socket has this name: move it away, or choose another --socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another tunway answers there"));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until the receiver of `asks` is gone.
    pub async fn serve(self, asks: mpsc::Sender<Ask>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = asks.closed() => return,
            };
            match accepted {
                Ok((stream, _)) if welcome(&stream) => {
                    let asks = asks.clone();
                    tokio::spawn(async move {
                        serve_connection(stream, asks).await;
                        drop(place);
                    });
                }
                Ok((stream, _)) => {
                    let uid = stream.peer_cred().map(|peer| peer.uid()).ok();
                    tracing::debug!(?uid, "control socket: connection of another user refused");
                }
                // Out of descriptors: some connection ends in a while. Trying at once would spin.
                Err(error) => {
                    tracing::warn!(%error, "control socket: accept failed");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `SO_PEERCRED`: root, or whoever we run as.
fn welcome(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}

async fn serve_connection(stream: UnixStream, asks: mpsc::Sender<Ask>) {
    let service = hyper::service::service_fn(move |request| {
        let asks = asks.clone();
        async move { Ok::<_, Infallible>(respond(&request, &asks).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "control socket: connection ended");
    }
}

async fn respond(request: &Request<Incoming>, asks: &mpsc::Sender<Ask>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET: nothing is changed here");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
        return response;
    }
    let query = match Query::parse(request.uri().path(), request.uri().query()) {
        Ok(query) => query,
        Err(what) if matches!(request.uri().path(), "/v1/flows" | "/v1/explain") => {
            return refusal(StatusCode::BAD_REQUEST, &what);
        }
        Err(what) => return refusal(StatusCode::NOT_FOUND, &what),
    };
    let (answer, answered) = oneshot::channel();
    if asks.send(Ask { query, answer }).await.is_err() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "stopping");
    }
    let Ok(answer) = answered.await else { return refusal(StatusCode::SERVICE_UNAVAILABLE, "stopping") };
    // A full flow table is a hundred megabytes of text; the loop shares this thread.
    match tokio::task::spawn_blocking(move || serde_json::to_vec(&answer)).await {
        Ok(Ok(body)) => json(StatusCode::OK, body),
        Ok(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refusal(status: StatusCode, what: &str) -> Response<Full<Bytes>> {
    json(status, serde_json::json!({ "error": what }).to_string().into_bytes())
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
