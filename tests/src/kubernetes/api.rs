//! The API server as tests use it: JSON in, JSON out, blocking, from inside the hub's namespace.
//!
//! One thread inside that namespace drives every connection: whoever asks hands it a future and waits.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::netns::Namespace;

mod kinds;
mod watch;

pub use kinds::Kind;
pub use watch::Watch;

/// A request without an answer after this long has failed: the API server may be stopped or cut off.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the API server said no to, or why it could not be asked.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The HTTP status; 0 when there was no answer.
    pub code: u16,
    /// The server's message.
    pub message: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// There is no such object, or path.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.code == 404
    }

    fn unanswered(message: impl fmt::Display) -> Self {
        Self { code: 0, message: message.to_string() }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self { code: status.code, message: status.message };
        }
        // The outermost text alone says only that something failed.
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(deeper) = cause {
            message = format!("{message}: {deeper}");
            cause = deeper.source();
        }
        Self::unanswered(message)
    }
}

/// A client. Clones share its connections.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    runtime: Handle,
    thread: ThreadId,
    /// The thread ends when this is dropped.
    running: Mutex<Option<oneshot::Sender<()>>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// A client with the identity of this kubeconfig, whose sockets are `namespace`'s. The server need not answer yet.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kubeconfig cannot be used.
    pub fn connect(namespace: &Namespace, kubeconfig: &Path) -> Result<Self, ApiError> {
        let inside = File::open(format!("/run/netns/{}", namespace.name())).map_err(ApiError::unanswered)?;
        let kubeconfig = kubeconfig.to_owned();
        let (ready, answer) = mpsc::channel();
        let (running, ended) = oneshot::channel::<()>();
        let serve = move || {
            let made = setns(inside, CloneFlags::CLONE_NEWNET)
                .map_err(ApiError::unanswered)
                .and_then(|()| runtime())
                .and_then(|runtime| Ok((runtime.block_on(client(&kubeconfig))?, runtime)));
            match made {
                Ok((client, runtime)) => {
                    drop(ready.send(Ok((client, runtime.handle().clone(), thread::current().id()))));
                    // Everything spawned on the runtime is polled right here, by this thread.
                    drop(runtime.block_on(ended));
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        thread::Builder::new().name("api".to_owned()).spawn(serve).map_err(ApiError::unanswered)?;
        let (client, runtime, thread) = answer.recv().map_err(ApiError::unanswered)??;
        let running = Mutex::new(Some(running));
        Ok(Self { inner: Arc::new(Inner { client, runtime, thread, running }) })
    }

    /// The client underneath. Its requests must be made by futures given to [`Api::spawn`].
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.inner.client.clone()
    }

    /// Runs a future on the thread inside the namespace, where sockets and timers work. It ends with the client: a
    /// future that must not keep the client alive holds [`Api::client`] instead of a clone of this.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.inner.runtime.spawn(future)
    }

    /// Runs a future there and waits for it; none when the client was closed meanwhile.
    ///
    /// # Panics
    /// From inside such a future: it would wait for itself.
    pub fn wait<F>(&self, future: F) -> Option<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        assert_ne!(thread::current().id(), self.inner.thread, "a future of the client waits for another");
        let (done, answer) = mpsc::channel();
        drop(self.spawn(async move { drop(done.send(future.await)) }));
        answer.recv().ok()
    }

    /// Ends the thread, and with it every connection and every future spawned. Later requests fail.
    pub fn close(&self) {
        if let Ok(mut running) = self.inner.running.lock() {
            running.take();
        }
    }

    /// GET, `/api/v1/nodes` or a list.
    ///
    /// # Errors
    /// What the server said, or that it did not answer in half a minute.
    pub fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.ask("GET", path, None, None)
    }

    /// GET of a path whose answer is text, `/readyz`.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn text(&self, path: &str) -> Result<String, ApiError> {
        let request = request("GET", path, None, None)?;
        let client = self.client();
        self.bounded(async move { client.request_text(request).await })
    }

    /// POST of an object; its path follows from `apiVersion`, `kind`, `metadata.namespace`.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn create(&self, object: &Value) -> Result<Value, ApiError> {
        let (path, _) = place(object)?;
        self.ask("POST", &path, None, Some(object))
    }

    /// Creates it, or replaces it by server-side apply (field manager `tests`, forced).
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let (path, name) = place(object)?;
        let path = format!("{path}/{name}?fieldManager=tests&force=true");
        self.ask("PATCH", &path, Some("application/apply-patch+yaml"), Some(object))
    }

    /// A JSON merge patch; `path` may end in `/status`.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn merge(&self, path: &str, patch: &Value) -> Result<Value, ApiError> {
        self.ask("PATCH", path, Some("application/merge-patch+json"), Some(patch))
    }

    /// PUT of a whole object; `path` may end in `/status`.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn put(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.ask("PUT", path, None, Some(object))
    }

    /// DELETE; gone already is no error. `path` may carry a query, `?gracePeriodSeconds=0`.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn delete(&self, path: &str) -> Result<(), ApiError> {
        match self.ask("DELETE", path, None, None) {
            Err(error) if !error.is_missing() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The path of an object with this `apiVersion`, `kind`, namespace and name; of all of them with an empty name.
    ///
    /// # Panics
    /// The kind is not in the table of kinds, `api/kinds.rs`.
    #[must_use]
    pub fn path(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> String {
        match Kind::named(kind) {
            Some(known) => known.path(api_version, namespace, name),
            None => panic!("no kind {kind} in the table in tests/src/kubernetes/api/kinds.rs"),
        }
    }

    /// Follows a list: every change of what `path` lists, from now on or from the `resourceVersion` in `query`
    /// (`labelSelector=a%3Db&resourceVersion=7`). The server ends it in its own time.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn watch(&self, path: &str, query: &str) -> Result<Watch, ApiError> {
        let separator = if query.is_empty() { "" } else { "&" };
        let request = request("GET", &format!("{path}?watch=true{separator}{query}"), None, None)?;
        watch::start(self, request)
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        patch: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let request = request(method, path, patch, body)?;
        let client = self.client();
        self.bounded(async move { client.request::<Value>(request).await })
    }

    fn bounded<F, T>(&self, asking: F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, kube::Error>> + Send + 'static,
        T: Send + 'static,
    {
        let answer = self.wait(async move { tokio::time::timeout(PATIENCE, asking).await });
        let answer = answer.ok_or_else(|| ApiError::unanswered("the client is closed"))?;
        let late = |_| ApiError::unanswered(format_args!("no answer in {} s", PATIENCE.as_secs()));
        Ok(answer.map_err(late)??)
    }
}

/// Waits for the next message.
fn next<T>(receiver: &Receiver<T>, limit: Duration) -> Result<Option<T>, ApiError> {
    match receiver.recv_timeout(limit) {
        Ok(message) => Ok(Some(message)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(ApiError::unanswered("the watch has ended")),
    }
}

/// A request by a future of [`Api::spawn`]; `patch` is the content type of one.
pub(super) async fn ask(
    client: &kube::Client,
    method: &str,
    path: &str,
    patch: Option<&str>,
    body: Option<&Value>,
) -> Result<Value, ApiError> {
    let answer = client.request::<Value>(request(method, path, patch, body)?);
    let late = |_| ApiError::unanswered(format_args!("no answer in {} s", PATIENCE.as_secs()));
    Ok(tokio::time::timeout(PATIENCE, answer).await.map_err(late)??)
}

fn runtime() -> Result<tokio::runtime::Runtime, ApiError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ApiError::unanswered)
}

async fn client(kubeconfig: &Path) -> Result<kube::Client, ApiError> {
    let file = Kubeconfig::read_from(kubeconfig).map_err(ApiError::unanswered)?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(ApiError::unanswered)?;
    // A proxy of the environment has no way into the namespace; and what the server says is the test's to judge.
    config.proxy_url = None;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(kube::Client::try_from(config)?)
}

fn request(
    method: &str,
    path: &str,
    patch: Option<&str>,
    body: Option<&Value>,
) -> Result<Request<Vec<u8>>, ApiError> {
    let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", patch.unwrap_or("application/json"));
    request.body(bytes).map_err(|error| ApiError::unanswered(format_args!("{method} {path}: {error}")))
}

/// The path of the list an object belongs to, and its name.
fn place(object: &Value) -> Result<(String, &str), ApiError> {
    let text = |value: &'_ Value| value.as_str().map(str::to_owned);
    let missing = |field| ApiError::unanswered(format_args!("no {field} in {object}"));
    let kind = text(&object["kind"]).ok_or_else(|| missing("kind"))?;
    let api_version = text(&object["apiVersion"]).ok_or_else(|| missing("apiVersion"))?;
    let known = Kind::named(&kind).ok_or_else(|| {
        ApiError::unanswered(format_args!("no kind {kind} in tests/src/kubernetes/api/kinds.rs"))
    })?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Ok((known.path(&api_version, object["metadata"]["namespace"].as_str(), ""), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_have_the_paths_of_their_kinds() {
        let path = Api::path;
        assert_eq!(path("v1", "Pod", Some("a"), "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(path("v1", "Node", None, "n1"), "/api/v1/nodes/n1");
        assert_eq!(path("v1", "Service", None, ""), "/api/v1/services", "of all namespaces");
        let slices = "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices";
        assert_eq!(path("discovery.k8s.io/v1", "EndpointSlice", Some("a"), ""), slices);
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "a", "name": "b"}});
        let (list, name) = place(&object).unwrap();
        assert_eq!((list.as_str(), name), ("/apis/apps/v1/namespaces/a/deployments", "b"));
        assert!(place(&json!({"kind": "Deployment"})).unwrap_err().message.contains("apiVersion"));
        assert!(
            place(&json!({"apiVersion": "v1", "kind": "Teapot"})).unwrap_err().message.contains("Teapot")
        );
    }
}
