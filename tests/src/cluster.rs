//! A cluster as plain data. It plays the compiler's part: plain lists become snapshots, with ids and purge epochs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use dataplane::ids::{EndpointId, ServiceId};
use dataplane::packet::tuple::Proto;
use dataplane::service::{Backend, Service, Snapshot, SnapshotBuilder, Sticky, SvcPort};

mod sources;

pub use sources::{MARK_SNAT4, MARK_SNAT6, Sources};

/// The SNAT address of IPv4 flows.
pub const SNAT4: &str = "10.255.0.1";
/// The SNAT address of IPv6 flows.
pub const SNAT6: &str = "fd00:ffff::1";

/// One endpoint of a [`Svc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ep {
    /// Where it listens.
    pub at: SocketAddr,
    /// New flows may be sent to it.
    pub usable: bool,
    /// It is ready or serving: its UDP flows may go on.
    pub serving: bool,
}

/// One service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svc {
    /// Its id, stable.
    pub id: ServiceId,
    /// The ClusterIP and the port.
    pub vip: SocketAddr,
    /// The protocol.
    pub proto: Proto,
    /// Its endpoints.
    pub endpoints: Vec<Ep>,
    /// For how many seconds a client keeps its endpoint.
    pub affinity: Option<u32>,
    purge_epoch: u16,
}

impl Svc {
    /// Where new flows may go.
    pub fn usable(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().filter(|endpoint| endpoint.usable).map(|endpoint| endpoint.at)
    }

    /// The UDP rule: may a flow to this endpoint go on?
    #[must_use]
    pub fn keeps(&self, endpoint: SocketAddr) -> bool {
        let serving = || self.endpoints.iter().filter(|endpoint| endpoint.serving);
        serving().next().is_none() || serving().any(|one| one.at == endpoint)
    }
}

/// Everything the gateway serves.
#[derive(Debug)]
pub struct Cluster {
    /// Service ports by id.
    pub services: BTreeMap<u32, Svc>,
    /// Addresses of Services that may be allocated.
    pub cidrs: Vec<(IpAddr, u8)>,
    /// Whose address endpoints see. Not to be changed once something is published.
    pub sources: Sources,
    last_id: u32,
    ids: BTreeMap<(u32, SocketAddr), EndpointId>,
    frontends: BTreeMap<(SocketAddr, Proto), u32>,
    last: Option<Snapshot>,
    published: BTreeMap<u32, Svc>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            cidrs: vec![(ip("10.96.0.0"), 16), (ip("fd96::"), 112)],
            sources: Sources::default(),
            last_id: 0,
            ids: BTreeMap::new(),
            frontends: BTreeMap::new(),
            last: None,
            published: BTreeMap::new(),
        }
    }
}

impl Cluster {
    /// Serves a port; all endpoints are usable and serving. A frontend that was served before keeps its id.
    pub fn serve(&mut self, proto: Proto, vip: &str, endpoints: &[&str]) -> ServiceId {
        let id = match self.frontends.get(&(addr(vip), proto)) {
            Some(id) => *id,
            None => self.new_id(proto, vip),
        };
        let endpoints = endpoints.iter().map(|at| Ep { at: addr(at), usable: true, serving: true }).collect();
        let affinity = self.services.get(&id).and_then(|svc| svc.affinity);
        let svc = Svc { id: ServiceId(id), vip: addr(vip), proto, endpoints, affinity, purge_epoch: 0 };
        self.services.insert(id, svc);
        ServiceId(id)
    }

    /// As [`Cluster::serve`], by a Service that was never there before: whoever had the frontend is gone.
    pub fn serve_anew(&mut self, proto: Proto, vip: &str, endpoints: &[&str]) -> ServiceId {
        if let Some(old) = self.frontends.get(&(addr(vip), proto)) {
            self.services.remove(old);
        }
        self.new_id(proto, vip);
        self.serve(proto, vip, endpoints)
    }

    fn new_id(&mut self, proto: Proto, vip: &str) -> u32 {
        self.last_id += 1;
        self.frontends.insert((addr(vip), proto), self.last_id);
        self.last_id
    }

    /// A service port that is there.
    ///
    /// # Panics
    /// When it is not.
    pub fn service(&mut self, id: ServiceId) -> &mut Svc {
        self.services.get_mut(&id.0).expect("a service port that was served")
    }

    /// The service port behind a frontend.
    #[must_use]
    pub fn frontend(&self, vip: SocketAddr, proto: Proto) -> Option<&Svc> {
        self.services.values().find(|svc| svc.vip == vip && svc.proto == proto)
    }

    /// The snapshot of what is here now. A port that is new, or whose serving set changed so that a UDP flow may
    /// have to move, gets a new purge epoch.
    ///
    /// # Panics
    /// When the builder refuses the world.
    pub fn snapshot(&mut self, advance_epoch: impl FnOnce() -> u16) -> Snapshot {
        let fabric = self.sources.fabric(&self.cidrs);
        let due: Vec<u32> = self
            .services
            .iter()
            .filter(|(id, now)| self.published.get(id).is_none_or(|before| may_strand(before, now)))
            .map(|(id, _)| *id)
            .collect();
        let epoch = if due.is_empty() { 0 } else { advance_epoch() };
        for (id, svc) in &mut self.services {
            let before = self.published.get(id).map_or(epoch, |before| before.purge_epoch);
            svc.purge_epoch = if due.contains(id) { epoch } else { before };
        }
        let mut builder =
            self.last.as_ref().map_or_else(|| SnapshotBuilder::new(fabric), SnapshotBuilder::from);
        for id in self.published.keys().filter(|id| !self.services.contains_key(id)) {
            builder.remove(ServiceId(*id));
        }
        let services = self.services.clone();
        for (id, svc) in &services {
            if self.published.get(id) != Some(svc) {
                builder.upsert(self.compiled(svc));
            }
        }
        let snapshot = builder.build().expect("a valid world");
        self.last = Some(snapshot.clone());
        self.published = services;
        snapshot
    }

    fn compiled(&mut self, svc: &Svc) -> Service {
        let mut endpoints = svc.endpoints.clone();
        endpoints.sort_by_key(|endpoint| endpoint.at);
        let backends: Box<[Backend]> = endpoints
            .iter()
            .map(|endpoint| {
                let next = EndpointId(u32::try_from(self.ids.len() + 1).expect("few endpoints"));
                Backend {
                    id: *self.ids.entry((svc.id.0, endpoint.at)).or_insert(next),
                    addr: endpoint.at.ip(),
                    port: endpoint.at.port(),
                    local: true,
                    ready_or_serving: endpoint.serving,
                }
            })
            .collect();
        let usable = |(index, endpoint): (usize, &Ep)| {
            endpoint.usable.then(|| u32::try_from(index).expect("few endpoints"))
        };
        let cluster: Box<[u32]> = endpoints.iter().enumerate().filter_map(usable).collect();
        let (name, port) =
            (format!("default/svc-{}", svc.id.0), SvcPort { port: svc.vip.port(), proto: svc.proto });
        Service {
            purge_epoch: svc.purge_epoch,
            backends,
            any: !cluster.is_empty(),
            local: cluster.clone(),
            cluster,
            affinity: svc.affinity.map(Sticky::new),
            ..Service::bare(svc.id, &name, svc.vip.ip(), port)
        }
    }
}

/// A member was lost; or there was none, which keeps all flows, and now there is one.
fn may_strand(before: &Svc, now: &Svc) -> bool {
    let serves = |svc: &Svc, at| svc.endpoints.iter().any(|one| one.at == at && one.serving);
    let mut served = before.endpoints.iter().filter(|one| one.serving).peekable();
    served.peek().is_none() || served.any(|one| !serves(now, one.at))
}

/// An address and port.
///
/// # Panics
/// When the text is none.
#[must_use]
pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is not an address and port"))
}

/// An address.
///
/// # Panics
/// When the text is none.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is not an address"))
}
