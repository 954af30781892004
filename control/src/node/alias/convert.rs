//! A host on which an earlier tunway steered by rules: everything of that goes, in an order in which the local table is
//! always looked up and nothing leaks.

use super::super::cleanup;
use super::super::host::refused;
use super::super::netlink::{Netlink, is_present};
use super::super::plan::{LOCAL_TABLE, PROTOCOL, TABLE, Way};
use super::super::rt::Family;
use super::super::{HostConfig, NodeError};
use super::routes::Step;

/// Routes what was routed by rules in the local table, then takes away rules and their tables.
pub(super) fn from_rules(netlink: &mut Netlink, config: &HostConfig) -> Result<(), NodeError> {
    let device = netlink.link_by_name(&config.device).map_err(refused("look for the device"))?;
    let Some(device) = device else { return Err(NodeError::NoDevice { device: config.device.clone() }) };
    for family in Family::ALL {
        let routes = netlink.routes(family, TABLE).map_err(refused("read table 7701"))?;
        let there = netlink.routes(family, LOCAL_TABLE).map_err(refused("read the local table"))?;
        let ours = routes.iter().filter(|route| route.protocol == PROTOCOL && route.unicast);
        let missing = ours.filter(|route| {
            !there.iter().any(|other| other.protocol == PROTOCOL && other.destination == route.destination)
        });
        for route in missing {
            let way = Way { source: route.source, mtu: route.mtu };
            for step in [Step::Backstop(route.destination), Step::Route(route.destination, way)] {
                let (message, flags) = step.change(device.index);
                match netlink.change(message, flags) {
                    Err(error) if !is_present(&error) => {
                        return Err(refused(&format!("set {}", step.text(&config.device)))(error));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
    let mut gone = Vec::new();
    cleanup::remove_rules(netlink, config, &mut gone)?;
    if !gone.is_empty() {
        tracing::info!(
            ?gone,
            "an earlier tunway steered by rules: routes of the local table took their place"
        );
    }
    Ok(())
}
