//! The walkthrough: what a person types and sees, from two web pods to their page by address and by name.
//!
//! Its lines begin with `>`: `tests/run walkthrough` shows them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::kubernetes::{Output, Site, process};

use crate::client::dns::{self, Kind};
use crate::client::{Connection, Deadline, Proto, http_get};
use crate::kit::{From, LAG, Outcome, PATIENCE, ensure, eventually};
use crate::kubernetes::scenarios::snmp;
use crate::objects::{Family, Service, address};

const MANIFEST: &str = include_str!("../../../control/manifests/walkthrough.yaml");
const STEP: Duration = Duration::from_secs(60);
/// How often the page is fetched to see who serves it: by chance a backend of two is never missed so often.
const FETCHES: u64 = 24;

/// What was told so far: printed in one piece, however it ends, since another cluster tells the same beside it.
#[derive(Default)]
struct Story(RefCell<String>);

impl Story {
    fn say(&self, line: &str) {
        let mut text = self.0.borrow_mut();
        text.push_str("> ");
        text.push_str(line);
        text.push('\n');
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        print!("{}", self.0.borrow());
    }
}

/// Tells it, and checks every step.
pub(crate) fn tell(site: &Site<'_>) -> Outcome {
    let story = &Story::default();
    apply(site, story)?;
    let pods = running(site, story)?;
    kubectl(site, story, &["get", "pods", "-o", "wide"], "")?;
    kubectl(site, story, &["get", "svc"], "")?;
    let service = Service { name: "my-service".to_owned(), ips: site.cluster_ips("my-service")? };
    let run = ["run", "client", "--image=busybox:1.36", "--restart=Never", "--", "sleep", "3600"];
    kubectl(site, story, &run, "")?;
    site.wait_ready("client", STEP)?;
    let address = format!("http://{}:80", service.ip(Family::V4));
    let page = fetch(site, story, &address)?;
    ensure(page.contains("Welcome to nginx!"), || format!("{address}: {page}"))?;
    let by_name = fetch(site, story, "http://my-service:80")?;
    ensure(by_name == page, || format!("by name: {by_name}"))?;
    names(site, story, &service)?;
    both_backends(site, story, &pods, &service)?;
    only_the_cluster_ip(site, story, &pods, &service)?;
    cleaned_up(site, story, &service)
}

/// The script for a cluster one has needs nothing of ours but a kubeconfig.
pub(crate) fn of_any_cluster(site: &Site<'_>) -> Outcome {
    let plane = site.cluster().control_plane();
    let mut command =
        site.cluster().hub().command(concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes/walkthrough"));
    command.env("KUBECONFIG", plane.admin()).env("KUBECTL", &plane.components().kubectl);
    let said = process::run(&mut command, "", STEP * 3).map_err(|why| why.to_string())?;
    ensure(said.code == 0 && said.stdout.contains("by address and by name: ok"), || format!("{said:?}"))
}

fn apply(site: &Site<'_>, story: &Story) -> Outcome {
    for line in MANIFEST.lines().filter(|line| !line.is_empty()) {
        story.say(&format!("    {line}"));
    }
    let said = kubectl(site, story, &["apply", "-f", "-"], MANIFEST)?;
    let created = ["deployment.apps/my-app created", "service/my-service created"];
    ensure(created.iter().all(|line| said.stdout.contains(line)), || format!("{said:?}"))
}

/// Runs kubectl as a person would, and prints both sides.
fn kubectl(site: &Site<'_>, story: &Story, words: &[&str], input: &str) -> Outcome<Output> {
    story.say(&format!("$ kubectl -n {} {}", site.name(), words.join(" ")));
    let all = [&["-n", site.name()], words].concat();
    let said = site.cluster().kubectl(&all, input)?;
    for line in said.stdout.lines().chain(said.stderr.lines()) {
        story.say(line);
    }
    story.say("");
    ensure(said.code == 0, || format!("kubectl {words:?}: {said:?}"))?;
    Ok(said)
}

/// The two web pods, once they run: their names, and the nodes they are on.
fn running(site: &Site<'_>, story: &Story) -> Outcome<BTreeMap<String, String>> {
    kubectl(site, story, &["rollout", "status", "deployment/my-app", "--timeout=60s"], "")?;
    let pods = site.list("Pod", "app=my-app")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods: BTreeMap<String, String> =
        pods.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]))).collect();
    ensure(pods.len() == 2, || format!("{pods:?}"))?;
    Ok(pods)
}

/// What a person types in the client pod: there the image's programs are busybox's.
fn fetch(site: &Site<'_>, story: &Story, url: &str) -> Outcome<String> {
    story.say(&format!("client$ wget -qO- {url}"));
    let said = eventually(url, LAG, || {
        let said = site
            .exec("client", &["busybox", "wget", "-qO-", url], PATIENCE * 2)
            .map_err(|why| why.to_string())?;
        if said.code == 0 { Ok(said) } else { Err(format!("{said:?}")) }
    })?;
    for line in said.stdout.lines().filter(|line| line.contains("<title>") || line.contains("<h1>")) {
        story.say(line);
    }
    story.say("");
    Ok(said.stdout)
}

/// The name server is itself behind a ClusterIP: over UDP, and over TCP.
fn names(site: &Site<'_>, story: &Story, service: &Service) -> Outcome {
    let name = format!("my-service.{}.svc.cluster.local", site.name());
    for over in [Proto::Udp, Proto::Tcp] {
        let server = IpAddr::from([10, 96, 0, 10]);
        let asked = site.inside("client", || dns::ask(server, over, &name, Kind::A, PATIENCE))??;
        story.say(&format!("{name} from {server} over {over:?}: {:?}", asked.addresses));
        ensure(asked.addresses == [service.ip(Family::V4)], || format!("{name} over {over:?}: {asked:?}"))?;
    }
    story.say("");
    Ok(())
}

/// Connections each pod has taken, as its own kernel counts them.
fn taken(site: &Site<'_>, pods: &BTreeMap<String, String>) -> Outcome<BTreeMap<String, u64>> {
    pods.keys().map(|pod| Ok((pod.clone(), site.inside(pod, || snmp("Tcp", "PassiveOpens"))??))).collect()
}

/// Both pods serve, the one beside the client and the one on the other node; nothing is served by anybody else.
fn both_backends(
    site: &Site<'_>,
    story: &Story,
    pods: &BTreeMap<String, String>,
    service: &Service,
) -> Outcome {
    let client = site.get("Pod", "client")?.ok_or("the client is gone")?;
    let home = client["spec"]["nodeName"].as_str().unwrap_or_default();
    let front = service.tcp(Family::V4, 80);
    let mut counts: BTreeMap<&String, u64> = pods.keys().map(|pod| (pod, 0)).collect();
    let fetch = || -> Outcome { Ok(site.inside("client", || http_get(front.at, "/", PATIENCE))?.map(drop)?) };
    let begun = taken(site, pods)?;
    // The page is served as soon as one of them is known to the proxy.
    eventually("both pods serve", LAG, || -> Outcome {
        fetch()?;
        let now = taken(site, pods)?;
        ensure(pods.keys().all(|pod| now[pod] > begun[pod]), || format!("{begun:?}, then {now:?}"))
    })?;
    let mut before = taken(site, pods)?;
    for _ in 0..FETCHES {
        fetch()?;
        let after = taken(site, pods)?;
        // One by one: a connection whose first packets meet on two processors is counted twice by Linux.
        let served: Vec<&String> = pods.keys().filter(|pod| after[*pod] > before[*pod]).collect();
        let [one] = served[..] else {
            return Err(format!("one fetch, served by {served:?}").into());
        };
        *counts.entry(one).or_default() += 1;
        before = after;
    }
    story.say(&format!("{FETCHES} fetches by the client, which is on {home}:"));
    for (pod, count) in &counts {
        story.say(&format!("  {count:3} served by {pod} on {}", pods[*pod]));
    }
    story.say("");
    ensure(counts.values().all(|count| *count > 0), || format!("one serves nothing: {counts:?}"))?;
    let nodes: Vec<&String> = pods.values().collect();
    ensure(nodes[0] != nodes[1], || format!("both on one node: {pods:?}"))
}

/// In the client's own network the pods' addresses never occur: only the ClusterIP does.
fn only_the_cluster_ip(
    site: &Site<'_>,
    story: &Story,
    pods: &BTreeMap<String, String>,
    service: &Service,
) -> Outcome {
    let front = service.tcp(Family::V4, 80);
    let dump = site.inside("client", Dump::start)??;
    for _ in 0..8 {
        let mut connection = site.inside("client", || Connection::open(front.at, PATIENCE))??;
        connection.get("/", PATIENCE)?;
    }
    let cluster_ip = service.ip(Family::V4).to_string();
    let of_it = |seen: &[String]| seen.iter().filter(|line| line.contains(&cluster_ip)).count();
    // Packets are printed a moment after they were seen.
    let seen = dump.until(LAG, |seen| of_it(seen) >= 8 * 6);
    let (packets, seen) = (of_it(&seen), seen.join("\n"));
    ensure(packets >= 8 * 6, || format!("tcpdump saw {packets} packets:\n{seen}"))?;
    for pod in pods.keys() {
        let own = address(site, pod, Family::V4)?.to_string();
        ensure(!seen.contains(&own), || format!("the client sees {own}:\n{seen}"))?;
    }
    story.say(&format!(
        "tcpdump in the client: {packets} packets, all with {cluster_ip}, none with a pod's address"
    ));
    story.say("");
    Ok(())
}

/// A tcpdump, killed when it is dropped.
struct Dump {
    child: Child,
    lines: Receiver<String>,
}

impl Dump {
    /// Of everything over TCP that passes here; it is at work when this returns.
    fn start() -> std::io::Result<Self> {
        let mut child = Command::new("tcpdump")
            // Headers only: of whole packets the ring of an immediate mode holds eight.
            .args(["-i", "any", "-nn", "-l", "--immediate-mode", "-s", "128", "tcp"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let missing = || std::io::Error::other("no output");
        let errors = child.stderr.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let (tell, lines) = mpsc::channel();
        let dump = Self { child, lines };
        // It ends with tcpdump's output.
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
        });
        for line in BufReader::new(errors).lines() {
            if line?.contains("listening on") {
                return Ok(dump);
            }
        }
        Err(std::io::Error::other("tcpdump ended"))
    }

    /// Ends it once its lines are enough, or after `limit`; all it printed.
    fn until(mut self, limit: Duration, enough: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Deadline::after(limit);
        let mut seen = Vec::new();
        while !enough(&seen) {
            let Ok(line) =
                deadline.left().map_err(drop).and_then(|left| self.lines.recv_timeout(left).map_err(drop))
            else {
                break;
            };
            seen.push(line);
        }
        self.end();
        seen.extend(self.lines.iter());
        seen
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        self.end();
    }
}

/// Deleted, nothing of it answers any more.
fn cleaned_up(site: &Site<'_>, story: &Story, service: &Service) -> Outcome {
    kubectl(site, story, &["delete", "-f", "-", "--wait=true", "--timeout=60s"], MANIFEST)?;
    crate::kit::dropped(site, From::Pod("client"), service.tcp(Family::V4, 80))?;
    let url = format!("http://{}:80", service.ip(Family::V4));
    story.say(&format!("client$ timeout 3 wget -qO- {url} || echo gone"));
    let said = site.exec("client", &["busybox", "timeout", "3", "busybox", "wget", "-qO-", &url], STEP)?;
    ensure(said.code != 0, || format!("still served: {said:?}"))?;
    story.say("gone");
    Ok(())
}
