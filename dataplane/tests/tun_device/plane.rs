//! A whole plane between the kernel's own TCP stack and itself: client, VIP and server in one namespace.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use dataplane::engine::EngineConfig;
use dataplane::flow::{RegionConfig, Ttls};
use dataplane::ids::{EndpointId, ServiceId};
use dataplane::packet::tuple::Proto;
use dataplane::plane::{Plane, PlaneConfig};
use dataplane::service::{Backend, Fabric, ReturnPath, Service, SnapshotBuilder, SvcPort, World};
use dataplane::stats::{Counter, Totals};
use tempfile::TempDir;

use super::rooted::{eventually, ip};
use super::{DEV, LIMIT, network};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const SNAT: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const PORT: u16 = 8080;
const BYTES: usize = 4 << 20;

pub(crate) fn a_service_is_served_over_tcp_with_super_packets_and_every_frame_is_counted() {
    let (plane, _dir) = plane(2);
    let listener = TcpListener::bind((HOST, PORT)).unwrap();
    let served = thread::spawn(move || echo(&listener));
    let mut client = TcpStream::connect_timeout(&(VIP, 80).into(), LIMIT).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let sent: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let (mut writer, wanted) = (client.try_clone().unwrap(), sent.clone());
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut echoed = vec![0; BYTES];
    client.read_exact(&mut echoed).unwrap();
    writing.join().unwrap();
    assert!(echoed == wanted, "what came back is not what was sent");

    let mut rows = Vec::new();
    plane.flows(&mut |row| rows.push(row));
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(row.state, "ESTABLISHED");
    assert_eq!((row.forward.dst, row.reply.src), (VIP.into(), HOST.into()));
    assert!(row.bytes.iter().all(|n| *n > BYTES as u64), "{row:?}");
    let per_packet = (row.bytes[0] + row.bytes[1]) / (row.packets[0] + row.packets[1]);
    assert!(per_packet > 9_000, "{per_packet} bytes a packet at MTU 9000: no super-packets");

    drop(client);
    assert_eq!(served.join().unwrap(), SNAT);
    let mut totals = plane.totals();
    eventually("all frames to be counted", || {
        totals = plane.totals();
        totals.get(Counter::Received) == ended(&totals)
    });
    assert!(totals.get(Counter::Translated) > 0 && totals.get(Counter::FlowsOpened) == 1, "{totals:?}");
    plane.stop(LIMIT).unwrap();
}

pub(crate) fn a_device_deleted_under_a_plane_is_a_failure() {
    let (plane, _dir) = plane(2);
    ip(&["link", "del", DEV]);
    let mut failed = None;
    eventually("the failure", || {
        failed = plane.failed();
        failed.is_some()
    });
    let said = failed.unwrap().to_string();
    assert!(said.contains("its queue failed"), "{said}");
    assert!(plane.stop(LIMIT).is_err());
}

/// A plane that serves VIP:80 by the host's own port, steered by routes.
fn plane(queues: usize) -> (Plane, TempDir) {
    let (queues, dir) = network(queues);
    ip(&["link", "set", "lo", "up"]);
    for address in [VIP, SNAT] {
        ip(&["route", "add", &address.to_string(), "dev", DEV, "src", &HOST.to_string()]);
    }
    let config = PlaneConfig {
        region: RegionConfig { dir: None, name: DEV.into(), max_flows_v4: 4_096, max_flows_v6: 4_096 },
        ttls: Ttls::default(),
        engine: EngineConfig::default(),
        max_affinity: 1_024,
    };
    let mut plane = Plane::start(&config, queues).unwrap();
    plane.publish(Arc::new(world()));
    (plane, dir)
}

fn world() -> World {
    let mut builder = SnapshotBuilder::new(Fabric {
        return_path: ReturnPath::Masquerade,
        snat: vec![SNAT.into()],
        service_cidrs: Vec::new(),
        ..Fabric::default()
    });
    builder.upsert(Service {
        backends: Box::new([Backend {
            id: EndpointId(1),
            addr: HOST.into(),
            port: PORT,
            local: true,
            ready_or_serving: true,
        }]),
        cluster: Box::new([0]),
        any: true,
        ..Service::bare(ServiceId(1), "default/echo", VIP.into(), SvcPort { port: 80, proto: Proto::Tcp })
    });
    World::Ready(builder.build().unwrap())
}

/// Echoes one connection to its end, and returns whom it was from.
fn echo(listener: &TcpListener) -> Ipv4Addr {
    let (mut stream, from) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            len => stream.write_all(&buffer[..len]).unwrap(),
        }
    }
    match from.ip() {
        std::net::IpAddr::V4(from) => from,
        std::net::IpAddr::V6(from) => panic!("from {from}"),
    }
}

fn ended(totals: &Totals) -> u64 {
    [Counter::Translated, Counter::Passed, Counter::Replied].map(|c| totals.get(c)).iter().sum::<u64>()
        + totals.dropped()
}
