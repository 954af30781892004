//! Node ports among the ports the kernel gives to processes of this host.

use dataplane::service::PortSet;

use super::super::ports::{CHOSEN, RESERVED, list, range};
use super::super::{Finding, HostConfig};

/// The range of node ports overlaps the range the kernel chooses ports from, and is not all reserved: a process may be
/// given a node port. `read` reads a file below /proc/sys. Without connection marks no node port is served.
pub(super) fn overlap(config: &HostConfig, read: &dyn Fn(&str) -> Option<String>) -> Option<Finding> {
    config.keeps_sources().then_some(())?;
    let (first, last) = config.node_port_range;
    let (lowest, highest) = range(&read(CHOSEN)?)?;
    let reserved = read(RESERVED).unwrap_or_default();
    let kept = PortSet::new(list(&reserved));
    if (first.max(lowest)..=last.min(highest)).all(|port| kept.contains(port)) {
        return None;
    }
    let why = format!(
        "is {lowest} {highest}, which overlaps nodePortRange {first}-{last}: a process of this host that asks for no \
         port may be given a node port, and what it is sent there goes to the Service"
    );
    // Writing replaces: what is reserved already has to be named again.
    let known = reserved.trim();
    let comma = if known.is_empty() { "" } else { "," };
    let remedy = super::set(RESERVED, &format!("{known}{comma}{first}-{last}"));
    Some(Finding::warning(super::dotted(CHOSEN), why, remedy))
}
