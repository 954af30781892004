//! UDP clients that never change their port: a flow that leads nowhere must not hold them.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tests::kubernetes::{Pod, Site};

use super::readiness::{switch_on, switched};
use crate::client::{Failure, Front, Udp};
use crate::kit::{From, LAG, Outcome, PATIENCE, StopOnDrop, ask, ensure, eventually, holds, reaches};
use crate::objects::{
    Family, Service, address, all_ready, both_80, pod, port, ready, remove_pod, serve, serve_with, service,
    with_args, with_spec,
};
use crate::ways::Way;

/// A client that goes on asking from one port while the scenario goes on.
fn with_client<T>(
    site: &Site<'_>,
    from: From<'_>,
    at: SocketAddr,
    scenario: impl FnOnce(&dyn Fn(&str) -> Outcome) -> Outcome<T>,
) -> Outcome<T> {
    let socket = from.run(site, || Udp::open(12_345, at))??;
    // Between two questions less time passes than any flow of UDP lives.
    let ask_one = || socket.ask("hostname", Duration::from_millis(300));
    let (stop, asking) = (AtomicBool::new(false), Mutex::new(()));
    let background = || {
        while !stop.load(Ordering::Relaxed) {
            let Ok(_turn) = asking.lock() else { return };
            let _ = ask_one();
            drop(_turn);
            thread::sleep(Duration::from_millis(50));
        }
    };
    let answered_by = |pod: &str| {
        eventually(&format!("the client on one port is answered by {pod}"), LAG, || {
            let _turn = asking.lock().map_err(|_| Failure::Other("the client panicked".to_owned()))?;
            // An answer to an earlier question may still be on its way: three in a row are of now.
            for _ in 0..3 {
                let said = ask_one()?;
                if said != pod {
                    return Err(Failure::Other(format!("{said} answers")));
                }
            }
            Ok(())
        })
    };
    thread::scope(|scope| {
        let stopped = StopOnDrop(&stop);
        let running = scope.spawn(background);
        let told = scenario(&answered_by);
        drop(stopped);
        running.join().map_err(|_| "the client panicked")?;
        told
    })
}

fn on_host(name: &str, node: usize) -> Pod {
    let ports = ["netexec", "--http-port=18083", "--udp-port=18083"];
    Pod { host_network: true, ..with_args(pod(name, node, "none"), &ports) }
}

/// Who asks while servers come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// A pod of node 1.
    Pod,
    /// The same in its node's network.
    HostPod,
    /// A host off the cluster.
    Outside,
}

/// The endpoint of a client goes, and another one comes: on node 2, and then on these nodes.
pub(crate) fn server_pod_cycles(
    site: &Site<'_>,
    way: Way,
    family: Family,
    client: Client,
    nodes: [usize; 2],
) -> Outcome {
    all_ready(site, vec![pod("pod1", 1, "web")])?;
    let outside = site.cluster().outside()?;
    let from = match client {
        Client::Outside => From::Outside(&outside),
        Client::HostPod => ready(site, on_host("client", 0)).map(|()| From::Pod("client"))?,
        Client::Pod => serve(site, "client", 0, "none").map(|()| From::Pod("client"))?,
    };
    let web = way.create(site, service("web", "web", &both_80()))?;
    with_client(site, from, web.udp(family).at, |answered_by| {
        answered_by("pod1")?;
        serve(site, "pod2", nodes[0], "web")?;
        remove_pod(site, "pod1")?;
        answered_by("pod2")?;
        // And on, with a time without anybody between.
        remove_pod(site, "pod2")?;
        serve(site, "pod3", nodes[1], "web")?;
        answered_by("pod3")
    })
}

/// The same under `internalTrafficPolicy: Local`: the pods of the client's node take turns.
pub(crate) fn server_pod_cycles_locally(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client", 0, "none"), pod("pod1", 0, "web"), pod("far", 1, "web")])?;
    let local = json!({"internalTrafficPolicy": "Local"});
    let web = Service::create(site, with_spec(service("web", "web", &both_80()), local))?;
    with_client(site, From::Pod("client"), web.udp(Family::V4, 80).at, |answered_by| {
        answered_by("pod1")?;
        serve(site, "pod2", 0, "web")?;
        remove_pod(site, "pod1")?;
        answered_by("pod2")
    })
}

/// A client began when there were no endpoints; when there are, it is served.
pub(crate) fn unready_becomes_ready(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    site.pod(switched("pod1", 1, "web"))?;
    let web = Service::simple(site, "web", "web")?;
    with_client(site, From::Pod("client"), web.udp(Family::V4, 80).at, |answered_by| {
        eventually("the client is refused", LAG, || {
            match ask(site, From::Node(1), web.udp(Family::V4, 80), "hostname") {
                Err(Failure::Refused) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        let _switch = switch_on(site, "pod1")?;
        answered_by("pod1")
    })
}

/// A client began before there was a Service at its address.
pub(crate) fn client_before_service(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client", 0, "none"), pod("pod1", 1, "web")])?;
    let probe = Service::simple(site, "probe", "web")?;
    probe.delete(site)?;
    let at = probe.udp(Family::V4, 80).at;
    with_client(site, From::Pod("client"), at, |answered_by| {
        eventually("the address is nobody's", LAG, || {
            match ask(site, From::Pod("client"), probe.udp(Family::V4, 80), "hostname") {
                Err(Failure::TimedOut) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        let wanted = json!({"clusterIP": probe.ips[0], "clusterIPs": probe.ips});
        let object = with_spec(service("web", "web", &both_80()), wanted);
        eventually("the address can be had", LAG, || site.create(object.clone()))?;
        answered_by("pod1")
    })
}

/// The Service asks for another port of the same pod.
pub(crate) fn target_port_changes(site: &Site<'_>, way: Way) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve_with(site, "pod1", 1, "web", &["netexec", "--http-port=80", "--udp-port=81"])?;
    let web = way.create(site, service("web", "web", &[port("udp", "UDP", 80, 82)]))?;
    let own = SocketAddr::new(address(site, "pod1", Family::V4)?, 82);
    let old = site.inside("pod1", || UdpSocket::bind(own))??;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        scope.spawn(|| answer(&old, "the old port", &stop));
        with_client(site, From::Pod("client"), web.udp(Family::V4).at, |answered_by| {
            answered_by("the old port")?;
            // The node port stays with its name and protocol.
            let ports = [port("udp", "UDP", 80, 81)];
            site.merge("Service", "web", json!({"spec": {"ports": ports}}))?;
            answered_by("pod1")
        })
    })
}

/// Answers every datagram with a name, until told to stop.
fn answer(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let _ = socket.set_read_timeout(Some(Duration::from_millis(100)));
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), peer);
        }
    }
}

/// A client whose endpoint stays is not moved by what happens to others.
pub(crate) fn others_do_not_move_it(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client", 0, "none"), pod("pod1", 1, "web")])?;
    let web = Service::simple(site, "web", "web")?;
    let at = web.udp(Family::V4, 80);
    let socket = site.inside("client", || Udp::open(12_345, at.at))??;
    eventually("pod1 answers", LAG, || socket.ask("hostname", PATIENCE))?;
    let steady = |what: &str| {
        holds(what, Duration::from_millis(1500), || match socket.ask("hostname", PATIENCE) {
            Ok(said) if said == "pod1" => Ok(()),
            other => Err(format!("{other:?}")),
        })
    };
    serve(site, "pod2", 0, "web")?;
    reaches(site, From::Node(0), at, &["pod1", "pod2"])?;
    steady("pod2 came")?;
    remove_pod(site, "pod2")?;
    reaches(site, From::Node(0), at, &["pod1"])?;
    steady("pod2 went")?;
    let direct = Front::udp(address(site, "pod1", Family::V4)?, 80);
    let said = ask(site, From::Pod("client"), direct, "hostname")?;
    ensure(said == "pod1", || said.clone())
}
