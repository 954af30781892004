//! The loop with real workers on a queue in memory, a source and a host that the tests play.

mod fabric;
mod reloads;
mod shown;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use dataplane::flow::RegionConfig;
use dataplane::io::{MemPeer, MemQueue};
use dataplane::packet::tuple::Proto;
use dataplane::plane::{Plane, PlaneConfig};
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::oneshot;

use super::*;
use crate::config::file::{ConfigFile, SourceFile};
use crate::config::{Config, Machine};
use crate::fixtures::{self, slice};
use crate::model::{Port, Service};
use crate::node::LocalFrontends;
use crate::socket::wire::{Answer, Query, Services, Status};

/// A host that takes down what it is asked for.
#[derive(Clone, Debug, Default)]
struct FakeHost(Rc<RefCell<Calls>>);

#[derive(Debug, Default)]
struct Calls {
    attracted: Vec<Vec<IpAddr>>,
    cidrs: Vec<(IpAddr, u8)>,
    repairs: usize,
    refuse_routes: usize,
    broken: bool,
}

impl Steering for FakeHost {
    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<(IpAddr, u8)>) {
        self.0.borrow_mut().cidrs = cidrs.iter().copied().collect();
    }

    async fn attract(&mut self, vips: &BTreeSet<IpAddr>) -> Result<(), NodeError> {
        let mut calls = self.0.borrow_mut();
        if calls.refuse_routes > 0 {
            calls.refuse_routes -= 1;
            return Err(NodeError::Other("no route for you".into()));
        }
        calls.attracted.push(vips.iter().copied().collect());
        Ok(())
    }

    async fn serve(&mut self, _: &LocalFrontends) -> Result<(), NodeError> {
        Ok(())
    }
    async fn repair(&mut self) -> Result<Vec<String>, NodeError> {
        self.0.borrow_mut().repairs += 1;
        if self.0.borrow().broken {
            return Err(NodeError::Other("cannot look".into()));
        }
        pending().await
    }
}

/// The other ends of a run.
struct Outside {
    /// None: the source ended.
    events: RefCell<Option<Sender<Event>>>,
    asks: Sender<Ask>,
    stops: Sender<Stop>,
    here: watch::Sender<Surroundings>,
    files: Sender<Reread>,
    host: FakeHost,
    device: MemPeer,
}

impl Outside {
    async fn send(&self, event: Event) {
        let events = self.events.borrow().clone().unwrap();
        events.send(event).await.unwrap();
    }

    /// Both kinds listed, with these Services.
    async fn list(&self, services: Vec<Service>) {
        self.send(Event::Restart(Kind::Service)).await;
        for service in services {
            self.send(Event::Service(Box::new(service))).await;
        }
        self.send(Event::Done(Kind::Service)).await;
        self.send(Event::Restart(Kind::Slice)).await;
        self.send(Event::Done(Kind::Slice)).await;
    }

    async fn ask(&self, query: Query) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask { query, answer }).await.unwrap();
        answered.await.unwrap()
    }

    async fn status(&self) -> Status {
        let Answer::Status(status) = self.ask(Query::Status).await else { panic!("another answer") };
        status
    }

    async fn services(&self) -> Services {
        let Answer::Services(services) = self.ask(Query::Services).await else { panic!("another answer") };
        services
    }

    /// Waits for a status, for ten seconds.
    async fn until(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        self.until_services(|services| wanted(&services.status)).await.status
    }

    /// Waits for a state, for ten seconds: events and questions have no order among each other.
    async fn until_services(&self, wanted: impl Fn(&Services) -> bool) -> Services {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let services = self.services().await;
            if wanted(&services) {
                return services;
            }
            assert!(Instant::now() < deadline, "still {services:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Plays `script` beside a run; how the run ended, and what the host was asked for.
fn play(script: impl AsyncFnOnce(&Outside)) -> (anyhow::Result<()>, FakeHost) {
    play_as(|_| {}, script)
}

/// As [`play`], with another configuration.
fn play_as(
    change: impl FnOnce(&mut Config),
    script: impl AsyncFnOnce(&Outside),
) -> (anyhow::Result<()>, FakeHost) {
    let file = ConfigFile {
        max_flows: Some(crate::config::file::MaxFlows { ipv4: Some(4096), ipv6: Some(4096) }),
        return_path: Some(crate::config::file::ReturnPathName::Masquerade),
        snat_addresses: Some(vec!["192.0.2.1".parse().unwrap()]),
        source: Some(SourceFile { manifests: Some("/etc/m".into()), kubernetes: None }),
        ..ConfigFile::default()
    };
    let machine = Machine { node_name: None, host_name: "n1".into(), cores: 1 };
    let mut config = Config::resolve(file.clone(), &machine).unwrap();
    change(&mut config);
    let plane_config = PlaneConfig {
        region: RegionConfig { dir: None, name: "t".into(), max_flows_v4: 4096, max_flows_v6: 4096 },
        ttls: config.timeouts.clone(),
        engine: config.engine(),
        max_affinity: config.max_affinity,
    };
    let (queue, device) = MemQueue::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let plane = Plane::start(&plane_config, vec![queue]).unwrap();
        let host = FakeHost::default();
        let (events, from_source) = channel(2 * EVENTS_AT_ONCE);
        let (asks, asked) = channel(4);
        let (stops, stopped) = channel(2);
        let events = RefCell::new(Some(events));
        let (here, seen) = watch::channel(Surroundings::default());
        let (files, rereads) = channel(1);
        let outside = Outside { events, asks, stops, here, files, host: host.clone(), device };
        let drain = Duration::from_millis(50);
        let state = State::new(&config, plane);
        let mut run = Lifecycle::new(state, host.clone(), drain).surrounded(seen);
        run = run.reloading(Reloads { rereads, running: file, machine });
        let living = run.live(from_source, asked, stopped);
        let playing = async {
            script(&outside).await;
            // Unless the script did: a run that goes on would never end.
            let _ = outside.stops.try_send(Stop { why: "the test is over" });
            pending::<()>().await;
        };
        let limit = Duration::from_secs(30);
        let ended = tokio::time::timeout(limit, async {
            tokio::select! {
                ended = living => ended,
                () = playing => unreachable!("it waits for the run"),
            }
        })
        .await
        .expect("the run ends");
        let stopped = run.into_state().stop(Duration::from_secs(5));
        // A run that failed may have lost its workers.
        assert!(stopped.is_ok() || ended.is_err(), "{stopped:?}");
        (ended, host)
    })
}

fn service(name: &str, vip: &str) -> Service {
    fixtures::service(name, &[vip])
}

#[test]
fn new_flows_wait_for_a_complete_list_and_then_for_the_routes() {
    let (ended, host) = play(async |outside| {
        outside.send(Event::Restart(Kind::Service)).await;
        outside.send(Event::Service(Box::new(service("web", "10.96.0.7")))).await;
        outside.send(Event::Done(Kind::Service)).await;
        // Whatever the order of events and questions: nothing may be ready yet.
        for _ in 0..20 {
            let early = outside.status().await;
            assert!(!early.ready && early.generation == 0, "{early:?}");
        }
        assert!(outside.host.0.borrow().attracted.is_empty());
        outside.send(Event::Restart(Kind::Slice)).await;
        outside.send(Event::Done(Kind::Slice)).await;
        outside.until(|status| status.ready).await;
        let services = outside.services().await.services;
        assert_eq!(services.len(), 1);
        assert_eq!((services[0].port, services[0].endpoints.len()), (80, 0));
        assert!(services[0].name.starts_with("default/web"), "{}", services[0].name);
    });
    ended.unwrap();
    assert_eq!(host.0.borrow().attracted, [["10.96.0.7".parse::<IpAddr>().unwrap()]]);
}

#[test]
fn an_empty_cluster_is_a_complete_one() {
    let (ended, host) = play(async |outside| {
        outside.list(vec![]).await;
        outside.until(|status| status.ready).await;
    });
    ended.unwrap();
    assert_eq!(host.0.borrow().attracted.len(), 1);
}

#[test]
fn routes_follow_the_addresses() {
    let (ended, host) = play(async |outside| {
        outside.list(vec![service("far", "198.51.100.7")]).await;
        let first = outside.until(|status| status.ready).await;
        let key = service("far", "198.51.100.7").key;
        outside.send(Event::ServiceGone(key)).await;
        outside.until(|status| status.generation > first.generation).await;
    });
    ended.unwrap();
    assert_eq!(host.0.borrow().attracted, [vec!["198.51.100.7".parse::<IpAddr>().unwrap()], vec![]]);
}

#[test]
fn without_its_first_routes_a_run_fails_and_later_ones_are_tried_again() {
    let (ended, _) = play(async |outside| {
        outside.host.0.borrow_mut().refuse_routes = 1;
        outside.list(vec![]).await;
        pending::<()>().await;
    });
    assert!(format!("{:#}", ended.unwrap_err()).contains("no route for you"));

    let (ended, host) = play(async |outside| {
        outside.list(vec![]).await;
        outside.until(|status| status.ready).await;
        outside.host.0.borrow_mut().refuse_routes = 1;
        outside.send(Event::Service(Box::new(service("far", "198.51.100.7")))).await;
        let deadline = Instant::now() + Duration::from_secs(10);
        while outside.host.0.borrow().attracted.len() < 2 {
            assert!(Instant::now() < deadline, "not tried again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    ended.unwrap();
    assert_eq!(host.0.borrow().attracted[1].len(), 1);
}

#[test]
fn a_stop_drains_also_when_routes_cannot_be_set() {
    let (ended, host) = play(async |outside| {
        outside.list(vec![]).await;
        outside.until(|status| status.ready).await;
        // Until the next change goes out at once: the drain is no longer than the pace.
        tokio::time::sleep(PUBLISH_INTERVAL * 2).await;
        outside.host.0.borrow_mut().refuse_routes = 1;
        outside.stops.send(Stop { why: "test" }).await.unwrap();
        outside.until(|status| status.stopping).await;
        outside.send(Event::Service(Box::new(service("far", "198.51.100.7")))).await;
        pending::<()>().await;
    });
    ended.unwrap();
    assert_eq!(host.0.borrow().refuse_routes, 0, "they were tried");
}

#[test]
fn lists_that_end_together_are_published_together() {
    let (ended, _) = play(async |outside| {
        outside.list(vec![]).await;
        let before = outside.until(|status| status.ready).await;
        // Until the next change may go out at once.
        tokio::time::sleep(PUBLISH_INTERVAL * 2).await;
        let events = outside.events.borrow().clone().unwrap();
        let say = |event| events.try_send(event).unwrap();
        say(Event::Restart(Kind::Slice));
        say(Event::Restart(Kind::Service));
        // So many that the end of the first list is the last event taken at once.
        for n in 0..EVENTS_AT_ONCE - 4 {
            let vip = format!("10.97.{}.{}", n / 250, n % 250);
            let affinity = (n == 0).then_some(30);
            say(Event::Service(Box::new(Service { affinity, ..service(&format!("s{n}"), &vip) })));
        }
        say(Event::Slice(Box::new(slice("s0-1", "s0", &["10.1.0.1"]))));
        say(Event::Done(Kind::Service));
        say(Event::Done(Kind::Slice));
        let after = outside.until_services(|services| !services.services.is_empty()).await;
        assert_eq!(
            (after.services.len(), after.services[0].name.as_str()),
            (EVENTS_AT_ONCE - 4, "default/s0")
        );
        assert_eq!(after.services[0].endpoints.len(), 1, "a Service without its endpoints was served");
        assert_eq!(after.status.generation, before.generation + 1);
        assert_eq!([0, 1].map(|n| after.services[n].affinity_seconds), [Some(30), None]);
        assert_eq!((after.status.remembered, after.status.remembered_max), (0, 262_144));
    });
    ended.unwrap();
}

#[test]
fn a_storm_of_changes_is_a_few_publishes_and_the_last_state_wins() {
    let (ended, _) = play(async |outside| {
        outside.list(vec![]).await;
        let before = outside.until(|status| status.ready).await;
        let begin = Instant::now();
        for round in 0_u8..200 {
            let vip = format!("10.96.1.{round}");
            outside.send(Event::Service(Box::new(service("web", &vip)))).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let services = outside.services().await;
            if services.services.first().is_some_and(|web| web.cluster_ip.to_string() == "10.96.1.199") {
                let publishes = services.status.generation - before.generation;
                // One at once, then one an interval, one at the end.
                let most = begin.elapsed().as_millis() / PUBLISH_INTERVAL.as_millis() + 2;
                assert!(u128::from(publishes) <= most, "{publishes} publishes, {most} at most");
                break;
            }
            assert!(Instant::now() < deadline, "{services:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    ended.unwrap();
}

#[test]
fn a_host_that_cannot_be_looked_at_is_not_looked_at_all_the_time() {
    let (ended, host) = play(async |outside| {
        outside.host.0.borrow_mut().broken = true;
        for _ in 0..50 {
            outside.status().await;
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    });
    ended.unwrap();
    let repairs = host.0.borrow().repairs;
    assert!((1..=3).contains(&repairs), "{repairs} looks in a fifth of a second");
}

#[test]
fn a_run_without_its_workers_or_its_source_fails() {
    let (ended, _) = play(async |outside| {
        outside.device.unplug();
        pending::<()>().await;
    });
    assert!(format!("{:#}", ended.unwrap_err()).contains("worker"));
    let (ended, _) = play(async |outside| {
        outside.events.take();
        pending::<()>().await;
    });
    assert!(format!("{:#}", ended.unwrap_err()).contains("source"));
}

#[test]
fn a_stop_drains_and_a_second_one_does_not_wait() {
    let (ended, _) = play(async |outside| {
        outside.list(vec![]).await;
        outside.until(|status| status.ready).await;
        outside.stops.send(Stop { why: "test" }).await.unwrap();
        let status = outside.until(|status| status.stopping).await;
        assert!(!status.ready);
        pending::<()>().await;
    });
    ended.unwrap();
    let (ended, _) = play(async |outside| {
        outside.stops.send(Stop { why: "test" }).await.unwrap();
        outside.stops.send(Stop { why: "again" }).await.unwrap();
        pending::<()>().await;
    });
    ended.unwrap();
}
