//! The objects scenarios are made of: pods that say their name, and Services in front of them.

use std::net::IpAddr;
use std::thread;

use serde_json::{Value, json};
use tests::kubernetes::{Pod, Site};

use super::client::Front;
use super::kit::{LAG, Outcome};

/// Which of a Service's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// The primary family of the cluster.
    V4,
    /// The secondary one.
    V6,
}

impl Family {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Whether an address is of it.
    pub(crate) fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }

    /// As `ipFamilies` and `addressType` have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// A pod to be made, the same label on it and in its Service's selector: `app`.
pub(crate) fn pod(name: &str, node: usize, app: &str) -> Pod {
    Pod {
        name: name.to_owned(),
        node: Some(node),
        labels: vec![("app".to_owned(), app.to_owned())],
        ..Pod::default()
    }
}

/// Makes a pod that serves; returns when it is Ready.
///
/// # Errors
/// It does not get Ready.
pub(crate) fn serve(site: &Site<'_>, name: &str, node: usize, app: &str) -> Outcome {
    ready(site, pod(name, node, app))
}

/// Makes a pod that serves with these arguments.
///
/// # Errors
/// As [`serve`].
pub(crate) fn serve_with(site: &Site<'_>, name: &str, node: usize, app: &str, args: &[&str]) -> Outcome {
    ready(site, with_args(pod(name, node, app), args))
}

/// The pod with these arguments.
pub(crate) fn with_args(mut pod: Pod, args: &[&str]) -> Pod {
    pod.args = args.iter().map(|word| (*word).to_owned()).collect();
    pod
}

/// Makes a pod and waits until it is Ready.
///
/// # Errors
/// As [`serve`].
pub(crate) fn ready(site: &Site<'_>, pod: Pod) -> Outcome {
    let name = pod.name.clone();
    site.pod(pod)?;
    Ok(site.wait_ready(&name, LAG)?)
}

/// Makes pods beside each other; returns when all are Ready.
///
/// # Errors
/// One does not get Ready.
pub(crate) fn all_ready(site: &Site<'_>, pods: Vec<Pod>) -> Outcome {
    thread::scope(|scope| {
        let made: Vec<_> = pods
            .into_iter()
            .map(|pod| scope.spawn(move || ready(site, pod).map_err(|why| why.to_string())))
            .collect();
        for one in made {
            one.join().map_err(|_| "making a pod panicked")??;
        }
        Ok(())
    })
}

/// Pods of one app, the first on node 1, the next on node 2, and so on.
///
/// # Errors
/// As [`all_ready`].
pub(crate) fn serve_all(site: &Site<'_>, names: &[&str], app: &str) -> Outcome {
    let nodes = site.cluster().nodes().len();
    all_ready(site, names.iter().enumerate().map(|(index, name)| pod(name, index % nodes, app)).collect())
}

/// A port of a Service, by its name; `to` is a number or a port name of the pods.
pub(crate) fn port(name: &str, protocol: &str, number: u16, to: impl Into<Value>) -> Value {
    json!({"name": name, "protocol": protocol, "port": number, "targetPort": to.into()})
}

/// A Service of both families for the pods of an app.
pub(crate) fn service(name: &str, app: &str, ports: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ipFamilyPolicy": "RequireDualStack", "ports": ports},
    })
}

/// The same object with more in its spec.
pub(crate) fn with_spec(mut object: Value, more: Value) -> Value {
    if let (Some(spec), Value::Object(more)) = (object["spec"].as_object_mut(), more) {
        spec.extend(more);
    }
    object
}

/// Port 80 over TCP and UDP, to port 80 of the pods.
pub(crate) fn both_80() -> [Value; 2] {
    [port("tcp", "TCP", 80, 80), port("udp", "UDP", 80, 80)]
}

/// A Service that was created: where it can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl Service {
    /// Creates it.
    ///
    /// # Errors
    /// The API server refuses.
    pub(crate) fn create(site: &Site<'_>, object: Value) -> Outcome<Self> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        site.create(object)?;
        let ips = site.cluster_ips(&name)?;
        Ok(Self { name, ips })
    }

    /// Port 80 of both protocols and families for an app.
    ///
    /// # Errors
    /// As [`Service::create`].
    pub(crate) fn simple(site: &Site<'_>, name: &str, app: &str) -> Outcome<Self> {
        Self::create(site, service(name, app, &both_80()))
    }

    /// Its address of a family.
    ///
    /// # Panics
    /// It has none: the scenario made it without.
    pub(crate) fn ip(&self, family: Family) -> IpAddr {
        let ip = self.ips.iter().copied().find(|ip| family.has(*ip));
        ip.unwrap_or_else(|| panic!("Service {} has no {} address: {:?}", self.name, family.name(), self.ips))
    }

    /// HTTP at a port.
    pub(crate) fn tcp(&self, family: Family, port: u16) -> Front {
        Front::tcp(self.ip(family), port)
    }

    /// Datagrams at a port.
    pub(crate) fn udp(&self, family: Family, port: u16) -> Front {
        Front::udp(self.ip(family), port)
    }

    /// Port 80 of both protocols and of every family it has.
    pub(crate) fn fronts(&self) -> Vec<Front> {
        self.fronts_at(80)
    }

    /// The same at another port.
    pub(crate) fn fronts_at(&self, port: u16) -> Vec<Front> {
        self.ips.iter().flat_map(|ip| [Front::tcp(*ip, port), Front::udp(*ip, port)]).collect()
    }

    /// Deletes it.
    ///
    /// # Errors
    /// The API server refuses.
    pub(crate) fn delete(&self, site: &Site<'_>) -> Outcome {
        Ok(site.delete("Service", &self.name, None)?)
    }
}

/// An EndpointSlice made by hand.
pub(crate) fn slice(
    name: &str,
    service: &str,
    family: Family,
    addresses: &[IpAddr],
    ports: &[Value],
) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "a-scenario.example.com",
            },
        },
        "addressType": family.name(), "endpoints": endpoints, "ports": ports,
    })
}

/// A port of an EndpointSlice.
pub(crate) fn slice_port(name: &str, protocol: &str, number: u16) -> Value {
    json!({"name": name, "protocol": protocol, "port": number})
}

/// The address of a pod in a family.
///
/// # Errors
/// It has none.
pub(crate) fn address(site: &Site<'_>, pod: &str, family: Family) -> Outcome<IpAddr> {
    let found = site.addresses(pod)?.into_iter().find(|ip| family.has(*ip));
    found.ok_or_else(|| format!("pod {pod} has no {} address", family.name()).into())
}

/// Deletes a pod at once, and returns when it is gone.
///
/// # Errors
/// It stays.
pub(crate) fn remove_pod(site: &Site<'_>, name: &str) -> Outcome {
    site.delete("Pod", name, Some(0))?;
    super::kit::eventually(&format!("pod {name} is gone"), LAG, || match site.get("Pod", name) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err("it is there".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}
