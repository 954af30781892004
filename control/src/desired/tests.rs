//! Lists, differences, moves, and that nothing is left behind.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{HERE, desired, ip, key, says, says_slice, service, slice};

fn dirty(desired: &mut Desired) -> Vec<String> {
    desired.take_dirty().into_iter().map(|key| key.name).collect()
}

#[test]
fn ready_means_services_and_slices_listed_and_is_news_even_when_empty() {
    let mut desired = Desired::new(HERE);
    assert!(!desired.ready() && !desired.is_dirty());
    desired.apply(Event::Done(Kind::Slice));
    desired.apply(Event::Restart(Kind::Service));
    desired.apply(Event::Done(Kind::Service));
    assert!(!desired.ready(), "the end of a list that never began says nothing");
    desired.apply(Event::Restart(Kind::Slice));
    assert!(!desired.ready());
    desired.apply(Event::Done(Kind::Slice));
    assert!(desired.ready() && desired.is_dirty());
    assert!(dirty(&mut desired).is_empty() && !desired.is_dirty());
    desired.apply(Event::Restart(Kind::Service));
    assert!(desired.ready(), "a reconnect does not unmake it");
}

#[test]
fn a_list_shows_nothing_until_it_is_complete_and_then_only_its_differences() {
    let mut desired = desired(&[service("a", &["10.96.0.1"]), service("b", &["10.96.0.2"])], &[]);
    desired.take_dirty();
    desired.apply(Event::Restart(Kind::Service));
    desired.apply(says(service("b", &["10.96.0.2"])));
    desired.apply(says(service("c", &["10.96.0.3"])));
    desired.apply(says(service("d", &["10.96.0.4"])));
    desired.apply(Event::ServiceGone(key("d")));
    assert_eq!(desired.services().len(), 2);
    assert!(!desired.is_dirty());
    desired.apply(Event::Done(Kind::Service));
    assert_eq!(desired.services().keys().map(|k| &*k.name).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(dirty(&mut desired), ["a", "c"], "b did not change");
}

#[test]
fn a_list_that_is_cut_short_and_begun_again_counts_from_its_last_beginning() {
    let mut desired = desired(&[service("a", &["10.96.0.1"])], &[]);
    desired.take_dirty();
    desired.apply(Event::Restart(Kind::Service));
    desired.apply(says(service("ghost", &["10.96.0.9"])));
    desired.apply(Event::Health { connected: false, detail: "reset by peer".into() });
    desired.apply(Event::Restart(Kind::Service));
    desired.apply(says(service("a", &["10.96.0.1"])));
    desired.apply(Event::Done(Kind::Service));
    assert_eq!(dirty(&mut desired), [""; 0]);
    assert_eq!(desired.services().len(), 1);
}

#[test]
fn what_says_nothing_new_marks_nothing() {
    let web = service("web", &["10.96.0.1"]);
    let pods = slice("web-1", "web", &["10.1.0.1"]);
    let mut desired = desired(std::slice::from_ref(&web), std::slice::from_ref(&pods));
    desired.take_dirty();
    desired.apply(says(web));
    desired.apply(says_slice(pods));
    desired.apply(Event::ServiceGone(key("nobody")));
    desired.apply(Event::SliceGone(key("nothing")));
    desired.apply(says_slice(slice("lone-1", "lone", &["10.1.0.9"])));
    desired.apply(Event::Health { connected: true, detail: String::new() });
    assert!(!desired.is_dirty());
    desired.apply(says(service("lone", &["10.96.0.9"])));
    assert_eq!(dirty(&mut desired), ["lone"]);
    assert_eq!(desired.slices(&key("lone")).count(), 1, "it waited for its Service");
}

#[test]
fn a_slice_that_changes_its_owner_moves() {
    let services = [service("a", &["10.96.0.1"]), service("b", &["10.96.0.2"])];
    let mut desired = desired(&services, &[slice("s", "a", &["10.1.0.1"])]);
    desired.take_dirty();
    desired.apply(says_slice(slice("s", "b", &["10.1.0.1"])));
    assert_eq!(dirty(&mut desired), ["a", "b"]);
    assert_eq!((desired.slices(&key("a")).count(), desired.slices(&key("b")).count()), (0, 1));
    desired.apply(Event::Restart(Kind::Slice));
    desired.apply(says_slice(slice("s", "a", &["10.1.0.1"])));
    desired.apply(Event::Done(Kind::Slice));
    assert_eq!(dirty(&mut desired), ["a", "b"], "also by a list");
    desired.apply(Event::SliceGone(key("s")));
    assert_eq!(dirty(&mut desired), ["a"]);
    assert!(desired.slices.is_empty() && desired.owners.is_empty(), "nothing is left behind");
}

#[test]
fn problems_are_kept_by_object_and_replaced_whole() {
    let mut desired = Desired::new(HERE);
    let problem = |what: &str| Problem {
        object: "web.yaml, document 2".into(),
        field: String::new(),
        what: what.into(),
        remedy: "fix it".into(),
    };
    let says = |problems| Event::Problems { object: "web.yaml, document 2".into(), problems };
    desired.apply(says(vec![problem("one"), problem("two")]));
    desired.apply(says(vec![problem("three")]));
    assert_eq!(desired.problems()["web.yaml, document 2"], [problem("three")]);
    desired.apply(says(Vec::new()));
    assert!(desired.problems().is_empty() && !desired.is_dirty());
}

#[test]
fn only_a_new_zone_of_our_own_node_is_news_and_its_absence_is_not() {
    let services = [service("a", &["10.96.0.1"]), service("b", &["10.96.0.2"])];
    let mut desired = desired(&services, &[slice("s", "a", &["10.1.0.1"])]);
    desired.take_dirty();
    let node = |name: &str, zone: &str| {
        let zone = Some(zone.to_owned());
        Event::Node(Box::new(Node {
            name: name.into(),
            zone,
            addresses: vec![ip("192.0.2.1")],
            ..Node::default()
        }))
    };
    desired.apply(Event::Restart(Kind::Node));
    desired.apply(node(HERE, "a"));
    desired.apply(Event::Done(Kind::Node));
    assert_eq!(dirty(&mut desired), ["a"], "a Service without slices has nothing to gain");
    desired.apply(node(HERE, "a"));
    desired.apply(node("there", "b"));
    desired.apply(Event::Restart(Kind::Node));
    desired.apply(Event::Done(Kind::Node));
    assert!(!desired.is_dirty());
    assert_eq!(desired.node().zone.as_deref(), Some("a"));
    assert_eq!(desired.node().addresses, [ip("192.0.2.1")]);
}

#[test]
fn an_address_of_this_node_decides_where_sources_are_restricted() {
    let closed = Service { source_ranges: vec![(ip("192.0.2.0"), 24)], ..service("b", &["10.96.0.2"]) };
    let mut desired = desired(&[service("a", &["10.96.0.1"]), closed], &[]);
    desired.take_dirty();
    let node = |addr| Node { name: HERE.into(), addresses: vec![ip(addr)], ..Node::default() };
    desired.apply(Event::Node(Box::new(node("192.0.2.1"))));
    assert_eq!(dirty(&mut desired), ["b"]);
    desired.apply(Event::Node(Box::new(node("192.0.2.1"))));
    assert!(!desired.is_dirty());
}

#[derive(Clone, Debug)]
enum Step {
    Service(u8, Option<u8>),
    Slice(u8, Option<(u8, u8)>),
    Relist(Kind, Vec<(u8, u8)>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let list = || prop::collection::vec((0_u8..4, 0_u8..4), 0..5);
    prop_oneof![
        4 => (0_u8..4, prop::option::of(0_u8..4)).prop_map(|(name, vip)| Step::Service(name, vip)),
        4 => (0_u8..4, prop::option::of((0_u8..4, 0_u8..4))).prop_map(|(name, of)| Step::Slice(name, of)),
        1 => list().prop_map(|list| Step::Relist(Kind::Service, list)),
        1 => list().prop_map(|list| Step::Relist(Kind::Slice, list)),
    ]
}

proptest! {
    /// After any events the state is the last word on every object; trackers hold what is there and nothing more;
    /// and a Service nobody marked looks as it did.
    #[test]
    fn the_last_word_counts_and_unmarked_means_unchanged(steps in prop::collection::vec(any_step(), 0..40)) {
        let mut desired = desired(&[], &[]);
        let (mut services, mut slices) = (BTreeMap::new(), BTreeMap::new());
        let a_service = |name: u8, vip: u8| service(&format!("s{name}"), &[&format!("10.96.0.{vip}")]);
        let a_slice = |name: u8, of: u8, addr: u8| slice(&format!("e{name}"), &format!("s{of}"), &[&format!("10.1.0.{addr}")]);
        for step in steps {
            let view = |d: &Desired| d.services().values()
                .map(|s| (s.key.clone(), (s.clone(), d.slices(&s.key).cloned().collect::<Vec<_>>())))
                .collect::<BTreeMap<_, _>>();
            let before = view(&desired);
            desired.take_dirty();
            match step {
                Step::Service(name, Some(vip)) => {
                    services.insert(name, a_service(name, vip));
                    desired.apply(says(a_service(name, vip)));
                }
                Step::Service(name, None) => {
                    services.remove(&name);
                    desired.apply(Event::ServiceGone(key(&format!("s{name}"))));
                }
                Step::Slice(name, Some((of, addr))) => {
                    slices.insert(name, a_slice(name, of, addr));
                    desired.apply(says_slice(a_slice(name, of, addr)));
                }
                Step::Slice(name, None) => {
                    slices.remove(&name);
                    desired.apply(Event::SliceGone(key(&format!("e{name}"))));
                }
                Step::Relist(kind, list) => {
                    desired.apply(Event::Restart(kind));
                    match kind {
                        Kind::Service => {
                            services = list.iter().map(|&(n, vip)| (n, a_service(n, vip))).collect();
                            list.iter().for_each(|&(n, vip)| desired.apply(says(a_service(n, vip))));
                        }
                        Kind::Slice | Kind::Node | Kind::ServiceCidr => {
                            slices = list.iter().map(|&(n, of)| (n, a_slice(n, of, of))).collect();
                            list.iter().for_each(|&(n, of)| desired.apply(says_slice(a_slice(n, of, of))));
                        }
                    }
                    desired.apply(Event::Done(kind));
                }
            }
            let after = view(&desired);
            prop_assert_eq!(desired.services().values().cloned().collect::<Vec<_>>(), services.values().cloned().collect::<Vec<_>>());
            prop_assert!(desired.slices.values().all(|slices| !slices.is_empty()), "an empty tracker");
            let held: BTreeMap<_, _> = desired.slices.values().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
            prop_assert_eq!(held.into_values().collect::<Vec<_>>(), slices.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(desired.owners.len(), slices.len());
            let marked = desired.take_dirty();
            for name in before.keys().chain(after.keys()).filter(|name| !marked.contains(name)) {
                prop_assert_eq!(before.get(name), after.get(name), "{} was not marked", name);
            }
        }
    }
}
