//! `tunway check`: everything `run` would find on this host and in its manifests, and what is fine. Changes nothing.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::{Context, anyhow};
use serde::Serialize;

use crate::cli::{CheckArgs, Failure};
use crate::config::{Config, Machine, SourceConfig, rules};
use crate::explain::{Offline, Site};
use crate::model::Problem;
use crate::node::{self, Finding, Lookout};
use crate::run::{self, host_config};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `run` would start.
    pub ready: bool,
    /// What is wrong with this host.
    pub host: Vec<Found>,
    /// What is wrong with objects, as `tunway services` would list it. None of it keeps `run` from starting.
    pub problems: Vec<Told>,
    /// What was looked at and is fine.
    pub fine: Vec<String>,
}

/// One finding about this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// `run` does not start with it.
    pub stops_start: bool,
    /// The setting, file, rule or interface.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// What puts it right.
    pub remedy: String,
}

/// One problem of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// The object or document.
    pub object: String,
    /// The field; empty for the object as a whole.
    pub field: String,
    /// What is wrong, and what `run` would do about it.
    pub what: String,
    /// What its owner can do.
    pub remedy: String,
}

/// Looks, and prints what it finds.
///
/// # Errors
/// Something stands in the way of a start.
pub fn run(args: CheckArgs, machine: &Machine, out: &mut dyn Write) -> Result<(), Failure> {
    let config = args.run.config(machine)?;
    rules::needs_snat(config.return_path, &config.snat)?;
    let findings = run::runtime()?.block_on(node::preflight(&host_config(&config)));
    let mut report = Report::of_host(&config, &findings);
    report.add_manifests(&config)?;
    if args.json {
        super::print_json(out, serde_json::to_vec(&report).context("cannot write JSON")?)?;
    } else {
        super::print(out, render(&report).as_bytes())?;
    }
    match report.host.iter().filter(|found| found.stops_start).count() {
        0 => Ok(()),
        1 => Err(anyhow!("1 of these must be changed before tunway can run here").into()),
        n => Err(anyhow!("{n} of these must be changed before tunway can run here").into()),
    }
}

impl Report {
    fn of_host(config: &Config, findings: &[Finding]) -> Self {
        let found = |finding: &Finding| Found {
            stops_start: finding.fatal,
            what: finding.what.clone(),
            why: finding.why.clone(),
            remedy: finding.remedy.clone(),
        };
        let host: Vec<_> = findings.iter().map(found).collect();
        let ready = !host.iter().any(|found| found.stops_start);
        Self { ready, fine: fine(config, &host), host, problems: Vec::new() }
    }

    /// What a run with the manifests would serve, and what it would say of them.
    fn add_manifests(&mut self, config: &Config) -> Result<(), Failure> {
        let SourceConfig::Manifests { dir } = &config.source else { return Ok(()) };
        let here = run::runtime()?.block_on(async { Lookout::open(config.detect_local.clone())?.look() });
        let world = match Offline::load_here(dir, Site::of(config), here.ok()) {
            Ok(world) => world,
            Err(error) => {
                let remedy = "name the directory with --manifests; `run` starts and waits for it";
                self.host.push(Found {
                    stops_start: false,
                    what: format!("manifests in {}", dir.display()),
                    why: error.to_string(),
                    remedy: remedy.to_owned(),
                });
                return Ok(());
            }
        };
        self.problems = world.problems().map(told).collect();
        self.fine.extend(world.served());
        Ok(())
    }
}

fn told(problem: Problem) -> Told {
    let Problem { object, field, what, remedy } = problem;
    Told { object, field, what, remedy }
}

/// What preflight looked at and found nothing wrong with, by the words its findings begin with.
fn fine(config: &Config, found: &[Found]) -> Vec<String> {
    let has = |starts: &[&str]| found.iter().any(|found| starts.iter().any(|s| found.what.starts_with(s)));
    let snat = config.snat.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let looked_at: [(&[&str], String); 6] = [
        (&["/dev/net/tun"], "/dev/net/tun can be opened".to_owned()),
        (&["CAP_NET_ADMIN"], "this process may configure the network".to_owned()),
        (&["net.", "IPv6"], "sysctls are as they have to be".to_owned()),
        (&["SNAT address"], format!("SNAT address {snat}")),
        (&["ip "], "no rule or route of others is in tunway's way".to_owned()),
        (
            &["kube-proxy", "device kube-ipvs0", "FORWARD", "nft", "iptables", "chain"],
            "no firewall chain and nothing of kube-proxy is in the way".to_owned(),
        ),
    ];
    // Rules, routes and chains cannot be read without the capability: then nothing is known of them.
    let blind = has(&["CAP_NET_ADMIN", "rtnetlink"]);
    let seen = looked_at.into_iter().enumerate().filter(|(at, _)| !blind || *at < 3);
    seen.map(|(_, row)| row).filter(|(starts, _)| !has(starts)).map(|(_, text)| text).collect()
}

/// One paragraph a finding, then what is fine, then the upshot.
fn render(report: &Report) -> String {
    let mut text = String::new();
    for Found { stops_start, what, why, remedy } in &report.host {
        let weight = if *stops_start { "MUST CHANGE" } else { "note" };
        _ = writeln!(text, "{weight}  {what}\n  {why}\n  remedy: {remedy}");
    }
    for Told { object, field, what, remedy } in &report.problems {
        let place = if field.is_empty() { object.clone() } else { format!("{object}: {field}") };
        _ = writeln!(text, "PROBLEM  {place}\n  {what}\n  remedy: {remedy}");
    }
    for fine in &report.fine {
        _ = writeln!(text, "ok  {fine}");
    }
    let objects = match report.problems.len() {
        0 => String::new(),
        1 => "; 1 problem of objects, with which it starts all the same".to_owned(),
        n => format!("; {n} problems of objects, with which it starts all the same"),
    };
    let upshot = match (report.ready, report.host.is_empty()) {
        (true, true) => "this host is ready: nothing stands in the way",
        (true, false) => "this host is ready: the notes do not keep tunway from starting",
        (false, _) => "this host is not ready: tunway does not start before MUST CHANGE is changed",
    };
    _ = writeln!(text, "{upshot}{objects}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::{ConfigFile, SourceFile};

    fn config(dir: &std::path::Path) -> Config {
        let source = SourceFile { manifests: Some(dir.to_owned()), ..SourceFile::default() };
        let machine = Machine { node_name: None, host_name: "n1".into(), cores: 1 };
        Config::resolve(ConfigFile { source: Some(source), ..ConfigFile::default() }, &machine).unwrap()
    }

    fn finding(fatal: bool, what: &str) -> Finding {
        let (why, remedy) = ("it is 0: nothing is forwarded".into(), "sysctl -w x=1".into());
        Finding { fatal, what: what.into(), why, remedy }
    }

    #[test]
    fn findings_are_paragraphs_with_their_remedy_and_what_is_fine_is_listed() {
        let config = config("/nowhere".as_ref());
        let well = Report::of_host(&config, &[]);
        assert_eq!((well.ready, well.fine.len()), (true, 6));
        assert!(render(&well).ends_with("this host is ready: nothing stands in the way\n"));
        let findings = [finding(true, "net.ipv4.ip_forward"), finding(false, "iptables")];
        let report = Report::of_host(&config, &findings);
        let begins = "\
MUST CHANGE  net.ipv4.ip_forward
  it is 0: nothing is forwarded
  remedy: sysctl -w x=1
note  iptables
  it is 0: nothing is forwarded
  remedy: sysctl -w x=1
ok  /dev/net/tun can be opened
";
        let text = render(&report);
        assert!(text.starts_with(begins) && text.contains("not ready"), "{text}");
        assert!(!text.contains("sysctls are") && !text.contains("firewall chain"), "{text}");
        let blind = Report::of_host(&config, &[finding(true, "CAP_NET_ADMIN")]);
        assert_eq!(blind.fine.len(), 2, "rules and chains were not looked at: {blind:?}");
        assert!(render(&Report::of_host(&config, &findings[1..])).contains("the notes do not keep"));
    }

    #[test]
    fn manifests_are_checked_as_a_run_would_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
            spec: {clusterIP: 10.96.0.10, sessionAfinity: x, ports: [{port: 80}, {name: b, port: 81}]}\n---\n\
            apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
            metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n\
            ports: [{port: 8080}]\nendpoints: [{addresses: [10.2.0.2]}]\n---\n\
            apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: 10.96.0.300, ports: [{port: 1}]}\n";
        std::fs::write(folder.path().join("web.yaml"), text).unwrap();
        let config = config(folder.path());
        let mut report = Report::of_host(&config, &[]);
        report.add_manifests(&config).unwrap();
        let fields: Vec<_> = report.problems.iter().map(|told| told.field.as_str()).collect();
        assert_eq!(fields, ["spec.ports[1].name", "spec.sessionAfinity", "spec.clusterIPs[0]"]);
        let web = "Service default/web: 10.96.0.10:80 TCP, 1 endpoint";
        assert!(report.fine.iter().any(|fine| fine == web), "{report:?}");
        assert!(!report.fine.iter().any(|fine| fine.contains(":81")), "it has no endpoints: {report:?}");
        assert!(report.ready && render(&report).contains("3 problems of objects"));
        std::fs::remove_dir_all(folder.path()).unwrap();
        let mut gone = Report::of_host(&config, &[]);
        gone.add_manifests(&config).unwrap();
        assert!(gone.ready && gone.host[0].remedy.contains("waits"), "{gone:?}");
    }
}
