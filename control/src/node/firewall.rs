//! The host's firewall as far as it can stop us: chains that drop forwarded packets, and what kube-proxy left behind.
//!
//! An accept in one table does not override a drop in another, so the device has to be accepted in the very chain
//! that drops. Reading and writing goes through the host's own tools (`nft`, `iptables`, `ip6tables`, either variant);
//! a host without them is not touched, and preflight says what could not be looked at.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::rt::Family;
use sources::SourceCheck;

pub(crate) mod sources;

mod iptables;
mod leftovers;
mod nft;

/// The mark on rules we inserted, as their comment.
const COMMENT: &str = "tunway";

/// The tools of this host.
#[derive(Clone, Debug)]
pub(crate) struct Firewall {
    device: String,
    nft: Option<PathBuf>,
    iptables: Vec<Iptables>,
    families: Vec<Family>,
}

/// A firewall tool would not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{command}: {why}")]
pub struct FirewallError {
    /// The command line.
    pub command: String,
    /// What it said.
    pub why: String,
}

/// One `iptables` or `ip6tables`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Iptables {
    program: PathBuf,
    family: Family,
    legacy: bool,
}

/// A chain forwarded packets go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForwardChain {
    place: Place,
    verdict: ChainVerdict,
}

/// What a chain does to the device's packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ChainVerdict {
    /// By its policy or its last rule.
    drops: bool,
    /// What comes from the device is accepted.
    accepts_in: bool,
    /// What goes to the device is accepted.
    accepts_out: bool,
    /// The rule that drops everything else, if it is not the policy that does: its number (iptables) or handle (nft).
    last: Option<String>,
    /// How to delete our rules: handles (nft), or arguments (iptables).
    ours: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Iptables(Iptables),
    Nft { family: String, table: String, chain: String },
}

impl Firewall {
    /// Looks for the tools. Only the chains of `families` will be looked at.
    pub(crate) fn find(device: &str, families: Vec<Family>) -> Self {
        let mut found = Vec::new();
        for (family, name) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
            if !families.contains(&family) {
                continue;
            }
            let plain = find(name);
            let plain_is_legacy = plain.as_deref().is_some_and(is_legacy);
            let variant = |legacy: bool, suffix: &str| {
                find(&format!("{name}-{suffix}"))
                    .or_else(|| plain.clone().filter(|_| plain_is_legacy == legacy))
            };
            for (legacy, suffix) in [(false, "nft"), (true, "legacy")] {
                found.extend(variant(legacy, suffix).map(|program| Iptables { program, family, legacy }));
            }
        }
        Self { device: device.to_owned(), nft: find("nft"), iptables: found, families }
    }

    /// What of the firewall cannot be looked at for want of a tool.
    pub(crate) fn blind_spots(&self) -> Vec<&'static str> {
        let mut blind = Vec::new();
        if self.nft.is_none() {
            blind.push("nft");
        }
        if !self.iptables.iter().any(|tool| tool.family == Family::V4) {
            blind.push("iptables");
        }
        blind
    }

    /// Every chain forwarded packets go through.
    pub(crate) fn forward_chains(&self) -> Result<Vec<ForwardChain>, FirewallError> {
        let mut chains = Vec::new();
        if let Some(nft) = &self.nft {
            let list = run(nft, &["-j", "list", "chains"], None)?;
            for (family, table, chain) in nft::forward_chains(&list) {
                // These iptables describes more exactly.
                let has_tool =
                    |family| self.iptables.iter().any(|tool| !tool.legacy && tool.family == family);
                let of_iptables = table == "filter" && chain == "FORWARD";
                let known = match family.as_str() {
                    "ip" => of_iptables && has_tool(Family::V4) || !self.families.contains(&Family::V4),
                    "ip6" => of_iptables && has_tool(Family::V6) || !self.families.contains(&Family::V6),
                    _ => false,
                };
                if !known {
                    let text = run(nft, &["-a", "-j", "list", "chain", &family, &table, &chain], None)?;
                    let verdict = nft::verdict(&text, &self.device);
                    chains.push(ForwardChain { place: Place::Nft { family, table, chain }, verdict });
                }
            }
        }
        for tool in self.iptables.iter().filter(|tool| tool.has_table("filter")) {
            let text = run(&tool.program, &["-w", LOCK_WAIT, "-S", "FORWARD"], None)?;
            let verdict = iptables::verdict(&text, &self.device);
            chains.push(ForwardChain { place: Place::Iptables(tool.clone()), verdict });
        }
        Ok(chains)
    }

    /// Accepts the device in every chain that would drop its packets, where the chain drops everything else: whatever
    /// it drops or rejects before, as network policies do, it goes on dropping. Says what it inserted.
    pub(crate) fn accept_device(&self) -> Result<Vec<String>, FirewallError> {
        let mut done = Vec::new();
        for chain in self.forward_chains()?.iter().filter(|chain| chain.stops_device()) {
            for (accepted, input) in [(chain.verdict.accepts_in, true), (chain.verdict.accepts_out, false)] {
                if accepted {
                    continue;
                }
                match &chain.place {
                    Place::Iptables(tool) => {
                        let arguments = iptables::accept_rule(&self.device, input);
                        let how = if chain.verdict.last.is_some() { "-I" } else { "-A" };
                        let insert = ["-w", LOCK_WAIT, how, "FORWARD"].map(str::to_owned).into_iter();
                        let insert = insert.chain(chain.verdict.last.clone()).chain(arguments);
                        run(&tool.program, &insert.collect::<Vec<_>>(), None)?;
                    }
                    Place::Nft { family, table, chain: name } => {
                        let rule = nft::accept_rule(&self.device, input);
                        match &chain.verdict.last {
                            Some(at) => {
                                self.nft(&["insert", "rule", family, table, name, "position", at, &rule])?;
                            }
                            None => drop(self.nft(&["add", "rule", family, table, name, &rule])?),
                        }
                    }
                }
                let side = if input { "from" } else { "to" };
                done.push(format!("{}: packets {side} {} are accepted", chain.text(), self.device));
            }
        }
        Ok(done)
    }

    /// Takes back what [`Firewall::accept_device`] inserted, now or in an earlier process.
    pub(crate) fn remove_ours(&self) -> Result<Vec<String>, FirewallError> {
        let mut done = Vec::new();
        for chain in self.forward_chains()? {
            for rule in &chain.verdict.ours {
                match &chain.place {
                    Place::Iptables(tool) => {
                        let delete = ["-w", LOCK_WAIT, "-D", "FORWARD"].into_iter();
                        run(&tool.program, &delete.chain(rule.split(' ')).collect::<Vec<_>>(), None)?;
                    }
                    Place::Nft { family, table, chain } => {
                        self.nft(&["delete", "rule", family, table, chain, "handle", rule])?;
                    }
                }
                done.push(format!("{}: the accept rule for {}", chain.text(), self.device));
            }
        }
        Ok(done)
    }

    /// Other people's rules that drop what does not come in by the way back to its source.
    pub(crate) fn source_checks(&self) -> Result<Vec<SourceCheck>, FirewallError> {
        self.rules(sources::of_iptables, sources::of_nft)
    }

    /// What is found in all rules: of `iptables-save` with the tool's name, and of `nft -a -j list ruleset`, there
    /// without the tables that iptables has shown.
    fn rules<T>(
        &self,
        of_iptables: impl Fn(&str, &str) -> Vec<T>,
        of_nft: impl Fn(&str, &dyn Fn(&str, &str) -> bool) -> Vec<T>,
    ) -> Result<Vec<T>, FirewallError> {
        let mut found = Vec::new();
        for tool in &self.iptables {
            found.extend(of_iptables(&run(&tool.sibling("save"), &[""; 0], None)?, &tool.text()));
        }
        if let Some(nft) = &self.nft {
            let is_known = |family: &str, table: &str| {
                let of = |wanted| self.iptables.iter().any(|tool| !tool.legacy && tool.family == wanted);
                matches!(table, "raw" | "mangle" | "nat" | "filter" | "security")
                    && (family == "ip" && of(Family::V4) || family == "ip6" && of(Family::V6))
            };
            found.extend(of_nft(&run(nft, &["-a", "-j", "list", "ruleset"], None)?, &is_known));
        }
        Ok(found)
    }

    fn nft(&self, arguments: &[&str]) -> Result<String, FirewallError> {
        run(self.nft.as_deref().unwrap_or(Path::new("nft")), arguments, None)
    }
}

impl ForwardChain {
    /// Whether packets from or to the device end here.
    pub(crate) fn stops_device(&self) -> bool {
        self.verdict.drops && !(self.verdict.accepts_in && self.verdict.accepts_out)
    }

    /// Where it is.
    pub(crate) fn text(&self) -> String {
        match &self.place {
            Place::Iptables(tool) => format!("{} FORWARD", tool.text()),
            Place::Nft { family, table, chain } => format!("nft chain {family} {table} {chain}"),
        }
    }

    /// The commands that accept the device in it, after whatever it drops before it drops everything.
    pub(crate) fn remedy(&self, device: &str) -> String {
        let last = self.verdict.last.as_deref();
        match &self.place {
            Place::Iptables(tool) => {
                let at = last.map_or("-A FORWARD".to_owned(), |number| format!("-I FORWARD {number}"));
                let accept = |side: &str| format!("{} {at} {side} {device} -j ACCEPT", tool.text());
                format!("{}; {}", accept("-i"), accept("-o"))
            }
            Place::Nft { family, table, chain } => {
                let at = format!("{family} {table} {chain}");
                let at = last
                    .map_or(format!("add rule {at}"), |handle| format!("insert rule {at} position {handle}"));
                format!("nft {at} iifname {device} accept; nft {at} oifname {device} accept")
            }
        }
    }
}

impl Iptables {
    /// Whether asking about a table is free of side effects: a legacy tool makes the table it is asked about.
    fn has_table(&self, table: &str) -> bool {
        let names = if self.family == Family::V4 { "ip_tables_names" } else { "ip6_tables_names" };
        !self.legacy
            || fs::read_to_string(format!("/proc/thread-self/net/{names}"))
                .is_ok_and(|names| names.lines().any(|name| name == table))
    }

    fn sibling(&self, what: &str) -> PathBuf {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.program.with_file_name(format!("{name}-{what}"))
    }

    fn text(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn is_legacy(program: &Path) -> bool {
    run(program, &["-V"], None).is_ok_and(|version| version.contains("legacy"))
}

/// Where a program is.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
    let mut places = path.split(':').filter(|dir| !dir.is_empty()).chain(usual);
    places.find_map(|dir| Some(Path::new(dir).join(program)).filter(|file| file.is_file()))
}

/// Runs a tool to its end and gives its output, or what it complained about.
pub(super) fn run(
    program: &Path,
    arguments: &[impl AsRef<str>],
    input: Option<&str>,
) -> Result<String, FirewallError> {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let complain = |why: String| FirewallError {
        command: format!("{} {}", program.display(), arguments.join(" ")),
        why,
    };
    let mut command = Command::new(program);
    command.args(&arguments).env("LC_ALL", "C").stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let finish = || -> io::Result<std::process::Output> {
        let mut child = command.spawn()?;
        if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
            pipe.write_all(text.as_bytes())?;
        }
        child.wait_with_output()
    };
    let mut finish = finish;
    let output = finish().map_err(|error| complain(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(complain(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Seconds to wait for another iptables to finish.
const LOCK_WAIT: &str = "5";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_says_what_and_why() {
        let error = run(Path::new("/bin/sh"), &["-c", "echo broken >&2; exit 3"], None).unwrap_err();
        assert_eq!(error.why, "broken");
        let missing = run(Path::new("/no/such/tool"), &["-V"], None).unwrap_err();
        assert!(missing.to_string().starts_with("/no/such/tool -V: "), "{missing}");
        assert_eq!(run(Path::new("/bin/cat"), &[""; 0], Some("text")).unwrap(), "text");
    }
}
