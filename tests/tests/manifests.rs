//! The manifests source on a real directory: from files to the desired state.
#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, reason = "helpers of tests end the test")]

#[path = "manifests/files.rs"]
mod files;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::desired::Desired;
use control::model::ObjectKey;
use control::source::manifests::Manifests;
use control::source::{Event, Kind, Source};
use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;

struct Story {
    root: TempDir,
    desired: Desired,
    health: Vec<(bool, String)>,
    /// `Restart` and `Done` events, in order.
    lists: Vec<Event>,
    /// Services after every event, since ready.
    seen: Vec<Vec<String>>,
    events: Receiver<Event>,
    source: JoinHandle<()>,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Story {
    /// Reads `manifests` of a new directory, looking by itself only once an hour.
    fn begin(prepare: impl FnOnce(&Path)) -> Self {
        Self::looking_every(Duration::from_secs(3600), prepare)
    }

    fn looking_every(rescan: Duration, prepare: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("manifests");
        prepare(&directory);
        let source = Manifests::new(&directory, "n1").rescan_every(rescan);
        let (sender, events) = channel(64);
        let source = tokio::spawn(Box::new(source).run(sender));
        let desired = Desired::new("n1");
        Self { root, desired, health: Vec::new(), lists: Vec::new(), seen: Vec::new(), events, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("manifests").join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            let Ok(Some(event)) = event else {
                panic!(
                    "never: {what}; services {:?}, problems {:?}, {:?}",
                    self.services(),
                    self.problems(),
                    self.health
                )
            };
            self.take(event);
        }
    }

    /// Until these Services are served.
    async fn until_services(&mut self, services: &[&str]) {
        self.until(&format!("{services:?}"), |story| story.services() == services).await;
    }

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
        if matches!(event, Event::Restart(_) | Event::Done(_)) {
            self.lists.push(event.clone());
        }
        self.desired.apply(event);
        if self.desired.ready() && self.seen.last() != Some(&self.services()) {
            self.seen.push(self.services());
        }
    }

    /// `name=last octet` of every Service.
    fn services(&self) -> Vec<String> {
        let last = |service: &control::model::Service| {
            service.cluster_ips[0].to_string().rsplit('.').next().unwrap().to_owned()
        };
        self.desired
            .services()
            .values()
            .map(|service| format!("{}={}", service.key.name, last(service)))
            .collect()
    }

    fn problems(&self) -> Vec<&str> {
        self.desired.problems().keys().map(String::as_str).collect()
    }

    fn endpoints(&self, service: &str) -> Vec<String> {
        let key = ObjectKey { namespace: "default".to_owned(), name: service.to_owned() };
        self.desired
            .slices(&key)
            .flat_map(|slice| &slice.endpoints)
            .map(|endpoint| endpoint.addr.to_string())
            .collect()
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.source.abort();
    }
}

fn service(name: &str, last: u8) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: 10.96.0.{last}\n  ports: [{{port: 80}}]\n"
    )
}

fn slice(service: &str, addresses: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [{addresses}]}}]\n"
    )
}

fn empty(directory: &Path) {
    fs::create_dir(directory).unwrap();
}

fn with_web(directory: &Path) {
    empty(directory);
    fs::write(directory.join("web.yaml"), service("web", 1) + &slice("web", "10.1.0.1")).unwrap();
}

#[tokio::test]
async fn a_directory_is_read_and_then_followed() {
    let mut story = Story::begin(|directory| {
        with_web(directory);
        let node =
            "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}\n";
        fs::write(directory.join("node.yml"), node).unwrap();
        let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 5432}]}},
            {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "10.1.0.2"}], "ports": [{"port": 5432}]}]},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "db"}}
        ]}"#;
        fs::write(directory.join("db.json"), list).unwrap();
    });
    story.until_services(&["db=2", "web=1"]).await;
    assert_eq!(
        (story.endpoints("web"), story.endpoints("db")),
        (vec!["10.1.0.1".to_owned()], vec!["10.1.0.2".to_owned()])
    );
    assert_eq!(story.desired.node().zone.as_deref(), Some("a"));
    assert_eq!(story.health.iter().map(|(connected, _)| *connected).collect::<Vec<_>>(), [true]);
    story.for_a_while(Duration::from_millis(300)).await;
    assert_eq!(story.problems(), [] as [&str; 0]);

    story.write("more.yaml", service("more", 3));
    story.until_services(&["db=2", "more=3", "web=1"]).await;
    story.write("more.yaml", service("more", 4));
    story.until_services(&["db=2", "more=4", "web=1"]).await;
    fs::rename(story.path("more.yaml"), story.path("less.yaml")).unwrap();
    fs::remove_file(story.path("db.json")).unwrap();
    story.until_services(&["more=4", "web=1"]).await;
    assert!(story.endpoints("db").is_empty());
}

#[tokio::test]
async fn lists_are_sent_whole_and_only_of_what_has_changed() {
    let mut story = Story::begin(with_web);
    story.until_services(&["web=1"]).await;
    // Slices and Services end together.
    let kinds = [Kind::Node, Kind::ServiceCidr, Kind::Slice, Kind::Service];
    let wanted: Vec<Event> = kinds.map(Event::Restart).into_iter().chain(kinds.map(Event::Done)).collect();
    assert_eq!(story.lists, wanted);

    story.lists.clear();
    story.write("web.yaml", service("web", 1) + &slice("web", "10.1.0.2"));
    story.until("another endpoint", |story| story.endpoints("web") == ["10.1.0.2"]).await;
    assert_eq!(story.lists, [Event::Restart(Kind::Slice), Event::Done(Kind::Slice)]);

    // The same again, and what is no manifest: nothing to say.
    story.lists.clear();
    story.write("web.yaml", service("web", 1) + "# a comment\n" + &slice("web", "10.1.0.2"));
    story.write("README.md", "text");
    story.write(".web.yaml.swp", "x");
    story.write("web.yaml~", service("old", 9));
    story.for_a_while(Duration::from_millis(500)).await;
    assert_eq!(story.lists, []);
    assert_eq!(story.services(), ["web=1"]);
}

#[tokio::test]
async fn what_is_broken_is_told_and_its_last_good_state_serves() {
    let mut story = Story::begin(|directory| {
        empty(directory);
        fs::write(directory.join("a.yaml"), service("web", 1) + &service("db", 2)).unwrap();
    });
    story.until_services(&["db=2", "web=1"]).await;
    story.write("a.yaml", service("web", 3).replace("port: 80", "port: eighty") + &service("db", 4));
    story.until_services(&["db=4", "web=1"]).await;
    story.until("told", |story| !story.problems().is_empty()).await;
    let problem = story.desired.problems().values().next().unwrap()[0].to_string();
    for part in [
        "a.yaml, document 1: Service default/web",
        "spec.ports[0].port",
        "eighty",
        "still serves",
        "kubectl explain",
    ] {
        assert!(problem.contains(part), "{problem} lacks {part}");
    }
    story.write("a.yaml", "kind: [");
    story.until("told", |story| story.problems() == ["a.yaml, document 1"]).await;
    assert_eq!(story.services(), ["db=4", "web=1"]);
    story.write("a.yaml", service("web", 5));
    story.until("repaired", |story| story.services() == ["web=5"] && story.problems().is_empty()).await;

    story.write("b.yaml", service("web", 6) + &service("lost", 7).replace("  clusterIP: 10.96.0.7\n", ""));
    story.until("both are told", |story| story.problems().len() == 2).await;
    let told = ["b.yaml, document 1: Service default/web", "b.yaml, document 2: Service default/lost"];
    assert_eq!((story.problems(), story.services()), (told.to_vec(), vec!["web=5".to_owned()]));
    assert!(story.desired.problems()[told[1]][0].to_string().contains("spec.clusterIP"));
}

#[tokio::test]
async fn an_empty_directory_is_a_complete_world() {
    let mut story = Story::begin(empty);
    story.until("ready", |story| story.desired.ready()).await;
    assert_eq!(story.services(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_burst_of_changes_is_a_few_lists() {
    let mut story = Story::begin(empty);
    story.until("ready", |story| story.desired.ready()).await;
    story.lists.clear();
    for index in 0..200_u8 {
        story.write(&format!("{index:03}.yaml"), service(&format!("s{index:03}"), index + 1));
    }
    story.until("all of them", |story| story.services().len() == 200).await;
    let dones = story.lists.iter().filter(|event| **event == Event::Done(Kind::Service)).count();
    assert!((1..=3).contains(&dones), "{dones}");
}

#[tokio::test]
async fn the_source_ends_when_nobody_listens() {
    for prepare in [with_web as fn(&Path), |_| {}] {
        let mut story = Story::begin(prepare);
        story.until("it runs", |story| !story.health.is_empty()).await;
        story.events.close();
        let ended = tokio::time::timeout(PATIENCE, &mut story.source).await;
        assert!(ended.is_ok_and(|ended| ended.is_ok()));
    }
}
