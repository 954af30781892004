//! The API server in trouble, while Services are served: nothing that is served is lost, what changed meanwhile is
//! seen afterwards, and tunway says that it is out of touch.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tests::kubernetes::{Api, Proxy, Site};

use crate::client::Front;
use crate::kit::{
    From, LAG, Outcome, PATIENCE, all_reach, ask, dropped, ensure, eventually, reaches, together,
};
use crate::objects::{Family, Service, all_ready, both_80, pod, serve, service};
use broken::{Broken, mend};
use load::under_load;
use status::{Logs, generations, in_touch};

pub(crate) mod broken;
pub(crate) mod load;
mod status;
mod witness;

const CLIENTS: [&str; 2] = ["client-1", "client-2"];
const SERVERS: [&str; 2] = ["server-1", "server-2"];
/// Longer than a watch lives: one that has died unnoticed is noticed by then.
const UNNOTICED: Duration = Duration::from_secs(90);
/// Controllers and kube-proxy, refused, try again after half a minute to a whole one, each kind of object by itself; a
/// server that is just up may refuse once more. tunway has no such excuse.
const CATCH_UP: Duration = Duration::from_secs(150);
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

/// Waits until the controllers have published these pods, and no other, as endpoints of a Service of both families.
pub(crate) fn endpoints_of(site: &Site<'_>, service: &Service, pods: &[&str]) -> Outcome {
    let wanted: BTreeSet<&str> = pods.iter().copied().collect();
    let selector = format!("kubernetes.io/service-name={}", service.name);
    eventually(&format!("the endpoints of {}", service.name), CATCH_UP, || {
        let slices = site.list("EndpointSlice", &selector).map_err(|error| error.to_string())?;
        let pods = |slice: &'_ Value| -> BTreeSet<String> {
            let endpoints = slice["endpoints"].as_array().into_iter().flatten();
            endpoints.filter_map(|one| one["targetRef"]["name"].as_str().map(str::to_owned)).collect()
        };
        let published: Vec<_> = slices.iter().map(pods).collect();
        let right = |pods: &BTreeSet<String>| pods.iter().map(String::as_str).eq(wanted.iter().copied());
        if published.len() == 2 && published.iter().all(right) {
            Ok(())
        } else {
            Err(format!("{published:?}"))
        }
    })
}

/// A Service is made now, and served on both nodes.
fn new_ones_come_up(site: &Site<'_>, name: &str) -> Outcome<Service> {
    let new = Service::simple(site, name, "steady")?;
    endpoints_of(site, &new, &SERVERS)?;
    for client in CLIENTS {
        all_reach(site, From::Pod(client), &new.fronts(), &SERVERS)?;
    }
    Ok(new)
}

/// Waits until every proxy follows the API server again.
pub(crate) fn catch_up(site: &Site<'_>, story: &str) -> Outcome {
    let begun = SystemTime::now();
    let cluster = site.cluster();
    let limit = match cluster.proxy() {
        Proxy::Tunway => LAG,
        Proxy::KubeProxy => CATCH_UP,
    };
    cluster.settle(limit)?;
    let took = begun.elapsed().unwrap_or_default().as_secs_f64();
    println!("measured: {story}: {:?} follows again after {took:.1} s", cluster.proxy());
    in_touch(cluster, true, LAG)
}

/// The API server is killed, stays away for a while, and comes back.
pub(crate) fn api_server_killed(site: &Site<'_>) -> Outcome {
    let steady = stage(site)?;
    let cluster = site.cluster();
    let logs = Logs::from_now(cluster)?;
    under_load(site, "API server killed", &steady, &CLIENTS, || {
        let stopped = Broken::api_server(cluster)?;
        in_touch(cluster, false, LAG)?;
        thread::sleep(Duration::from_secs(5));
        stopped.mend()?;
        catch_up(site, "API server killed")?;
        new_ones_come_up(site, "new").map(drop)
    })?;
    logs.tell_of_loss(&[STALE, FRESH])
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
        endpoints_of(site, &come, &SERVERS)?;
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
            together(&self.gone.fronts(), |front| dropped(site, from, front))?;
        }
        Ok(())
    }
}

/// The nodes are cut from the API server for as long as it takes until they know; objects change meanwhile.
pub(crate) fn network_cut(site: &Site<'_>) -> Outcome {
    let steady = stage(site)?;
    let changes = Changes::prepare(site)?;
    let cluster = site.cluster();
    let logs = Logs::from_now(cluster)?;
    under_load(site, "network cut", &steady, &CLIENTS, || {
        let begun = SystemTime::now();
        let network = Broken::network(cluster)?;
        let come = changes.make(site)?;
        in_touch(cluster, false, UNNOTICED)?;
        thread::sleep(A_MINUTE.saturating_sub(begun.elapsed().unwrap_or_default()));
        let cut = begun.elapsed().unwrap_or_default().as_secs();
        mend(network)?;
        println!("measured: {:?} was cut from the API server for {cut} s", cluster.proxy());
        catch_up(site, "network cut")?;
        changes.are_known(site, &come)
    })?;
    logs.tell_of_loss(&[STALE, FRESH])
}

/// The history a watch would resume from is gone: etcd was compacted, and the API server has forgotten too.
pub(crate) fn watch_expired(site: &Site<'_>) -> Outcome {
    let steady = stage(site)?;
    let changes = Changes::prepare(site)?;
    let cluster = site.cluster();
    let logs = Logs::from_now(cluster)?;
    let version = site.api().get("/api/v1/services")?["metadata"]["resourceVersion"].clone();
    let version = version.as_str().ok_or("a list without a version")?.to_owned();
    under_load(site, "etcd compacted", &steady, &CLIENTS, || {
        // Connections end with the server, and cannot be made again while the nodes are cut off.
        let stopped = Broken::api_server(cluster)?;
        in_touch(cluster, false, LAG)?;
        let network = Broken::network(cluster)?;
        stopped.mend()?;
        let come = changes.make(site)?;
        cluster.control_plane().compact_etcd()?;
        Broken::api_server(cluster)?.mend()?;
        has_expired(site.api(), &version)?;
        mend(network)?;
        catch_up(site, "etcd compacted")?;
        changes.are_known(site, &come)
    })?;
    logs.tell_of_loss(&[STALE, FRESH])
}

/// A watch from a version is told to begin anew.
fn has_expired(api: &Api, version: &str) -> Outcome {
    let told = api
        .watch("/api/v1/services", &format!("resourceVersion={version}"))
        .and_then(|watch| watch.next(PATIENCE));
    let expired = told.as_ref().is_err_and(|error| error.code == 410);
    ensure(expired, || format!("a watch from {version}: {told:?}"))
}

/// The API server answers only now and then.
pub(crate) fn slow_api_server(site: &Site<'_>) -> Outcome {
    let steady = stage(site)?;
    let cluster = site.cluster();
    let logs = Logs::from_now(cluster)?;
    under_load(site, "slow API server", &steady, &CLIENTS, || {
        let before = generations(cluster)?;
        let late = thread::scope(|scope| {
            let made = scope.spawn(|| Service::simple(site, "late", "steady").map_err(|why| why.to_string()));
            for _ in 0..8 {
                let paused = Broken::api_server_paused(cluster)?;
                thread::sleep(Duration::from_secs(2));
                // Whoever waits for the API server still says how it is.
                generations(cluster)?;
                paused.mend()?;
                thread::sleep(Duration::from_millis(200));
            }
            Outcome::Ok(made.join().map_err(|_| "creating a Service panicked")??)
        })?;
        catch_up(site, "slow API server")?;
        endpoints_of(site, &late, &SERVERS)?;
        for client in CLIENTS {
            all_reach(site, From::Pod(client), &late.fronts(), &SERVERS)?;
        }
        let after = generations(cluster)?;
        let moved = after.iter().zip(&before).all(|(after, before)| after > before);
        ensure(moved, || format!("generations {before:?} before, {after:?} after"))
    })?;
    logs.take_back(STALE, FRESH)
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
        // Some of all and the last one first: they wait until most are there.
        let sample = made.iter().step_by(MANY / 40 + 1).chain(made.last());
        let sample: Vec<Front> = sample.flat_map(fronts).collect();
        for client in CLIENTS {
            sample.iter().try_for_each(|front| reaches(site, From::Pod(client), *front, &SERVERS))?;
        }
        let all: Vec<Front> = made.iter().flat_map(fronts).collect();
        for client in CLIENTS {
            From::Pod(client).run(site, || all.iter().try_for_each(|front| answers(*front)))??;
        }
        let served = seconds();
        println!(
            "measured: {MANY} Services by {:?}: created in {created:.1} s, {} asked by {} clients and served after \
             {served:.1} s",
            site.cluster().proxy(),
            all.len(),
            CLIENTS.len()
        );
        new_ones_come_up(site, "after").map(drop)
    })
}

/// HTTP at port 80 of every address.
fn fronts(service: &Service) -> impl Iterator<Item = Front> {
    service.ips.iter().map(|ip| Front::tcp(*ip, 80))
}

/// Waits until a Service is answered, from where we are.
fn answers(front: Front) -> Outcome {
    eventually(&format!("{front} answers"), LAG, || front.ask("hostname", PATIENCE)).map(drop)
}

/// Services of one family each, by turns.
fn make_many(site: &Site<'_>, many: usize) -> Outcome<Vec<Service>> {
    const THREADS: usize = 16;
    let share = |first: usize| -> Result<Vec<Service>, String> {
        let make = |number: usize| {
            let name = format!("many-{number:04}");
            let mut object = service(&name, "steady", &both_80()[..1]);
            object["metadata"]["labels"] = json!({"many": "yes"});
            object["spec"]["ipFamilyPolicy"] = json!("SingleStack");
            object["spec"]["ipFamilies"] = json!([Family::BOTH[number % 2].name()]);
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
