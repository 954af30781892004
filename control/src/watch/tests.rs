//! What becomes of objects on their way from the API's JSON to events, whatever is in them.

use kube::core::{ObjectList, WatchEvent};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::desired::Desired;
use crate::model::mutations::{
    Mutation, SERVICE, SERVICE_CIDR, SLICE, USED_OF_SERVICE, USED_OF_SERVICE_CIDR, USED_OF_SLICE, mutations,
};

#[test]
fn long_pauses_are_capped_and_differ() {
    let pauses = [300, 4_999, 5_000, 5_001, 9_500, 30_999].map(Duration::from_millis).map(capped);
    let millis = pauses.map(|pause| pause.as_millis());
    assert_eq!(millis, [300, 4_999, 5_000, 4_999, 4_500, 4_001]);
}

/// One that is never used.
fn client() -> kube::Client {
    let server = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    kube::Client::try_from(server).unwrap()
}

/// A follower of one kind, what it says, and what is known by that.
struct Bench {
    follow: Follow,
    said: Receiver<Event>,
    told: Told,
    desired: Desired,
}

impl Bench {
    fn new(client: &kube::Client) -> Self {
        let (board, _) = health::board();
        let (events, said) = channel(64);
        let client = client.clone();
        let (node_name, answered) = ("n1".to_owned(), Notify::new());
        let follow = Follow { client, node_name, page_size: 500, board, events, answered };
        Self { follow, said, told: Told::default(), desired: Desired::new("n1") }
    }

    async fn list<W: Watch>(&mut self, items: &[&Value]) {
        let list =
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": items});
        let list: ObjectList<Seen<W::Object>> = serde_json::from_value(list).expect("a list is never lost");
        assert_eq!(list.items.len(), items.len());
        self.forward::<W>(watcher::Event::Init).await;
        for item in list.items {
            self.forward::<W>(watcher::Event::InitApply(item)).await;
        }
        self.forward::<W>(watcher::Event::InitDone).await;
    }

    async fn change<W: Watch>(&mut self, object: &Value) {
        let event = json!({"type": "MODIFIED", "object": object});
        let event: WatchEvent<Seen<W::Object>> = serde_json::from_value(event).expect("a watch never ends");
        let WatchEvent::Modified(object) = event else { panic!("{event:?}") };
        self.forward::<W>(watcher::Event::Apply(object)).await;
    }

    async fn forward<W: Watch>(&mut self, event: watcher::Event<Seen<W::Object>>) {
        assert!(self.follow.forward::<W>(event, &mut self.told).await.is_ok());
        while let Ok(event) = self.said.try_recv() {
            self.desired.apply(event);
        }
    }
}

/// Every mutation of an object that is known, as a change and in a list, beside one that is well. `known` is all that is
/// known of this kind.
async fn survive<W: Watch, K: PartialEq + Debug>(
    recorded: &str,
    used: &[&str],
    known: impl Fn(&Desired) -> K,
    count: impl Fn(&K) -> usize,
) {
    let client = client();
    let whole: Value = serde_json::from_str(recorded).unwrap();
    let mut other = whole.clone();
    other["metadata"]["name"] = json!("other");
    if let Some(cidrs) = other.pointer_mut("/spec/cidrs") {
        *cidrs = json!(["10.97.0.0/16", "fd00:10:97::/112"]);
    }
    for Mutation { pointer, used, object } in mutations(recorded, used) {
        let mut bench = Bench::new(&client);
        bench.list::<W>(&[&whole, &other]).await;
        let before = known(&bench.desired);
        let unreadable = W::Object::decode(&object).is_err();
        let renamed = ["/metadata", "/metadata/name", "/metadata/namespace"].contains(&pointer.as_str());
        for in_list in [false, true] {
            if in_list {
                bench.list::<W>(&[&object, &other]).await;
            } else {
                bench.change::<W>(&object).await;
            }
            let now = known(&bench.desired);
            assert!(count(&now) >= count(&before) / 2, "{pointer}: the other is not touched");
            if !used || (unreadable && !renamed) {
                assert_eq!(now, before, "{pointer}: {object}");
            }
            let told = bench.desired.problems();
            assert!(!unreadable || !told.is_empty(), "{pointer}: nothing is told");
            if !used {
                assert!(told.is_empty(), "{pointer}: {told:?}");
            }
            for problem in told.values().flatten() {
                assert!(!problem.field.is_empty() && !problem.remedy.is_empty(), "{problem}");
            }
        }
        // One that was never well is not served.
        let mut bench = Bench::new(&client);
        bench.list::<W>(&[&object]).await;
        assert!(!unreadable || count(&known(&bench.desired)) == 0, "{pointer}: {object}");
        bench.list::<W>(&[&whole]).await;
        assert!(bench.desired.problems().is_empty(), "{pointer}: what is well again is not told");
    }
}

fn run(story: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story);
}

#[test]
fn a_service_that_cannot_be_read_stays_what_it_was() {
    run(survive::<service::Watched, _>(
        SERVICE,
        USED_OF_SERVICE,
        |desired| desired.services().clone(),
        |services| services.len(),
    ));
}

#[test]
fn a_slice_that_cannot_be_read_stays_what_it_was() {
    let of_web = |desired: &Desired| {
        let web = ObjectKey::of(Some("shop"), Some("web"));
        desired.slices(&web).cloned().collect::<Vec<_>>()
    };
    run(survive::<slice::Watched, _>(SLICE, USED_OF_SLICE, of_web, Vec::len));
}

#[test]
fn a_service_cidr_that_cannot_be_read_keeps_its_route() {
    let of_each = |desired: &Desired| desired.service_cidrs();
    run(survive::<cidr::Watched, _>(SERVICE_CIDR, USED_OF_SERVICE_CIDR, of_each, |cidrs| cidrs.len()));
}

#[test]
fn a_condition_without_a_time_is_nothing_to_us() {
    run(async {
        let mut bench = Bench::new(&client());
        let service: Value = serde_json::from_str(SERVICE).unwrap();
        assert!(service.pointer("/status/conditions/0/lastTransitionTime").unwrap().is_null());
        bench.list::<service::Watched>(&[&service]).await;
        assert_eq!(bench.desired.services().len(), 1);
        let cidr: Value = serde_json::from_str(SERVICE_CIDR).unwrap();
        bench.list::<cidr::Watched>(&[&cidr]).await;
        assert_eq!(bench.desired.service_cidrs().len(), 2);
        assert!(bench.desired.problems().is_empty(), "{:?}", bench.desired.problems());
    });
}
