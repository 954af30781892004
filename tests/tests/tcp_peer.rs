//! Real TCP stacks talk through the gateway on a virtual clock, each packet through a random engine.
//!
//! The model judges every packet on the way: exact inverses, endpoint kept, checksums, ports, nothing else touched.

#[path = "tcp_peer/kept.rs"]
mod kept;

use std::time::Duration;

use dataplane::packet::tuple::Proto;
use dataplane::stats::Counter;
use smoltcp::socket::tcp::State;
use tests::check::{L4, assert_valid};
use tests::cluster::addr;
use tests::packets::{IcmpError, Wire, flags, icmp_error, tcp, udp};
use tests::peer::Tcp;
use tests::world::{Weather, World};

const MEGABYTE: usize = 1_000_000;
const LONG: Duration = Duration::from_secs(20_000);

struct Scene {
    world: World,
    client: usize,
    servers: Vec<usize>,
    vip: std::net::SocketAddr,
    listeners: Vec<Tcp>,
}

/// A client, a gateway and two servers behind one Service.
fn scene(v6: bool, offload: bool, workers: u8, seed: u64) -> Scene {
    let mut world = World::new(workers, seed);
    let client = world.host(&["10.1.0.1", "fd01::1"], offload);
    let servers = vec![
        world.host(&["10.244.1.1", "fd24::1"], offload),
        world.host(&["10.244.1.2", "fd24::2"], offload),
    ];
    world.cluster.serve(Proto::Tcp, "10.96.0.10:80", &["10.244.1.1:8080", "10.244.1.2:8080"]);
    world.cluster.serve(Proto::Tcp, "[fd96::10]:80", &["[fd24::1]:8080", "[fd24::2]:8080"]);
    world.publish();
    let listeners = servers.iter().map(|server| world.at(*server).listen(8_080)).collect();
    let vip = addr(if v6 { "[fd96::10]:80" } else { "10.96.0.10:80" });
    Scene { world, client, servers, vip, listeners }
}

impl Scene {
    /// Connects; the client's socket and which server answered.
    fn connect(&mut self, port: u16) -> (Tcp, usize) {
        let vip = self.vip;
        let socket = self.world.at(self.client).connect(vip, port);
        let (client, servers, listeners) = (self.client, self.servers.clone(), self.listeners.clone());
        let mut by = None;
        let open = self.world.run(LONG, |world| {
            by = (0..servers.len())
                .find(|n| world.at(servers[*n]).tcp(listeners[*n]).state() == State::Established);
            world.at(client).tcp(socket).state() == State::Established && by.is_some()
        });
        assert!(open, "no connection: client {}", self.world.at(client).tcp(socket).state());
        (socket, by.expect("a server"))
    }

    /// Sends this much in both directions at once and checks every byte.
    fn exchange(&mut self, socket: Tcp, by: usize, bytes: usize) {
        let (client, server, listener) = (self.client, self.servers[by], self.listeners[by]);
        let mut up = Stream::new(3, bytes);
        let mut down = Stream::new(7, bytes);
        let done = self.world.run(LONG, |world| {
            up.send(world.at(client).tcp(socket));
            down.receive(world.at(client).tcp(socket));
            down.send(world.at(server).tcp(listener));
            up.receive(world.at(server).tcp(listener));
            up.complete() && down.complete()
        });
        assert!(done, "up {up:?}, down {down:?}, {:?}", self.world.gateway.totals());
    }

    /// Closes both ends and waits until the flow is in TIME_WAIT on the client.
    fn close(&mut self, socket: Tcp, by: usize) {
        let (client, server, listener) = (self.client, self.servers[by], self.listeners[by]);
        self.world.at(client).tcp(socket).close();
        let closed = self.world.run(LONG, |world| {
            if world.at(server).tcp(listener).state() == State::CloseWait {
                world.at(server).tcp(listener).close();
            }
            let done = matches!(world.at(server).tcp(listener).state(), State::Closed);
            done && matches!(world.at(client).tcp(socket).state(), State::TimeWait | State::Closed)
        });
        assert!(closed, "client {}", self.world.at(client).tcp(socket).state());
        self.listen_again(by);
    }

    fn listen_again(&mut self, by: usize) {
        let (server, listener) = (self.servers[by], self.listeners[by]);
        self.world.at(server).forget(listener);
        self.listeners[by] = self.world.at(server).listen(8_080);
    }
}

/// One direction: bytes that can be told from each other by their place.
#[derive(Debug)]
struct Stream {
    step: usize,
    total: usize,
    sent: usize,
    received: usize,
}

impl Stream {
    fn new(step: usize, total: usize) -> Self {
        Self { step, total, sent: 0, received: 0 }
    }

    fn byte(&self, at: usize) -> u8 {
        (at * self.step + at / 251).to_le_bytes()[0]
    }

    fn send(&mut self, socket: &mut smoltcp::socket::tcp::Socket<'static>) {
        while self.sent < self.total && socket.can_send() {
            let end = (self.sent + 16_384).min(self.total);
            let piece: Vec<u8> = (self.sent..end).map(|at| self.byte(at)).collect();
            self.sent += socket.send_slice(&piece).expect("an open socket");
        }
    }

    fn receive(&mut self, socket: &mut smoltcp::socket::tcp::Socket<'static>) {
        let mut buffer = [0; 16_384];
        while socket.can_recv() {
            let count = socket.recv_slice(&mut buffer).expect("an open socket");
            for (offset, byte) in buffer[..count].iter().enumerate() {
                assert_eq!(*byte, self.byte(self.received + offset), "byte {}", self.received + offset);
            }
            self.received += count;
        }
    }

    fn complete(&self) -> bool {
        self.received == self.total
    }
}

#[test]
fn a_megabyte_each_way_arrives() {
    for (v6, offload, workers, seed) in
        [(false, false, 1, 1), (false, true, 2, 2), (true, false, 3, 3), (true, true, 2, 4)]
    {
        let mut scene = scene(v6, offload, workers, seed);
        let (socket, by) = scene.connect(40_000);
        scene.exchange(socket, by, MEGABYTE);
        scene.close(socket, by);
        scene.world.compare();
        assert_eq!(scene.world.used.len(), usize::from(workers), "every engine saw packets");
        assert_eq!(scene.world.gateway.totals().dropped(), 0);
        let flows = scene.world.gateway.flows();
        assert_eq!(flows.len(), 1);
        assert!((100..=120).contains(&flows[0].expires), "TIME_WAIT: {flows:?}");
    }
}

#[test]
fn super_packets_go_through_whole() {
    let mut scene = scene(false, true, 2, 5);
    let (socket, by) = scene.connect(40_000);
    scene.exchange(socket, by, MEGABYTE);
    let totals = scene.world.gateway.totals();
    let average = totals.get(Counter::ReceivedBytes) / totals.get(Counter::Received);
    assert!(average > 1_500, "packets of {average} bytes on average");
}

#[test]
fn loss_and_disorder_are_survived() {
    let shapes = [(false, false), (true, true), (false, true)];
    for ((v6, offload), seed) in shapes.into_iter().cycle().zip(11..20) {
        let mut scene = scene(v6, offload, 3, seed);
        scene.world.weather = Weather { loss: 50, late: 100 };
        let (socket, by) = scene.connect(40_000);
        scene.exchange(socket, by, MEGABYTE);
        scene.world.compare();
    }
}

#[test]
fn a_port_may_be_used_again_and_finds_a_fresh_endpoint() {
    let mut scene = scene(false, false, 2, 21);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..24 {
        let (socket, by) = scene.connect(40_000);
        scene.exchange(socket, by, 2_000);
        if round % 2 == 0 {
            scene.close(socket, by);
        } else {
            let (client, server, listener) = (scene.client, scene.servers[by], scene.listeners[by]);
            scene.world.at(client).tcp(socket).abort();
            let gone = scene.world.run(LONG, |world| world.at(server).tcp(listener).state() == State::Closed);
            assert!(gone, "the server heard nothing of the RST");
            scene.listen_again(by);
        }
        let client = scene.client;
        scene.world.at(client).forget(socket);
        seen.insert(by);
    }
    assert_eq!(seen.len(), 2, "a new connection is a new choice");
    assert_eq!(scene.world.gateway.totals().get(Counter::FlowsReopened), 23);
    assert_eq!(scene.world.gateway.flows().len(), 1);
}

#[test]
fn a_spoofed_rst_does_not_end_a_stream() {
    for v6 in [false, true] {
        let mut scene = scene(v6, false, 2, 31);
        let (socket, by) = scene.connect(40_000);
        scene.exchange(socket, by, 100_000);
        let client = addr(if v6 { "[fd01::1]:40000" } else { "10.1.0.1:40000" });
        // Outside the window: the server answers with a challenge ACK and goes on.
        scene.world.inject(tcp(client, scene.vip, flags::RST).seq(0xdead_beef).wire());
        scene.world.pass(Duration::from_millis(100));
        scene.world.inject(tcp(client, scene.vip, flags::ACK).seq(0xdead_beef).wire());
        // Idle far longer than a flow that was reset would live.
        scene.world.pass(Duration::from_secs(60));
        scene.exchange(socket, by, 100_000);
        scene.world.compare();
        assert_eq!(scene.world.gateway.totals().get(Counter::FlowsOpened), 1);
    }
}

#[test]
fn a_stream_finishes_when_its_endpoint_is_removed() {
    let mut scene = scene(false, true, 2, 41);
    let (socket, by) = scene.connect(40_000);
    scene.exchange(socket, by, 50_000);
    let gone = addr(["10.244.1.1:8080", "10.244.1.2:8080"][by]);
    for svc in scene.world.cluster.services.values_mut() {
        svc.endpoints.retain(|endpoint| endpoint.at != gone);
    }
    scene.world.publish();
    scene.exchange(socket, by, MEGABYTE);
    // Even the whole Service may go.
    scene.world.cluster.services.retain(|_, svc| svc.vip != scene.vip);
    scene.world.publish();
    // Its packets still have to be brought to the gateway.
    scene.world.cluster.serve(Proto::Udp, "10.96.0.10:53", &["10.244.1.1:53"]);
    scene.world.publish();
    scene.exchange(socket, by, 50_000);
    scene.close(socket, by);
    scene.world.compare();
}

#[test]
fn new_connections_avoid_a_removed_endpoint() {
    let mut scene = scene(false, false, 2, 51);
    for svc in scene.world.cluster.services.values_mut() {
        svc.endpoints.retain(|endpoint| endpoint.at != addr("10.244.1.1:8080"));
    }
    scene.world.publish();
    for port in 40_000..40_008 {
        let (socket, by) = scene.connect(port);
        assert_eq!(by, 1);
        scene.close(socket, by);
    }
}

#[test]
fn udp_asks_and_is_answered_and_moves_when_its_endpoint_goes() {
    let mut world = World::new(2, 61);
    let client = world.host(&["10.1.0.1", "fd01::1"], false);
    let servers =
        [world.host(&["10.244.1.1", "fd24::1"], false), world.host(&["10.244.1.2", "fd24::2"], false)];
    let v4 = world.cluster.serve(Proto::Udp, "10.96.0.10:53", &["10.244.1.1:5353", "10.244.1.2:5353"]);
    world.cluster.serve(Proto::Udp, "[fd96::10]:53", &["[fd24::1]:5353", "[fd24::2]:5353"]);
    world.publish();
    let sockets = servers.map(|server| world.at(server).bind_udp(5_353));
    let asking = world.at(client).bind_udp(33_333);
    let ask = |world: &mut World, vip: &str, text: &[u8]| -> usize {
        let vip = addr(vip);
        world.at(client).udp(asking).send_slice(text, vip).expect("room");
        let mut by = None;
        let answered = world.run(Duration::from_secs(5), |world| {
            for (n, (server, socket)) in servers.into_iter().zip(sockets).enumerate() {
                let socket = world.at(server).udp(socket);
                if let Ok((query, meta)) = socket.recv() {
                    let query = query.to_vec();
                    by = Some(n);
                    socket.send_slice(&query, meta).expect("room");
                }
            }
            let socket = world.at(client).udp(asking);
            socket.recv().is_ok_and(|(answer, meta)| {
                assert_eq!((answer, meta.endpoint), (text, vip.into()));
                true
            })
        });
        assert!(answered, "no answer from {vip}");
        by.expect("somebody answered")
    };
    for vip in ["10.96.0.10:53", "[fd96::10]:53"] {
        let first = ask(&mut world, vip, b"who");
        for _ in 0..10 {
            assert_eq!(ask(&mut world, vip, b"again"), first, "a flow keeps its endpoint");
        }
    }
    let by = ask(&mut world, "10.96.0.10:53", b"last");
    let gone = addr(["10.244.1.1:5353", "10.244.1.2:5353"][by]);
    world.cluster.service(v4).endpoints.retain(|endpoint| endpoint.at != gone);
    world.publish();
    assert_eq!(ask(&mut world, "10.96.0.10:53", b"moved"), 1 - by);
    assert_eq!(world.gateway.totals().get(Counter::FlowsPurged), 1);
    world.compare();
}

#[test]
fn a_narrow_link_behind_the_gateway_is_reported_to_the_client_as_of_the_vip() {
    for v6 in [false, true] {
        let mut world = World::new(2, 71);
        let (client, server) =
            (world.host(&["10.1.0.1", "fd01::1"], false), world.host(&["10.244.1.1", "fd24::1"], false));
        world.cluster.serve(Proto::Udp, "10.96.0.10:53", &["10.244.1.1:5353"]);
        world.cluster.serve(Proto::Udp, "[fd96::10]:53", &["[fd24::1]:5353"]);
        world.publish();
        let (from, vip, router) = if v6 {
            (addr("[fd01::1]:33333"), addr("[fd96::10]:53"), addr("[fd09::9]:0").ip())
        } else {
            (addr("10.1.0.1:33333"), addr("10.96.0.10:53"), addr("10.9.9.9:0").ip())
        };
        world.narrow = Some(1_300);
        world.inject(udp(from, vip).payload(vec![1; 1_400]).wire());
        world.pass(Duration::from_secs(1));
        let stopped = world.stopped.pop().expect("the router stopped the packet");
        let to = assert_valid(&Wire::plain(stopped.clone())).src.ip();
        // The router quotes as much as it may.
        let quoted = &stopped[..stopped.len().min(if v6 { 1_232 } else { 548 })];
        world.inject(Wire::plain(icmp_error(IcmpError::TooBig(1_300), router, to, quoted)));
        world.pass(Duration::from_secs(1));
        let error = world.at(client).seen.pop().expect("the client is told");
        let view = assert_valid(&Wire::plain(error));
        assert_eq!(view.src.ip(), vip.ip(), "as if from the VIP");
        let L4::Icmp { rest, quoted: Some(quoted), .. } = view.l4 else { panic!("{view:?}") };
        assert_eq!(rest, [0, 0, 0x05, 0x14], "the MTU is kept");
        assert_eq!((quoted.src, quoted.dst), (from, vip), "about the packet the client sent");
        assert!(world.at(server).seen.is_empty());
    }
}

#[test]
fn an_error_from_the_clients_side_reaches_the_endpoint() {
    let mut world = World::new(2, 81);
    let (client, server) = (world.host(&["10.1.0.1"], false), world.host(&["10.244.1.1"], false));
    world.cluster.serve(Proto::Udp, "10.96.0.10:53", &["10.244.1.1:5353"]);
    world.publish();
    world.inject(udp(addr("10.1.0.1:33333"), addr("10.96.0.10:53")).payload(*b"q").wire());
    world.pass(Duration::from_millis(10));
    let query = assert_valid(&Wire::plain(world.at(server).seen.pop().expect("the query")));
    world.inject(udp(query.dst, query.src).payload(vec![2; 400]).wire());
    world.pass(Duration::from_millis(10));
    let answer = world.at(client).seen.pop().expect("the answer");
    let vip = addr("10.96.0.10:0").ip();
    world.inject(Wire::plain(icmp_error(IcmpError::TimeExceeded, addr("10.1.0.254:0").ip(), vip, &answer)));
    world.pass(Duration::from_millis(10));
    let view = assert_valid(&Wire::plain(world.at(server).seen.pop().expect("the server is told")));
    let L4::Icmp { quoted: Some(quoted), .. } = view.l4 else { panic!("{view:?}") };
    assert_eq!((quoted.src, quoted.dst), (query.dst, query.src), "about the packet the server sent");
}

#[test]
fn a_connection_to_a_port_nobody_serves_is_refused() {
    let mut world = World::new(1, 91);
    let client = world.host(&["10.1.0.1", "fd01::1"], false);
    world.cluster.serve(Proto::Tcp, "10.96.0.10:80", &["10.244.1.1:8080"]);
    world.cluster.serve(Proto::Tcp, "[fd96::10]:80", &[]);
    world.publish();
    for vip in ["10.96.0.10:81", "[fd96::10]:80"] {
        world.at(client).connect(addr(vip), 45_000);
        world.pass(Duration::from_millis(10));
        let answer = assert_valid(&Wire::plain(world.at(client).seen.pop().expect("an answer")));
        assert_eq!(answer.src.ip(), addr(vip).ip());
        assert!(matches!(answer.l4, L4::Icmp { kind: 3, code: 3, .. } | L4::Icmp { kind: 1, code: 4, .. }));
    }
}
