//! The table's rows: who asks whom by which way, whom the server must see, and why.

use std::fmt;
use std::net::IpAddr;

use crate::services::{INSIDE, Policy, Service, Way};
use crate::site::{Party, Style};
use crate::traffic::PORT;

/// A row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) client: Party,
    pub(crate) way: Way,
    pub(crate) service: Service,
}

/// Whom the server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The client, at its own address.
    Client,
    /// The node, at the address it has towards the server.
    Node(u8),
    /// Nobody: the question is dropped.
    Dropped,
    /// The client, which gets no answer: it goes another way.
    Astray,
}

/// What must come out of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) why: &'static str,
    /// With kube-proxy's rules.
    pub(crate) kernel: Source,
    /// The same, but where tunway means to differ: `why` says for what reason.
    pub(crate) tunway: Source,
}

const HERE: Party = Party::Pod(1, 1);
const BESIDE: Party = Party::Pod(1, 2);
const AWAY: Party = Party::Pod(2, 1);
const THERE: Party = Party::Pod(2, 2);

/// All rows. The site is the same seen from either node, so node 1 decides in all but a few of them.
pub(crate) fn rows(style: Style) -> Vec<Row> {
    use Policy::{Cluster, Local};
    use Way::{ClusterIp, ExternalIp, Ingress, NodePort};
    let every = [BESIDE, THERE, Party::Node(1), Party::Node(2)];
    let mut rows = Vec::new();
    let mut add = |client, ways: &[(Way, Policy)], servers: &[Party]| {
        for &(way, policy) in ways {
            let of = |server: &Party| Row { client, way, service: Service::of(*server, PORT, policy) };
            rows.extend(servers.iter().map(of));
        }
    };
    let outer = [(ExternalIp, Cluster), (ExternalIp, Local), (NodePort(1), Cluster), (NodePort(1), Local)];
    let ingress = [(Ingress, Cluster), (Ingress, Local)];
    for client in [HERE, Party::Node(1), Party::Outside] {
        add(client, &[(ClusterIp, Cluster)], &every);
        add(client, &outer, &every);
        add(client, &ingress, &[BESIDE, THERE]);
    }
    for client in [AWAY, Party::Node(2)] {
        add(client, &[(ClusterIp, Cluster)], &[BESIDE]);
        add(client, &outer[2..], &every);
    }
    // Its own endpoint, also by way of a node that has no part in it.
    add(HERE, &[(ClusterIp, Cluster)], &[HERE]);
    add(HERE, &outer, &[HERE]);
    add(AWAY, &outer[2..], &[AWAY]);
    add(Party::Outside, &[(NodePort(2), Cluster), (NodePort(2), Local)], &[BESIDE, THERE]);
    if style.is_bridged() {
        add(Party::Bridge(1), &[(ClusterIp, Cluster), (ExternalIp, Local)], &[THERE]);
    }
    let inside = Service::of(Party::Node(1), INSIDE, Local);
    for client in [HERE, Party::Node(1), Party::Outside] {
        rows.extend([ExternalIp, NodePort(1)].map(|way| Row { client, way, service: inside }));
    }
    rows
}

impl Row {
    /// The node whose proxy decides: that of the node port, or of the client, or the one the outside routes to.
    pub(crate) fn decides(self) -> u8 {
        match (self.way, self.client) {
            (Way::NodePort(node), _) => node,
            (_, Party::Outside) => 1,
            (_, client) => client.node(),
        }
    }

    /// What must come out, and why.
    pub(crate) fn wanted(self, style: Style) -> Wanted {
        let (at, server) = (self.decides(), self.service.server);
        let mut client = self.client;
        if style == Style::Hostile && matches!(client, Party::Pod(node, _) if node != at) {
            // The rule of its CNI has masqueraded it before.
            client = Party::Node(client.node());
        }
        let mut wanted = self.judge(at, client);
        if style == Style::Bridge && client == server && client.node() == at && client.is_pod() {
            let why = "differs: the kernel's bridge sends nothing back out of the port it came in by; tunway is no port of it";
            return Wanted { why, kernel: Source::Astray, ..wanted };
        }
        if wanted.kernel == Source::Client && client != self.client {
            wanted.kernel = Source::Node(client.node());
            wanted.tunway = wanted.kernel;
        }
        let leaves = matches!((client, server), (Party::Pod(from, _), Party::Node(to)) if from != to);
        if style == Style::Hostile && wanted.kernel == Source::Client && leaves {
            let node = Source::Node(client.node());
            return Wanted {
                why: "the CNI masquerades pods on their way to what is no pod",
                kernel: node,
                tunway: node,
            };
        }
        wanted
    }

    fn judge(self, at: u8, client: Party) -> Wanted {
        let server = self.service.server;
        let same = |why, source| Wanted { why, kernel: source, tunway: source };
        let (is_pod, is_host) = (matches!(client, Party::Pod(..)), client.node() == at && !client.is_pod());
        let (outer, local) = (self.way != Way::ClusterIp, self.service.policy == Policy::Local);
        if let Party::Bridge(_) = client {
            return same("a bridge's address is in the pods' CIDR: it is a pod's", Source::Client);
        }
        if client == server && is_pod {
            if outer && local && server.node() != at {
                let why =
                    "differs: kube-proxy masquerades a pod that is its own endpoint only on its own node";
                return Wanted { why, kernel: Source::Astray, tunway: Source::Node(at) };
            }
            return same("its own endpoint: would answer itself if it saw its own address", Source::Node(at));
        }
        if !outer && is_pod {
            return same("a pod keeps its address at a ClusterIP", Source::Client);
        }
        if outer && local && is_pod {
            if client.node() != at && server.node() != at {
                let why = "no proxy can help: it keeps its address, and its own node brings the answer past this one";
                return same(why, Source::Astray);
            }
            return same("policy Local: a pod goes to any endpoint, with its own address", Source::Client);
        }
        if outer && local && !is_host {
            return if server.node() == at {
                same("policy Local: who comes from elsewhere keeps its address", Source::Client)
            } else {
                same("policy Local: no endpoint here for who comes from elsewhere", Source::Dropped)
            };
        }
        if server == Party::Node(at) && !is_host {
            return same(
                "masquerading is behind routing, which what stays on the host never meets",
                Source::Client,
            );
        }
        let why = match (outer, local) {
            (false, _) => "who is no pod is masqueraded at a ClusterIP",
            (true, false) => "policy Cluster: everybody is masqueraded",
            (true, true) => "policy Local: this host goes to any endpoint, masqueraded",
        };
        same(why, Source::Node(at))
    }

    /// The address that a source is, for this row.
    pub(crate) fn address(self, source: Source, style: Style, v6: bool) -> Option<IpAddr> {
        match source {
            Source::Client => Some(self.client.address(v6)),
            Source::Node(node) => {
                let server = self.service.server;
                let on_its_bridge = style.is_bridged() && server.is_pod() && server.node() == node;
                let node = if on_its_bridge { Party::Bridge(node) } else { Party::Node(node) };
                Some(node.address(v6))
            }
            Source::Dropped | Source::Astray => None,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, way, service } = self;
        let policy = if *way == Way::ClusterIp { String::new() } else { format!(" {:?}", service.policy) };
        let port = if service.port == PORT { String::new() } else { format!(" :{}", service.port) };
        write!(f, "{client} > {way}{policy} > {}{port}", service.server)
    }
}
