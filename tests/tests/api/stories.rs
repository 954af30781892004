//! What should happen when all is well: lists, watches, selectors, Nodes, problems.

use super::*;
use tests::apiserver::rbac;

#[tokio::test]
async fn lists_come_in_pages_and_changes_follow() {
    let api = small().await;
    for index in 2..=25 {
        api.put_service(service(&format!("s{index}"), index));
    }
    let mut story = Story::with_pages(api, 10).await;
    story.until("all is watched", Story::well).await;
    assert_eq!(story.services().len(), 25);
    assert_eq!(story.services_seen.first(), Some(&25), "nothing is ready before everything is there");
    let pages = story.asked("list", Resource::Services, &["limit", "continue"]);
    assert_eq!(pages.len(), 3, "{}", story.told());
    assert!(pages.iter().all(|page| page[0] == "10") && pages[0][1].is_empty() && !pages[1][1].is_empty());

    story.api.put_service(service("new", 100));
    story.until("the new one is there", |story| story.services().contains(&"default/new".to_owned())).await;
    story.api.put_service(service("new", 101));
    let moved = |story: &Story| {
        let mut services = story.desired.services().values();
        services.any(|service| service.cluster_ips.contains(&"10.96.0.102".parse().unwrap()))
    };
    story.until("its address has changed", moved).await;
    story.api.put_slice(slice("web-1", "web", &["10.1.0.1", "10.1.0.2"]));
    story.until("two endpoints", |story| story.endpoints("web") == ["10.1.0.1", "10.1.0.2"]).await;
    assert!(story.api.delete(Resource::Services, "default", "new"));
    story.until("it is gone", |story| !story.services().contains(&"default/new".to_owned())).await;
    assert!(story.api.delete(Resource::EndpointSlices, "default", "web-1"));
    story.until("no endpoints", |story| story.endpoints("web").is_empty()).await;
}

#[tokio::test]
async fn the_selectors_are_kube_proxy_s_and_select() {
    let api = small().await;
    api.put_service(
        json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}),
    );
    api.put_service(labelled(service("other", 2), "service.kubernetes.io/service-proxy-name", ""));
    api.put_service(labelled(service("labelled", 3), "service.kubernetes.io/headless", ""));
    api.put_slice(labelled(slice("hidden-1", "web", &["10.1.0.9"]), "service.kubernetes.io/headless", ""));
    api.put_node(node("n2", "b"));
    let mut story = Story::ready(api).await;
    for verb in ["list", "watch"] {
        let selectors = |resource| story.asked(verb, resource, &["labelSelector", "fieldSelector"]);
        let wanted = [["!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"]];
        assert_eq!(selectors(Resource::Services), wanted, "{verb}");
        assert_eq!(selectors(Resource::EndpointSlices), [["!service.kubernetes.io/headless", ""]], "{verb}");
        assert_eq!(selectors(Resource::Nodes), [["", "metadata.name=n1"]], "{verb}");
    }
    assert_eq!(story.services(), ["default/labelled", "default/web"]);
    assert_eq!(story.endpoints("web"), ["10.1.0.1"]);
    assert_eq!(story.desired.node().zone.as_deref(), Some("a"));

    // Labels that come and go take the object with them and bring it back.
    story.api.put_service(labelled(service("web", 1), "service.kubernetes.io/service-proxy-name", "mine"));
    story.until("it is another proxy's", |story| story.services() == ["default/labelled"]).await;
    story.api.put_service(service("web", 1));
    story.until("it is ours again", |story| story.services().len() == 2).await;
    story.api.put_slice(labelled(slice("web-1", "web", &["10.1.0.1"]), "service.kubernetes.io/headless", ""));
    story.until("the slice is hidden", |story| story.endpoints("web").is_empty()).await;
    // So does losing the address.
    story.api.put_service(
        json!({"metadata": {"name": "web"}, "spec": {"type": "ExternalName", "externalName": "example.com"}}),
    );
    story.until("it has no address", |story| story.services() == ["default/labelled"]).await;
    story.api.put_service(json!({"metadata": {"name": "labelled"}, "spec": {"clusterIP": "None"}}));
    story.until("it is headless", |story| story.services().is_empty()).await;
}

#[tokio::test]
async fn verbs_and_paths_are_what_the_cluster_role_allows() {
    let mut story = Story::ready(small().await).await;
    story.api.expire_watches();
    let relisted = |story: &Story| story.lists() == 2 * WATCHES && story.api.open_watches() == WATCHES;
    story.until("everything is listed anew", relisted).await;
    let requests = story.api.requests();
    let paths: std::collections::BTreeSet<&str> =
        requests.iter().map(|request| request.path.as_str()).collect();
    let paths: Vec<&str> = paths.into_iter().collect();
    assert_eq!(
        paths,
        [
            "/api/v1/nodes",
            "/api/v1/services",
            "/apis/discovery.k8s.io/v1/endpointslices",
            "/apis/networking.k8s.io/v1/servicecidrs"
        ]
    );
    assert_eq!(rbac::used(&requests), rbac::allowed());
    // And nothing asks for more than a minute of silence at once.
    for resource in [Resource::Services, Resource::EndpointSlices, Resource::Nodes, Resource::ServiceCidrs] {
        let asked = story.asked("watch", resource, &["timeoutSeconds", "allowWatchBookmarks"]);
        assert!(asked.iter().all(|query| query[0] == "60" && query[1] == "true"), "{asked:?}");
    }
}

#[tokio::test]
async fn two_thousand_slices_are_listed_and_followed() {
    let api = FakeApi::start().await;
    api.put_node(node("n1", "a"));
    let addresses: Vec<String> = (0..10).map(|index| format!("10.1.0.{}", index + 1)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    for index in 0..500 {
        api.put_service(service(&format!("s{index}"), index));
        for part in 0..4 {
            api.put_slice(slice(&format!("s{index}-{part}"), &format!("s{index}"), &addresses));
        }
    }
    let mut story = Story::ready(api).await;
    assert_eq!(story.services().len(), 500);
    assert_eq!((0..500).map(|index| story.endpoints(&format!("s{index}")).len()).sum::<usize>(), 20_000);
    assert_eq!(story.asked("list", Resource::EndpointSlices, &["limit"]), vec![["500"]; 4]);
    for index in 0..500 {
        assert!(story.api.delete(Resource::EndpointSlices, "default", &format!("s{index}-3")));
    }
    let last = |story: &Story| (0..500).all(|index| story.endpoints(&format!("s{index}")).len() == 30);
    story.until("a quarter is gone", last).await;
}

#[tokio::test]
async fn the_node_s_zone_follows_and_outlives_the_node() {
    let mut story = Story::ready(small().await).await;
    assert_eq!(story.desired.node().addresses.len(), 1);
    story.api.put_node(node("n1", "b"));
    story.until("the zone has changed", |story| story.desired.node().zone.as_deref() == Some("b")).await;
    assert!(story.api.delete(Resource::Nodes, "", "n1"));
    story.api.expire_watches();
    story.until("a Node that is not there is told", |story| story.problems() == ["Node n1"]).await;
    assert_eq!(story.desired.node().zone.as_deref(), Some("b"), "what it last said stays");
    story.api.put_node(node("n1", "c"));
    story
        .until("it is back", |story| {
            story.desired.node().zone.as_deref() == Some("c") && story.problems().is_empty()
        })
        .await;
}

#[tokio::test]
async fn problems_come_and_go_with_their_objects() {
    let api = small().await;
    let bad = |name: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": "10.96.1.1", "ports": [{"port": 80}, {"name": "x", "port": 0}]}});
    api.put_service(bad("a"));
    api.put_service(bad("b"));
    api.put_slice(slice("web-2", "web", &["10.1.0.2", "nonsense"]));
    // One that is no Service at all must not stop the others.
    api.put_service(
        json!({"metadata": {"name": "c"}, "spec": {"clusterIP": "10.96.1.3", "ports": "eighty"}}),
    );
    let mut story = Story::ready(api).await;
    let told = ["EndpointSlice default/web-2", "Service default/a", "Service default/b", "Service default/c"];
    story.until("all are told", |story| story.problems() == told).await;
    assert_eq!(story.services(), ["default/a", "default/b", "default/web"], "what can be served is served");
    assert_eq!(story.endpoints("web"), ["10.1.0.1", "10.1.0.2"]);
    let problem = &story.desired.problems()["Service default/a"][0];
    assert_eq!(problem.field, "spec.ports[1].port");

    story.api.put_service(service("a", 50));
    story.until("repaired", |story| !story.problems().contains(&"Service default/a")).await;
    assert!(story.api.delete(Resource::Services, "default", "b"));
    story.until("deleted", |story| !story.problems().contains(&"Service default/b")).await;
    // What vanishes between two lists takes its problems along as well.
    story.api.stop();
    assert!(story.api.delete(Resource::Services, "default", "c"));
    story.api.put_slice(slice("web-2", "web", &["10.1.0.2"]));
    story.api.compact();
    story.api.restart();
    story.until("nothing is left to tell", |story| story.problems().is_empty()).await;
}

#[tokio::test]
async fn the_source_ends_when_nobody_listens() {
    for story in [Story::ready(small().await).await, Story::begin(stopped().await).await] {
        let mut story = story;
        story.events.close();
        let ended = tokio::time::timeout(PATIENCE, &mut story.source).await;
        assert!(ended.is_ok_and(|ended| ended.is_ok()));
    }
}

pub(crate) async fn stopped() -> FakeApi {
    let api = small().await;
    api.stop();
    api
}
