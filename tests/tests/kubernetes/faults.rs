//! The API server in trouble, while Services are served: nothing that is served is lost, what changed meanwhile is
//! seen afterwards, and tunway says that it is out of touch.

use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tests::kubernetes::{Api, Site};

use crate::kit::{From, LAG, Outcome, PATIENCE, all_reach, ask, dropped, ensure, eventually, reaches};
use crate::objects::{Family, Service, all_ready, both_80, pod, serve, service};
use load::under_load;
use status::{in_touch, logged};

mod load;
mod status;

const CLIENTS: [&str; 2] = ["client-1", "client-2"];
const SERVERS: [&str; 2] = ["server-1", "server-2"];
/// Longer than a watch lives: one that has died unnoticed is noticed by then.
const UNNOTICED: Duration = Duration::from_secs(90);
/// Controllers and proxies that were refused try again after half a minute, and some after twice that.
const CATCH_UP: Duration = Duration::from_secs(100);
/// A cut shorter than this is no cut worth telling.
const A_MINUTE: Duration = Duration::from_secs(60);
const STALE: &str = "out of touch with the source";
const FRESH: &str = "in touch with the source";

fn stage(site: &Site<'_>) -> Outcome<Service> {
    let (clients, servers) = (CLIENTS.iter().enumerate(), SERVERS.iter().enumerate());
    let clients = clients.map(|(node, name)| pod(name, node, "none"));
    let servers = servers.map(|(node, name)| pod(name, node, "steady"));
    all_ready(site, clients.chain(servers).collect())?;
    let steady = Service::simple(site, "steady", "steady")?;
    for client in CLIENTS {
        all_reach(site, From::Pod(client), &steady.fronts(), &SERVERS)?;
    }
    Ok(steady)
}

/// Waits until the controllers have published the endpoints of a Service of both families.
fn endpoints_of(site: &Site<'_>, service: &Service) -> Outcome {
    let selector = format!("kubernetes.io/service-name={}", service.name);
    eventually(&format!("the endpoints of {}", service.name), CATCH_UP, || {
        let slices = site.list("EndpointSlice", &selector).map_err(|error| error.to_string())?;
        if slices.len() == 2 { Ok(()) } else { Err(format!("{} slices", slices.len())) }
    })
}

/// A Service is made now, and served on both nodes.
fn new_ones_come_up(site: &Site<'_>, name: &str) -> Outcome<Service> {
    let new = Service::simple(site, name, "steady")?;
    endpoints_of(site, &new)?;
    for client in CLIENTS {
        all_reach(site, From::Pod(client), &new.fronts(), &SERVERS)?;
    }
    Ok(new)
}

/// Waits until every proxy follows the API server again.
fn catch_up(site: &Site<'_>, story: &str) -> Outcome {
    let begun = SystemTime::now();
    let cluster = site.cluster();
    cluster.settle(CATCH_UP)?;
    let took = begun.elapsed().unwrap_or_default().as_secs_f64();
    println!("measured: {story}: {:?} follows again after {took:.1} s", cluster.proxy());
    in_touch(cluster, true, LAG)
}

/// The API server is killed, stays away for a while, and comes back.
pub(crate) fn api_server_killed(site: &Site<'_>) -> Outcome {
    let steady = stage(site)?;
    let cluster = site.cluster();
    under_load(site, "API server killed", &steady, &CLIENTS, || {
        cluster.stop_api_server()?;
        let noticed = in_touch(cluster, false, LAG);
        thread::sleep(Duration::from_secs(5));
        cluster.start_api_server()?;
        noticed?;
        catch_up(site, "API server killed")?;
        new_ones_come_up(site, "new").map(drop)
    })?;
    logged(cluster, &[STALE, FRESH])
}

/// What changes while a node is cut off: a Service goes, one comes, one moves.
struct Changes {
    gone: Service,
    moved: Service,
}

impl Changes {
    fn prepare(site: &Site<'_>) -> Outcome<Self> {
        let gone = new_ones_come_up(site, "gone")?;
        serve(site, "before", 0, "before")?;
        let moved = Service::simple(site, "moved", "before")?;
        for client in CLIENTS {
            reaches(site, From::Pod(client), moved.tcp(Family::V4, 80), &["before"])?;
        }
        Ok(Self { gone, moved })
    }

    /// Changes the objects; nobody but the API server knows.
    fn make(&self, site: &Site<'_>) -> Outcome<Service> {
        self.gone.delete(site)?;
        serve(site, "after", 1, "after")?;
        site.merge("Service", "moved", json!({"spec": {"selector": {"app": "after"}}}))?;
        let come = Service::simple(site, "come", "steady")?;
        endpoints_of(site, &come)?;
        // Those who are cut off do not know.
        let said = ask(site, From::Pod(CLIENTS[0]), self.moved.tcp(Family::V4, 80), "hostname")?;
        ensure(said == "before", || format!("a node that is cut off knows of {said}"))?;
        Ok(come)
    }

    /// Waits until everybody knows.
    fn are_known(&self, site: &Site<'_>, come: &Service) -> Outcome {
        for client in CLIENTS {
            let from = From::Pod(client);
            all_reach(site, from, &come.fronts(), &SERVERS)?;
            all_reach(site, from, &self.moved.fronts(), &["after"])?;
            for family in Family::BOTH {
                dropped(site, from, self.gone.tcp(family, 80))?;
            }
        }
        Ok(())
    }
}

/// The nodes are cut from the API server for as long as it takes until they know; objects change meanwhile.
pub(crate) fn network_cut(site: &Site<'_>) -> Outcome {
    let steady = stage(site)?;
    let changes = Changes::prepare(site)?;
    let cluster = site.cluster();
    let nodes = 0..cluster.nodes().len();
    under_load(site, "network cut", &steady, &CLIENTS, || {
        let begun = SystemTime::now();
        nodes.clone().try_for_each(|node| cluster.cut_from_api(node))?;
        let come = changes.make(site).and_then(|come| in_touch(cluster, false, UNNOTICED).map(|()| come));
        thread::sleep(A_MINUTE.saturating_sub(begun.elapsed().unwrap_or_default()));
        let cut = begun.elapsed().unwrap_or_default().as_secs();
        nodes.clone().try_for_each(|node| cluster.mend(node))?;
        let come = come?;
        println!("measured: {:?} was cut from the API server for {cut} s", cluster.proxy());
        catch_up(site, "network cut")?;
        changes.are_known(site, &come)
    })?;
    logged(cluster, &[STALE, FRESH])
}

/// The history a watch would resume from is gone: etcd was compacted, and the API server has forgotten too.
pub(crate) fn watch_expired(site: &Site<'_>) -> Outcome {
    let steady = stage(site)?;
    let changes = Changes::prepare(site)?;
    let cluster = site.cluster();
    let nodes = 0..cluster.nodes().len();
    let version = site.api().get("/api/v1/services")?["metadata"]["resourceVersion"].clone();
    let version = version.as_str().ok_or("a list without a version")?.to_owned();
    under_load(site, "etcd compacted", &steady, &CLIENTS, || {
        // Connections end with the server, and cannot be made again while the nodes are cut off.
        cluster.stop_api_server()?;
        let noticed = in_touch(cluster, false, LAG);
        nodes.clone().try_for_each(|node| cluster.cut_from_api(node))?;
        cluster.start_api_server()?;
        let come = changes.make(site);
        cluster.control_plane().compact_etcd()?;
        cluster.stop_api_server()?;
        cluster.start_api_server()?;
        let expired = has_expired(site.api(), &version);
        nodes.clone().try_for_each(|node| cluster.mend(node))?;
        noticed?;
        expired?;
        catch_up(site, "etcd compacted")?;
        changes.are_known(site, &come?)
    })?;
    logged(cluster, &[STALE, FRESH])
}

/// A watch from a version is told to begin anew.
fn has_expired(api: &Api, version: &str) -> Outcome {
    let told = match api.watch("/api/v1/services", &format!("resourceVersion={version}")) {
        Err(error) => error.to_string(),
        Ok(watch) => format!("{:?}", watch.next(PATIENCE)),
    };
    ensure(told.contains("410") || told.contains("Expired"), || format!("a watch from {version}: {told}"))
}

/// The API server answers only now and then.
pub(crate) fn slow_api_server(site: &Site<'_>) -> Outcome {
    let steady = stage(site)?;
    let cluster = site.cluster();
    let plane = cluster.control_plane();
    under_load(site, "slow API server", &steady, &CLIENTS, || {
        let made = thread::scope(|scope| {
            let made = scope.spawn(|| Service::simple(site, "late", "steady").map_err(|why| why.to_string()));
            for _ in 0..8 {
                plane.pause_api_server()?;
                thread::sleep(Duration::from_secs(2));
                plane.resume_api_server()?;
                thread::sleep(Duration::from_millis(200));
            }
            made.join().map_err(|_| std::io::Error::other("creating a Service panicked"))
        })?;
        let late = made?;
        catch_up(site, "slow API server")?;
        endpoints_of(site, &late)?;
        for client in CLIENTS {
            all_reach(site, From::Pod(client), &late.fronts(), &SERVERS)?;
        }
        Ok(())
    })
}

/// Two thousand Services are made at once, and served.
pub(crate) fn many_services(site: &Site<'_>) -> Outcome {
    const MANY: usize = 2_000;
    let steady = stage(site)?;
    under_load(site, "2,000 Services at once", &steady, &CLIENTS, || {
        let begun = SystemTime::now();
        let seconds = || begun.elapsed().unwrap_or_default().as_secs_f64();
        let made = make_many(site, MANY)?;
        let created = seconds();
        // The last ones, and some of all: everything else is between them.
        let sample: Vec<&Service> = made.iter().step_by(MANY / 40).chain(made.last()).collect();
        for client in CLIENTS {
            for service in &sample {
                reaches(site, From::Pod(client), service.tcp(Family::V4, 80), &SERVERS)?;
            }
        }
        let served = seconds();
        println!(
            "measured: {MANY} Services by {:?}: created in {created:.1} s, all served after {served:.1} s",
            site.cluster().proxy()
        );
        new_ones_come_up(site, "after").map(drop)
    })
}

fn make_many(site: &Site<'_>, many: usize) -> Outcome<Vec<Service>> {
    const THREADS: usize = 16;
    let share = |first: usize| -> Result<Vec<Service>, String> {
        let make = |number: usize| {
            let name = format!("many-{number:04}");
            let mut object = service(&name, "steady", &both_80()[..1]);
            object["metadata"]["labels"] = json!({"many": "yes"});
            object["spec"]["ipFamilyPolicy"] = json!("SingleStack");
            let made = site.create(object).map_err(|error| format!("{name}: {error}"))?;
            let ip = made["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
            Ok(Service { name, ips: vec![ip.ok_or("no address")?] })
        };
        (first..many).step_by(THREADS).map(make).collect()
    };
    thread::scope(|scope| {
        let shares: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || share(first))).collect();
        let mut all = Vec::new();
        for one in shares {
            all.extend(one.join().map_err(|_| "a client panicked")??);
        }
        all.sort_by(|a: &Service, b| a.name.cmp(&b.name));
        Ok(all)
    })
}
