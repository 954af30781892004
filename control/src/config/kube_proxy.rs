//! A configuration file out of kube-proxy's (`kubeproxy.config.k8s.io/v1alpha1`), with what was taken over, how, and what
//! of it means nothing here.

use std::fmt::Write;
use std::path::PathBuf;

use dataplane::clock::Tick;
use serde_json::Value;

use super::ConfigError;
use super::file::{
    API_VERSION, ConfigFile, DetectLocalFile, DetectMode, ExternalIpsFile, KIND, KubernetesFile,
    LoadBalancingFile, NodeFile, OneOrMany, SourceFile, Timeouts,
};
use super::rules::Checked;
use super::write::{WriteError, to_yaml};

mod document;
mod node_ports;
mod reasons;

/// `apiVersion` of kube-proxy's file.
pub const KUBE_PROXY_API: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// `kind` of kube-proxy's file.
pub const KUBE_PROXY_KIND: &str = "KubeProxyConfiguration";

/// What became of kube-proxy's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// The configuration file.
    pub file: ConfigFile,
    /// Keys that were taken over, and as what.
    pub taken: Vec<Note>,
    /// Keys that were not, and why.
    pub left: Vec<Note>,
}

/// What became of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// As kube-proxy's file spells it, with dots between.
    pub key: String,
    /// What became of it.
    pub what: String,
}

/// Translates kube-proxy's file: YAML or JSON, also beside kubeadm's other documents, and within the `ConfigMap` that
/// kubeadm makes.
///
/// # Errors
/// It is no YAML, none or two of its documents are of this kind, or a key has a value of another form.
pub fn translate(text: &str) -> Checked<Translation> {
    let value = document::find(text)?;
    let mut reading = Reading { value: &value, translation: Translation::default() };
    reading.read()?;
    let mut leaves = Vec::new();
    leaves_of("", &value, &mut leaves);
    let Reading { mut translation, .. } = reading;
    for key in leaves {
        let known = |notes: &[Note]| notes.iter().any(|note| note.key == key);
        if !(known(&translation.taken) || known(&translation.left)) {
            translation.left.push(Note { what: reasons::why_not(&key).to_owned(), key });
        }
    }
    translation.left.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(translation)
}

/// The keys that are set to something, but for what says which file this is.
fn leaves_of(path: &str, value: &Value, leaves: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter().filter(|(key, _)| !path.is_empty() || !is_head(key)) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves_of(&path, value, leaves);
            }
        }
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        Value::Array(list) if list.is_empty() => {}
        Value::String(_) | Value::Array(_) | Value::Bool(_) | Value::Number(_) => {
            leaves.push(path.to_owned())
        }
    }
}

fn is_head(key: &str) -> bool {
    key == "apiVersion" || key == "kind"
}

struct Reading<'a> {
    value: &'a Value,
    translation: Translation,
}

impl Reading<'_> {
    fn read(&mut self) -> Checked<()> {
        let given = self.text("mode")?;
        let mode = given.clone().unwrap_or_else(|| "iptables".to_owned());
        if !["iptables", "ipvs", "nftables"].contains(&mode.as_str()) {
            let what = format_args!("{mode:?} is no mode of kube-proxy on Linux").to_string();
            return Err(ConfigError::new("mode", what, "iptables, ipvs or nftables"));
        }
        self.translation.file.api_version = Some(API_VERSION.to_owned());
        self.translation.file.kind = Some(KIND.to_owned());
        self.detect_local()?;
        self.node_ports(&mode)?;
        let all = if mode == "nftables" { "nftables.masqueradeAll" } else { "iptables.masqueradeAll" };
        if let Some(yes) = self.boolean(all)? {
            self.translation.file.masquerade_all = Some(yes);
            self.take(all, format!("masqueradeAll: {yes}"));
        }
        if given.is_some() {
            self.take(
                "mode",
                "what it does without being asked; no kernel rules of its kind are made".to_owned(),
            );
        }
        if let Some(given) = self.text("hostnameOverride")? {
            // As kube-proxy reads it.
            let name = given.trim().to_lowercase();
            if name.is_empty() {
                return Err(ConfigError::new(
                    "hostnameOverride",
                    "only blanks",
                    "name the Node, or leave it out",
                ));
            }
            self.take("hostnameOverride", format!("nodeName: {name}"));
            self.translation.file.node_name = Some(name);
        }
        if let Some(path) = self.text("clientConnection.kubeconfig")? {
            let what = "source.kubernetes.kubeconfig; the path is one in kube-proxy's container, perhaps";
            self.take("clientConnection.kubeconfig", what.to_owned());
            let kubeconfig = Some(PathBuf::from(path));
            let kubernetes = Some(KubernetesFile { kubeconfig });
            self.translation.file.source = Some(SourceFile { manifests: None, kubernetes });
        }
        self.timeouts(&mode)?;
        if mode == "ipvs" {
            self.scheduler()?;
        }
        self.external_ips()
    }

    /// Served without being asked, unless the gate of Kubernetes 1.36 is closed.
    fn external_ips(&mut self) -> Checked<()> {
        let gate = "featureGates.AllowServiceExternalIPs";
        match self.boolean(gate)? {
            Some(false) => {
                self.take(gate, "externalIPs.allow: none, which is the default".to_owned());
                return Ok(());
            }
            Some(true) => self.take(gate, "externalIPs.allow: all".to_owned()),
            None => {}
        }
        let allow = Some(vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()]);
        self.translation.file.external_ips = Some(ExternalIpsFile { allow });
        Ok(())
    }

    fn detect_local(&mut self) -> Checked<()> {
        let mode = self.text("detectLocalMode")?;
        let given = |key: &str| {
            Some(DetectLocalFile { interface: Some(key.to_owned()), ..DetectLocalFile::default() })
        };
        let file = match mode.as_deref() {
            None | Some("ClusterCIDR") => {
                if let Some(cidrs) = self.text("clusterCIDR")? {
                    self.take("clusterCIDR", format!("clusterCIDR: {cidrs}"));
                    self.translation.file.cluster_cidr = Some(OneOrMany::One(cidrs));
                }
                None
            }
            Some("NodeCIDR") => {
                Some(DetectLocalFile { mode: Some(DetectMode::NodeCidr), ..DetectLocalFile::default() })
            }
            Some("BridgeInterface") => {
                let bridge = self.needed("detectLocal.bridgeInterface")?;
                self.take("detectLocal.bridgeInterface", "detectLocal.interface".to_owned());
                given(&bridge).map(|file| DetectLocalFile { mode: Some(DetectMode::Bridge), ..file })
            }
            Some("InterfaceNamePrefix") => {
                let prefix = self.needed("detectLocal.interfaceNamePrefix")?;
                self.take("detectLocal.interfaceNamePrefix", "detectLocal.interface".to_owned());
                given(&prefix).map(|file| DetectLocalFile { mode: Some(DetectMode::InterfacePrefix), ..file })
            }
            Some(other) => {
                let remedy = "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
                return Err(ConfigError::new(
                    "detectLocalMode",
                    format_args!("{other:?} is no mode"),
                    remedy,
                ));
            }
        };
        if mode.is_some() {
            let what = if file.is_some() { "detectLocal.mode" } else { "clusterCIDR, which is the default" };
            self.take("detectLocalMode", what.to_owned());
        }
        self.translation.file.detect_local = file;
        Ok(())
    }

    fn timeouts(&mut self, mode: &str) -> Checked<()> {
        let mut timeouts = Timeouts::default();
        // First those of IPVS: conntrack's, where they are set, end a flow as well.
        if mode == "ipvs" {
            for (key, name, timeout) in [
                ("ipvs.tcpTimeout", "tcpEstablished", &mut timeouts.tcp_established),
                ("ipvs.tcpFinTimeout", "tcpHalfClosed", &mut timeouts.tcp_half_closed),
                ("ipvs.udpTimeout", "udpStream", &mut timeouts.udp_stream),
            ] {
                *timeout = self.timeout(key, name)?;
            }
        }
        for (key, name, timeout) in [
            ("conntrack.tcpEstablishedTimeout", "tcpEstablished", &mut timeouts.tcp_established),
            ("conntrack.tcpCloseWaitTimeout", "tcpHalfClosed", &mut timeouts.tcp_half_closed),
            ("conntrack.udpTimeout", "udp", &mut timeouts.udp),
            ("conntrack.udpStreamTimeout", "udpStream", &mut timeouts.udp_stream),
        ] {
            if let Some(seconds) = self.timeout(key, name)? {
                *timeout = Some(timeout.map_or(seconds, |other| other.min(seconds)));
            }
        }
        self.translation.file.timeouts = (timeouts != Timeouts::default()).then_some(timeouts);
        Ok(())
    }

    fn timeout(&mut self, key: &str, name: &str) -> Checked<Option<u32>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let seconds = seconds(&text)
            .ok_or_else(|| ConfigError::new(key, format_args!("{text:?} is no duration"), "as 24h0m0s"))?;
        if seconds == 0 {
            self.leave(key, "0 leaves the default".to_owned());
            return Ok(None);
        }
        let kept = seconds.min(Tick::MAX_TTL);
        let least = if kept < seconds { ", the longest there is" } else { "" };
        self.take(key, format!("timeouts.{name}: {kept} s{least}"));
        Ok(Some(kept))
    }

    /// The schedulers of IPVS that have a like here.
    fn scheduler(&mut self) -> Checked<()> {
        let scheduler = self.text("ipvs.scheduler")?.unwrap_or_else(|| "rr".to_owned());
        let (algorithm, hash_by) = match scheduler.as_str() {
            "rr" | "wrr" => ("round-robin", None),
            "lc" | "wlc" => ("least-connections", None),
            "sh" => ("rendezvous", Some("client")),
            "mh" => ("maglev", Some("client")),
            _ => {
                self.leave("ipvs.scheduler", "no algorithm here is like it: random is used".to_owned());
                return Ok(());
            }
        };
        self.take(
            "ipvs.scheduler",
            format!("loadBalancing.algorithm: {algorithm}, which is like {scheduler}"),
        );
        let (algorithm, hash_by) = (Some(algorithm.to_owned()), hash_by.map(str::to_owned));
        self.translation.file.load_balancing =
            Some(LoadBalancingFile { algorithm, hash_by, maglev_memory: None });
        Ok(())
    }

    fn take(&mut self, key: &str, what: String) {
        self.translation.taken.push(Note { key: key.to_owned(), what });
    }

    fn leave(&mut self, key: &str, what: String) {
        self.translation.left.push(Note { key: key.to_owned(), what });
    }

    fn at(&self, key: &str) -> &Value {
        key.split('.').fold(self.value, |value, part| &value[part])
    }

    fn text(&self, key: &str) -> Checked<Option<String>> {
        let value = self.at(key);
        if value.is_null() {
            return Ok(None);
        }
        let text = value.as_str().map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()));
        text.ok_or_else(|| ConfigError::new(key, format_args!("{value} is no text"), "write a text"))
    }

    fn needed(&self, key: &str) -> Checked<String> {
        self.text(key)?.ok_or_else(|| {
            ConfigError::new(key, "missing, which detectLocalMode needs", "give it, as cni0 or veth")
        })
    }

    fn boolean(&self, key: &str) -> Checked<Option<bool>> {
        let value = self.at(key);
        if value.is_null() {
            return Ok(None);
        }
        let wrong =
            || ConfigError::new(key, format_args!("{value} is neither true nor false"), "write one of them");
        value.as_bool().map(Some).ok_or_else(wrong)
    }

    fn list(&self, key: &str) -> Checked<Vec<String>> {
        let wrong = || ConfigError::new(key, "no list of texts", "as [10.0.0.0/8]");
        match self.at(key) {
            Value::Null => Ok(Vec::new()),
            Value::Array(list) => {
                list.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Err(wrong()),
        }
    }
}

/// A Go duration in whole seconds, rounded up: `24h0m0s`, `1.5h`, `300ms`, `0`.
fn seconds(text: &str) -> Option<u32> {
    const UNITS: [(&str, f64); 7] =
        [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("h", 3_600.0), ("m", 60.0), ("s", 1.0)];
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, seconds) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += number * seconds;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within its limits")]
    (!text.is_empty() && total <= f64::from(u32::MAX)).then(|| total.ceil() as u32)
}

impl Translation {
    /// The file with all notes as comments at its head.
    ///
    /// # Errors
    /// As [`to_yaml`].
    pub fn render(&self) -> Result<String, WriteError> {
        let mut text = format!("# Made of a {KUBE_PROXY_KIND}.\n");
        for (title, notes) in [("Taken over:", &self.taken), ("Not taken over:", &self.left)] {
            if !notes.is_empty() {
                let _ = writeln!(text, "# {title}");
            }
            for Note { key, what } in notes {
                // A comment ends with its line, whatever a key or value has in it.
                let line = format!("#   {key}: {what}").replace(char::is_control, " ");
                let _ = writeln!(text, "{line}");
            }
        }
        for line in to_yaml(&self.file)?.lines() {
            if line == "externalIPs:" {
                text.push_str(
                    "# kube-proxy serves whatever external IP a Service names, and so does this: whoever may write a Service\n\
                     # can take anybody's traffic (CVE-2020-8554). Narrow it to the addresses you give out, or remove it.\n",
                );
            }
            text.push_str(line);
            text.push('\n');
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
