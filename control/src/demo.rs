//! `tunway demo`: the whole of tunway on one machine, in namespaces of its own, and the story of it printed.
//!
//! A client pod, backend pods with a web server each, and between them a gateway with the same `run` that a real
//! host has, fed with a manifest. Nothing of the host is touched: no rule, no route, no device. Nothing is left
//! behind, however it ends.

pub mod client;
pub mod cluster;
pub mod controllers;
pub mod interrupt;
pub mod manifest;
pub mod names;
pub mod pod;
pub mod stage;
pub mod story;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use dataplane::clock::Clock;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::{DemoArgs, Failure};
use crate::config::ConfigError;
use crate::netns;
use crate::socket::client::ask_blocking;
use crate::socket::wire::{Counters, Flow, Flows, Query, Status};

use client::Page;
use cluster::{Gateway, Machines};
use controllers::Cluster;
use interrupt::{Interrupt, LOOK};
use manifest::Manifest;
use names::Names;
use stage::Stage;
use story::Story;

/// tunway is ready within a second; a loaded machine may take longer.
const START: Duration = Duration::from_secs(20);
/// With two pods, one stays unasked this long once in 10^19 runs.
const MOST_REQUESTS: usize = 64;
/// Counters move a moment after the packets they count.
const SETTLE: Duration = Duration::from_secs(2);

/// Plays the demo. Must be called on the main thread before any other thread runs.
///
/// # Errors
/// The manifest is not one for the demo; or the story did not come to its end, and why.
pub fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    // Before the stage: there the file may be out of sight.
    let manifest = manifest::read(args.manifest.as_deref())?;
    let cluster = controllers::reconcile(&manifest, &mut Names::random()).map_err(not_for_us)?;
    let address = frontend(&cluster).map_err(not_for_us)?;
    Interrupt::hold_back()?;
    let stage = Stage::enter(args.keep).context("no place for the demo")?;
    // A panic ends a release build on the spot: without this its namespaces would stay.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        netns::remove_all_made();
        hook(panic);
    }));
    let interrupt = Interrupt::catch(stage.dir())?;
    let mut story = Story::new(out);
    match play(args.keep, &manifest, &cluster, address, &stage, &interrupt, &mut story) {
        // Not a failure, as with every other command.
        Err(_) if story.is_unheard() => Ok(()),
        played => Ok(played?),
    }
}

fn not_for_us(what: String) -> ConfigError {
    ConfigError::new("--manifest", what, "change the manifest, or leave it out: the walkthrough is built in")
}

fn play(
    keep: bool,
    manifest: &Manifest,
    cluster: &Cluster,
    address: SocketAddr,
    stage: &Stage,
    interrupt: &Interrupt,
    story: &mut Story<'_>,
) -> anyhow::Result<()> {
    story.opening(manifest, cluster)?;
    interrupt.check()?;
    let machines = Machines::build(stage, &cluster.pods)?;
    interrupt.check()?;
    let manifests = write_manifests(stage.dir(), cluster)?;
    let gateway = machines.start_gateway(stage.dir(), &manifests)?;
    let told = (|| {
        await_ready(&gateway, interrupt)?;
        story.gateway_ready()?;
        show(cluster, address, &machines, &gateway, interrupt, story)?;
        if keep {
            story.explore(stage, &gateway.socket, address)?;
            while !gateway.has_ended() && !interrupt.is_set() {
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    })();
    let stopped = gateway.stop();
    // tunway's own failure is the reason for what the story stumbled over.
    match (told, stopped) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(why), Ok(())) => Err(why),
        (_, Err(why)) => Err(why),
    }
}

/// The address a client connects to: the first TCP port of the first Service with a pod behind it.
fn frontend(cluster: &Cluster) -> Result<SocketAddr, String> {
    for (service, slice) in cluster.services.iter().zip(&cluster.slices) {
        if slice.endpoints.is_empty() {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let tcp = |protocol: Option<&str>| protocol.unwrap_or("TCP") == "TCP";
        let port = spec.ports.iter().flatten().find(|port| tcp(port.protocol.as_deref()));
        let port = port.and_then(|port| u16::try_from(port.port).ok());
        let ip = spec.cluster_ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok());
        if let (Some(ip), Some(port)) = (ip, port) {
            return Ok(SocketAddr::new(ip, port));
        }
    }
    Err("no Service with a TCP port selects a pod: a client would have nothing to connect to".to_owned())
}

/// The objects as files, for tunway to watch: one a file, so that they are easily edited.
fn write_manifests(dir: &Path, cluster: &Cluster) -> anyhow::Result<PathBuf> {
    let manifests = dir.join("manifests");
    std::fs::create_dir(&manifests).with_context(|| format!("cannot make {}", manifests.display()))?;
    let write = |kind: &str, name: Option<&str>, object: String| {
        let file = manifests.join(format!("{kind}-{}.json", name.unwrap_or_default()));
        std::fs::write(&file, object).with_context(|| format!("cannot write {}", file.display()))
    };
    for service in &cluster.services {
        write("service", service.metadata.name.as_deref(), json(service)?)?;
    }
    for slice in &cluster.slices {
        write("endpointslice", slice.metadata.name.as_deref(), json(slice)?)?;
    }
    Ok(manifests)
}

fn json(object: &impl Serialize) -> anyhow::Result<String> {
    serde_json::to_string_pretty(object).context("cannot write an object")
}

/// Waits until tunway serves new flows.
fn await_ready(gateway: &Gateway, interrupt: &Interrupt) -> anyhow::Result<()> {
    let begin = Clock.now();
    loop {
        interrupt.check()?;
        if gateway.has_ended() {
            bail!("tunway ended before it was ready");
        }
        match ask::<Status>(gateway, &Query::Status) {
            Ok(status) if status.ready => return Ok(()),
            last if Clock.now().since(begin) > nanos(START) => {
                let last = last.map_or_else(|error| format!("{error:#}"), |status| status.source);
                bail!("tunway is not ready after {} s: {last}", START.as_secs());
            }
            Ok(_) | Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Requests until every pod has answered; then the tables.
fn show(
    cluster: &Cluster,
    address: SocketAddr,
    machines: &Machines,
    gateway: &Gateway,
    interrupt: &Interrupt,
    story: &mut Story<'_>,
) -> anyhow::Result<()> {
    story.requests(address)?;
    let waiting = pods_behind(cluster, address);
    let mut answered = BTreeSet::new();
    let mut last: Option<Page> = None;
    let mut requests = 0;
    while answered.len() < waiting {
        interrupt.check()?;
        if requests == MOST_REQUESTS {
            bail!("after {requests} requests only {} of {waiting} pods have answered", answered.len());
        }
        requests += 1;
        // The connection before this one is closed here, the last one stays open for the flow table.
        let page = machines.client.run(|| client::fetch(address))?;
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                // Where the packets went is the first question.
                story.flows(
                    &ask::<Flows>(gateway, &Query::Flows { service: None, limit: MOST_REQUESTS })?.flows,
                )?;
                story.counters(&ask::<Counters>(gateway, &Query::Counters)?)?;
                bail!("request {requests} to http://{address} failed: {error}");
            }
        };
        story.answer(requests, &page)?;
        answered.insert(page.pod.clone());
        last = Some(page);
    }
    let last = last.context("no pod is there to answer")?;
    story.page(&last)?;
    let opened = u64::try_from(requests).unwrap_or(u64::MAX);
    story.flows(&settled_flows(gateway, opened, interrupt)?)?;
    story.counters(&ask::<Counters>(gateway, &Query::Counters)?)?;
    story.ending(requests, answered.len())?;
    Ok(())
}

/// How many pods the Service at this address has.
fn pods_behind(cluster: &Cluster, address: SocketAddr) -> usize {
    let ip = address.ip().to_string();
    let at = cluster.services.iter().position(|service| {
        service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_ref()).is_some_and(|given| *given == ip)
    });
    at.and_then(|at| cluster.slices.get(at)).map_or(0, |slice| slice.endpoints.len())
}

/// The flow table once the closed connections' last packets have passed: all flows there, one still open.
fn settled_flows(gateway: &Gateway, opened: u64, interrupt: &Interrupt) -> anyhow::Result<Vec<Flow>> {
    let begin = Clock.now();
    loop {
        interrupt.check()?;
        let flows: Flows = ask(gateway, &Query::Flows { service: None, limit: MOST_REQUESTS })?;
        let open = flows.flows.iter().filter(|flow| flow.state == "ESTABLISHED").count();
        if (flows.matched == opened && open == 1) || Clock.now().since(begin) > nanos(SETTLE) {
            return Ok(flows.flows);
        }
        std::thread::sleep(LOOK);
    }
}

fn ask<T: DeserializeOwned>(gateway: &Gateway, query: &Query) -> anyhow::Result<T> {
    let answer = ask_blocking(&gateway.socket, query)?;
    serde_json::from_slice(&answer).context("tunway's answer cannot be read")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(text: &str) -> Cluster {
        let manifest = manifest::parse("m", text).unwrap();
        controllers::reconcile(&manifest, &mut Names::seeded(3)).unwrap()
    }

    #[test]
    fn the_client_asks_the_first_service_that_has_pods() {
        let walkthrough = cluster(manifest::WALKTHROUGH);
        let address = frontend(&walkthrough).unwrap();
        assert_eq!(address.port(), 80);
        assert_eq!(pods_behind(&walkthrough, address), 2);
        let nobody = manifest::WALKTHROUGH.replace("replicas: 2", "replicas: 0");
        assert!(frontend(&cluster(&nobody)).unwrap_err().contains("selects a pod"));
    }

    #[test]
    fn manifests_are_files_tunway_can_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = write_manifests(dir.path(), &cluster(manifest::WALKTHROUGH)).unwrap();
        let text = std::fs::read_to_string(manifests.join("service-my-service.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((value["kind"].as_str(), value["apiVersion"].as_str()), (Some("Service"), Some("v1")));
        assert!(manifests.join("endpointslice-my-service-1.json").exists());
    }
}
