//! The Kubernetes source against a fake API server, in one process: from HTTP to the desired state, and from there
//! through the compiler and the packet path to where a client's packets go.
#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, reason = "helpers of tests end the test")]

#[path = "api/affinity.rs"]
mod affinity;
#[path = "api/cidrs.rs"]
mod cidrs;
#[path = "api/config.rs"]
mod config;
#[path = "api/faults.rs"]
mod faults;
#[path = "api/semantics.rs"]
mod semantics;
#[path = "api/served.rs"]
mod served;
#[path = "api/stories.rs"]
mod stories;

use std::time::Duration;

use control::desired::Desired;
use control::source::{Event, Source};
use control::watch::{Api, ClientConfig};
use serde_json::{Value, json};
use tests::apiserver::{FakeApi, Resource, WATCHES};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;

/// A source that reads from a fake server, and what came of it.
struct Story {
    api: FakeApi,
    desired: Desired,
    /// Every `Health` event: connected, and why.
    health: Vec<(bool, String)>,
    /// How many Services there were after each event, since ready.
    services_seen: Vec<usize>,
    events: Receiver<Event>,
    source: JoinHandle<()>,
}

/// Conditions are waited for this long: far longer than any back-off the stories meet.
const PATIENCE: Duration = Duration::from_secs(30);

impl Story {
    /// Begins to read as node `n1`.
    async fn begin(api: FakeApi) -> Self {
        Self::with_pages(api, 500).await
    }

    async fn with_pages(api: FakeApi, page_size: u32) -> Self {
        let config = ClientConfig {
            kubeconfig: Some(api.kubeconfig()),
            node_name: "n1".to_owned(),
            service_cidrs: vec![("10.96.0.0".parse().unwrap(), 12)],
            ..ClientConfig::default()
        };
        let source = Api::new(&config).await.unwrap().page_size(page_size);
        let (sender, events) = channel(64);
        let source = tokio::spawn(Box::new(source).run(sender));
        let desired = Desired::new("n1");
        Self { api, desired, health: Vec::new(), services_seen: Vec::new(), events, source }
    }

    /// Begins, and waits until everything is listed and watched.
    async fn ready(api: FakeApi) -> Self {
        let mut story = Self::begin(api).await;
        story.until("all is watched", |story| story.well()).await;
        story
    }

    fn well(&self) -> bool {
        self.desired.ready()
            && self.health.last().is_some_and(|(connected, _)| *connected)
            && self.api.open_watches() == WATCHES
    }

    /// Takes events until this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(tokio::time::Instant::now() < deadline, "never: {what}\n{}", self.told());
            // The server's side of a condition changes without an event.
            if let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(20), self.events.recv()).await
            {
                self.take(event);
            }
        }
    }

    /// Takes events for as long, and whatever comes of it.
    async fn for_a_while(&mut self, while_: Duration) {
        let deadline = tokio::time::Instant::now() + while_;
        while let Ok(Some(event)) = tokio::time::timeout_at(deadline, self.events.recv()).await {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        if let Event::Health { connected, detail } = &event {
            self.health.push((*connected, detail.clone()));
        }
        self.desired.apply(event);
        if self.desired.ready() {
            self.services_seen.push(self.desired.services().len());
        }
    }

    fn services(&self) -> Vec<String> {
        self.desired.services().keys().map(ToString::to_string).collect()
    }

    fn problems(&self) -> Vec<&str> {
        self.desired.problems().keys().map(String::as_str).collect()
    }

    /// Endpoint addresses of a Service in `default`, in the order of slices.
    fn endpoints(&self, service: &str) -> Vec<String> {
        let key = control::model::ObjectKey { namespace: "default".to_owned(), name: service.to_owned() };
        let slices = self.desired.slices(&key);
        slices.flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.addr.to_string()).collect()
    }

    /// Requests of a verb for a resource, as their queries' values of these names.
    fn asked(&self, verb: &str, resource: Resource, names: &[&str]) -> Vec<Vec<String>> {
        let requests = self.api.requests().into_iter();
        let requests = requests.filter(|request| request.verb == verb && request.resource == Some(resource));
        requests
            .map(|request| {
                names.iter().map(|name| request.query.get(*name).cloned().unwrap_or_default()).collect()
            })
            .collect()
    }

    fn lists(&self) -> usize {
        self.api.requests().iter().filter(|request| request.verb == "list").count()
    }

    fn told(&self) -> String {
        format!(
            "services {:?}\nproblems {:?}\nhealth {:?}\nwatches {}\nrequests {:#?}",
            self.services(),
            self.problems(),
            self.health,
            self.api.open_watches(),
            self.api
                .requests()
                .iter()
                .map(|request| format!("{} {} {:?}", request.verb, request.path, request.query))
                .collect::<Vec<_>>()
        )
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.source.abort();
    }
}

fn service(name: &str, last: usize) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "clusterIP": format!("10.96.{}.{}", last / 250, last % 250 + 1), "ipFamilies": ["IPv4"],
            "clusterIPs": [format!("10.96.{}.{}", last / 250, last % 250 + 1)],
            "ports": [{"port": 80, "protocol": "TCP"}],
        },
    })
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    })
}

fn node(name: &str, zone: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    })
}

/// A server with a Service, its slice and the node.
async fn small() -> FakeApi {
    let api = FakeApi::start().await;
    api.put_service(service("web", 1));
    api.put_slice(slice("web-1", "web", &["10.1.0.1"]));
    api.put_node(node("n1", "a"));
    api
}

fn labelled(mut object: Value, label: &str, value: &str) -> Value {
    object["metadata"]["labels"][label] = json!(value);
    object
}
