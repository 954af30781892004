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
use super::plan::{self, MARK_TABLE, OurRule, PROTOCOL, TABLE};
use super::rt::{Family, Rule};
use super::{HostConfig, NodeError, device, steer};

/// Where an instance keeps its lock and its socket, and its flow table if nothing else is configured: `DEVICE.*`.
const RUN_DIR: &str = "/run/tunway";

/// Takes everything of ours away, also what an earlier process left: rule 110 first (no packet comes any more), then
/// routes, the nftables rules, the other rules (rule 0 is back before the one that stood for it goes), the firewall's
/// accepts, the device with its address, and the files. Says what was removed; an empty list means there was nothing.
/// Rules and routes of a tunway on another device stay.
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
        remove_rule(&mut netlink, OurRule::Lookup, config, &mut removed)?;
        for table in [TABLE, MARK_TABLE] {
            remove_routes(&mut netlink, table, config, &mut removed)?;
        }
        removed.extend(steer::remove(&config.device)?);
        put_rule_zero_back(&mut netlink, config, &mut removed)?;
        remove_mark_rules(&mut netlink, config, &mut removed)?;
        for rule in [OurRule::SkipMark, OurRule::Local, OurRule::Skip, OurRule::End] {
            remove_rule(&mut netlink, rule, config, &mut removed)?;
        }
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

fn remove_rule(
    netlink: &mut Netlink,
    rule: OurRule,
    config: &HostConfig,
    removed: &mut Vec<String>,
) -> Result<(), NodeError> {
    for family in Family::ALL {
        let rules = netlink.rules(family).map_err(refused("read the rules"))?;
        // Its twin of another maker does the same and is not ours to take.
        if rules.iter().any(|found| found.protocol == PROTOCOL && rule.is(found, &config.device)) {
            let (message, flags) = rule.remove(family, &config.device);
            let text = rule.text(family, &config.device);
            if unless_absent(netlink.change(message, flags)).map_err(refused(&format!("remove {text}")))? {
                removed.push(text);
            }
        }
    }
    Ok(())
}

/// The rules on this host are those of a tunway on another device.
fn belongs_to_another(netlink: &mut Netlink, config: &HostConfig) -> Result<bool, NodeError> {
    for family in Family::ALL {
        let rules = netlink.rules(family).map_err(refused("read the rules"))?;
        let ours = rules.iter().filter(|rule| rule.protocol == PROTOCOL && rule.preference == 100);
        if let Some(device) = ours.filter_map(|rule| rule.input.as_deref()).next() {
            return Ok(device != config.device);
        }
    }
    Ok(false)
}

/// Before our rule for the local table goes there is another one.
fn put_rule_zero_back(
    netlink: &mut Netlink,
    config: &HostConfig,
    removed: &mut Vec<String>,
) -> Result<(), NodeError> {
    for family in Family::ALL {
        let rules = netlink.rules(family).map_err(refused("read the rules"))?;
        let ours = |rule: &Rule| OurRule::Local.is(rule, &config.device) && rule.protocol == PROTOCOL;
        let others = rules.iter().any(|rule| plan::looks_up_local(rule) && !ours(rule));
        if rules.iter().any(ours) && !others {
            let text = format!("rule 0: lookup local ({})", plan::family_name(family));
            let (message, flags) = plan::add_rule_zero(family);
            netlink.change(message, flags).map_err(refused(&format!("put {text} back")))?;
            removed.push(format!("(back) {text}"));
        }
    }
    Ok(())
}

/// Rules 50 and 105, with whatever bit they were made.
fn remove_mark_rules(
    netlink: &mut Netlink,
    config: &HostConfig,
    removed: &mut Vec<String>,
) -> Result<(), NodeError> {
    for family in Family::ALL {
        let rules = netlink.rules(family).map_err(refused("read the rules"))?;
        let mut marked: Vec<OurRule> = rules.iter().filter_map(OurRule::marked).collect();
        while let Some(rule) = marked.pop() {
            remove_rule(netlink, rule, config, removed)?;
        }
    }
    Ok(())
}

fn remove_routes(
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
            let text = plan::route_text(route.destination, table, &config.device);
            if unless_absent(outcome).map_err(refused(&format!("remove {text}")))? {
                removed.push(text);
            }
        }
    }
    Ok(())
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
fn unless_absent(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
