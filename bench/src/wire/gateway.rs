//! The two userspace gateways `wire` compares: the null forwarder and tunway's own plane, same device, same queues,
//! worker n on CPU n. Each says `ready` and runs until its standard input ends.

use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dataplane::engine::EngineConfig;
use dataplane::flow::{RegionConfig, Ttls};
use dataplane::ids::{EndpointId, ServiceId};
use dataplane::io::device::{Device, DeviceConfig};
use dataplane::packet::tuple::Proto;
use dataplane::plane::{Plane, PlaneConfig};
use dataplane::service::{Backend, Fabric, ReturnPath, Service, SnapshotBuilder, SvcPort, World};

use super::load::{COUNT, ECHO, SINK};
use super::pin;
use super::topology::{
    CLIENT, NULL_DEVICE, NULL_SNAT, NULL_VIP, SERVER, TUNWAY_DEVICE, TUNWAY_SNAT, TUNWAY_VIP,
};
use crate::null::{self, Rewrite};

/// Runs the null forwarder on [`NULL_DEVICE`].
///
/// # Errors
/// When the device cannot be opened or fails.
pub fn null(queues: u8, locks: &Path) -> io::Result<()> {
    let rewrite = Rewrite { client: CLIENT, vip: NULL_VIP, server: SERVER, snat: NULL_SNAT };
    for (cpu, queue) in (0..).zip(open(NULL_DEVICE, queues, locks)?) {
        std::thread::spawn(move || pin::this_thread(cpu).and_then(|()| null::forward(queue, rewrite)));
    }
    until_told()
}

/// Runs tunway's plane on [`TUNWAY_DEVICE`], with the server's ports as three service ports of one endpoint each.
///
/// # Errors
/// When the device or the plane cannot be started.
pub fn tunway(queues: u8, locks: &Path) -> io::Result<()> {
    let config = PlaneConfig {
        region: RegionConfig {
            dir: None,
            name: TUNWAY_DEVICE.to_owned(),
            max_flows_v4: 262_144,
            max_flows_v6: 4_096,
        },
        ttls: Ttls::default(),
        engine: EngineConfig::default(),
        max_affinity: 1_024,
    };
    let mut plane = Plane::start(&config, open(TUNWAY_DEVICE, queues, locks)?).map_err(io::Error::other)?;
    pin::workers(usize::from(queues))?;
    plane.publish(Arc::new(world()?));
    let told = until_told();
    plane.stop(Duration::from_secs(2)).map_err(io::Error::other)?;
    told
}

fn open(name: &str, queues: u8, locks: &Path) -> io::Result<Vec<dataplane::io::TunQueue>> {
    let config = DeviceConfig {
        name: name.to_owned(),
        queues: usize::from(queues),
        persist: false,
        lock_dir: locks.to_owned(),
        ..DeviceConfig::default()
    };
    let device = Device::open(&config).map_err(io::Error::other)?;
    device.up().map_err(io::Error::other)?;
    Ok(device.into_queues())
}

fn world() -> io::Result<World> {
    let mut builder = SnapshotBuilder::new(Fabric {
        return_path: ReturnPath::Masquerade,
        snat: vec![IpAddr::V4(TUNWAY_SNAT)],
        service_cidrs: Vec::new(),
        ..Fabric::default()
    });
    for (id, port, proto) in [(1, SINK, Proto::Tcp), (2, ECHO, Proto::Tcp), (3, COUNT, Proto::Udp)] {
        builder.upsert(Service {
            backends: Box::new([Backend {
                id: EndpointId(id),
                addr: SERVER.into(),
                port,
                local: false,
                ready_or_serving: true,
            }]),
            cluster: Box::new([0]),
            any: true,
            ..Service::bare(
                ServiceId(id),
                &format!("default/server:{port}"),
                TUNWAY_VIP.into(),
                SvcPort { port, proto },
            )
        });
    }
    builder.build().map(World::Ready).map_err(io::Error::other)
}

#[allow(clippy::print_stdout, reason = "the parent waits for this line")]
fn until_told() -> io::Result<()> {
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}
