//! What can go wrong between us and the server, and what must come of it.

use super::stories::stopped;
use super::*;
use tests::apiserver::Fault;

#[tokio::test]
async fn a_server_that_cannot_be_reached_at_start_is_waited_for() {
    let mut story = Story::begin(stopped().await).await;
    story.until("that is told", |story| !story.health.is_empty()).await;
    story.for_a_while(Duration::from_secs(2)).await;
    assert_eq!(story.health.len(), 1, "once, not at every attempt: {:?}", story.health);
    let (connected, detail) = &story.health[0];
    assert!(!connected && detail.contains(&format!("http://{}", story.api.address())), "{detail}");
    assert!(detail.contains("refused") && detail.contains("retrying"), "{detail}");
    assert!(!story.desired.ready());
    story.api.restart();
    story.until("all is watched", Story::well).await;
    assert_eq!((story.services(), story.health.len()), (vec!["default/web".to_owned()], 2));
}

#[tokio::test]
async fn an_expired_version_means_a_new_list_and_never_an_empty_world() {
    let api = small().await;
    api.put_service(service("old", 2));
    let mut story = Story::ready(api).await;
    story.api.forget_requests();
    story.services_seen.clear();
    story.api.expire_watches();
    story.api.put_service(service("new", 3));
    assert!(story.api.delete(Resource::Services, "default", "old"));
    let right = |story: &Story| {
        story.services() == ["default/new", "default/web"] && story.api.open_watches() == WATCHES
    };
    story.until("the new list is in force", right).await;
    assert_eq!(story.lists(), WATCHES, "{}", story.told());
    assert!(story.services_seen.iter().all(|count| *count >= 2), "{:?}", story.services_seen);
    assert_eq!(story.health.len(), 1, "an expired version is nothing to tell: {:?}", story.health);
}

#[tokio::test]
async fn a_cut_connection_is_resumed_where_it_was() {
    let mut story = Story::ready(small().await).await;
    story.api.forget_requests();
    for round in 0..3 {
        story.api.cut_watches();
        story.api.put_service(service(&format!("s{round}"), 10 + round));
        let there =
            |story: &Story| story.services().len() == round + 2 && story.api.open_watches() == WATCHES;
        story.until("the change made meanwhile is there", there).await;
    }
    assert_eq!(story.lists(), 0, "no list is needed: {}", story.told());
    assert_eq!(story.health.len(), 1, "{:?}", story.health);
}

#[tokio::test]
async fn a_deletion_during_an_outage_is_seen_by_resuming() {
    let mut story = Story::ready(small().await).await;
    outage(&mut story).await;
    story.api.forget_requests();
    story.api.restart();
    after_outage(&mut story).await;
    assert_eq!(story.lists(), 0, "versions are still known: {}", story.told());
}

#[tokio::test]
async fn a_deletion_during_an_outage_is_seen_by_a_new_list() {
    let mut story = Story::ready(small().await).await;
    outage(&mut story).await;
    story.api.compact();
    story.api.forget_requests();
    story.api.restart();
    after_outage(&mut story).await;
    assert_eq!(story.lists(), WATCHES, "versions are forgotten: {}", story.told());
}

/// The server goes away, and meanwhile `web` is replaced by `db`.
async fn outage(story: &mut Story) {
    story.api.stop();
    assert!(story.api.delete(Resource::Services, "default", "web"));
    assert!(story.api.delete(Resource::EndpointSlices, "default", "web-1"));
    story.api.put_service(service("db", 5));
    story
        .until("the outage is told", |story| story.health.last().is_some_and(|(connected, _)| !connected))
        .await;
    assert_eq!(
        (story.services(), story.endpoints("web").len()),
        (vec!["default/web".to_owned()], 1),
        "what is known serves on"
    );
}

async fn after_outage(story: &mut Story) {
    let right = |story: &Story| {
        story.services() == ["default/db"] && story.endpoints("web").is_empty() && story.well()
    };
    story.until("what happened meanwhile is known", right).await;
    let health: Vec<bool> = story.health.iter().map(|(connected, _)| *connected).collect();
    assert_eq!(health, [true, false, true], "{:?}", story.health);
}

#[tokio::test]
async fn a_quiet_server_that_is_back_is_told_without_waiting_for_a_change() {
    let mut story = Story::ready(small().await).await;
    story.api.stop();
    story.until("the outage is told", |story| story.health.len() == 2).await;
    story.api.restart();
    story
        .until("and its end, though nothing has changed", |story| story.health.len() == 3 && story.well())
        .await;
}

#[tokio::test]
async fn a_bookmark_moves_the_version_to_resume_from() {
    let mut story = Story::ready(small().await).await;
    // Of another namespace of versions: only bookmarks tell the watch of Services.
    story.api.put_node(node("n2", "a"));
    story.api.put_node(node("n3", "a"));
    story.api.forget_requests();
    story.api.bookmark();
    story.api.end_watches();
    let resumed = |story: &Story| story.asked("watch", Resource::Services, &["resourceVersion"]).len() == 1;
    story.until("the watch is resumed", resumed).await;
    assert_eq!(
        story.asked("watch", Resource::Services, &["resourceVersion"]),
        [["1005"]],
        "five changes after version 1000"
    );
    story.api.put_service(service("db", 2));
    story.until("and goes on", |story| story.services().len() == 2).await;
    assert_eq!(story.lists(), 0);
}

#[tokio::test]
async fn watches_that_end_in_time_are_renewed_silently() {
    let api = small().await;
    api.limit_watches(Some(Duration::from_millis(100)));
    let mut story = Story::begin(api).await;
    let renewed = |story: &Story| story.asked("watch", Resource::Services, &[]).len() >= 10;
    story.until("renewed ten times", renewed).await;
    story.api.put_service(service("db", 2));
    story.until("a change arrives", |story| story.services().len() == 2).await;
    assert_eq!((story.lists(), story.health.len()), (WATCHES, 1), "{}", story.told());
}

#[tokio::test]
async fn a_server_that_will_not_resume_is_listed_anew() {
    // 410 as a status instead of an event, a version it will not parse, and one from its future after a restore.
    for code in [410, 400, 504] {
        let mut story = Story::ready(small().await).await;
        story.api.forget_requests();
        story.api.fail_next(WATCHES, Fault::Status(code));
        story.api.end_watches();
        let relisted = |story: &Story| story.lists() == WATCHES && story.well();
        story.until("everything is listed anew", relisted).await;
        story.api.put_service(service("db", 2));
        story.until("a change arrives", |story| story.services().len() == 2).await;
    }
}

#[tokio::test]
async fn lists_that_lead_to_no_watch_are_made_with_patience() {
    let mut story = Story::ready(small().await).await;
    story.api.forget_requests();
    story.api.fail_next_of(|request| request.verb == "watch", 1_000, Fault::Status(504));
    story.api.end_watches();
    story.for_a_while(Duration::from_secs(2)).await;
    // Each kind 0.8 s after its watch was refused, however the others fare.
    let lists = story.lists();
    assert!((1..=WATCHES * 4).contains(&lists), "{lists} lists in 2 s");
    story.api.heal();
    story.until("all is watched", Story::well).await;
    assert_eq!(story.services(), ["default/web"]);
}

/// Told once with its reason, and retried with patience.
async fn failing(fault: Fault, reason: &str) {
    let api = small().await;
    api.fail_next(1_000, fault);
    let mut story = Story::begin(api).await;
    story.until("that is told", |story| !story.health.is_empty()).await;
    story.for_a_while(Duration::from_secs(2)).await;
    let (connected, detail) = &story.health[0];
    assert!(
        !connected && detail.contains(reason) && story.health.len() == 1,
        "{fault:?}: {:?}",
        story.health
    );
    // Each kind at 0 and 0.8 s, and not before 2.4 s again.
    assert!(story.lists() <= 3 * 3, "{fault:?}: {} attempts in 2 s", story.lists());
    assert!(!story.desired.ready());
    story.api.heal();
    story.until("all is watched", Story::well).await;
    assert_eq!(story.services(), ["default/web"]);
}

#[tokio::test]
async fn internal_errors_are_told_and_retried() {
    failing(Fault::Status(500), "500 the test wants this to fail").await;
}

#[tokio::test]
async fn missing_permissions_are_told_and_retried() {
    failing(Fault::Status(403), "403").await;
}

#[tokio::test]
async fn answers_that_are_no_json_are_told_and_retried() {
    failing(Fault::Garbage, "expected value").await;
}

#[tokio::test]
async fn connections_that_close_without_an_answer_are_told_and_retried() {
    failing(Fault::HangUp, "http://127.0.0.1").await;
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let api = small().await;
    api.fail_next(2 * WATCHES, Fault::Slow(Duration::from_millis(700)));
    let story = Story::ready(api).await;
    assert_eq!(story.health.len(), 1, "{:?}", story.health);
}

#[tokio::test]
async fn a_list_whose_pages_expire_begins_again() {
    let api = small().await;
    for index in 2..=30 {
        api.put_service(service(&format!("s{index}"), index));
    }
    api.fail_next_of(|request| request.query.contains_key("continue"), 1, Fault::Status(410));
    let mut story = Story::with_pages(api, 20).await;
    story.until("all is watched", Story::well).await;
    assert_eq!(story.services().len(), 30);
    let pages = story.asked("list", Resource::Services, &["continue"]);
    let begun = pages.iter().filter(|page| page[0].is_empty()).count();
    assert_eq!((begun, pages.len()), (2, 4), "{}", story.told());
    assert_eq!(story.health.len(), 1, "nothing to tell: {:?}", story.health);
}
