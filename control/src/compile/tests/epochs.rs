//! The purge rule of UDP flows: what advances the epoch, and that judging lazily by it misses no stale flow.

use dataplane::service::{Purge, epoch_newer};
use proptest::prelude::*;

use super::*;

/// Endpoints in one word each: host number, then `r` ready, `s` serving only, `n` neither.
fn pods(name: &str, words: &str) -> Slice {
    let mut slice = slice(name, "dns", &[]);
    slice.ports[0] = SlicePort { name: String::new(), proto: Proto::Udp, port: 53 };
    slice.endpoints = words
        .split_whitespace()
        .map(|word| {
            let (host, state) = word.split_at(1);
            let (ready, serving) = (state == "r", state != "n");
            Endpoint { ready, serving, ..endpoint(&format!("10.1.0.{host}")) }
        })
        .collect();
    slice
}

fn dns(addr: &str) -> Service {
    Service { ports: vec![port("", 53, Proto::Udp)], ..service("dns", &[addr]) }
}

fn of_dns(world: &Snapshot) -> Arc<Compiled> {
    world.services().find(|s| &*s.name == "default/dns").unwrap().clone()
}

#[test]
fn which_changes_advance_the_epoch() {
    let rows = [
        ("1r 2r", "1r 2r 3r", false, "one more"),
        ("1r 2r", "1r", true, "one gone"),
        ("1r 2r", "1r 2n", true, "one neither ready nor serving any more"),
        ("1r 2r", "1r 2s", false, "one not ready, but serving"),
        ("1r 2s", "1r", true, "a serving one gone, though it was in no set"),
        ("1r 2n", "1r", false, "one that was of no use gone"),
        ("1r", "2r", true, "one replaced"),
        ("1r", "", true, "the last one gone"),
        ("", "1r", true, "the first one: flows from before were kept while there was none"),
        ("1n", "1r", true, "the first one of use"),
        ("1n", "2n", false, "none of use before or after"),
    ];
    for (before, after, advances, what) in rows {
        let mut bench =
            Bench::new(&[dns("10.96.0.10"), service("web", &["10.96.0.1"])], &[pods("dns-1", before)]);
        let old = bench.next();
        assert!(old.services().all(|s| s.purge_epoch == 41), "the first epoch is everybody's");
        bench.desired.apply(says_slice(pods("dns-1", after)));
        let (world, calls) = bench.step();
        assert_eq!(calls == 1, advances, "{what}");
        if let Some(world) = world {
            let new = snapshot(&world);
            assert_eq!(of_dns(&new).purge_epoch == 42, advances, "{what}");
            assert_eq!(tcp(&new, "10.96.0.1").unwrap().purge_epoch, 41, "{what}: not the other's business");
        }
    }
}

#[test]
fn the_service_itself_counts_tcp_does_not_and_one_compile_takes_one_epoch() {
    let web_pods = |addrs: &[&str]| says_slice(slice("web-1", "web", addrs));
    let mut bench =
        Bench::new(&[dns("10.96.0.10"), service("web", &["10.96.0.1"])], &[pods("dns-1", "1r 2r")]);
    bench.next();
    bench.apply(web_pods(&["10.1.0.1", "10.1.0.2"]));
    bench.apply(web_pods(&["10.1.0.1"]));
    bench.apply(Event::ServiceGone(key("web")));
    assert_eq!(bench.epoch, 41, "TCP flows are never judged");
    assert_eq!(of_dns(&bench.apply(says(dns("10.96.0.11")))).purge_epoch, 42);
    let local = Service { internal: Policy::Local, ..dns("10.96.0.11") };
    assert_eq!(of_dns(&bench.apply(says(local))).purge_epoch, 43);
    bench.apply(Event::ServiceGone(key("dns")));
    assert_eq!(bench.epoch, 43, "flows of a Service that is gone are kept");
    let second = Service { ports: vec![port("", 53, Proto::Udp)], ..service("dns2", &["10.96.0.12"]) };
    bench.desired.apply(says(second));
    let back = bench.apply(says(dns("10.96.0.10")));
    assert_eq!(back.services().map(|s| s.purge_epoch).collect::<Vec<_>>(), [44, 44]);
    let web = bench.apply(says(service("web", &["10.96.0.1"])));
    assert_eq!((bench.epoch, tcp(&web, "10.96.0.1").unwrap().purge_epoch), (44, 44));
}

/// The epoch is a circle: what did not change for half of it must neither hold the others back nor be taken for new.
#[test]
fn the_newest_epoch_of_a_world_is_the_counter_all_the_way_round() {
    let mut bench = Bench::new(
        &[dns("10.96.0.10"), service("web", &["10.96.0.1"]), service("idle", &["10.96.0.2"])],
        &[pods("dns-1", "1r 2r")],
    );
    assert_eq!(bench.next().purge_epoch(), 41);
    for round in 0..60_u16 {
        // As if a thousand other publishes had taken their epochs; the counter never is 0.
        bench.epoch = (bench.epoch + 1_000) % (1 << 14);
        let world = bench.apply(says_slice(pods("dns-1", if round % 2 == 0 { "1r" } else { "1r 2r 3r" })));
        if round % 2 == 0 {
            assert_eq!(
                (of_dns(&world).purge_epoch, world.purge_epoch()),
                (bench.epoch, bench.epoch),
                "round {round}"
            );
        }
        let port_of_old =
            Service { ports: vec![port("", 80 + round, Proto::Tcp)], ..service("web", &["10.96.0.1"]) };
        if round % 7 == 6 {
            let (before, world) = (world.purge_epoch(), bench.apply(says(port_of_old)));
            assert_eq!(world.purge_epoch(), before, "round {round}: a TCP port is no reason to judge");
        }
    }
}

proptest! {
    /// Flows are stamped when opened and when judged, and judged only under a newer epoch, as workers do. Then no
    /// flow that the rule calls stale goes unjudged, through endpoint changes, deletions and returns.
    #[test]
    fn lazy_judging_misses_no_stale_flow(
        steps in prop::collection::vec(prop_oneof![
            6 => ("[0-3][rsn]( [4-6][rsn]){0,2}", 1_u8..3).prop_map(|(words, n)| Some((words, n))),
            1 => Just(None),
        ], 1..30)
    ) {
        let mut bench = Bench::new(&[dns("10.96.0.10")], &[]);
        bench.next();
        let mut flows = Vec::new();
        let mut there = true;
        for step in steps {
            match step {
                Some((words, n)) => bench.desired.apply(says_slice(pods(&format!("dns-{n}"), &words))),
                None if there => bench.desired.apply(Event::ServiceGone(key("dns"))),
                None => bench.desired.apply(says(dns("10.96.0.10"))),
            }
            there = bench.desired.services().contains_key(&key("dns"));
            let Some(world) = bench.step().0.map(|world| snapshot(&world)) else { continue };
            flows.retain_mut(|(id, addr, epoch): &mut (ServiceId, IpAddr, u16)| {
                let verdict = world.keeps(*id, *addr, 53);
                let newer = epoch_newer(world.purge_epoch(), *epoch);
                let due = newer && world.service(*id).is_some_and(|service| service.judges(*epoch));
                assert!(due || verdict == Purge::Kept, "{addr} is stale under epoch {epoch}, and nobody looks");
                if newer {
                    *epoch = world.purge_epoch();
                }
                verdict == Purge::Kept
            });
            for service in world.services() {
                let members = service.members(Set::Cluster).iter().map(|n| &service.backends[*n as usize]);
                flows.extend(members.map(|b| (service.id, b.addr, world.purge_epoch())));
            }
        }
    }
}
