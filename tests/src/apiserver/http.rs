//! One request and its answer: paths, queries, lists, and watches as streams of lines.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, sleep_until};

use super::selector::Selector;
use super::server::{Fault, Interrupt, OpenWatch, Request, Shared};
use super::store::{Resource, Unknown};

/// An answer's body: lines as they come. An error cuts the connection.
pub(super) struct Lines(Receiver<io::Result<Bytes>>);

impl Body for Lines {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| line.map(Frame::data)))
    }
}

/// What a request asks for, when it is one we serve.
struct Question {
    resource: Resource,
    namespace: Option<String>,
    selector: Selector,
    query: BTreeMap<String, String>,
}

/// Answers one request. An error closes the connection.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: hyper::Request<Incoming>,
) -> io::Result<Response<Lines>> {
    let path = request.uri().path().to_owned();
    let query = decode_query(request.uri().query().unwrap_or_default());
    let place = locate(&path);
    let watch = query.get("watch").is_some_and(|value| value == "true" || value == "1");
    let named = place.as_ref().is_some_and(|place| place.2.is_some());
    let verb = match *request.method() {
        Method::GET if watch => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "unknown",
    };
    let resource = place.as_ref().map(|place| place.0);
    let fault = shared.arrived(Request { verb, path: path.clone(), query: query.clone(), resource });
    match fault {
        Some(Fault::HangUp) => return Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        Some(Fault::Status(code)) => return Ok(status(code, "Scripted", "the test wants this to fail")),
        Some(Fault::Garbage) => return Ok(whole(StatusCode::OK, "<html>login</html>".to_owned())),
        Some(Fault::Slow(pause)) => sleep(pause).await,
        None => {}
    }
    let Some((resource, namespace, None)) = place else {
        return Ok(status(404, "NotFound", &format!("the server could not find {path}")));
    };
    if !matches!(verb, "list" | "watch") {
        return Ok(status(405, "MethodNotAllowed", "this server is only read from"));
    }
    let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let selector = match Selector::parse(resource, text("labelSelector"), text("fieldSelector")) {
        Ok(selector) => selector,
        Err(why) => return Ok(status(400, "BadRequest", &why)),
    };
    let question = Question { resource, namespace, selector, query };
    Ok(if watch { self::watch(shared, question) } else { list(&shared, &question) })
}

/// Resource, namespace and name of a path.
fn locate(path: &str) -> Option<(Resource, Option<String>, Option<String>)> {
    let rest_of = |resource: &Resource| {
        let root = if resource.group().is_empty() {
            "/api/v1/".to_owned()
        } else {
            format!("/apis/{}/", resource.api_version())
        };
        path.strip_prefix(&root).map(str::to_owned)
    };
    Resource::ALL.into_iter().find_map(|resource| {
        let rest = rest_of(&resource)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [plural] if *plural == resource.plural() => Some((resource, None, None)),
            [plural, name] if *plural == resource.plural() => {
                Some((resource, None, Some((*name).to_owned())))
            }
            ["namespaces", namespace, plural, name @ ..]
                if *plural == resource.plural() && name.len() < 2 =>
            {
                Some((resource, Some((*namespace).to_owned()), name.first().map(|name| (*name).to_owned())))
            }
            _ => None,
        }
    })
}

fn list(shared: &Shared, question: &Question) -> Response<Lines> {
    let limit = question.number("limit").unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let token = question.query.get("continue").map(String::as_str).unwrap_or_default();
    let namespace = question.namespace.as_deref();
    let outcome = shared.state().store.list(question.resource, namespace, &question.selector, limit, token);
    match outcome {
        Ok(list) => whole(StatusCode::OK, list.to_string()),
        Err(_) => status(410, "Expired", "The provided continue parameter is too old"),
    }
}

fn watch(shared: Arc<Shared>, question: Question) -> Response<Lines> {
    let current = shared.state().store.version();
    let from = question.number("resourceVersion").unwrap_or(current);
    match shared.state().store.knows(from) {
        Err(Unknown::Future) => {
            return status(
                504,
                "Timeout",
                &format!("Too large resource version: {from}, current: {current}"),
            );
        }
        // As a real server does it: the watch begins, and its first word is that it is over.
        Err(Unknown::Forgotten) => return stream(gone(from)),
        Ok(()) => {}
    }
    let (sender, lines) = channel(16);
    let open = shared.open_watch();
    tokio::spawn(async move {
        // An error here is a client that has gone.
        _ = follow(&shared, &question, from, sender, open).await;
    });
    response(lines)
}

/// Sends what changes until the time is over, the client is gone or the test wants it to end.
async fn follow(
    shared: &Shared,
    question: &Question,
    mut version: u64,
    lines: Sender<io::Result<Bytes>>,
    _open: OpenWatch,
) -> Result<(), tokio::sync::mpsc::error::SendError<io::Result<Bytes>>> {
    let mut wakeups = shared.wakeups();
    let (mut seen, limit) = {
        let state = shared.state();
        (state.interrupts.len(), state.watch_limit)
    };
    let asked = Duration::from_secs(question.number("timeoutSeconds").unwrap_or(1800));
    let deadline = Instant::now() + limit.map_or(asked, |limit| limit.min(asked));
    loop {
        wakeups.mark_unchanged();
        let ((events, now), interrupts) = {
            let state = shared.state();
            let interrupts = state.interrupts.get(seen..).unwrap_or_default().to_vec();
            let namespace = question.namespace.as_deref();
            (state.store.since(version, question.resource, namespace, &question.selector), interrupts)
        };
        seen += interrupts.len();
        for event in &events {
            lines.send(Ok(line(event))).await?;
        }
        version = now;
        for interrupt in interrupts {
            match interrupt {
                Interrupt::End => return Ok(()),
                Interrupt::Cut => {
                    lines.send(Ok(Bytes::from_static(b"{\"type\":\"MODI"))).await?;
                    return lines.send(Err(io::Error::from(io::ErrorKind::ConnectionReset))).await;
                }
                Interrupt::Gone => return lines.send(Ok(gone(version))).await,
                Interrupt::Bookmark
                    if question.query.get("allowWatchBookmarks").is_some_and(|v| v == "true") =>
                {
                    lines.send(Ok(line(&bookmark(question.resource, version)))).await?;
                }
                Interrupt::Bookmark => {}
            }
        }
        tokio::select! {
            changed = wakeups.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(deadline) => return Ok(()),
            () = lines.closed() => return Ok(()),
        }
    }
}

fn bookmark(resource: Resource, version: u64) -> Value {
    let metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    let object = json!({"kind": resource.kind(), "apiVersion": resource.api_version(), "metadata": metadata});
    json!({"type": "BOOKMARK", "object": object})
}

fn gone(version: u64) -> Bytes {
    let object = status_object(410, "Expired", &format!("too old resource version: {version}"));
    line(&json!({"type": "ERROR", "object": object}))
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn status(code: u16, reason: &str, message: &str) -> Response<Lines> {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    whole(code, status_object(code.as_u16(), reason, message).to_string())
}

fn whole(code: StatusCode, text: String) -> Response<Lines> {
    let mut response = stream(Bytes::from(text));
    *response.status_mut() = code;
    response
}

fn stream(only: Bytes) -> Response<Lines> {
    let (sender, lines) = channel(1);
    // There is room for one line.
    _ = sender.try_send(Ok(only));
    response(lines)
}

fn response(lines: Receiver<io::Result<Bytes>>) -> Response<Lines> {
    let mut response = Response::new(Lines(lines));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

impl Question {
    fn number(&self, name: &str) -> Option<u64> {
        self.query.get(name)?.parse().ok()
    }
}

fn decode_query(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Percent-decoding; `+` is a space.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let located = |path| {
            locate(path)
                .map(|(resource, ns, name)| (resource, ns.unwrap_or_default(), name.unwrap_or_default()))
        };
        let some = |resource, ns: &str, name: &str| Some((resource, ns.to_owned(), name.to_owned()));
        assert_eq!(located("/api/v1/services"), some(Resource::Services, "", ""));
        assert_eq!(located("/api/v1/namespaces/a/services/web"), some(Resource::Services, "a", "web"));
        assert_eq!(located("/api/v1/nodes/n1"), some(Resource::Nodes, "", "n1"));
        assert_eq!(
            located("/apis/discovery.k8s.io/v1/endpointslices"),
            some(Resource::EndpointSlices, "", "")
        );
        for path in [
            "/",
            "/api/v1/pods",
            "/api/v1/endpointslices",
            "/apis/v1/services",
            "/version",
            "/api/v1/namespaces/a/services/b/c",
        ] {
            assert_eq!(located(path), None, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query =
            decode_query("labelSelector=%21a%2Fb&fieldSelector=spec.clusterIP%21%3DNone&x=a+b&y&z=%zz");
        let pairs: Vec<_> = query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("fieldSelector", "spec.clusterIP!=None"),
                ("labelSelector", "!a/b"),
                ("x", "a b"),
                ("y", ""),
                ("z", "%zz"),
            ]
        );
    }
}
