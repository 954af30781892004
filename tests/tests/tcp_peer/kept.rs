//! Connection marks: what the server's own stack sees as its peer, and that streams survive whatever comes.

use super::*;
use tests::cluster::{MARK_SNAT4, MARK_SNAT6, Sources, ip};

/// A pod, a host outside, and a server behind two Services, on a node whose pods are 10.244.0.0/16 and fd24::/64.
fn world(seed: u64) -> (World, [usize; 3]) {
    let mut world = World::new(2, seed);
    let hosts = [
        world.host(&["10.244.1.9", "fd24::9"], true),
        world.host(&["10.1.0.1", "fd01::1"], true),
        world.host(&["10.244.1.1", "fd24::1"], true),
    ];
    let pods = vec![(ip("10.244.0.0"), 16), (ip("fd24::"), 64)];
    world.cluster.sources = Sources::Kept { all: false, pods, hosts: Vec::new() };
    for vip in ["10.96.0.10:80", "10.96.0.11:80"] {
        world.cluster.serve(Proto::Tcp, vip, &["10.244.1.1:8080"]);
    }
    world.cluster.serve(Proto::Tcp, "[fd96::10]:80", &["[fd24::1]:8080"]);
    world.publish();
    (world, hosts)
}

/// Connects, sends 100 kB each way, and says whom the server took for its peer.
fn peer_seen(world: &mut World, client: usize, server: usize, vip: &str, port: u16) -> std::net::SocketAddr {
    let listener = world.at(server).listen(8_080);
    let socket = world.at(client).connect(addr(vip), port);
    let (mut up, mut down) = (Stream::new(3, 100_000), Stream::new(7, 100_000));
    let done = world.run(LONG, |world| {
        up.send(world.at(client).tcp(socket));
        down.receive(world.at(client).tcp(socket));
        down.send(world.at(server).tcp(listener));
        up.receive(world.at(server).tcp(listener));
        up.complete() && down.complete()
    });
    assert!(done, "{vip}: up {up:?}, down {down:?}");
    let peer = world.at(server).tcp(listener).remote_endpoint().expect("it is connected");
    std::net::SocketAddr::new(peer.addr.into(), peer.port)
}

#[test]
fn a_server_sees_the_pod_and_who_is_no_pod_as_the_snat_address() {
    for (vip, pod, snat) in
        [("10.96.0.10:80", "10.244.1.9", MARK_SNAT4), ("[fd96::10]:80", "fd24::9", MARK_SNAT6)]
    {
        let (mut world, [inside, outside, server]) = world(7);
        world.weather = Weather { loss: 20, late: 100 };
        let seen = peer_seen(&mut world, inside, server, vip, 40_000);
        assert_eq!(seen, std::net::SocketAddr::new(ip(pod), 40_000));
        let seen = peer_seen(&mut world, outside, server, vip, 40_000);
        assert_eq!(seen, std::net::SocketAddr::new(ip(snat), 40_000));
        world.compare();
    }
}

#[test]
fn one_port_of_a_pod_to_one_endpoint_by_two_services_is_two_connections() {
    let (mut world, [inside, _, server]) = world(11);
    let first = peer_seen(&mut world, inside, server, "10.96.0.10:80", 40_000);
    let second = peer_seen(&mut world, inside, server, "10.96.0.11:80", 40_000);
    assert_eq!((first.ip(), first.port(), second.ip()), (ip("10.244.1.9"), 40_000, ip("10.244.1.9")));
    assert_ne!(second.port(), 40_000, "the server would take it for the first connection");
    assert_eq!((world.oracle.kept, world.oracle.kept_clashes), (2, 1));
    world.compare();
}
