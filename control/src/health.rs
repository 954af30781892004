//! `healthCheckNodePort`: load balancers ask each node whether it has endpoints of a Service, over HTTP. Status, headers
//! and body are kube-proxy's, to the byte.
//!
//! One listener for each port and address of this host that takes node ports, on the one runtime. What is asked for is
//! set after every publish: listeners that stay are not touched, also when the port is another Service's now, and answer
//! with what is known at the time. With a listener its connections end.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use crate::compile::Health;
use crate::descriptors;
use crate::model::{ObjectKey, Problem};
use crate::socket::patient::Patient;

/// Connections served at one time by a listener; a further one ends the oldest.
const CONNECTIONS: usize = 64;
/// Connections served at one time by all listeners; the next one ends the oldest of the listener that has the most.
const ALL_CONNECTIONS: usize = 256;
/// Whoever does not finish a request within this time is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// The listeners there are.
#[derive(Debug, Default)]
pub struct HealthPorts {
    open: BTreeMap<SocketAddr, Open>,
    /// What could not be opened, by object.
    problems: BTreeMap<String, Vec<Problem>>,
    places: Arc<Places>,
}

/// The connections of all listeners, oldest first.
#[derive(Debug)]
struct Places {
    most: usize,
    held: Mutex<VecDeque<(SocketAddr, AbortHandle)>>,
}

impl Default for Places {
    /// A quarter of what descriptors there are beside those that are kept back.
    fn default() -> Self {
        let most = (descriptors::to_give_away() / 4).clamp(1, ALL_CONNECTIONS);
        Self { most, held: Mutex::default() }
    }
}

impl Places {
    /// Who holds all connections open must not keep load balancers out, neither of this listener nor of others.
    fn take(&self, at: SocketAddr, connection: AbortHandle) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, connection)| !connection.is_finished());
        held.push_back((at, connection));
        let of =
            |held: &VecDeque<(SocketAddr, AbortHandle)>, at| held.iter().filter(|one| one.0 == at).count();
        let crowded = if of(&held, at) > CONNECTIONS {
            Some(at)
        } else if held.len() > self.most {
            held.iter().map(|one| one.0).max_by_key(|at| of(&held, *at))
        } else {
            None
        };
        if let Some(oldest) = crowded.and_then(|at| held.iter().position(|one| one.0 == at)) {
            held.remove(oldest).iter().for_each(|(_, connection)| connection.abort());
        }
    }
}

/// What is said of a Service at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    service: ObjectKey,
    ready: usize,
    healthy: bool,
}

#[derive(Debug)]
struct Open {
    report: watch::Sender<Report>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthPorts {
    /// Listens for exactly these Services at these addresses. `healthy` says whether new flows are served here at all.
    /// Where a port cannot be had, that is a problem of its Service, and the next call tries again.
    ///
    /// Must be called on a runtime.
    pub fn set(&mut self, services: &BTreeMap<ObjectKey, Health>, addresses: &[IpAddr], healthy: bool) {
        let mut wanted: BTreeMap<SocketAddr, Report> = BTreeMap::new();
        self.problems.clear();
        for (service, health) in services {
            for addr in addresses {
                let report = Report { service: service.clone(), ready: ready(health, *addr), healthy };
                let at = SocketAddr::new(*addr, health.port);
                match wanted.get(&at) {
                    Some(other) => {
                        let why = format!("Service {} listens there", other.service);
                        self.complain(service, at, &why);
                    }
                    None => drop(wanted.insert(at, report)),
                }
            }
        }
        self.open.retain(|at, _| wanted.contains_key(at));
        let most = descriptors::to_give_away() / 2;
        for (at, report) in wanted {
            let room = self.open.len() < most;
            match self.open.get(&at) {
                Some(open) => {
                    open.report.send_if_modified(|known| {
                        let news = *known != report;
                        *known = report;
                        news
                    });
                }
                None => match Open::new(at, report.clone(), room, Arc::clone(&self.places)) {
                    Ok(open) => drop(self.open.insert(at, open)),
                    Err(error) => self.complain(&report.service, at, &error.to_string()),
                },
            }
        }
    }

    /// Ports that could not be had, by object.
    #[must_use]
    pub fn problems(&self) -> &BTreeMap<String, Vec<Problem>> {
        &self.problems
    }

    fn complain(&mut self, service: &ObjectKey, at: SocketAddr, error: &str) {
        let object = format!("Service {service}");
        self.problems.entry(object.clone()).or_default().push(Problem {
            object,
            field: "spec.healthCheckNodePort".to_owned(),
            what: format!(
                "cannot listen at {at}: {error}; load balancers take this node for one without endpoints"
            ),
            remedy:
                "free the port on this node, or give the Service another one; it is tried again every second"
                    .to_owned(),
        });
    }
}

/// What is answered at an address: of its family, if the Service has that one, else of the other. kube-proxy's listener
/// at the wildcard answers the nodes' addresses of both families so, and load balancers, as upstream's suite, ask at all of
/// a node's addresses.
fn ready(health: &Health, at: IpAddr) -> usize {
    let [v4, v6] = health.families;
    let asks_v4 = if at.is_ipv4() { v4 } else { !v6 };
    if asks_v4 { health.ready_v4 } else { health.ready_v6 }
}

impl Open {
    fn new(at: SocketAddr, report: Report, room: bool, places: Arc<Places>) -> io::Result<Self> {
        if !room {
            return Err(io::Error::other(
                "the limit of open files leaves no room for it (raise LimitNOFILE)",
            ));
        }
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (report, reported) = watch::channel(report);
        Ok(Self { report, task: tokio::spawn(serve(at, listener, reported, places)) })
    }
}

async fn serve(
    at: SocketAddr,
    listener: tokio::net::TcpListener,
    report: watch::Receiver<Report>,
    places: Arc<Places>,
) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let report = report.clone();
                let connection = connections.spawn(async move {
                    let service = hyper::service::service_fn(move |_: Request<Incoming>| {
                        let response = respond(&report.borrow());
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(PATIENCE)
                        .serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "health check: connection ended");
                    }
                });
                while connections.try_join_next().is_some() {}
                places.take(at, connection);
            }
            // Out of descriptors: some connection ends in a while. Trying at once would spin.
            Err(error) => {
                tracing::debug!(%error, "health check: accept failed");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Any path, any method: kube-proxy looks at neither.
fn respond(report: &Report) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body(report))));
    if report.ready == 0 || !report.healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(report.ready));
    response
}

/// Names of objects need no escaping.
fn body(Report { service, ready, healthy }: &Report) -> String {
    let ObjectKey { namespace, name } = service;
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": {ready},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    )
}

#[cfg(test)]
mod tests;
