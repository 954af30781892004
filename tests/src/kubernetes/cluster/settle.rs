//! Knowing that every proxy has seen what the API server holds now.
//!
//! A proxy sees changes of Services, and of EndpointSlices, in the order in which they were made. So a Service made
//! last, of both families, and served by a node, says that everything before it was seen there too.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::Node;
use crate::kubernetes::api::{Api, ApiError};
use crate::kubernetes::control_plane::{PORT, servers};

const NAMESPACE: &str = "kube-system";
const TRY: Duration = Duration::from_millis(200);

/// A Service of ours whose endpoint is the API server; deleted with its guard.
struct Beacon<'a> {
    api: &'a Api,
    service: String,
    slices: Vec<String>,
    addresses: Vec<SocketAddr>,
}

/// Waits until every node serves a Service that is made now.
pub(super) fn settle(api: &Api, nodes: &[Node], limit: Duration) -> io::Result<()> {
    let begun = SystemTime::now();
    let beacon = Beacon::light(api).map_err(io::Error::other)?;
    let late = |node: &Node, address: &SocketAddr| {
        let name = &node.name;
        io::Error::other(format!(
            "{name} does not serve {address}, made {limit:?} ago: its proxy does not follow"
        ))
    };
    for node in nodes {
        node.namespace.enter(|| {
            for address in &beacon.addresses {
                while TcpStream::connect_timeout(address, TRY).is_err() {
                    if begun.elapsed().unwrap_or_default() > limit {
                        return Err(late(node, address));
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            }
            Ok(())
        })??;
    }
    Ok(())
}

impl<'a> Beacon<'a> {
    fn light(api: &'a Api) -> Result<Self, ApiError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("settle-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let service = api.create(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": PORT, "protocol": "TCP"}]},
        }))?;
        let mut beacon = Self { api, service: name, slices: Vec::new(), addresses: addresses(&service) };
        for server in servers() {
            let (family, suffix) = if server.is_ipv4() { ("IPv4", "v4") } else { ("IPv6", "v6") };
            let slice = format!("{}-{suffix}", beacon.service);
            api.create(&json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": slice, "namespace": NAMESPACE,
                    "labels": {"kubernetes.io/service-name": beacon.service},
                },
                "addressType": family,
                "endpoints": [{"addresses": [server.ip()], "conditions": {"ready": true}}],
                "ports": [{"name": "", "port": PORT, "protocol": "TCP"}],
            }))?;
            beacon.slices.push(slice);
        }
        Ok(beacon)
    }
}

impl Drop for Beacon<'_> {
    fn drop(&mut self) {
        for slice in &self.slices {
            let _ =
                self.api.delete(&Api::path("discovery.k8s.io/v1", "EndpointSlice", Some(NAMESPACE), slice));
        }
        let _ = self.api.delete(&Api::path("v1", "Service", Some(NAMESPACE), &self.service));
    }
}

fn addresses(service: &Value) -> Vec<SocketAddr> {
    let ips = service["spec"]["clusterIPs"].as_array();
    let ips = ips.into_iter().flatten().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
    ips.map(|ip| SocketAddr::new(ip, PORT)).collect()
}
