//! What serves is restarted: run alone, since everybody would notice.

use std::time::Duration;

use tests::kubernetes::Site;

use crate::kit::{From, Outcome, all_reach, ensure, keeps_reaching};
use crate::objects::{Family, Service, all_ready, pod, remove_pod, serve};

const CATCH_UP: Duration = Duration::from_secs(100);
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
pub(crate) fn proxy_restarted(site: &Site<'_>, kill: bool) -> Outcome {
    let old = stage(site)?;
    let cluster = site.cluster();
    for node in 0..cluster.nodes().len() {
        cluster.restart_proxy(node, kill)?;
    }
    everywhere(site, &old, &["old-1", "old-2"])?;
    serve(site, "new-1", 1, "new")?;
    let new = Service::simple(site, "new", "new")?;
    everywhere(site, &new, &["new-1"])?;
    remove_pod(site, "old-2")?;
    everywhere(site, &old, &["old-1"])
}

/// The API server is restarted: what is served is served all the time, new Services come up after it.
pub(crate) fn api_server_restarted(site: &Site<'_>) -> Outcome {
    let old = stage(site)?;
    let cluster = site.cluster();
    cluster.stop_api_server()?;
    let meanwhile = (|| {
        let front = old.tcp(Family::V4, 80);
        for from in SEATS {
            keeps_reaching(site, from, front, &["old-1", "old-2"], Duration::from_secs(2))?;
        }
        everywhere(site, &old, &["old-1", "old-2"])
    })();
    cluster.start_api_server()?;
    meanwhile?;
    // A proxy that was refused waits before it asks again.
    cluster.settle(CATCH_UP)?;
    everywhere(site, &old, &["old-1", "old-2"])?;
    serve(site, "new-1", 1, "new")?;
    let new = Service::simple(site, "new", "new")?;
    everywhere(site, &new, &["new-1"])?;
    ensure(site.cluster_ips("old")? == old.ips, || "the Service has other addresses now".to_owned())
}
