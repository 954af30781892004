//! What serves is restarted: run alone, since everybody would notice.

use std::time::{Duration, SystemTime};

use tests::kubernetes::Site;

use crate::faults::broken::{Broken, mend};
use crate::faults::load::under_load;
use crate::faults::{catch_up, endpoints_of};
use crate::kit::{From, LAG, Outcome, all_reach, dropped, ensure, eventually, keeps_reaching, together};
use crate::objects::{Family, Service, all_ready, pod, remove_pod, serve};

/// An answer that nothing is in the way of comes before this.
const SHORT: Duration = Duration::from_millis(200);
const CLIENTS: [&str; 2] = ["client-1", "client-2"];
const SEATS: [From<'_>; 4] = [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)];

fn stage(site: &Site<'_>) -> Outcome<Service> {
    let pods = [("client-1", 0, "none"), ("client-2", 1, "none"), ("old-1", 0, "old"), ("old-2", 1, "old")];
    all_ready(site, pods.into_iter().map(|(name, node, app)| pod(name, node, app)).collect())?;
    let old = Service::simple(site, "old", "old")?;
    everywhere(site, &old, &["old-1", "old-2"])?;
    Ok(old)
}

fn everywhere(site: &Site<'_>, service: &Service, pods: &[&str]) -> Outcome {
    SEATS.into_iter().try_for_each(|from| all_reach(site, from, &service.fronts(), pods))
}

/// Every node's proxy is restarted: what was served is served, what was changed meanwhile is seen, new ones come up.
/// Connections may end with their proxy; new ones are what is judged.
pub(crate) fn proxy_restarted(site: &Site<'_>, kill: bool) -> Outcome {
    let old = stage(site)?;
    let gone = Service::simple(site, "gone", "old")?;
    everywhere(site, &gone, &["old-1", "old-2"])?;
    let cluster = site.cluster();
    let proxies = Broken::proxies(cluster, kill)?;
    remove_pod(site, "old-2")?;
    serve(site, "old-3", 1, "old")?;
    gone.delete(site)?;
    let come = Service::simple(site, "come", "old")?;
    for service in [&old, &come] {
        endpoints_of(site, service, &["old-1", "old-3"])?;
    }
    let begun = SystemTime::now();
    mend(proxies)?;
    let front = old.tcp(Family::V4, 80);
    for client in CLIENTS {
        // A question that waited for its SYN to be sent again would tell the time of that.
        let answers = || From::Pod(client).run(site, || front.ask("hostname", SHORT))?;
        eventually(&format!("{front} is answered again"), LAG, || {
            (0..10).try_for_each(|_| answers().map(drop))
        })?;
    }
    let seconds = begun.elapsed().unwrap_or_default().as_secs_f64();
    println!(
        "measured: {:?} started again: new connections are served after {seconds:.1} s",
        cluster.proxy()
    );
    everywhere(site, &old, &["old-1", "old-3"])?;
    everywhere(site, &come, &["old-1", "old-3"])?;
    for client in CLIENTS {
        together(&gone.fronts(), |front| dropped(site, From::Pod(client), front))?;
    }
    serve(site, "new-1", 1, "new")?;
    let new = Service::simple(site, "new", "new")?;
    everywhere(site, &new, &["new-1"])?;
    remove_pod(site, "old-3")?;
    everywhere(site, &old, &["old-1"])
}

/// The API server is restarted: what is served is served all the time, new Services come up after it.
pub(crate) fn api_server_restarted(site: &Site<'_>) -> Outcome {
    let old = stage(site)?;
    let cluster = site.cluster();
    under_load(site, "API server restarted", &old, &CLIENTS, || {
        let stopped = Broken::api_server(cluster)?;
        let front = old.tcp(Family::V4, 80);
        for from in SEATS {
            keeps_reaching(site, from, front, &["old-1", "old-2"], Duration::from_secs(2))?;
        }
        everywhere(site, &old, &["old-1", "old-2"])?;
        stopped.mend()?;
        catch_up(site, "API server restarted")?;
        everywhere(site, &old, &["old-1", "old-2"])?;
        serve(site, "new-1", 1, "new")?;
        let new = Service::simple(site, "new", "new")?;
        everywhere(site, &new, &["new-1"])
    })?;
    ensure(site.cluster_ips("old")? == old.ips, || "the Service has other addresses now".to_owned())
}
