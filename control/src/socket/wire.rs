//! What travels over the control socket, as JSON: the questions' answers, and nothing of the inner types.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::explain::{Explanation, Question};

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// `GET /v1/flows?service=NAME&limit=N`
    Flows {
        /// Only flows of this Service.
        service: Option<String>,
        /// At most so many rows; the totals count all.
        limit: usize,
    },
    /// `GET /v1/services`
    Services,
    /// `GET /v1/counters`
    Counters,
    /// `GET /v1/status`
    Status,
    /// `GET /v1/explain?src=ADDRESS&sport=N&dst=ADDRESS&dport=N&proto=TCP&inInterface=NAME`
    Explain(Question),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To [`Query::Flows`].
    Flows(Flows),
    /// To [`Query::Services`].
    Services(Services),
    /// To [`Query::Counters`].
    Counters(Counters),
    /// To [`Query::Status`].
    Status(Status),
    /// To [`Query::Explain`]; none before there is anything served.
    Explanation(Option<Explanation>),
}

/// A part of the flow table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flows {
    /// The rows, at most as many as were asked for.
    pub flows: Vec<Flow>,
    /// Flows that matched, shown or not.
    pub matched: u64,
    /// How full the tables are.
    pub occupancy: Occupancy,
}

/// One flow, both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// `TCP`, `UDP`.
    pub proto: String,
    /// Who opened it.
    pub client: SocketAddr,
    /// The Service address it was opened to.
    pub vip: SocketAddr,
    /// The endpoint that serves it.
    pub endpoint: SocketAddr,
    /// Who the endpoint takes for the client.
    pub snat: SocketAddr,
    /// `ESTABLISHED`, `UNREPLIED`, …
    pub state: String,
    /// Packets from the client, packets to it.
    pub packets: [u64; 2],
    /// Bytes from the client, bytes to it.
    pub bytes: [u64; 2],
    /// Seconds since the last packet.
    pub idle: u32,
    /// Seconds until it ends if no packet comes.
    pub expires: u32,
    /// `namespace/name:port`; empty when the Service is gone.
    pub service: String,
}

/// How full the flow tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Occupancy {
    /// Live IPv4 flows.
    pub ipv4: usize,
    /// IPv4 flows that fit.
    pub ipv4_max: usize,
    /// Live IPv6 flows.
    pub ipv6: usize,
    /// IPv6 flows that fit.
    pub ipv6_max: usize,
}

/// What is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Services {
    /// Service ports, by name.
    pub services: Vec<ServicePort>,
    /// What is wrong with objects just now.
    pub problems: Vec<Trouble>,
    /// How we are.
    pub status: Status,
}

/// One Service port of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// `namespace/name:port`.
    pub name: String,
    /// `TCP`, `UDP`.
    pub proto: String,
    /// The ClusterIP.
    pub cluster_ip: IpAddr,
    /// The port clients use at every address.
    pub port: u16,
    /// The addresses it holds.
    pub frontends: Vec<Frontend>,
    /// The port clients use at addresses of this node.
    pub node_port: Option<u16>,
    /// `internalTrafficPolicy`.
    pub internal_traffic_policy: String,
    /// `externalTrafficPolicy`, for a port that can be reached from outside.
    pub external_traffic_policy: Option<String>,
    /// `sessionAffinity: ClientIP`: how long a client keeps its endpoint after its last new flow.
    pub affinity_seconds: Option<u32>,
    /// How endpoints are picked: `random`, `maglev by client`.
    pub balancing: String,
    /// Endpoints that take new flows, and those kept only for their old ones.
    pub endpoints: Vec<Endpoint>,
}

/// One address of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// The address.
    pub address: IpAddr,
    /// `ClusterIP`, `ExternalIP` or `LoadBalancer`.
    pub kind: String,
}

/// One endpoint of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The pod behind it, when the slice says so.
    pub target: Option<String>,
    /// It runs on this node.
    pub local: bool,
    /// The sets it takes new flows from: `cluster`, `local`.
    pub sets: Vec<String>,
    /// Its flows that are not closing.
    pub active_flows: u32,
}

/// What is wrong with an object, for its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// The object or document.
    pub object: String,
    /// The field; empty for the object as a whole.
    pub field: String,
    /// What is wrong and what tunway does about it.
    pub what: String,
    /// What the owner can do.
    pub remedy: String,
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// By name: those of all workers; `source_lost`, how often the source got out of touch with where it reads from; and
    /// `device_queue_full`, packets the device's queue had no room for.
    pub counters: BTreeMap<String, u64>,
    /// Drops by reason; only reasons that occurred.
    pub drops: BTreeMap<String, u64>,
}

/// How a running tunway is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// tunway's version.
    pub version: String,
    /// The device.
    pub device: String,
    /// This node's name.
    pub node: String,
    /// New flows are served.
    pub ready: bool,
    /// A stop was asked for.
    pub stopping: bool,
    /// Publishes so far.
    pub generation: u64,
    /// Replaced snapshots a worker may still read.
    pub retired: usize,
    /// Workers.
    pub workers: usize,
    /// Clients session affinity remembers.
    pub remembered: usize,
    /// How many it may: `maxAffinity`.
    pub remembered_max: usize,
    /// Packets the device's queue had no room for since the start: `queueLength`.
    #[serde(default)]
    pub device_queue_full: u64,
    /// The source is in touch with where it reads from.
    pub connected: bool,
    /// What the source last said of that.
    pub source: String,
}

impl Query {
    /// The query a request's path and query string ask for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, String> {
        let query = query.unwrap_or_default();
        match path {
            "/v1/flows" => Self::parse_flows(query),
            "/v1/services" => Ok(Self::Services),
            "/v1/counters" => Ok(Self::Counters),
            "/v1/status" => Ok(Self::Status),
            "/v1/explain" => {
                Question::from_query_string(query).map(Self::Explain).map_err(|error| error.to_string())
            }
            _ => Err("ask for /v1/flows, /v1/services, /v1/counters, /v1/status or /v1/explain".to_owned()),
        }
    }

    fn parse_flows(query: &str) -> Result<Self, String> {
        let (mut service, mut limit) = (None, usize::MAX);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("service", name)) => service = Some(name.to_owned()),
                Some(("limit", n)) => {
                    limit = n.parse().map_err(|_| format!("limit={n}: not a number"))?;
                }
                _ => return Err(format!("{pair}: only service=NAME and limit=N")),
            }
        }
        Ok(Self::Flows { service, limit })
    }

    /// The path and query string that ask for it.
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Self::Flows { service, limit } => {
                let service = service.as_deref().map(|name| format!("&service={name}")).unwrap_or_default();
                format!("/v1/flows?limit={limit}{service}")
            }
            Self::Services => "/v1/services".to_owned(),
            Self::Counters => "/v1/counters".to_owned(),
            Self::Status => "/v1/status".to_owned(),
            Self::Explain(question) => format!("/v1/explain?{}", question.query_string()),
        }
    }
}

/// A Service's name, `namespace/name:port`, is the one asked for: in full, without the port, without both.
#[must_use]
pub fn names(asked: &str, name: &str) -> bool {
    let bare = |name: &str| name.split_once('/').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    let matches = |name: &str| name == asked || name.split_once(':').is_some_and(|(front, _)| front == asked);
    matches(name) || (!asked.contains('/') && matches(&bare(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_its_uri() {
        let queries = [
            Query::Flows { service: Some("default/web:80".into()), limit: 7 },
            Query::Flows { service: None, limit: 1 },
            Query::Services,
            Query::Counters,
            Query::Status,
            Query::Explain(Question::of("fd00::1", "[fd00::2]:80", "tcp", Some("eth0")).unwrap()),
        ];
        for query in queries {
            let uri = query.uri();
            let (path, rest) = uri.split_once('?').map_or((uri.as_str(), None), |(p, q)| (p, Some(q)));
            assert_eq!(Query::parse(path, rest), Ok(query));
        }
        assert!(Query::parse("/v2/flows", None).is_err());
        assert!(Query::parse("/v1/flows", Some("limit=many")).is_err());
        assert!(Query::parse("/v1/flows", Some("sort=idle")).is_err());
    }

    #[test]
    fn a_service_is_named_in_full_or_in_short() {
        for asked in ["default/web:80", "default/web", "web:80", "web"] {
            assert!(names(asked, "default/web:80"), "{asked}");
        }
        for asked in ["default/we", "other/web", "web:8", "default", ""] {
            assert!(!names(asked, "default/web:80"), "{asked}");
        }
    }
}
