//! `nodePortAddresses` and `bindAddress`: where node ports are taken.

use super::{Checked, ConfigError, NodeFile, Reading};
use crate::model::ip;

impl Reading<'_> {
    /// Without any, kube-proxy's older modes take node ports at every address, and only its nftables mode at the primary. A
    /// family without a CIDR among those of the other is open to all of its addresses.
    pub(super) fn node_ports(&mut self, mode: &str) -> Checked<()> {
        let bound = self.bind_address()?;
        let given = self.list("nodePortAddresses")?;
        let has = |word: &str| given.iter().any(|one| one == word);
        let (all, primary, localhost) = (has("all"), has("primary"), has("localhost"));
        let mut cidrs: Vec<_> = given
            .iter()
            .filter(|one| !["all", "primary", "localhost"].contains(&one.as_str()))
            .cloned()
            .collect();
        let told = match (given.is_empty(), mode) {
            (true, "nftables") if bound.is_none() => return Ok(()),
            (true, "nftables") => "none, which is the primary address in mode nftables".to_owned(),
            (true, _) => format!("none, which is every address in mode {mode}"),
            (false, _) => String::new(),
        };
        if all || (given.is_empty() && mode != "nftables") {
            cidrs = ["0.0.0.0/0", "::/0"].map(str::to_owned).into();
        } else if primary || given.is_empty() {
            match bound {
                // Its own family's primary address; the other family's is not known here.
                Some(cidr) => cidrs.push(cidr),
                None => cidrs.insert(0, "primary".to_owned()),
            }
        } else {
            if localhost {
                cidrs.extend(["127.0.0.0/8", "::1/128"].map(str::to_owned));
            }
            for (all, v6) in [("0.0.0.0/0", false), ("::/0", true)] {
                if !cidrs.iter().any(|cidr| cidr.contains(':') == v6) {
                    cidrs.push(all.to_owned());
                }
            }
        }
        let told = if told.is_empty() { format!("nodePortAddresses: [{}]", cidrs.join(", ")) } else { told };
        let lost = if localhost { "; node ports at loopback addresses are never served" } else { "" };
        self.take("nodePortAddresses", format!("{told}{lost}"));
        self.translation.file.node_port_addresses = Some(cidrs);
        Ok(())
    }

    /// kube-proxy takes it for the node's primary address and binds nothing. The CIDR of it alone.
    fn bind_address(&mut self) -> Checked<Option<String>> {
        let key = "bindAddress";
        let Some(text) = self.text(key)? else { return Ok(None) };
        let wrong =
            || ConfigError::new(key, format_args!("{text:?} is no address"), "as 192.168.0.2, or 0.0.0.0");
        let addr = ip::parse(text.trim()).ok_or_else(wrong)?;
        if addr.is_unspecified() {
            return Ok(None);
        }
        self.take(
            key,
            format!("node.addresses: [{addr}]; with primary node ports, nodePortAddresses is it, too"),
        );
        let addresses = Some(vec![addr.to_string()]);
        self.translation.file.node = Some(NodeFile { addresses, ..NodeFile::default() });
        Ok(Some(format!("{addr}/{}", if addr.is_ipv4() { 32 } else { 128 })))
    }
}
