//! New versions of an application under load: nobody notices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tests::kubernetes::Site;

use super::readiness::{switch_on, switched};
use crate::client::{Failure, Front};
use crate::kit::{From, LAG, Outcome, PATIENCE, StopOnDrop, all_reach, ensure, eventually, reaches};
use crate::objects::{Family, Service, all_ready, pod, serve, serve_all};

/// What came of a load.
#[derive(Debug, Default)]
struct Load {
    answered: BTreeMap<String, u64>,
    failed: Vec<(Duration, Failure)>,
}

/// A hundred requests a second, each over a connection of its own, until `stop`.
fn load(site: &Site<'_>, from: From<'_>, front: Front, stop: &AtomicBool) -> Outcome<Load> {
    let begun = SystemTime::now();
    let load = Mutex::new(Load::default());
    let share = |number: u32| {
        let load = &load;
        move || {
            let mut next = begun + Duration::from_millis(10) * number;
            while !stop.load(Ordering::Relaxed) {
                if let Ok(wait) = next.duration_since(SystemTime::now()) {
                    thread::sleep(wait);
                }
                next += Duration::from_millis(40);
                let said = front.ask("hostname", PATIENCE);
                let mut load = load.lock().unwrap_or_else(PoisonError::into_inner);
                match said {
                    Ok(pod) => *load.answered.entry(pod).or_default() += 1,
                    Err(why) => load.failed.push((begun.elapsed().unwrap_or_default(), why)),
                }
            }
        }
    };
    // A request that is slow must not hold back the others.
    thread::scope(|scope| {
        let shares: Vec<_> =
            (0..4).map(|number| scope.spawn(move || from.run(site, share(number)))).collect();
        for one in shares {
            one.join().map_err(|_| "a client panicked")??;
        }
        Outcome::Ok(())
    })?;
    Ok(load.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn deployment(version: &str) -> Value {
    let args = ["netexec", "--http-port=80", "--udp-port=80", "--delay-shutdown=5"];
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": {"app": "web", "version": version}},
                "spec": {
                    "terminationGracePeriodSeconds": 30,
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
    site.create(deployment("1"))?;
    rolled_out(site, "1")?;
    let web = Service::simple(site, "web", "web")?;
    let (from, front) = (From::Pod("client"), web.tcp(Family::V4, 80));
    let names = |pods: Vec<Value>| -> BTreeSet<String> {
        pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
    };
    let old = names(site.list("Pod", "app=web")?);
    all_reach(site, from, &web.fronts(), &old.iter().map(String::as_str).collect::<Vec<_>>())?;
    let stop = AtomicBool::new(false);
    let (rolled, load) = thread::scope(|scope| {
        let stopped = StopOnDrop(&stop);
        let load = scope.spawn(|| load(site, from, front, &stop).map_err(|why| why.to_string()));
        let rolled = site
            .merge("Deployment", "web", json!({"spec": deployment("2")["spec"].clone()}))
            .map_err(Into::into)
            .and_then(|_| rolled_out(site, "2"));
        // The last of the old ones are still ending: until they are gone nothing may be lost either.
        let rolled = rolled.and_then(|()| {
            eventually("the old pods are gone", LAG, || match site.list("Pod", "app=web") {
                Ok(pods) if pods.len() == 3 => Ok(()),
                other => Err(format!("{:?}", other.map(names))),
            })
        });
        drop(stopped);
        (rolled, load.join())
    });
    rolled?;
    let load = load.map_err(|_| "the load panicked")??;
    let total: u64 = load.answered.values().sum();
    ensure(load.failed.is_empty(), || {
        format!("{} of {total} requests failed: {:?}", load.failed.len(), load.failed)
    })?;
    let new = names(site.list("Pod", "version=2")?);
    ensure(new.iter().all(|pod| load.answered.contains_key(pod)), || {
        format!("{new:?}, and {:?}", load.answered)
    })?;
    ensure(old.iter().any(|pod| load.answered.contains_key(pod)), || {
        format!("{old:?}, and {:?}", load.answered)
    })?;
    println!(
        "measured: rolling update under load on {:?}: {total} requests, 0 failed",
        site.cluster().proxy()
    );
    Ok(())
}

/// From one version to the other by the Service's selector, once the other is ready; under load; and back.
pub(crate) fn blue_green(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client", 1, "none")])?;
    serve_all(site, &["blue-1", "blue-2"], "blue")?;
    let greens = ["green-1", "green-2"];
    for (node, name) in greens.iter().enumerate() {
        site.pod(switched(name, node, "green"))?;
    }
    let web = Service::simple(site, "web", "blue")?;
    let (from, front) = (From::Pod("client"), web.tcp(Family::V4, 80));
    reaches(site, from, front, &["blue-1", "blue-2"])?;
    let stop = AtomicBool::new(false);
    let (switched, load) = thread::scope(|scope| {
        let stopped = StopOnDrop(&stop);
        let load = scope.spawn(|| load(site, from, front, &stop).map_err(|why| why.to_string()));
        let switch = || -> Outcome {
            let held: Vec<_> = greens.iter().map(|name| switch_on(site, name)).collect::<Outcome<_>>()?;
            for name in greens {
                site.wait_ready(name, LAG)?;
            }
            site.merge("Service", "web", json!({"spec": {"selector": {"app": "green"}}}))?;
            reaches(site, from, front, &greens)?;
            site.merge("Service", "web", json!({"spec": {"selector": {"app": "blue"}}}))?;
            reaches(site, from, front, &["blue-1", "blue-2"])?;
            drop(held);
            Ok(())
        };
        let told = switch();
        drop(stopped);
        (told, load.join())
    });
    switched?;
    let load = load.map_err(|_| "the load panicked")??;
    let total: u64 = load.answered.values().sum();
    ensure(load.failed.is_empty(), || {
        format!("{} of {total} requests failed: {:?}", load.failed.len(), load.failed)
    })?;
    ensure(load.answered.len() == 4, || format!("{:?}", load.answered))
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
