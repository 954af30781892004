//! The other end of the control socket: one question, one answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::wire::Query;

/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no tunway answers at {}: {error} (start one with `tunway run`, or name its socket with --socket or \
         --device)",
        path.display()
    )]
    NotThere {
        /// The socket.
        path: PathBuf,
        /// What connecting gave.
        error: io::Error,
    },
    /// We may not connect.
    #[error("{} may not be opened by this user (run it as root, or as the user tunway runs as)", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("the connection broke: {0} (tunway may be stopping, or runs as another user)")]
    Broken(#[from] hyper::Error),
    /// It took too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TimedOut,
    /// It refused.
    #[error("tunway refused {uri}: {what}")]
    Refused {
        /// What was asked.
        uri: String,
        /// Its words.
        what: String,
    },
    /// No Service has this name, and a request with it would be another one.
    #[error("{0:?} cannot be a Service's name")]
    Unaskable(String),
}

/// Asks, and waits for the JSON text of the answer.
///
/// # Errors
/// There is none.
pub async fn ask(path: &Path, query: &Query) -> Result<Vec<u8>, ClientError> {
    if let Query::Flows { service: Some(name), .. } = query
        && !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-./:_".contains(&b))
    {
        return Err(ClientError::Unaskable(name.clone()));
    }
    tokio::time::timeout(PATIENCE, exchange(path, query)).await.unwrap_or(Err(ClientError::TimedOut))
}

/// [`ask`] for a program that does nothing else.
///
/// # Errors
/// As [`ask`].
pub fn ask_blocking(path: &Path, query: &Query) -> Result<Vec<u8>, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::NotThere { path: path.to_owned(), error })?;
    runtime.block_on(ask(path, query))
}

async fn exchange(path: &Path, query: &Query) -> Result<Vec<u8>, ClientError> {
    let stream = UnixStream::connect(path).await.map_err(|error| {
        let path = path.to_owned();
        if error.kind() == io::ErrorKind::PermissionDenied {
            return ClientError::Forbidden { path };
        }
        ClientError::NotThere { path, error }
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let uri = query.uri();
    let request = Request::get(&uri)
        .header(HOST, "tunway")
        .body(Empty::<Bytes>::new())
        .map_err(|_| ClientError::Unaskable(uri.clone()))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    if status == StatusCode::OK {
        return Ok(body.to_vec());
    }
    let words = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let words = words.as_ref().and_then(|value| value.get("error")).and_then(serde_json::Value::as_str);
    Err(ClientError::Refused { uri, what: words.unwrap_or(status.as_str()).to_owned() })
}
