//! Session affinity by client address.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tests::kubernetes::Site;

use crate::client::{Front, Proto};
use crate::kit::{From, LAG, Outcome, ask, ensure, eventually, reaches};
use crate::objects::{Family, all_ready, both_80, pod, remove_pod, serve_all, service, with_spec};
use crate::ways::{Entry, Way};

const PODS: [&str; 3] = ["pod1", "pod2", "pod3"];

/// What turns it on.
pub(crate) fn sticky(seconds: u32) -> Value {
    json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
}

/// What turns it off.
pub(crate) fn none() -> Value {
    json!({"sessionAffinity": "None", "sessionAffinityConfig": null})
}

/// Three endpoints, two clients, and a Service like this.
fn stage(site: &Site<'_>, way: Way, affinity: Value) -> Outcome<Entry> {
    all_ready(site, vec![pod("client-1", 0, "none"), pod("client-2", 1, "none")])?;
    serve_all(site, &PODS, "web")?;
    way.create(site, with_spec(service("web", "web", &both_80()), affinity))
}

/// Who answers fifteen questions in a row.
fn fifteen(site: &Site<'_>, from: From<'_>, front: Front) -> Result<BTreeSet<String>, String> {
    (0..15).map(|_| ask(site, from, front, "hostname").map_err(|why| why.to_string())).collect()
}

/// Fifteen answers of one pod; which.
pub(crate) fn sticks(site: &Site<'_>, from: From<'_>, front: Front) -> Outcome<String> {
    eventually(&format!("{front} from {from} has affinity"), LAG, || {
        let heard = fifteen(site, from, front)?;
        match heard.first() {
            Some(only) if heard.len() == 1 => Ok(only.clone()),
            _ => Err(format!("{heard:?} answered")),
        }
    })
}

/// Fifteen answers are one pod's, for each client, protocol and family.
pub(crate) fn works(site: &Site<'_>, way: Way) -> Outcome {
    let web = stage(site, way, sticky(10_800))?;
    for from in [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)] {
        for front in web.fronts.iter().copied() {
            let first = sticks(site, from, front)?;
            let again = fifteen(site, from, front)?;
            ensure(again == BTreeSet::from([first.clone()]), || format!("{first}, then {again:?}"))?;
        }
    }
    Ok(())
}

/// The endpoint a client sticks to goes: the client moves, and sticks to another.
pub(crate) fn moves_with_its_endpoint(site: &Site<'_>) -> Outcome {
    let web = stage(site, Way::ClusterIp, sticky(10_800))?;
    let (from, front) = (From::Pod("client-1"), web.tcp(Family::V4));
    let first = sticks(site, from, front)?;
    remove_pod(site, &first)?;
    let second = sticks(site, from, front)?;
    ensure(second != first, || format!("{first} answers after its end"))?;
    let left: Vec<&str> = PODS.into_iter().filter(|name| *name != first).collect();
    ensure(left.contains(&second.as_str()), || second.clone())
}

/// It ends some time after the newest connection, not before, and every connection starts that time anew.
pub(crate) fn times_out(site: &Site<'_>, way: Way, proto: Proto) -> Outcome {
    const TIMEOUT: u32 = 6;
    const MARGIN: Duration = Duration::from_secs(1);
    let web = stage(site, way, sticky(TIMEOUT))?;
    let (from, front) = (From::Pod("client-1"), web.front(Family::V4, proto));
    sticks(site, from, front)?;
    let mut asked = SystemTime::now();
    let mut first = ask(site, from, front, "hostname")?;
    // Longer than the timeout, with a connection every two thirds of it. One that is late says nothing, and what was
    // there before it neither: the time must have passed in connections that were not.
    let mut in_time = 0;
    for _ in 0..8 {
        thread::sleep(Duration::from_secs(u64::from(TIMEOUT)) * 2 / 3);
        let now = SystemTime::now();
        let said = ask(site, from, front, "hostname")?;
        let since = asked.elapsed().unwrap_or_default();
        asked = now;
        if since + MARGIN > Duration::from_secs(TIMEOUT.into()) {
            in_time = 0;
        } else {
            ensure(said == first, || format!("{first}, then {said} after {since:?}"))?;
            in_time += 1;
        }
        first = said;
        if in_time == 4 {
            break;
        }
    }
    ensure(in_time >= 2, || format!("{in_time} connections were in time: nothing is shown"))?;
    // One in three is the same pod by chance: twelve in a row are not.
    for _ in 0..12 {
        thread::sleep(Duration::from_secs(u64::from(TIMEOUT) + 1));
        if ask(site, from, front, "hostname")? != first {
            return Ok(());
        }
    }
    Err(format!("{first} answers long after {TIMEOUT} s").into())
}

/// Turned on and off while it serves.
pub(crate) fn switches(site: &Site<'_>, way: Way) -> Outcome {
    let web = stage(site, way, none())?;
    let (from, front) = (From::Pod("client-1"), web.tcp(Family::V4));
    for _ in 0..2 {
        reaches(site, from, front, &PODS)?;
        site.merge("Service", "web", json!({"spec": sticky(10_800)}))?;
        sticks(site, from, front)?;
        sticks(site, From::Pod("client-2"), front)?;
        site.merge("Service", "web", json!({"spec": none()}))?;
    }
    reaches(site, from, front, &PODS)
}
