//! A fake Kubernetes API server that speaks HTTP on loopback, or on any listener it is given: for stories inside one
//! process and for the real binary in a network namespace.
//!
//! It lists with pages, watches with bookmarks and versions, evaluates selectors, answers 410 for versions it has
//! forgotten, fails on demand, and remembers every request. It runs on a thread of its own, so tests may block, pause
//! their clock or run no runtime at all.

mod http;
pub mod rbac;
mod selector;
mod server;
mod store;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use k8s_openapi::serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedSender;

use server::{Command, Shared};
pub use server::{Fault, Request};
pub use store::Resource;

/// How many watches tunway keeps open: one a resource.
pub const WATCHES: usize = Resource::ALL.len();

/// A running fake API server. Dropping it ends it and everything it made.
#[derive(Debug)]
pub struct FakeApi {
    shared: Arc<Shared>,
    commands: Option<UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
    directory: TempDir,
}

impl FakeApi {
    /// A server on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        Self::start_blocking()
    }

    /// [`Self::start`], without a runtime.
    #[must_use]
    pub fn start_blocking() -> Self {
        Self::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback"))
    }

    /// A server on a listener that is bound already, in whatever network namespace.
    #[must_use]
    pub fn serve(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("the listener's address");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (shared, commands, thread) = server::spawn();
        let api = Self { shared, commands: Some(commands), thread: Some(thread), address, directory };
        api.resume_on(listener);
        api
    }

    /// Where it listens, or listened.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig file for it. It lives as long as the server does.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_for(&format!("http://{}", self.address))
    }

    /// A kubeconfig file that names another URL, for a server that is reached through something.
    #[must_use]
    pub fn kubeconfig_for(&self, url: &str) -> PathBuf {
        let path = self.directory.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: fake\n\
             clusters: [{{name: fake, cluster: {{server: \"{url}\"}}}}]\n\
             users: [{{name: fake, user: {{}}}}]\n\
             contexts: [{{name: fake, context: {{cluster: fake, user: fake}}}}]\n"
        );
        std::fs::write(&path, text).expect("a kubeconfig in the temporary directory");
        path
    }

    /// A directory that is removed with the server.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Creates or replaces a Service, given as JSON or as its API type.
    pub fn put_service(&self, service: impl Serialize) {
        self.put(Resource::Services, service);
    }

    /// Creates or replaces an EndpointSlice.
    pub fn put_slice(&self, slice: impl Serialize) {
        self.put(Resource::EndpointSlices, slice);
    }

    /// Creates or replaces a Node.
    pub fn put_node(&self, node: impl Serialize) {
        self.put(Resource::Nodes, node);
    }

    /// Creates or replaces an object. Without a namespace it is in `default`.
    pub fn put(&self, resource: Resource, object: impl Serialize) {
        let object: Value = serde_json::to_value(object).expect("an object that is JSON");
        self.shared.change(|store| store.put(resource, object));
    }

    /// Deletes an object; true when it was there.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        self.shared.change(|store| store.delete(resource, namespace, name))
    }

    /// Ends every watch with "410 Gone" and forgets all versions: everybody must list anew.
    pub fn expire_watches(&self) {
        self.shared.change(store::Store::forget_versions);
        self.shared.interrupt(server::Interrupt::Gone);
    }

    /// Forgets all versions without telling the open watches: whoever resumes must list anew, and lists that are
    /// under way cannot go on.
    pub fn compact(&self) {
        self.shared.change(store::Store::forget_versions);
    }

    /// Cuts the connection of every watch in the middle of a message.
    pub fn cut_watches(&self) {
        self.shared.interrupt(server::Interrupt::Cut);
    }

    /// Ends every watch as a server does when its time is over.
    pub fn end_watches(&self) {
        self.shared.interrupt(server::Interrupt::End);
    }

    /// Sends a bookmark with the current version on every watch that wants them.
    pub fn bookmark(&self) {
        self.shared.interrupt(server::Interrupt::Bookmark);
    }

    /// Ends watches after this long, whatever the client asked for.
    pub fn limit_watches(&self, longest: Option<Duration>) {
        self.shared.limit_watches(longest);
    }

    /// From now on this many requests meet this fault.
    pub fn fail_next(&self, count: usize, fault: Fault) {
        self.fail_next_of(|_| true, count, fault);
    }

    /// From now on this many requests for which `only` holds meet this fault.
    pub fn fail_next_of(&self, only: fn(&Request) -> bool, count: usize, fault: Fault) {
        self.shared.fail(Some(server::Script { count, fault, only }));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.shared.fail(None);
    }

    /// Stops listening and cuts every connection; connections are refused from now on.
    pub fn stop(&self) {
        self.command(Command::Stop);
    }

    /// Listens again on the same address.
    pub fn restart(&self) {
        self.resume_on(TcpListener::bind(self.address).expect("the same address as before"));
    }

    /// Listens again on a listener made elsewhere, as in a network namespace.
    pub fn resume_on(&self, listener: TcpListener) {
        listener.set_nonblocking(true).expect("a listener that does not block");
        self.command(|done| Command::Listen(listener, done));
    }

    /// Every request so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.forget_requests();
    }

    /// How many watches are open just now.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        self.shared.open_watches()
    }

    /// Waits until the server has this many watches open, and says whether it came to that within 20 s.
    #[must_use]
    pub fn wait_for_watches(&self, count: usize) -> bool {
        let tries = 2_000;
        (0..tries).any(|_| {
            let there = self.open_watches() == count;
            if !there {
                std::thread::sleep(Duration::from_millis(10));
            }
            there
        })
    }

    fn command(&self, command: impl FnOnce(std::sync::mpsc::Sender<()>) -> Command) {
        let (done, wait) = std::sync::mpsc::channel();
        if let Some(commands) = &self.commands {
            commands.send(command(done)).expect("the server's thread lives");
            wait.recv_timeout(Duration::from_secs(20)).expect("the server's thread answers");
        }
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        // The thread ends when its commands do.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}
