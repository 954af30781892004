//! Taking everything of ours away, whoever left it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;

use super::host::refused;
use super::netlink::{Change, Netlink, is_absent};
use super::plan::{self, LOCAL_TABLE, PROTOCOL};
use super::rt::{Family, Route};
use super::{HostConfig, NodeError, device, former, host};

/// Where an instance keeps its lock and its socket, and its flow table if nothing else is configured: `DEVICE.*`.
const RUN_DIR: &str = "/run/tunway";

/// Takes everything of ours away, also what an earlier process or version left: routes first (no packet comes any more),
/// then what steered by rules, the nftables table, the firewall's accepts, the device with its address, and the files.
/// Says what was removed; an empty list means there was nothing. What is of a tunway on another device stays.
///
/// # Errors
/// An instance holds the device, or the kernel refuses something; what was removed before stays removed, and the
/// next cleanup goes on.
pub async fn cleanup(config: &HostConfig) -> Result<Vec<String>, NodeError> {
    // Held to the end: nobody starts while we take things away.
    let lock = lock(&config.device)?;
    let mut netlink = Netlink::open().map_err(refused("open a netlink socket"))?;
    let mut removed = Vec::new();
    if !belongs_to_another(&mut netlink, config)? {
        remove_routes(&mut netlink, LOCAL_TABLE, config, &mut removed)?;
        former::remove(&mut netlink, config, &mut removed)?;
        removed.extend(host::remove_table()?);
    }
    match config.firewall().remove_ours() {
        Ok(rules) => removed.extend(rules),
        // A firewall that cannot be read holds nothing of ours in most cases; the rest must go all the same.
        Err(error) => tracing::warn!(%error, "could not look for accept rules of ours"),
    }
    remove_device(&mut netlink, config, &mut removed)?;
    remove_files(&config.device, &mut removed)?;
    drop(lock);
    Ok(removed)
}

/// Deletes a link.
pub(super) fn remove_link(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    unless_absent(netlink.change(RouteNetlinkMessage::DelLink(message), 0)).map(drop)
}

/// The instance's lock, if it ever had one and nobody holds it.
fn lock(device: &str) -> Result<Option<Flock<fs::File>>, NodeError> {
    let path = Path::new(RUN_DIR).join(format!("{device}.lock"));
    let file = match fs::OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(refused(&format!("open {}", path.display()))(source)),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            // Between opening and locking its owner may have removed the file; then this is a lock on nothing.
            let there = fs::metadata(&path).map(|now| (now.dev(), now.ino())).ok();
            let ours = lock.metadata().map(|ours| (ours.dev(), ours.ino())).ok();
            Ok(Some(lock).filter(|_| there == ours))
        }
        Err((file, Errno::EWOULDBLOCK)) => {
            Err(NodeError::Busy { device: device.to_owned(), holder: dataplane::io::holder_of(&file) })
        }
        Err((_, error)) => Err(refused(&format!("lock {}", path.display()))(error.into())),
    }
}

/// What is on this host is of a tunway on another device.
fn belongs_to_another(netlink: &mut Netlink, config: &HostConfig) -> Result<bool, NodeError> {
    if let Some(device) = former::owner(netlink)? {
        return Ok(device != config.device);
    }
    let link = netlink.link_by_name(&config.device).map_err(refused("look for the device"))?;
    let index = link.map(|link| link.index);
    host::belongs_to_another(netlink, index).map_err(refused("read the local table"))
}

/// Routes of ours in a table.
pub(super) fn remove_routes(
    netlink: &mut Netlink,
    table: u32,
    config: &HostConfig,
    removed: &mut Vec<String>,
) -> Result<(), NodeError> {
    for family in Family::ALL {
        let routes = netlink.routes(family, table).map_err(refused(&format!("read table {table}")))?;
        let ours: Vec<_> = routes.into_iter().filter(|route| route.protocol == PROTOCOL).collect();
        let changes: Vec<Change> =
            ours.iter().map(|route| plan::remove_route(route.destination, table)).collect();
        for (route, outcome) in ours.iter().zip(netlink.change_all(changes)) {
            let text = route_text(route, &config.device);
            if unless_absent(outcome).map_err(refused(&format!("remove {text}")))? {
                removed.push(text);
            }
        }
    }
    Ok(())
}

fn route_text(route: &Route, device: &str) -> String {
    let (address, length) = route.destination;
    let table = if route.table == LOCAL_TABLE { "local".to_owned() } else { route.table.to_string() };
    if route.unicast {
        format!("route {address}/{length} dev {device} table {table}")
    } else {
        format!("route blackhole {address}/{length} table {table}")
    }
}

fn remove_device(
    netlink: &mut Netlink,
    config: &HostConfig,
    removed: &mut Vec<String>,
) -> Result<(), NodeError> {
    let name = &config.device;
    let Some(link) = netlink.link_by_name(name).map_err(refused("look for the device"))? else {
        return Ok(());
    };
    if link.kind == "tun" {
        remove_link(netlink, link.index).map_err(refused(&format!("remove device {name}")))?;
        removed.push(format!("device {name}"));
    } else {
        // A device of this name that is no TUN device is not one of ours; an address on it may be.
        let address = device::remove_address(link.index, device::DEVICE_ADDRESS, 32);
        let what = format!("address {} of {name}", device::DEVICE_ADDRESS);
        if unless_absent(netlink.change(address, 0)).map_err(refused(&format!("remove {what}")))? {
            removed.push(what);
        }
    }
    Ok(())
}

fn remove_files(device: &str, removed: &mut Vec<String>) -> Result<(), NodeError> {
    let entries = match fs::read_dir(RUN_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(refused(&format!("read {RUN_DIR}"))(source)),
    };
    let prefix = format!("{device}.");
    let mut files: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    // The lock last: who finds none may start, and make files of these names.
    files.sort_by_key(|file| (file.extension().is_some_and(|kind| kind == "lock"), file.clone()));
    for file in files {
        match fs::remove_file(&file) {
            Ok(()) => removed.push(file.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(refused(&format!("remove {}", file.display()))(source)),
        }
    }
    // Goes when the last device's files are gone.
    let _ = fs::remove_dir(RUN_DIR);
    Ok(())
}

/// Whether it was there to be changed.
pub(super) fn unless_absent(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
