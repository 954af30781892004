//! What kube-proxy left behind, in nftables and iptables.

use super::super::rt::Family;
use super::{Firewall, FirewallError, Iptables, LOCK_WAIT, iptables, nft, run};

/// What kube-proxy left: each steals packets for Services before routing sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// nftables tables `kube-proxy`, by family.
    pub(crate) tables: Vec<String>,
    /// iptables chains: tool, table, chains.
    chains: Vec<(Iptables, String, Vec<String>)>,
    /// nftables chains of that kind that no iptables tool is here for.
    pub(crate) orphan_chains: Vec<String>,
}

impl Firewall {
    /// What kube-proxy left in nftables and iptables.
    pub(crate) fn leftovers(&self) -> Result<Leftovers, FirewallError> {
        let mut found = Leftovers::default();
        let mut nft_chains = Vec::new();
        if let Some(nft) = &self.nft {
            found.tables = nft::kube_proxy_tables(&run(nft, &["-j", "list", "tables"], None)?);
            nft_chains = nft::kube_proxy_chains(&run(nft, &["-j", "list", "chains"], None)?);
        }
        for tool in &self.iptables {
            for table in ["nat", "filter", "mangle"].into_iter().filter(|table| tool.has_table(table)) {
                let code = if tool.family == Family::V4 { "ip" } else { "ip6" };
                let of_tool = |chain: &&(String, String, String)| chain.0 == code && chain.1 == table;
                let chains = if self.nft.is_some() && !tool.legacy {
                    nft_chains.iter().filter(of_tool).map(|(.., chain)| chain.clone()).collect()
                } else {
                    iptables::kube_proxy_chains(&run(
                        &tool.program,
                        &["-w", LOCK_WAIT, "-t", table, "-S"],
                        None,
                    )?)
                };
                if !tool.legacy {
                    nft_chains.retain(|chain| !of_tool(&chain));
                }
                if !chains.is_empty() {
                    found.chains.push((tool.clone(), table.to_owned(), chains));
                }
            }
        }
        found.orphan_chains = nft_chains
            .into_iter()
            .map(|(family, table, chain)| format!("{family} {table} {chain}"))
            .collect();
        Ok(found)
    }

    /// Removes them, each iptables table in one transaction. Says what it removed.
    pub(crate) fn remove_leftovers(&self, leftovers: &Leftovers) -> Result<Vec<String>, FirewallError> {
        let mut done = Vec::new();
        for family in &leftovers.tables {
            self.nft(&["delete", "table", family, "kube-proxy"])?;
            done.push(format!("nftables table {family} kube-proxy"));
        }
        for (tool, table, chains) in &leftovers.chains {
            let saved = run(&tool.sibling("save"), &["-t", table], None)?;
            if let Some(script) = iptables::removal_script(&saved) {
                run(&tool.sibling("restore"), &["--noflush", "-w", LOCK_WAIT], Some(&script))?;
                done.push(format!("{}, table {table}: {} chains of kube-proxy", tool.text(), chains.len()));
            }
        }
        Ok(done)
    }
}

impl Leftovers {
    /// What there is, for people; nothing when there is nothing.
    pub(crate) fn texts(&self) -> Vec<String> {
        let tables = self.tables.iter().map(|family| format!("nftables table {family} kube-proxy"));
        let chains = self.chains.iter().map(|(tool, table, chains)| {
            let first = chains.first().map_or("", String::as_str);
            format!("{}, table {table}: {} chains of kube-proxy ({first}, …)", tool.text(), chains.len())
        });
        let orphans = self.orphan_chains.iter().map(|chain| format!("nftables chain {chain} of kube-proxy"));
        tables.chain(chains).chain(orphans).collect()
    }
}

/// Chains that only kube-proxy makes, in any of its modes. The kubelet's own (`KUBE-KUBELET-CANARY`, `KUBE-FIREWALL`,
/// `KUBE-MARK-MASQ`, …) and other programs' (`KUBE-ROUTER-*`) do nothing to Service packets and stay.
pub(super) fn is_kube_proxys(chain: &str) -> bool {
    const NAMES: [&str; 11] = [
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-NODE-PORT",
        "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL",
        "KUBE-PROXY-CANARY",
        "KUBE-LOAD-BALANCER",
        "KUBE-SOURCE-RANGES-FIREWALL",
        "KUBE-IPVS-FILTER",
        "KUBE-IPVS-OUT-FILTER",
    ];
    const PREFIXES: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-"];
    NAMES.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_proxys_chains_are_told_from_the_kubelets_and_kube_routers() {
        for chain in ["KUBE-SERVICES", "KUBE-SEP-ABC", "KUBE-SVC-X", "KUBE-NODE-PORT", "KUBE-EXT-Q"] {
            assert!(is_kube_proxys(chain), "{chain}");
        }
        for chain in
            ["KUBE-KUBELET-CANARY", "KUBE-FIREWALL", "KUBE-ROUTER-INPUT", "KUBE-POD-FW-A", "KUBE-MARK-MASQ"]
        {
            assert!(!is_kube_proxys(chain), "{chain}");
        }
    }
}
