//! ServiceCIDRs and the Node's pod CIDRs: followed, and not missed where the server has none.

use super::*;
use tests::apiserver::{Fault, Request};

fn service_cidr(name: &str, cidrs: &[&str]) -> Value {
    json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}})
}

fn cidrs(story: &Story) -> Vec<String> {
    story.desired.service_cidrs().iter().map(|(addr, length)| format!("{addr}/{length}")).collect()
}

#[tokio::test]
async fn service_cidrs_are_followed_and_one_named_twice_stays_until_both_are_gone() {
    let api = small().await;
    api.put(Resource::ServiceCidrs, service_cidr("kubernetes", &["10.96.0.0/16", "fd00:96::/112"]));
    let mut story = Story::ready(api).await;
    story.until("they are known", |story| cidrs(story) == ["10.96.0.0/16", "fd00:96::/112"]).await;
    story.api.put(Resource::ServiceCidrs, service_cidr("more", &["10.200.0.0/20", "10.96.0.0/16"]));
    let three = ["10.96.0.0/16", "10.200.0.0/20", "fd00:96::/112"];
    story.until("there are more", |story| cidrs(story) == three).await;
    assert!(story.api.delete(Resource::ServiceCidrs, "", "kubernetes"));
    story.until("one is left", |story| cidrs(story) == ["10.96.0.0/16", "10.200.0.0/20"]).await;
    // One that goes while nobody watches goes with the next list.
    story.api.stop();
    assert!(story.api.delete(Resource::ServiceCidrs, "", "more"));
    story.api.put(Resource::ServiceCidrs, service_cidr("odd", &["10.201.0.0/20", "everything"]));
    story.api.compact();
    story.api.restart();
    story.until("another list", |story| cidrs(story) == ["10.201.0.0/20"]).await;
    story.until("what is wrong is told", |story| story.problems() == ["ServiceCIDR odd"]).await;
}

/// A request for ServiceCIDRs.
fn for_cidrs(request: &Request) -> bool {
    request.resource == Some(Resource::ServiceCidrs)
}

#[tokio::test]
async fn a_server_without_service_cidrs_is_as_well_as_any_other() {
    let api = small().await;
    api.fail_next_of(for_cidrs, usize::MAX, Fault::Status(404));
    let mut story = Story::begin(api).await;
    let well = |story: &Story| {
        story.desired.ready()
            && story.health.last().is_some_and(|(connected, _)| *connected)
            && story.api.open_watches() == WATCHES - 1
    };
    story.until("everything else is watched", well).await;
    story.for_a_while(Duration::from_secs(2)).await;
    assert_eq!(story.asked("list", Resource::ServiceCidrs, &[]).len(), 1, "asked once, not all the time");
    assert_eq!((story.health.len(), story.problems().len()), (1, 0), "{}", story.told());
    assert!(cidrs(&story).is_empty());
}

#[tokio::test]
async fn a_server_that_refuses_service_cidrs_is_told_and_asked_again() {
    let api = small().await;
    api.fail_next_of(for_cidrs, 2, Fault::Status(403));
    api.put(Resource::ServiceCidrs, service_cidr("kubernetes", &["10.96.0.0/16"]));
    let mut story = Story::begin(api).await;
    story.until("all is watched", Story::well).await;
    assert!(story.health.iter().any(|(connected, detail)| !connected && detail.contains("403")));
    assert_eq!(cidrs(&story), ["10.96.0.0/16"]);
}

#[tokio::test]
async fn pod_cidrs_of_our_node_are_read() {
    let api = small().await;
    let mut with_cidrs = node("n1", "a");
    with_cidrs["spec"] =
        json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]});
    let mut story = Story::ready(api).await;
    assert!(story.desired.node().pod_cidrs.is_empty());
    story.api.put_node(with_cidrs);
    story.until("they are known", |story| story.desired.node().pod_cidrs.len() == 2).await;
}
