//! New versions of an application under load: nobody notices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tests::kubernetes::{Pod, Site};

use super::counter;
use super::readiness::{switch_on, switched};
use crate::client::{Failure, Front};
use crate::kit::{From, LAG, Outcome, PATIENCE, StopOnDrop, all_reach, ensure, eventually, reaches};
use crate::objects::{Family, Service, all_ready, both_80, pod, serve, serve_all, service, with_spec};
use crate::ways::{Entry, Way};

/// The condition of blue and green pods that opens their readiness gate.
const GATE: &str = "tunway.example.com/chosen";
/// How often blue becomes green and green becomes blue: once takes less than a second.
const ROUNDS: usize = 4;
/// What a hundred requests a second come to at least, on a machine that is busy with other clusters.
const RATE: f64 = 60.0;
/// A request that took so long may have lost its SYN, which is sent again after a second.
const SLOW: Duration = Duration::from_millis(900);
/// Clients beside each other: one that waits must not hold back the others.
const CLIENTS: u32 = 8;

/// What came of a load.
#[derive(Debug, Default)]
struct Load {
    answered: BTreeMap<String, u64>,
    failed: Vec<(Duration, Failure)>,
    slow: u64,
    slowest: Duration,
}

/// A story while a client makes a hundred requests a second, each over a connection of its own: none may fail, and no
/// SYN get lost. Whoever answered.
fn under_load(
    site: &Site<'_>,
    name: &str,
    from: From<'_>,
    front: Front,
    story: impl FnOnce() -> Outcome,
) -> Outcome<BTreeMap<String, u64>> {
    // Nobody but the load lives in that namespace.
    let repeated = || -> Outcome<u64> { from.run(site, || counter("netstat", "TcpExt", "TCPSynRetrans"))? };
    let before = repeated()?;
    let (stop, load, begun) = (AtomicBool::new(false), Mutex::new(Load::default()), SystemTime::now());
    let told = thread::scope(|scope| {
        let stopped = StopOnDrop(&stop);
        let share = |number| {
            let (stop, load) = (&stop, &load);
            move || from.run(site, || ask_at_a_pace(front, begun, number, stop, load))
        };
        let shares: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(share(number))).collect();
        let told = story();
        drop(stopped);
        for one in shares {
            one.join().map_err(|_| "a client panicked")??;
        }
        told
    });
    let seconds = begun.elapsed().unwrap_or_default().as_secs_f64();
    let load = load.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (repeated, total) = (repeated()? - before, load.answered.values().sum::<u64>());
    let rate = f64::from(u32::try_from(total).unwrap_or(u32::MAX)) / seconds;
    println!(
        "measured: {name} under load on {:?}: {total} requests in {seconds:.1} s, {rate:.0} a second, {} failed, \
         {} slow, the slowest {:.0?}, {repeated} SYNs sent again",
        site.cluster().proxy(),
        load.failed.len(),
        load.slow,
        load.slowest,
    );
    told?;
    ensure(load.failed.is_empty(), || {
        format!("{} of {} requests failed: {:?}", load.failed.len(), total, load.failed)
    })?;
    // One that is sent again at once was answered by what is left of an older connection of that tuple (RFC 9293,
    // 3.10.7.3), as happens where a proxy chooses the port; one that was lost is sent again after a second.
    ensure(repeated == 0 || load.slow == 0, || format!("{repeated} SYNs of {total} were sent again"))?;
    ensure(rate >= RATE, || format!("only {rate:.0} requests a second: the load proves nothing"))?;
    Ok(load.answered)
}

/// One client's share of a load, until `stop`; what came too late is made up for.
fn ask_at_a_pace(front: Front, begun: SystemTime, number: u32, stop: &AtomicBool, load: &Mutex<Load>) {
    let mut next = begun + Duration::from_millis(10) * number;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(wait) = next.duration_since(SystemTime::now()) {
            thread::sleep(wait);
        }
        next += Duration::from_millis(10) * CLIENTS;
        let asked = SystemTime::now();
        let said = front.ask("hostname", PATIENCE);
        let took = asked.elapsed().unwrap_or_default();
        let mut load = load.lock().unwrap_or_else(PoisonError::into_inner);
        load.slow += u64::from(took >= SLOW);
        load.slowest = load.slowest.max(took);
        match said {
            Ok(pod) => *load.answered.entry(pod).or_default() += 1,
            Err(why) => load.failed.push((begun.elapsed().unwrap_or_default(), why)),
        }
    }
}

fn deployment(version: &str, node: Option<&str>) -> Value {
    // For longer than the EndpointSlice controller takes to say that the pod is ending: on a busy machine its retries
    // alone are 1 and 2 and 4 s.
    let args = ["netexec", "--http-port=80", "--udp-port=80", "--delay-shutdown=15"];
    let selector = node.map(|name| json!({"kubernetes.io/hostname": name}));
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": {"app": "web", "version": version}},
                "spec": {
                    "nodeSelector": selector, "terminationGracePeriodSeconds": 30,
                    "containers": [{
                        "name": "agnhost", "image": "registry.k8s.io/e2e-test-images/agnhost:2.55", "args": args,
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 1},
                    }],
                },
            },
        },
    })
}

fn rolled_out(site: &Site<'_>, version: &str) -> Outcome {
    eventually(&format!("version {version} is everywhere"), Duration::from_secs(60), || {
        let web = site.get("Deployment", "web").map_err(|error| error.to_string())?.ok_or("it is gone")?;
        let pods = site.list("Pod", "app=web").map_err(|error| error.to_string())?;
        let status = &web["status"];
        let done = status["observedGeneration"] == web["metadata"]["generation"]
            && ["replicas", "updatedReplicas", "readyReplicas"].iter().all(|field| status[field] == 3)
            && pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count() == 3;
        if done { Ok(()) } else { Err(status.to_string()) }
    })
}

/// A rolling update of three replicas under a hundred requests a second: none fails.
pub(crate) fn rolling_update(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client", 0, "none")])?;
    rolls(site, "rolling update", From::Pod("client"), || {
        Way::ClusterIp.create(site, service("web", "web", &both_80()))
    })
}

/// The same from off the cluster by a load balancer's address. With `Local` all of them are on the node it leads to:
/// what serves there at any moment is all there is.
pub(crate) fn rolling_update_by_load_balancer(site: &Site<'_>, policy: &str) -> Outcome {
    let outside = site.cluster().outside()?;
    let name = format!("rolling update by a load balancer, {policy}");
    rolls(site, &name, From::Outside(&outside), || {
        let object = with_spec(service("web", "web", &both_80()), json!({"externalTrafficPolicy": policy}));
        Way::LoadBalancer(0).create(site, object)
    })
}

fn rolls(site: &Site<'_>, name: &str, from: From<'_>, create: impl FnOnce() -> Outcome<Entry>) -> Outcome {
    let web = create()?;
    // A SYN for an address that is not served yet leaves a node untranslated, and the kernel's connection tracking lets
    // whoever gets that port again follow it, for two minutes.
    site.cluster().settle(LAG)?;
    let object = site.get("Service", "web")?.unwrap_or_default();
    let here =
        (object["spec"]["externalTrafficPolicy"] == "Local").then(|| site.cluster().nodes()[0].name.as_str());
    site.create(deployment("1", here))?;
    rolled_out(site, "1")?;
    let names = |pods: Vec<Value>| -> BTreeSet<String> {
        pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
    };
    let old = names(site.list("Pod", "app=web")?);
    all_reach(site, from, &web.fronts, &old.iter().map(String::as_str).collect::<Vec<_>>())?;
    let answered = under_load(site, name, from, web.tcp(Family::V4), || {
        site.merge("Deployment", "web", json!({"spec": deployment("2", here)["spec"].clone()}))?;
        rolled_out(site, "2")?;
        // The last of the old ones are still ending: until they are gone nothing may be lost either.
        eventually("the old pods are gone", LAG, || match site.list("Pod", "app=web") {
            Ok(pods) if pods.len() == 3 => Ok(()),
            other => Err(format!("{:?}", other.map(names))),
        })
    })?;
    let new = names(site.list("Pod", "version=2")?);
    ensure(new.iter().all(|pod| answered.contains_key(pod)), || format!("{new:?}, and {answered:?}"))?;
    ensure(old.iter().any(|pod| answered.contains_key(pod)), || format!("{old:?}, and {answered:?}"))
}

/// A pod whose readiness somebody else decides as well.
fn gated(name: &str, node: usize, app: &str) -> Pod {
    let mut pod = pod(name, node, app);
    pod.extra = json!({"spec": {"readinessGates": [{"conditionType": GATE}]}});
    pod
}

/// Opens or closes the gates of some pods; returns when their readiness is what it says.
fn gates(site: &Site<'_>, pods: &[&str], open: bool) -> Outcome {
    let status = if open { "True" } else { "False" };
    for pod in pods {
        // A merge patch replaces the whole list: the node agent adds its own conditions again.
        let conditions = json!([{"type": GATE, "status": status}]);
        site.merge("Pod/status", pod, json!({"status": {"conditions": conditions}}))?;
    }
    let ready = |pod: &&&str| -> Outcome<bool> {
        let object = site.get("Pod", pod)?.unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array();
        let mut all = conditions.into_iter().flatten();
        Ok(all.any(|one| one["type"] == "Ready" && one["status"] == status))
    };
    eventually(&format!("Ready of {pods:?} is {status}"), LAG, || {
        for pod in pods {
            if !ready(&pod).map_err(|why| why.to_string())? {
                return Err(format!("not of {pod}"));
            }
        }
        Ok(())
    })
}

/// From one version to the other and back by the pods' readiness gates, under load: first the new one's are opened,
/// then the old one's are closed.
pub(crate) fn blue_green_gates(site: &Site<'_>) -> Outcome {
    let (blues, greens) = (["blue-1", "blue-2"], ["green-1", "green-2"]);
    all_ready(site, vec![pod("client", 1, "none")])?;
    for (index, name) in blues.iter().chain(&greens).enumerate() {
        site.pod(gated(name, index % 2, "web"))?;
    }
    gates(site, &blues, true)?;
    let web = Service::simple(site, "web", "web")?;
    let (from, front) = (From::Pod("client"), web.tcp(Family::V4, 80));
    reaches(site, from, front, &blues)?;
    let answered = under_load(site, "blue-green by readiness gates", from, front, || {
        for (old, new) in [(&blues, &greens), (&greens, &blues)].repeat(ROUNDS) {
            gates(site, new, true)?;
            reaches(site, from, front, &[new.as_slice(), old].concat())?;
            gates(site, old, false)?;
            reaches(site, from, front, new)?;
        }
        Ok(())
    })?;
    ensure(answered.len() == 4, || format!("{answered:?}"))
}

/// From one version to the other by the Service's selector, once the other is ready; under load; and back.
pub(crate) fn blue_green(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client", 1, "none")])?;
    let (blues, greens) = (["blue-1", "blue-2"], ["green-1", "green-2"]);
    serve_all(site, &blues, "blue")?;
    for (node, name) in greens.iter().enumerate() {
        site.pod(switched(name, node, "green"))?;
    }
    let web = Service::simple(site, "web", "blue")?;
    let (from, front) = (From::Pod("client"), web.tcp(Family::V4, 80));
    reaches(site, from, front, &blues)?;
    let answered = under_load(site, "blue-green by selector", from, front, || {
        let _held: Vec<_> = greens.iter().map(|name| switch_on(site, name)).collect::<Outcome<_>>()?;
        for name in greens {
            site.wait_ready(name, LAG)?;
        }
        for (app, pods) in [("green", &greens), ("blue", &blues)].repeat(ROUNDS) {
            site.merge("Service", "web", json!({"spec": {"selector": {"app": app}}}))?;
            reaches(site, from, front, pods)?;
        }
        Ok(())
    })?;
    ensure(answered.len() == 4, || format!("{answered:?}"))
}

/// How long a new Service takes until it is served: twenty of them, four at a time.
pub(crate) fn endpoints_latency(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve(site, "pod1", 1, "web")?;
    let make = |number: usize| -> Outcome<Duration> {
        let begun = SystemTime::now();
        let service = Service::simple(site, &format!("web-{number}"), "web")?;
        let front = service.tcp(Family::V4, 80);
        eventually(&format!("web-{number} is served"), Duration::from_secs(50), || {
            let asked = site.inside("client", || front.ask("hostname", Duration::from_millis(500)));
            asked.map_err(Failure::from)?
        })?;
        Ok(begun.elapsed().unwrap_or_default())
    };
    let mut took: Vec<Duration> = thread::scope(|scope| {
        let share = |first: usize| {
            let make = &make;
            move || {
                (first..20).step_by(4).map(make).collect::<Outcome<Vec<_>>>().map_err(|why| why.to_string())
            }
        };
        let shares: Vec<_> = (0..4).map(|first| scope.spawn(share(first))).collect();
        let mut all = Vec::new();
        for one in shares {
            all.extend(one.join().map_err(|_| "a client panicked")??);
        }
        Outcome::Ok(all)
    })?;
    took.sort();
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "measured: a new Service is served by {:?} after {median:.1?} (median of 20), {slowest:.1?} (slowest)",
        site.cluster().proxy()
    );
    ensure(median < Duration::from_secs(20) && slowest < Duration::from_secs(50), || format!("{took:?}"))
}
