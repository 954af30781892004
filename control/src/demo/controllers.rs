//! The part of a cluster's controllers: what a Deployment and a Service become when somebody applies them.
//!
//! Deployment → pods with generated names and addresses; Service → a ClusterIP; both together → an EndpointSlice.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::manifest::Manifest;
use super::names::Names;

/// Pods at most: each is a namespace with a server in it.
pub const MOST_PODS: usize = 8;
/// The network of ClusterIPs: 10.96.0.0/12.
pub const SERVICE_CIDR: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 12);

type Labels = BTreeMap<String, String>;

/// A pod that is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its generated name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its address.
    pub addr: Ipv4Addr,
    /// Named container ports.
    pub named_ports: BTreeMap<String, u16>,
    /// Where it listens: container ports, and what Services send to.
    pub listens: Vec<u16>,
}

/// What the controllers made of a manifest.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The pods.
    pub pods: Vec<Pod>,
    /// The Services, with ClusterIPs.
    pub services: Vec<core::Service>,
    /// Their slices.
    pub slices: Vec<discovery::EndpointSlice>,
}

/// Plays the controllers.
///
/// # Errors
/// Too many pods, a bad address, or nothing a client could connect to; in words for the manifest's author.
pub fn reconcile(manifest: &Manifest, names: &mut Names) -> Result<Cluster, String> {
    let mut pods = Vec::new();
    for deployment in &manifest.deployments {
        roll_out(deployment, names, &mut pods)?;
    }
    let mut services = manifest.services.clone();
    let mut slices = Vec::new();
    for service in &mut services {
        allocate(service, names)?;
        slices.push(endpoints(service, &mut pods)?);
    }
    for pod in &mut pods {
        pod.listens.sort_unstable();
        pod.listens.dedup();
    }
    Ok(Cluster { pods, services, slices })
}

/// Deployment and ReplicaSet controller, and the CNI.
fn roll_out(deployment: &Deployment, names: &mut Names, pods: &mut Vec<Pod>) -> Result<(), String> {
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let spec = deployment.spec.as_ref().ok_or_else(|| format!("Deployment {name} has no spec"))?;
    let labels =
        spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    if !selects(spec.selector.match_labels.as_ref(), &labels) {
        return Err(format!(
            "Deployment {name}: spec.selector does not match the labels of its own template"
        ));
    }
    let replicas = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if pods.len() + replicas > MOST_PODS {
        return Err(format!("Deployment {name}: the demo runs at most {MOST_PODS} pods"));
    }
    let containers = spec.template.spec.iter().flat_map(|pod| &pod.containers);
    let ports: Vec<_> = containers.flat_map(|container| container.ports.iter().flatten()).collect();
    let number = |port: &core::ContainerPort| u16::try_from(port.container_port).ok().filter(|n| *n > 0);
    let tcp = |port: &&&core::ContainerPort| port.protocol.as_deref().unwrap_or("TCP") == "TCP";
    let named =
        ports.iter().filter_map(|port| Some((port.name.clone()?, number(port)?))).collect::<BTreeMap<_, _>>();
    let listens: Vec<_> = ports.iter().filter(tcp).filter_map(|port| number(port)).collect();
    let replica_set = format!("{name}-{}", names.template_hash(&format!("{:?}", spec.template)));
    for _ in 0..replicas {
        // 10.244.0.0/24 is the client's network.
        let subnet = u8::try_from(pods.len() + 1).map_err(|error| error.to_string())?;
        pods.push(Pod {
            name: format!("{replica_set}-{}", names.suffix()),
            labels: labels.clone(),
            addr: Ipv4Addr::new(10, 244, subnet, 2),
            named_ports: named.clone(),
            listens: listens.clone(),
        });
    }
    Ok(())
}

/// The API server's part: a ClusterIP for a Service that has none.
fn allocate(service: &mut core::Service, names: &mut Names) -> Result<(), String> {
    let name = service.metadata.name.clone().unwrap_or_default();
    let spec = service.spec.as_mut().ok_or_else(|| format!("Service {name} has no spec"))?;
    match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ClusterIP" => {}
        other => return Err(format!("Service {name}: the demo serves type ClusterIP, not {other}")),
    }
    let given = spec.cluster_ip.clone().unwrap_or_default();
    let ip: IpAddr = match given.as_str() {
        "" => names.cluster_ip().into(),
        given => {
            given.parse().map_err(|_| format!("Service {name}: spec.clusterIP {given:?} is no address"))?
        }
    };
    if !crate::model::ip::contains(SERVICE_CIDR, ip) {
        let (net, len) = SERVICE_CIDR;
        return Err(format!("Service {name}: spec.clusterIP {ip} is not in {net}/{len}; leave it out"));
    }
    spec.cluster_ip = Some(ip.to_string());
    spec.cluster_ips = Some(vec![ip.to_string()]);
    service.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    Ok(())
}

/// The EndpointSlice controller.
fn endpoints(service: &core::Service, pods: &mut [Pod]) -> Result<discovery::EndpointSlice, String> {
    let name = service.metadata.name.clone().unwrap_or_default();
    let spec = service.spec.as_ref().ok_or_else(|| format!("Service {name} has no spec"))?;
    let chosen = |pod: &Pod| selects(spec.selector.as_ref(), &pod.labels);
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let first = pods.iter().find(|pod| chosen(pod));
        let target = target_port(port, first).ok_or_else(|| {
            format!("Service {name}: targetPort of port {} is no port of its pods", port.port)
        })?;
        if port.protocol.as_deref().unwrap_or("TCP") == "TCP" {
            pods.iter_mut().filter(|pod| chosen(pod)).for_each(|pod| pod.listens.push(target));
        }
        ports.push(discovery::EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(i32::from(target)),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            ..discovery::EndpointPort::default()
        });
    }
    let endpoint = |pod: &Pod| discovery::Endpoint {
        addresses: vec![pod.addr.to_string()],
        conditions: Some(discovery::EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        target_ref: Some(core::ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            ..core::ObjectReference::default()
        }),
        ..discovery::Endpoint::default()
    };
    Ok(discovery::EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{name}-1")),
            namespace: service.metadata.namespace.clone(),
            labels: Some([("kubernetes.io/service-name".to_owned(), name)].into()),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: pods.iter().filter(|pod| chosen(pod)).map(endpoint).collect(),
        ports: Some(ports),
    })
}

fn target_port(port: &core::ServicePort, pod: Option<&Pod>) -> Option<u16> {
    let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
    match &port.target_port {
        None => number(port.port),
        Some(IntOrString::Int(n)) => number(*n),
        Some(IntOrString::String(name)) => match pod {
            Some(pod) => pod.named_ports.get(name).copied(),
            None => number(port.port),
        },
    }
}

/// All of the selector's labels are there. No selector selects nothing.
fn selects(selector: Option<&Labels>, labels: &Labels) -> bool {
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    })
}

#[cfg(test)]
mod tests;
