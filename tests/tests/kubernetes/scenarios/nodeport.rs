//! Node ports: a Service at every node's own address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use serde_json::{Value, json};
use tests::kubernetes::Site;

use crate::client::{Connection, Front, Proto};
use crate::kit::{
    From, LAG, Outcome, PATIENCE, all_reach, dropped, ensure, eventually, pairs, refused, together,
};
use crate::objects::{Service, both_80, port, serve_all, service, with_spec};
use crate::ways::{Lent, every_node_port, lead, node_ips, node_ports, vips};

/// Of a range's first 86 numbers the API server gives out none by itself until it has no others.
const CHOSEN: [u16; 3] = [30_001, 30_002, 30_003];
/// A port of a host, outside that range.
const OWN: u16 = 18_090;

fn node_port(name: &str, app: &str) -> Value {
    with_spec(service(name, app, &both_80()), json!({"type": "NodePort"}))
}

/// Every endpoint by the ClusterIP and by every node's node port, over HTTP and UDP, in both families: from pods,
/// endpoints, processes of hosts, and from off the cluster.
pub(crate) fn from_everywhere(site: &Site<'_>) -> Outcome {
    let (clients, pods) = (["client-1", "client-2"], ["pod1", "pod2"]);
    serve_all(site, &clients, "none")?;
    serve_all(site, &pods, "web")?;
    let web = Service::create(site, node_port("web", "web"))?;
    let outside = site.cluster().outside()?;
    let ports = every_node_port(site, &web)?;
    let seats = clients.into_iter().chain(pods).map(From::Pod);
    for from in seats.chain([From::Node(0), From::Node(1)]) {
        all_reach(site, from, &[web.fronts(), ports.clone()].concat(), &pods)?;
    }
    all_reach(site, From::Outside(&outside), &ports, &pods)
}

/// TCP and UDP of one port get a node port each; they are two things, also where their number is the same.
pub(crate) fn same_port_two_protocols(site: &Site<'_>) -> Outcome {
    serve_all(site, &["pod1", "pod2"], "web")?;
    serve_all(site, &["client"], "none")?;
    let [tcp, udp] = both_80();
    let web = Service::create(site, service("web", "web", std::slice::from_ref(&tcp)))?;
    let set = |ports: &[Value]| {
        site.merge("Service", "web", json!({"spec": {"type": "NodePort", "ports": ports}})).map(drop)
    };
    let from = From::Pod("client");
    set(&[tcp, udp])?;
    let fronts = every_node_port(site, &web)?;
    ensure(fronts.len() == 8, || format!("{fronts:?}"))?;
    all_reach(site, from, &[web.fronts(), fronts.clone()].concat(), &["pod1", "pod2"])?;
    // One number for both, and then for one of them alone.
    let [tcp, udp] = both_80().map(|port| numbered(port, CHOSEN[0]));
    set(&[tcp, udp.clone()])?;
    let shared = every_node_port(site, &web)?;
    ensure(shared.iter().all(|front| front.at.port() == CHOSEN[0]), || format!("{shared:?}"))?;
    all_reach(site, from, &shared, &["pod1", "pod2"])?;
    together(&fronts, |front| refused(site, from, front))?;
    set(&[udp])?;
    let (udp, tcp): (Vec<_>, Vec<_>) = shared.into_iter().partition(|front| front.proto == Proto::Udp);
    together(&tcp, |front| refused(site, from, front))?;
    all_reach(site, from, &udp, &["pod1", "pod2"])
}

fn numbered(mut port: Value, number: u16) -> Value {
    port["nodePort"] = json!(number);
    port
}

/// What turns a Service of any type into one with node ports.
fn to_node_port() -> Value {
    json!({"spec": {
        "type": "NodePort", "externalName": null, "selector": {"app": "web"},
        "ipFamilyPolicy": "RequireDualStack", "ports": both_80(),
    }})
}

/// An alias becomes a Service with node ports, and an alias again: a node's port is nobody's then.
pub(crate) fn external_name_and_back(site: &Site<'_>) -> Outcome {
    serve_all(site, &["pod1", "pod2"], "web")?;
    serve_all(site, &["client"], "none")?;
    site.create(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "ExternalName", "externalName": "elsewhere.example.com"},
    }))?;
    site.merge("Service", "web", to_node_port())?;
    let web = Service { name: "web".to_owned(), ips: site.cluster_ips("web")? };
    let ports = every_node_port(site, &web)?;
    let seats = [From::Pod("client"), From::Node(1)];
    for from in seats {
        all_reach(site, from, &[web.fronts(), ports.clone()].concat(), &["pod1", "pod2"])?;
    }
    let spec = json!({
        "type": "ExternalName", "externalName": "elsewhere.example.com", "selector": null, "ports": null,
        "clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
    });
    site.merge("Service", "web", json!({"spec": spec}))?;
    together(&pairs(&seats, &web.fronts()), |(from, front)| dropped(site, from, front))?;
    together(&pairs(&seats, &ports), |(from, front)| refused(site, from, front))
}

/// A ClusterIP Service gets node ports and loses them; its ClusterIP serves all the time.
pub(crate) fn cluster_ip_and_back(site: &Site<'_>) -> Outcome {
    serve_all(site, &["pod1", "pod2"], "web")?;
    serve_all(site, &["client"], "none")?;
    let outside = site.cluster().outside()?;
    let (from, away) = (From::Pod("client"), From::Outside(&outside));
    let web = Service::simple(site, "web", "web")?;
    all_reach(site, from, &web.fronts(), &["pod1", "pod2"])?;
    site.merge("Service", "web", json!({"spec": {"type": "NodePort"}}))?;
    let ports = every_node_port(site, &web)?;
    all_reach(site, from, &[web.fronts(), ports.clone()].concat(), &["pod1", "pod2"])?;
    all_reach(site, away, &ports, &["pod1", "pod2"])?;
    site.merge("Service", "web", json!({"spec": {"type": "ClusterIP"}}))?;
    together(&ports, |front| refused(site, from, front))?;
    together(&ports, |front| refused(site, away, front))?;
    all_reach(site, from, &web.fronts(), &["pod1", "pod2"])
}

/// A node port gets another number, over HTTP and UDP: the old one is closed; connections by it go on.
pub(crate) fn number_changes(site: &Site<'_>) -> Outcome {
    serve_all(site, &["pod1", "pod2"], "web")?;
    serve_all(site, &["client"], "none")?;
    let from = From::Pod("client");
    let web = Service::create(site, node_port("web", "web"))?;
    let old = every_node_port(site, &web)?;
    all_reach(site, from, &old, &["pod1", "pod2"])?;
    let mut streams = Vec::new();
    for front in old.iter().filter(|front| front.proto == Proto::Tcp) {
        let stream = from.run(site, || Connection::open(front.at, PATIENCE))??;
        streams.push(stream);
    }
    let [tcp, udp] = both_80();
    let ports = [numbered(tcp, CHOSEN[1]), numbered(udp, CHOSEN[2])];
    site.merge("Service", "web", json!({"spec": {"ports": ports}}))?;
    let new = every_node_port(site, &web)?;
    all_reach(site, from, &new, &["pod1", "pod2"])?;
    together(&old, |front| refused(site, from, front))?;
    for stream in &mut streams {
        stream.get_text("/hostname", PATIENCE)?;
    }
    Ok(())
}

/// Without endpoints a node port is refused, although somebody on the node listens at its number: the proxy takes it.
pub(crate) fn no_endpoints(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client-1", "client-2"], "none")?;
    let outside = site.cluster().outside()?;
    let empty = Service::create(site, node_port("empty", "nobody"))?;
    let _listening = Squatters::sit_at(site, &empty)?;
    let [here, there] = [node_ports(site, &empty, 0)?, node_ports(site, &empty, 1)?];
    let (one, two, away) = (From::Pod("client-1"), From::Pod("client-2"), From::Outside(&outside));
    let asked = [pairs(&[one, two, away, From::Node(0)], &here), pairs(&[one, From::Node(0)], &there)];
    together(&asked.concat(), |(from, front)| refused(site, from, front))
}

/// A process of node 1 that listens at every address: nobody reserves the numbers of node ports.
struct Squatters {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Squatters {
    fn sit(site: &Site<'_>, tcp: u16, udp: u16) -> Outcome<Self> {
        let anywhere = Ipv6Addr::UNSPECIFIED;
        let bind = || {
            let (tcp, udp) = (TcpListener::bind((anywhere, tcp))?, UdpSocket::bind((anywhere, udp))?);
            Ok::<_, std::io::Error>(Self { tcp, udp })
        };
        Ok(site.on_node(0, bind)??)
    }

    /// At the node ports of a Service: one of each protocol.
    fn sit_at(site: &Site<'_>, service: &Service) -> Outcome<Self> {
        let fronts = node_ports(site, service, 0)?;
        let number = |proto| {
            let found = fronts.iter().find(|front| front.proto == proto);
            found.map_or(0, |front| front.at.port())
        };
        Self::sit(site, number(Proto::Tcp), number(Proto::Udp))
    }

    /// Whether it is this process that answers from there: a connection to it, and a datagram.
    fn hears(&self, site: &Site<'_>, from: From<'_>, ip: IpAddr) -> Outcome {
        self.tcp.set_nonblocking(true)?;
        self.udp.set_read_timeout(Some(PATIENCE))?;
        let at = SocketAddr::new(ip, self.tcp.local_addr()?.port());
        let stream = from.run(site, || TcpStream::connect_timeout(&at, PATIENCE))??;
        let own = stream.local_addr()?;
        eventually(&format!("the host's own process gets the connection of {from} to {at}"), LAG, || {
            let (_, peer) = self.tcp.accept().map_err(|error| error.to_string())?;
            if peer.port() == own.port() { Ok(()) } else { Err(format!("{peer} came, not {own}")) }
        })?;
        let at = SocketAddr::new(ip, self.udp.local_addr()?.port());
        let unspecified = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        from.run(site, || UdpSocket::bind(unspecified)?.send_to(b"to the host", at))??;
        // What was sent to a node port before the proxy served it has come here too.
        eventually(&format!("the host's own process gets the datagram of {from} to {at}"), LAG, || {
            let mut buffer = [0; 64];
            let (count, _) = self.udp.recv_from(&mut buffer).map_err(|error| error.to_string())?;
            if &buffer[..count] == b"to the host" { Ok(()) } else { Err("another came".to_owned()) }
        })
    }
}

/// Only the node's own address has node ports: another address of it, and its loopback, are the host's own.
pub(crate) fn other_addresses_untouched(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client"], "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let outside = site.cluster().outside()?;
    let web = Service::create(site, node_port("web", "web"))?;
    let fronts = node_ports(site, &web, 0)?;
    let host = Squatters::sit_at(site, &web)?;
    let others = vips();
    let _lent = Lent::to_node_1(site, &others)?;
    lead(site, &others, 0)?;
    for from in [From::Pod("client"), From::Node(1), From::Outside(&outside)] {
        all_reach(site, from, &fronts, &["pod1", "pod2"])?;
        others.iter().try_for_each(|ip| host.hears(site, from, *ip))?;
    }
    all_reach(site, From::Node(0), &fronts, &["pod1", "pod2"])?;
    let loopback = [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()];
    loopback.iter().chain(&others).try_for_each(|ip| host.hears(site, From::Node(0), *ip))
}

/// A port of a node that is no node port is the node's, while Services come and go around it.
pub(crate) fn ports_of_the_host(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client"], "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let outside = site.cluster().outside()?;
    // A Service's own port number at the node's address is nobody's either.
    let ports = [port("tcp", "TCP", OWN, 80), port("udp", "UDP", OWN, 80)];
    let web = Service::create(site, with_spec(service("web", "web", &ports), json!({"type": "NodePort"})))?;
    let seats = [From::Pod("client"), From::Node(1), From::Outside(&outside)];
    let own = node_ips(site, 0)?.map(|ip| [Front::tcp(ip, OWN), Front::udp(ip, OWN)]).concat();
    seats
        .iter()
        .try_for_each(|from| all_reach(site, *from, &node_ports(site, &web, 0)?, &["pod1", "pod2"]))?;
    // The kernel tells a peer a few times only, and node 2 is everybody's.
    together(&pairs(&[seats[0], seats[2]], &own), |(from, front)| refused(site, from, front))?;
    let host = Squatters::sit(site, OWN, OWN)?;
    for from in seats {
        node_ips(site, 0)?.iter().try_for_each(|ip| host.hears(site, from, *ip))?;
        all_reach(site, from, &node_ports(site, &web, 0)?, &["pod1", "pod2"])?;
    }
    Ok(())
}
