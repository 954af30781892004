//! One watch of the API, read by a thread that can wait.

use std::pin::pin;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use futures::StreamExt;
use hyper::Request;
use kube::core::WatchEvent;
use serde_json::Value;

use super::{Api, ApiError, next};

/// Events of one watch. It ends with the server's word, a lost connection, or its drop.
#[derive(Debug)]
pub struct Watch {
    events: Receiver<Result<(String, Value), ApiError>>,
}

impl Watch {
    /// The next event, `ADDED`, `MODIFIED` or `DELETED` with its object; none when there is none within `limit`.
    ///
    /// # Errors
    /// The watch is over: the server said so (410: expired), or the connection was lost.
    pub fn next(&self, limit: Duration) -> Result<Option<(String, Value)>, ApiError> {
        next(&self.events, limit)?.transpose()
    }
}

/// Starts it; the server has agreed when this returns.
pub(super) fn start(api: &Api, request: Request<Vec<u8>>) -> Result<Watch, ApiError> {
    let (events, received) = mpsc::channel();
    let (begun, agreed) = mpsc::channel();
    let client = api.client();
    drop(api.spawn(async move {
        let stream = match client.request_events::<Value>(request).await {
            Ok(stream) => stream,
            Err(error) => return drop(begun.send(Err(error.into()))),
        };
        drop(begun.send(Ok(())));
        let mut stream = pin!(stream);
        loop {
            let event = match stream.next().await {
                Some(Ok(WatchEvent::Added(object))) => Ok(("ADDED".to_owned(), object)),
                Some(Ok(WatchEvent::Modified(object))) => Ok(("MODIFIED".to_owned(), object)),
                Some(Ok(WatchEvent::Deleted(object))) => Ok(("DELETED".to_owned(), object)),
                Some(Ok(WatchEvent::Bookmark(_))) => continue,
                Some(Ok(WatchEvent::Error(status))) => {
                    Err(ApiError { code: status.code, message: status.message })
                }
                None => return,
                Some(Err(error)) => Err(error.into()),
            };
            let over = event.is_err();
            // Nobody listens any more: the watch was dropped.
            if events.send(event).is_err() || over {
                return;
            }
        }
    }));
    let agreement = next(&agreed, super::PATIENCE)?;
    agreement.unwrap_or_else(|| Err(ApiError::unanswered("the server does not answer")))?;
    Ok(Watch { events: received })
}
