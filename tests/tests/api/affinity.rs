//! Session affinity from `spec.sessionAffinity` to packets, with what the upstream tests expect of it.

use std::collections::BTreeSet;

use dataplane::packet::tuple::Proto;

use super::served::{Reached, Served, at, client};
use super::*;

const WEB: &str = "10.96.0.2:80";

/// `web` with two ports and this affinity.
fn sticky(seconds: Option<u32>) -> Value {
    let mut object = service("web", 1);
    object["spec"]["ports"] = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    if let Some(seconds) = seconds {
        object["spec"]["sessionAffinity"] = json!("ClientIP");
        object["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    }
    object
}

fn pods(addresses: &[&str]) -> Value {
    let mut object = slice("web-1", "web", addresses);
    object["ports"] = json!([{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]);
    object
}

const PODS: [&str; 4] = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"];

async fn begin(seconds: Option<u32>) -> Served {
    let api = small().await;
    api.put_service(sticky(seconds));
    api.put_slice(pods(&PODS));
    Served::begin(api).await
}

fn everybody() -> BTreeSet<Reached> {
    at(&["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080", "10.1.0.4:8080"])
}

/// Where this many requests of the client go, all of them to one endpoint.
#[track_caller]
fn one(served: &mut Served, requests: usize) -> Reached {
    let reached: BTreeSet<Reached> = (0..requests).map(|_| served.tcp(WEB)).collect();
    assert_eq!(reached.len(), 1, "{reached:?}");
    reached.into_iter().next().unwrap()
}

#[tokio::test]
async fn fifteen_requests_go_to_one_endpoint_until_it_is_turned_off_and_again_when_it_is_on() {
    let mut served = begin(Some(10_800)).await;
    let first = one(&mut served, 15);
    let old = client(WEB, 600);
    assert_eq!(served.open(Proto::Tcp, &old, WEB), first);
    served.story.api.put_service(sticky(None));
    served.until_reached("off", WEB, &everybody()).await;
    assert_eq!(served.again(&old, WEB), first, "an open connection stays");
    served.story.api.put_service(sticky(Some(10_800)));
    served.until("on", |served| served.spread(WEB).len() == 1).await;
    one(&mut served, 15);
    assert_eq!(served.again(&old, WEB), first);
}

#[tokio::test]
async fn after_the_timeout_and_five_seconds_a_client_meets_another_endpoint_before_long() {
    let mut served = begin(Some(125)).await;
    let mut reached = BTreeSet::new();
    for _ in 0..30 {
        reached.insert(one(&mut served, 3));
        served.gateway.advance(Duration::from_secs(130));
    }
    assert_eq!(reached, everybody(), "of 30 picks among 4");
    // Within it every new connection begins it anew, and it counts from a connection's start.
    let at = one(&mut served, 1);
    for _ in 0..20 {
        served.gateway.advance(Duration::from_secs(120));
        assert_eq!(one(&mut served, 1), at);
    }
    let long = client(WEB, 700);
    assert_eq!(served.open(Proto::Tcp, &long, WEB), at);
    let moved = (0..30).any(|_| {
        (0..13).for_each(|_| {
            served.gateway.advance(Duration::from_secs(10));
            served.again(&long, WEB);
        });
        served.tcp(WEB) != at
    });
    assert!(moved, "packets of a connection that lasts do not keep its client");
}

#[tokio::test]
async fn ports_of_a_service_and_clients_are_apart() {
    let mut served = begin(Some(600)).await;
    let mut pairs = BTreeSet::new();
    for client in 1..=60 {
        let mut ask = |vip: &str, port: u16| {
            let Reached::Endpoint(at) = served.open(Proto::Tcp, &format!("10.1.7.{client}:{port}"), vip)
            else {
                panic!("not served")
            };
            at.ip()
        };
        let (a, b) = (ask(WEB, 1), ask("10.96.0.2:81", 1));
        assert_eq!((ask(WEB, 2), ask("10.96.0.2:81", 2)), (a, b));
        pairs.insert((a, b));
    }
    assert!(pairs.len() > 8, "{pairs:?}");
}

#[tokio::test]
async fn a_pod_that_goes_is_forgotten_and_one_that_stays_is_not() {
    let mut served = begin(Some(600)).await;
    let stays = |served: &mut Served, n: u8| {
        let Reached::Endpoint(at) = served.open(Proto::Tcp, &format!("10.1.7.{n}:{}", 1_024), WEB) else {
            panic!("not served")
        };
        at
    };
    let before: Vec<_> = (0..60).map(|n| stays(&mut served, n)).collect();
    // What makes it unready, or deletes it, or a Service of another name, is all the same: it leaves the set.
    served.story.api.put_slice(pods(&PODS[1..]));
    let others = at(&["10.1.0.2:8080", "10.1.0.3:8080", "10.1.0.4:8080"]);
    let new = |served: &mut Served, base: u32| -> BTreeSet<Reached> {
        let nobody_yet = |n| format!("10.{}.{}.{n}:9", 2 + base / 256, base % 256);
        (0..40).map(|n| served.open(Proto::Tcp, &nobody_yet(n), WEB)).collect()
    };
    let mut base = 0;
    served
        .until("one is gone", |served| {
            base += 1;
            new(served, base) == others
        })
        .await;
    served.story.api.put_slice(pods(&PODS));
    served
        .until("it is back", |served| {
            base += 1;
            new(served, base) == everybody()
        })
        .await;
    let again = |served: &mut Served, n: u8| served.open(Proto::Tcp, &format!("10.1.7.{n}:2000"), WEB);
    let mut returned = 0;
    let mut were_there = 0;
    for (n, before) in (0..).zip(&before) {
        let now = again(&mut served, n);
        if before.ip().to_string() == PODS[0] {
            were_there += 1;
            returned += usize::from(now == Reached::Endpoint(*before));
        } else {
            assert_eq!(now, Reached::Endpoint(*before), "client {n} had no reason to move");
        }
    }
    assert!(were_there > 4 && returned < were_there, "{returned} of {were_there} came back, all of them");
}

#[tokio::test]
async fn a_timeout_out_of_limits_is_told_and_the_nearest_one_used() {
    let mut served = begin(Some(100_000)).await;
    served.story.until("told", |story| story.problems() == ["Service default/web"]).await;
    let problem = served.story.desired.problems()["Service default/web"][0].to_string();
    assert!(problem.contains("timeoutSeconds: 100000 is out of limits; 86400 is used"), "{problem}");
    one(&mut served, 15);
}
