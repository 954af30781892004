//! The truth table: who is in which set, for every mix of conditions, policies, nodes and hints.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{self, HERE};

/// An endpoint in one word, its conditions first: `R` ready, `T` serving while terminating, `S` serving but neither
/// ready nor terminating, `D` terminating and down, `N` nothing, `P` ready while terminating (published though
/// not ready). Then `@` when it runs here, `+x` a hint for zone x, `#x` a hint for node x.
fn endpoint(word: &str) -> Endpoint {
    let (conditions, rest) = word.split_at(1);
    let (ready, serving, terminating) = match conditions {
        "R" => (true, true, false),
        "T" => (false, true, true),
        "S" => (false, true, false),
        "D" => (false, false, true),
        "N" => (false, false, false),
        "P" => (true, false, true),
        _ => panic!("{word:?}"),
    };
    let mut endpoint = Endpoint { ready, serving, terminating, ..fixtures::endpoint("10.1.0.1") };
    let mut rest = rest.chars();
    while let Some(mark) = rest.next() {
        match mark {
            '@' => endpoint.node = Some(HERE.into()),
            '+' => drop(endpoint.zone_hints.insert(rest.next().unwrap().into())),
            '#' if rest.next() == Some('h') => drop(endpoint.node_hints.insert(HERE.into())),
            '#' => drop(endpoint.node_hints.insert("there".into())),
            _ => panic!("{word:?}"),
        }
    }
    endpoint
}

fn node(zone: &str) -> Node {
    let zone = (!zone.is_empty()).then(|| zone.to_owned());
    Node { name: HERE.into(), zone, ..Node::default() }
}

fn exposure(text: &str) -> Exposure {
    let policy = |letter: &str| if letter == "L" { Policy::Local } else { Policy::Cluster };
    let (internal, external) = text.split_once('/').unwrap_or((text, ""));
    Exposure { internal: policy(internal), external: (!external.is_empty()).then(|| policy(external)) }
}

struct Row {
    /// Internal policy, then `/` and the external one when the port is reachable from outside.
    policies: &'static str,
    zone: &'static str,
    endpoints: &'static str,
    cluster: &'static [u32],
    local: &'static [u32],
    any: bool,
}

const fn row(
    policies: &'static str,
    endpoints: &'static str,
    cluster: &'static [u32],
    local: &'static [u32],
    any: bool,
) -> Row {
    Row { policies, zone: "", endpoints, cluster, local, any }
}

const fn zoned(endpoints: &'static str, zone: &'static str, cluster: &'static [u32]) -> Row {
    Row { policies: "C", zone, endpoints, cluster, local: &[], any: true }
}

const TABLE: &[Row] = &[
    // Conditions under policy Cluster.
    row("C", "", &[], &[], false),
    row("C", "R R R@", &[0, 1, 2], &[], true),
    row("C", "R S N D", &[0], &[], true),
    row("C", "R T", &[0], &[], true),
    row("C", "T D T", &[0, 2], &[], true),
    row("C", "S", &[], &[], false),
    row("C", "S N D", &[], &[], false),
    row("C", "P T", &[0], &[], true),
    // Which policies use which set.
    row("L", "R R@", &[], &[1], true),
    row("L", "R", &[], &[], true),
    row("L", "T", &[], &[], true),
    row("L", "S@ N", &[], &[], false),
    row("L", "R T@", &[], &[1], true),
    row("L", "R@ T@", &[], &[0], true),
    row("L", "T@ D@ R", &[], &[0], true),
    row("C/C", "R R@", &[0, 1], &[], true),
    row("C/L", "R R@", &[0, 1], &[1], true),
    row("L/C", "R R@", &[0, 1], &[1], true),
    row("L/L", "R R@", &[0, 1], &[1], true),
    row("L/L", "R", &[0], &[], true),
    row("C/L", "R T@", &[0], &[1], true),
    row("C/L", "T T@", &[0, 1], &[1], true),
    row("C/L", "D S@", &[], &[], false),
    // Zone hints.
    zoned("R+a R+b R+a", "a", &[0, 2]),
    zoned("R+a+b R+b", "b", &[0, 1]),
    zoned("R+a R+b", "c", &[0, 1]),
    zoned("R+a R", "a", &[0, 1]),
    zoned("R+a R+b", "", &[0, 1]),
    zoned("R+a S T N", "a", &[0]),
    zoned("R+b T+a", "a", &[0]),
    zoned("T+b T+a", "a", &[0, 1]),
    // Node hints win, but only when every ready endpoint has one and one is for here.
    zoned("R#h R#t", "", &[0]),
    zoned("R#h+b R#t+a", "a", &[0]),
    zoned("R#t+a R#t+b", "a", &[0]),
    zoned("R#t R#t", "a", &[0, 1]),
    zoned("R#h+a R+b", "a", &[0]),
    zoned("R#h R", "a", &[0, 1]),
    zoned("R#h T", "", &[0]),
    // Hints never narrow the local set.
    Row { policies: "C/L", zone: "a", endpoints: "R@+b R+a", cluster: &[1], local: &[0], any: true },
    Row { policies: "L", zone: "a", endpoints: "R@+b R@+a R+a", cluster: &[], local: &[0, 1], any: true },
];

#[test]
fn the_truth_table() {
    for (n, row) in TABLE.iter().enumerate() {
        let endpoints: Vec<Endpoint> = row.endpoints.split_whitespace().map(endpoint).collect();
        let all: Vec<&Endpoint> = endpoints.iter().collect();
        let sets = categorize(exposure(row.policies), &all, &node(row.zone), &mut NoReasons);
        let expected = Sets { cluster: row.cluster.to_vec(), local: row.local.to_vec(), any: row.any };
        assert_eq!(
            sets, expected,
            "row {n}: policies {}, [{}], zone {:?}",
            row.policies, row.endpoints, row.zone
        );
    }
}

#[test]
fn a_node_without_a_name_has_no_endpoints() {
    let nameless = Node::default();
    let endpoint = Endpoint { node: Some(String::new()), ..fixtures::endpoint("10.1.0.1") };
    assert!(!is_local(&endpoint, &nameless));
    assert!(!is_local(&Endpoint { node: None, ..endpoint }, &nameless));
    let sets = categorize(exposure("L"), &[&self::endpoint("R@")], &nameless, &mut NoReasons);
    assert_eq!((sets.local, sets.any), (vec![], true));
}

#[test]
fn every_endpoint_gets_its_reason() {
    let words = ["R@", "R+a", "T", "S", "D"];
    let endpoints = words.map(endpoint);
    let mut why = Recorded::default();
    categorize(exposure("C/L"), &endpoints.iter().collect::<Vec<_>>(), &node("a"), &mut why);
    assert_eq!(why.topology, Some(Topology::Everywhere), "the first has no hint");
    let of = |set| why.fates.iter().filter(|f| f.1 == set).map(|f| f.2).collect::<Vec<_>>();
    assert_eq!(
        of(Set::Cluster),
        [Fate::Ready, Fate::Ready, Fate::Terminating, Fate::Unusable, Fate::Unusable]
    );
    assert_eq!(of(Set::Local), [Fate::Ready, Fate::Remote, Fate::Remote, Fate::Unusable, Fate::Unusable]);
    let mut why = Recorded::default();
    let endpoints = ["R+b", "R+a"].map(endpoint);
    categorize(exposure("C"), &endpoints.iter().collect::<Vec<_>>(), &node("a"), &mut why);
    assert_eq!(why.topology, Some(Topology::SameZone));
    assert_eq!(why.fates, [(0, Set::Cluster, Fate::HintedElsewhere), (1, Set::Cluster, Fate::Ready)]);
}

/// The rules once more, written as the specification words them: by what each set needs, not by endpoint.
fn by_the_book(e: Exposure, all: &[&Endpoint], node: &Node) -> Sets {
    let numbered = || (0_u32..).zip(all.iter().copied());
    let take = |keep: &dyn Fn(&Endpoint) -> bool| -> Vec<u32> {
        numbered().filter(|(_, e)| keep(e)).map(|(n, _)| n).collect()
    };
    let dying = |e: &Endpoint| e.serving && e.terminating;
    let ready = take(&|e| e.ready);
    let at = |n: &u32| all[*n as usize];
    let mut passing = ready.clone();
    let zone = node.zone.clone().unwrap_or_default();
    if ready.iter().all(|n| !at(n).node_hints.is_empty())
        && ready.iter().any(|n| at(n).node_hints.contains(&node.name))
    {
        passing.retain(|n| at(n).node_hints.contains(&node.name));
    } else if !zone.is_empty()
        && ready.iter().all(|n| !at(n).zone_hints.is_empty())
        && ready.iter().any(|n| at(n).zone_hints.contains(&zone))
    {
        passing.retain(|n| at(n).zone_hints.contains(&zone));
    }
    let mut sets = Sets::default();
    if e.internal != Policy::Local || e.external.is_some() {
        sets.cluster = if passing.is_empty() { take(&dying) } else { passing };
        sets.any = !sets.cluster.is_empty();
    }
    if e.internal == Policy::Local || e.external == Some(Policy::Local) {
        let here = |e: &Endpoint| e.node.as_deref() == Some(HERE);
        sets.local = take(&|e| here(e) && e.ready);
        if sets.local.is_empty() {
            sets.local = take(&|e| here(e) && dying(e));
        }
        sets.any |= numbered().any(|(_, e)| e.ready || dying(e));
    }
    sets
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    (any::<[bool; 4]>(), 0_u8..4, 0_u8..4).prop_map(|([ready, serving, terminating, local], zones, nodes)| {
        let pick = |bits: u8, names: [&str; 2]| {
            (0..2).filter(|n| bits & (1 << n) != 0).map(|n| names[n].to_owned()).collect()
        };
        Endpoint {
            ready,
            serving,
            terminating,
            node: Some(if local { HERE } else { "there" }.into()),
            zone_hints: pick(zones, ["a", "b"]),
            node_hints: pick(nodes, [HERE, "there"]),
            ..fixtures::endpoint("10.1.0.1")
        }
    })
}

proptest! {
    #[test]
    fn it_goes_by_the_book_and_reasons_change_nothing(
        endpoints in prop::collection::vec(any_endpoint(), 0..6),
        policies in prop::sample::select(vec!["C", "L", "C/C", "C/L", "L/C", "L/L"]),
        zone in prop::sample::select(vec!["", "a", "c"]),
    ) {
        let (e, all, node) = (exposure(policies), endpoints.iter().collect::<Vec<_>>(), node(zone));
        let sets = categorize(e, &all, &node, &mut NoReasons);
        prop_assert_eq!(&sets, &by_the_book(e, &all, &node));
        let mut why = Recorded::default();
        prop_assert_eq!(&sets, &categorize(e, &all, &node, &mut why));
        let members = |set| why.fates.iter()
            .filter(|f| f.1 == set && matches!(f.2, Fate::Ready | Fate::Fallback))
            .map(|f| u32::try_from(f.0).unwrap()).collect::<Vec<_>>();
        prop_assert_eq!(members(Set::Cluster), sets.cluster);
        prop_assert_eq!(members(Set::Local), sets.local);
    }
}
