//! What the tables hold. That nft takes them, and lists them as they were given, is tested with the real one.

use dataplane::packet::tuple::Proto;
use dataplane::service::SvcPort;

use super::*;

#[test]
fn tables_are_equal_whatever_their_order_handles_and_empty_sets() {
    let contents = Table::Inet.contents(&inputs()).unwrap();
    let wanted = canonical_contents(contents.clone());
    // As nft would say it: metainfo, the table, handles everywhere, another order of sets and chains.
    let mut objects = vec![json!({"metainfo": {"version": "1.0.6"}}), json!({"table": {"family": "inet"}})];
    let (mut sets, rules): (Vec<Value>, Vec<Value>) =
        contents.into_iter().partition(|object| object.get("rule").is_none());
    sets.reverse();
    objects.extend(sets.into_iter().chain(rules));
    for (at, object) in objects.iter_mut().enumerate() {
        for body in object.as_object_mut().unwrap().values_mut() {
            body["handle"] = json!(at);
        }
    }
    let list = |objects: &[Value]| canonical(&document(objects)).unwrap();
    assert!(list(&objects) == wanted);

    let first =
        objects.iter().position(|object| object.pointer("/rule/chain") == Some(&json!("steer"))).unwrap();
    let mut swapped = objects.clone();
    swapped.swap(first, first + 1);
    assert!(list(&swapped) != wanted, "the order of rules means something");
    assert!(list(&objects[..objects.len() - 1]) != wanted, "a rule is missing");
    let mut more = objects.clone();
    more.push(json!({"set": {"family": "inet", "table": "tunway", "name": "more", "type": "ipv4_addr"}}));
    assert!(list(&more) != wanted, "and one too many");
    assert_eq!(canonical("what?"), None);
}

#[test]
fn a_set_of_one_is_the_one_and_members_have_no_order() {
    let of = |right: Value| canonical_value(json!({"match": {"right": right}}));
    assert_eq!(of(json!({"set": ["a"]})), of(json!("a")));
    assert_eq!(of(json!({"set": ["b", "a"]})), of(json!({"set": ["a", "b"]})));
    assert_ne!(of(json!({"set": ["b", "a"]})), of(json!({"set": ["a"]})));
}

#[test]
fn bits_addresses_and_device_are_those_given() {
    let text = document(&Table::Inet.contents(&inputs()).unwrap());
    for word in
        ["\"tw9\"", "192.0.2.1", "169.254.77.1", "fd00:fffe:77::1", ":64}", ":128}", &(!64_u32).to_string()]
    {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    // No IPv6 address of this host: its own processes are not served in IPv6, the rest is.
    let rules = Table::Inet.contents(&inputs()).unwrap();
    let of_input = rules.iter().filter(|rule| rule.pointer("/rule/chain") == Some(&json!("in")));
    assert_eq!(of_input.count(), 1);
}

#[test]
fn bridges_are_told_apart_by_their_ports_where_there_are_several() {
    let with = |bridges: Vec<Bridge>| Table::Bridge.contents(&Inputs { bridges, ..inputs() });
    let bridge = |name: &str, ports: &[&str]| Bridge {
        name: name.into(),
        mac: format!("02:00:00:00:00:{name}"),
        ports: ports.iter().map(|port| (*port).to_owned()).collect(),
    };
    let rules = |contents: Vec<Value>| contents.iter().filter(|object| object.get("rule").is_some()).count();
    assert_eq!(with(vec![]), None, "a kernel without bridges need not know the family");
    let one = with(vec![bridge("01", &[])]).unwrap();
    assert!(!document(&one).contains("iifname") && document(&one).contains("02:00:00:00:00:01"));
    let two = with(vec![bridge("01", &["va", "vb"]), bridge("02", &["vc"]), bridge("03", &[])]).unwrap();
    assert_eq!(rules(two.clone()), 2, "nothing comes in by a bridge without ports");
    assert!(document(&two).contains(r#"{"set":["va","vb"]}"#));
}

fn inputs() -> Inputs {
    Inputs {
        device: "tw9".into(),
        marks: Marks { packet: 64, original: 128 },
        snat: vec!["169.254.77.1".parse().unwrap(), "fd00:fffe:77::1".parse().unwrap()],
        node: vec!["192.0.2.1".parse().unwrap()],
        bridges: vec![],
        node_port_range: (30_000, 32_767),
        local: LocalFrontends::default(),
    }
}

fn served(node_ports: &[(Proto, u16)]) -> LocalFrontends {
    let port = |(proto, port): &(Proto, u16)| SvcPort { port: *port, proto: *proto };
    LocalFrontends {
        kept: [].into(),
        node_addresses: ["192.0.2.1", "fd00::1"].map(|addr| addr.parse().unwrap()).into(),
        node_ports: node_ports.iter().map(port).collect(),
        frontends: [("192.0.2.1".parse().unwrap(), port(&(Proto::Sctp, 80)))].into(),
    }
}

#[test]
fn elements_are_listed_found_and_changed_alone() {
    let one = served(&[(Proto::Tcp, 30_080)]);
    let contents =
        canonical_contents(Table::Inet.contents(&Inputs { local: one.clone(), ..inputs() }).unwrap());
    let (frame, by_set) = apart(&contents);
    assert_eq!(elements(&by_set), one);
    assert_eq!(apart(&canonical_contents(Table::Inet.contents(&inputs()).unwrap())), (frame, vec![]));
    let two = served(&[(Proto::Tcp, 30_081), (Proto::Udp, 30_080)]);
    let commands = changed_elements(&one, &two);
    let element = |ports: Value| json!({"element": {"family": "inet", "table": "tunway", "name": "nodeports", "elem": ports}});
    assert_eq!(
        commands,
        [
            json!({"delete": element(json!([{"concat": ["tcp", 30_080]}]))}),
            json!({"add": element(json!([{"concat": ["udp", 30_080]}, {"concat": ["tcp", 30_081]}]))}),
        ]
    );
    assert_eq!(changed_elements(&two, &two), [] as [Value; 0]);
    assert_eq!(changed_elements(&two, &LocalFrontends::default()).len(), 4, "one set each");
}

#[test]
fn masquerading_keeps_out_of_the_node_ports() {
    let ranges = |range| {
        let all = masquerades(range);
        let port = |rule: &Vec<Value>| rule.last().unwrap().pointer("/masquerade/port/range").cloned();
        all.iter().map(port).collect::<Vec<_>>()
    };
    assert_eq!(ranges((30_000, 32_767)), [Some(json!([1024, 29_999])), Some(json!([32_768, 65_535])), None]);
    assert_eq!(ranges((1, 20_000)), [Some(json!([20_001, 65_535])), None]);
    assert_eq!(ranges((40_000, 65_535)), [Some(json!([1024, 39_999])), None]);
    assert_eq!(ranges((1, 65_535)), [None]);
}
