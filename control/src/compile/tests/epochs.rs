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
fn another_service_on_the_address_judges_the_flows_of_the_first() {
    let mut bench = Bench::new(&[dns("10.96.0.10")], &[pods("dns-1", "1r 2r")]);
    let first = of_dns(&bench.next());
    let second = Service { key: key("dns2"), ..dns("10.96.0.10") };
    bench.desired.apply(says_slice(Slice { service: key("dns2"), ..pods("dns2-1", "2r 3r") }));
    bench.desired.apply(Event::ServiceGone(key("dns")));
    let world = bench.apply(says(second));
    let (_, judge) = world.frontend(ip("10.96.0.10"), SvcPort { port: 53, proto: Proto::Udp }).unwrap();
    assert_eq!((&*judge.name, judge.id == first.id), ("default/dns2", false));
    assert!(judge.judges(first.purge_epoch) && world.purge_epoch() == 42);
    let verdicts = ["10.1.0.1", "10.1.0.2"].map(|addr| judge.keeps(ip(addr), 53));
    assert_eq!(verdicts, [Purge::Stale, Purge::Kept]);
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
    assert_eq!(of_dns(&bench.apply(says(local))).purge_epoch, 42, "a policy is for new flows");
    bench.apply(Event::ServiceGone(key("dns")));
    assert_eq!(bench.epoch, 42, "flows of a Service that is gone are kept");
    let second = Service { ports: vec![port("", 53, Proto::Udp)], ..service("dns2", &["10.96.0.12"]) };
    bench.desired.apply(says(second));
    let back = bench.apply(says(dns("10.96.0.10")));
    assert_eq!(back.services().map(|s| s.purge_epoch).collect::<Vec<_>>(), [43, 43]);
    let web = bench.apply(says(service("web", &["10.96.0.1"])));
    assert_eq!((bench.epoch, tcp(&web, "10.96.0.1").unwrap().purge_epoch), (43, 43));
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

#[derive(Clone, Debug)]
enum Step {
    /// Endpoints in a slice of a Service.
    Pods {
        of: &'static str,
        slice: u8,
        words: String,
    },
    /// A Service on this address. Two on one are a contest.
    Serve {
        name: &'static str,
        vip: &'static str,
    },
    Gone(&'static str),
}

fn any_step() -> impl Strategy<Value = Step> {
    let name = || prop::sample::select(vec!["dns", "dns2"]);
    let words = "[0-3][rsn]( [4-6][rsn]){0,2}";
    prop_oneof![
        6 => (name(), words, 1_u8..3).prop_map(|(of, words, slice)| Step::Pods { of, slice, words }),
        2 => (name(), prop::sample::select(vec!["10.96.0.10", "10.96.0.11"]))
            .prop_map(|(name, vip)| Step::Serve { name, vip }),
        1 => name().prop_map(Step::Gone),
    ]
}

proptest! {
    /// Flows are stamped when opened and when judged, and judged only under a newer epoch, as workers do: by the service
    /// port that has their frontend. Then no flow that the rule calls stale goes unjudged, through changes of endpoints
    /// and addresses, deletions, returns, and Services that take over from each other.
    #[test]
    fn lazy_judging_misses_no_stale_flow(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut bench = Bench::new(&[dns("10.96.0.10")], &[]);
        bench.next();
        let udp = SvcPort { port: 53, proto: Proto::Udp };
        let mut flows = Vec::new();
        for step in steps {
            bench.desired.apply(match step {
                Step::Pods { of, slice, words } => {
                    says_slice(Slice { service: key(of), ..pods(&format!("{of}-{slice}"), &words) })
                }
                Step::Serve { name, vip } => says(Service { key: key(name), ..dns(vip) }),
                Step::Gone(name) => Event::ServiceGone(key(name)),
            });
            let Some(world) = bench.step().0.map(|world| snapshot(&world)) else { continue };
            flows.retain_mut(|(vip, addr, epoch): &mut (IpAddr, IpAddr, u16)| {
                let judge = world.frontend(*vip, udp).map(|(_, service)| service);
                let verdict = judge.map_or(Purge::Kept, |service| service.keeps(*addr, 53));
                let newer = epoch_newer(world.purge_epoch(), *epoch);
                let due = newer && judge.is_some_and(|service| service.judges(*epoch));
                assert!(due || verdict == Purge::Kept, "{addr} is stale under epoch {epoch}, and nobody looks");
                if newer {
                    *epoch = world.purge_epoch();
                }
                verdict == Purge::Kept
            });
            for service in world.services() {
                let members = service.members(Set::Cluster).iter().map(|n| &service.backends[*n as usize]);
                flows.extend(members.map(|b| (service.cluster_ip, b.addr, world.purge_epoch())));
            }
        }
    }
}
