//! Whom an endpoint sees: every kind of client by every way in, under both external traffic policies, over TCP and UDP, in both
//! families, with the endpoint on the node it comes in by and on the other. What must be seen follows from three questions, asked
//! in [`Seat::wanted`]; what is seen is printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tests::kubernetes::{Pod, Site};

use super::source::source;
use crate::client::{Failure, Front};
use crate::kit::{From, LAG, Outcome, ensure, eventually, reaches, together};
use crate::objects::{Family, Service, address, all_ready, both_80, pod, service, with_args, with_spec};
use crate::ways::{at, ingress, lead, node_ips, node_ports, vips};

/// An answer that does not come in this time does not come: one lost SYN is sent again within it.
const SILENCE: Duration = Duration::from_millis(1500);
/// What is not as it must be is asked again for so long: a proxy may not have seen everything yet.
const AGAIN: Duration = Duration::from_secs(3);

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frontend {
    ClusterIp,
    NodePort,
    ExternalIp,
    LoadBalancer,
}

const FRONTENDS: [(Frontend, &str); 4] = [
    (Frontend::ClusterIp, "ClusterIP"),
    (Frontend::NodePort, "node port"),
    (Frontend::ExternalIp, "external IP"),
    (Frontend::LoadBalancer, "LB address"),
];

/// Who asks.
#[derive(Clone, Copy, Debug)]
struct Seat<'a> {
    name: &'static str,
    from: From<'a>,
    own: [IpAddr; 2],
    /// The index of its node.
    node: Option<usize>,
    /// Its address is a pod's.
    pod: bool,
}

/// What the endpoint must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// The client's own address.
    Own,
    /// An address of the node whose proxy decides.
    Node(usize),
    /// Nothing: the question is dropped.
    Nothing,
    /// Whatever: the answer goes another way than the question, and no proxy can help it.
    Anything,
}

/// A Service: by policy, and by the node its endpoint is on.
struct Row {
    service: Service,
    frontends: [Vec<IpAddr>; 2],
    local: bool,
    endpoint: usize,
}

impl Seat<'_> {
    /// Which node's proxy decides: its own, where the address is nobody's; else that of the node it is sent to.
    fn decides(&self, frontend: Frontend, entry: usize) -> usize {
        if frontend == Frontend::NodePort { entry } else { self.node.unwrap_or(entry) }
    }

    /// Is it a pod? Is it of the deciding node? Is the endpoint there?
    fn wanted(&self, frontend: Frontend, row: &Row, entry: usize) -> Wanted {
        let node = self.decides(frontend, entry);
        if frontend == Frontend::ClusterIp {
            return if self.pod { Wanted::Own } else { Wanted::Node(node) };
        }
        if !row.local {
            return Wanted::Node(node);
        }
        match (self.pod, self.node == Some(node), row.endpoint == node) {
            (true, false, false) if self.node == Some(row.endpoint) => Wanted::Anything,
            (true, ..) => Wanted::Own,
            (false, true, _) => Wanted::Node(node),
            (false, false, true) => Wanted::Own,
            (false, false, false) => Wanted::Nothing,
        }
    }
}

/// What was seen in a cell.
type Seen = Result<IpAddr, Failure>;

/// The table, with the endpoints' names for addresses.
struct Matrix<'a> {
    site: &'a Site<'a>,
    names: BTreeMap<IpAddr, String>,
    wrong: Mutex<Vec<String>>,
}

impl Matrix<'_> {
    fn fits(&self, seat: &Seat<'_>, wanted: Wanted, family: Family, seen: &Seen) -> bool {
        match (wanted, seen) {
            (Wanted::Anything, _) | (Wanted::Nothing, Err(Failure::TimedOut)) => true,
            (Wanted::Own, Ok(ip)) => seat.own[usize::from(family == Family::V6)] == *ip,
            (Wanted::Node(node), Ok(ip)) => {
                let own = format!("n{}", node + 1);
                self.names.get(ip).is_some_and(|name| name.split(' ').next() == Some(own.as_str()))
            }
            (Wanted::Own | Wanted::Node(_) | Wanted::Nothing, _) => false,
        }
    }

    fn cell(&self, seat: &Seat<'_>, wanted: Wanted, front: Front) -> Seen {
        let family = if front.at.is_ipv4() { Family::V4 } else { Family::V6 };
        let mut last = Err(Failure::TimedOut);
        let told = eventually("a cell", AGAIN, || {
            let said = seat.from.run(self.site, || front.ask("clientip", SILENCE));
            last = said
                .map_err(Failure::from)
                .and_then(|said| said)
                .and_then(|said| source(&said).map_err(|why| Failure::Other(why.to_string())));
            if self.fits(seat, wanted, family, &last) { Ok(()) } else { Err("wrong") }
        });
        if told.is_err() {
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            wrong.push(format!("{} at {front}: {}, not {wanted:?}", seat.name, self.name(seat, &last)));
        }
        last
    }

    fn name(&self, seat: &Seat<'_>, seen: &Seen) -> String {
        match seen {
            Ok(ip) if seat.pod || seat.node.is_none() => {
                if seat.own.contains(ip) {
                    "own".to_owned()
                } else {
                    self.known(*ip)
                }
            }
            Ok(ip) => self.known(*ip),
            Err(Failure::TimedOut) => "-".to_owned(),
            Err(why) => why.to_string(),
        }
    }

    fn known(&self, ip: IpAddr) -> String {
        self.names.get(&ip).cloned().unwrap_or_else(|| ip.to_string())
    }

    /// One line: every seat at one way into one Service, over TCP and UDP, in both families.
    fn line(&self, seats: &[Seat<'_>], way: (Frontend, &str), row: &Row, entry: usize) -> Outcome<String> {
        let (frontend, name) = way;
        let fronts = match frontend {
            Frontend::ClusterIp => at(self.site, &row.service, &row.service.ips)?,
            Frontend::NodePort => node_ports(self.site, &row.service, entry)?,
            Frontend::ExternalIp => at(self.site, &row.service, &row.frontends[0])?,
            Frontend::LoadBalancer => at(self.site, &row.service, &row.frontends[1])?,
        };
        let every = |seat| (0..fronts.len()).map(move |front| (seat, front));
        let cells: Vec<(usize, usize)> = (0..seats.len()).flat_map(every).collect();
        let seen = Mutex::new(BTreeMap::new());
        together(&cells, |(seat, front)| {
            let wanted = seats[seat].wanted(frontend, row, entry);
            let cell = self.cell(&seats[seat], wanted, fronts[front]);
            seen.lock().unwrap_or_else(PoisonError::into_inner).insert((seat, front), cell);
            Ok(())
        })?;
        let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let policy = if row.local { "Local" } else { "Cluster" };
        let mut line = format!("|   {name:11} {policy:7} n{}", row.endpoint + 1);
        for (index, seat) in seats.iter().enumerate() {
            // What families and protocols have in common is said once.
            let mut names: Vec<String> =
                (0..fronts.len()).map(|front| self.name(seat, &seen[&(index, front)])).collect();
            names.dedup();
            let cell = names.join("/");
            let _ = write!(line, "  {cell:>12}");
        }
        Ok(line)
    }
}

/// The names of the nodes' addresses: on the link, and on a bridge of pods.
fn names(site: &Site<'_>) -> Outcome<BTreeMap<IpAddr, String>> {
    let mut names = BTreeMap::new();
    for (index, node) in site.cluster().nodes().iter().enumerate() {
        names.extend(node_ips(site, index)?.map(|ip| (ip, node.name.clone())));
        for line in node.namespace.ip("-o addr show cni0").unwrap_or_default().lines() {
            let word = line.split_whitespace().nth(3).and_then(|word| word.split('/').next());
            names.extend(word.and_then(|ip| Some((ip.parse().ok()?, format!("{} cni0", node.name)))));
        }
    }
    Ok(names)
}

fn rows(site: &Site<'_>) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for (policy, endpoint) in [("Cluster", 0), ("Cluster", 1), ("Local", 0), ("Local", 1)] {
        let name = format!("{}-{}", policy.to_lowercase(), endpoint + 1);
        let [external, vips] = [vips(), vips()];
        let more = json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "externalIPs": external});
        let object = with_spec(service(&name, &format!("on-{}", endpoint + 1), &both_80()), more);
        let service = Service::create(site, object)?;
        ingress(site, &name, &vips, None)?;
        let frontends = [external.to_vec(), vips.to_vec()];
        rows.push(Row { service, frontends, local: policy == "Local", endpoint });
    }
    Ok(rows)
}

/// The whole table, for what comes in by node 1, where pods are routed, and by node 2, where they are on a bridge.
pub(crate) fn measured(site: &Site<'_>) -> Outcome {
    let on_host = |name: &str, node| {
        let ports = ["netexec", "--http-port=18086", "--udp-port=18086"];
        Pod { host_network: true, ..with_args(pod(name, node, "none"), &ports) }
    };
    all_ready(
        site,
        vec![
            pod("client-1", 0, "none"),
            pod("client-2", 1, "none"),
            on_host("host-1", 0),
            on_host("host-2", 1),
            pod("pod1", 0, "on-1"),
            pod("pod2", 1, "on-2"),
        ],
    )?;
    let outside = site.cluster().outside()?;
    let rows = rows(site)?;
    for row in &rows {
        let pod = if row.endpoint == 0 { "pod1" } else { "pod2" };
        reaches(site, From::Pod("client-1"), row.service.tcp(Family::V4, 80), &[pod])?;
    }
    site.cluster().settle(LAG)?;
    let matrix = Matrix { site, names: names(site)?, wrong: Mutex::default() };
    let mut text = String::new();
    for entry in [0, 1] {
        let clients = ["client-1", "client-2"];
        let other = 1 - entry;
        let of_pod = |name, index: usize| -> Outcome<Seat<'_>> {
            let own =
                [address(site, clients[index], Family::V4)?, address(site, clients[index], Family::V6)?];
            Ok(Seat { name, from: From::Pod(clients[index]), own, node: Some(index), pod: true })
        };
        let of_node = |name, from, index| -> Outcome<Seat<'_>> {
            Ok(Seat { name, from, own: node_ips(site, index)?, node: Some(index), pod: false })
        };
        let host = From::Pod(["host-1", "host-2"][entry]);
        let away = From::Outside(&outside);
        let seats = [
            of_pod("pod", entry)?,
            of_node("host process", From::Node(entry), entry)?,
            of_node("host net pod", host, entry)?,
            of_pod("remote pod", other)?,
            of_node("remote node", From::Node(other), other)?,
            Seat { name: "off-cluster", from: away, own: outside.addresses(), node: None, pod: false },
        ];
        let head: String =
            seats.iter().fold(String::new(), |text, seat| format!("{text}  {:>12}", seat.name));
        let _ = writeln!(
            text,
            "| whom endpoints see, {:?}, by n{}, \"-\" is no answer\n|   way in      policy  endpoint{}",
            site.cluster().proxy(),
            entry + 1,
            head.split_at(6).1,
        );
        for row in &rows {
            lead(site, row.frontends.iter().flatten().chain(&row.service.ips), entry)?;
            for way in FRONTENDS {
                let _ = writeln!(text, "{}", matrix.line(&seats, way, row, entry)?);
            }
        }
    }
    print!("{text}");
    for ip in rows.iter().flat_map(|row| &row.service.ips) {
        site.cluster().route(*ip, None)?;
    }
    let wrong = matrix.wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure(wrong.is_empty(), || format!("{} cells are wrong: {}", wrong.len(), wrong.join("; ")))
}
