//! The configuration file while a run goes on: read again at SIGHUP and when it has changed, applied where that needs no
//! new start. What is wrong with it is reported, and the last good one goes on.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::config::file::ConfigFile;
use crate::config::{Config, ConfigError, Machine, read};

/// How often the file is looked at. Reading it works where being told of changes does not: behind the links of a mounted
/// ConfigMap, on any file system.
const LOOK: Duration = Duration::from_secs(1);

/// What a run was configured with, and by what.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The configuration file; none was given.
    pub path: Option<PathBuf>,
    /// The flags, which win over it.
    pub flags: ConfigFile,
    /// What defaults hang on.
    pub machine: Machine,
}

/// The file was read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reread {
    /// Somebody asked for it.
    pub asked: bool,
    /// What it says, under the flags, and what that means; or what is wrong with it.
    pub outcome: Result<Box<ConfigFile>, ConfigError>,
}

/// What a run follows its file by.
#[derive(Debug)]
pub struct Reloads {
    /// The file, whenever it was read again.
    pub rereads: mpsc::Receiver<Reread>,
    /// What is in force: file and flags.
    pub running: ConfigFile,
    /// What defaults hang on.
    pub machine: Machine,
}

/// A key whose value is another one now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, as the file spells it.
    pub key: String,
    /// The value so far, as JSON.
    pub from: String,
    /// The new one.
    pub to: String,
    /// It is in force now. Else it will be at the next start.
    pub applied: bool,
}

impl Origin {
    /// The file as it is now, under the flags.
    ///
    /// # Errors
    /// It cannot be read or understood, or a value of it cannot be used.
    pub fn given(&self) -> Result<ConfigFile, ConfigError> {
        let file = self.path.as_deref().map(read::read).transpose()?.unwrap_or_default();
        let given = self.flags.clone().over(file);
        Config::resolve(given.clone(), &self.machine)?;
        Ok(given)
    }

    /// A pipe, say, can be read once only, and not at all without waiting.
    fn text(&self) -> Option<Vec<u8>> {
        let file =
            self.path.as_ref().filter(|path| std::fs::metadata(path).is_ok_and(|file| file.is_file()))?;
        std::fs::read(file).ok()
    }

    fn is_a_pipe(&self) -> bool {
        let path = self.path.as_ref();
        path.is_none_or(|path| std::fs::metadata(path).is_ok_and(|file| !file.is_file()))
    }
}

/// Catches SIGHUP from now on: without a hand that catches it, it ends a process.
///
/// # Errors
/// The system gives no signal handler.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Tells of the file once, whenever it has changed, and at SIGHUP. Ends when nobody listens.
pub async fn follow(origin: Origin, mut hangups: Signal, tell: mpsc::Sender<Reread>) {
    // It may have changed since it was read for the start.
    let (mut told, mut seen) = (None, None);
    loop {
        let asked = tokio::select! {
            _ = hangups.recv() => true,
            () = sleep(LOOK) => false,
        };
        if origin.is_a_pipe() {
            if asked {
                tracing::info!("SIGHUP: there is no configuration file that could be read again");
            }
            continue;
        }
        let now = Some(origin.text());
        // One that is being written is left alone until it rests.
        let rests = now == seen;
        seen.clone_from(&now);
        if !(asked || (rests && now != told)) {
            continue;
        }
        told = now;
        if tell.send(Reread { asked, outcome: origin.given().map(Box::new) }).await.is_err() {
            return;
        }
    }
}

/// What a run goes on with when its file says something else: the values that need no new start, the old ones of all
/// others, and every key that differs.
///
/// # Errors
/// What is new does not go with what has to stay.
pub fn merge(
    running: &ConfigFile,
    new: &ConfigFile,
    machine: &Machine,
) -> Result<(ConfigFile, Config, Vec<Change>), ConfigError> {
    let old_config = Config::resolve(running.clone(), machine)?;
    let new_config = Config::resolve(new.clone(), machine)?;
    let by_link = old_config.detect_local.by_link() || new_config.detect_local.by_link();
    let [old_keys, new_keys] = [(&old_config, running), (&new_config, new)].map(keys);
    let mut merged = running.clone();
    let mut changes = Vec::new();
    let names: std::collections::BTreeSet<&String> = old_keys.keys().chain(new_keys.keys()).collect();
    for key in names {
        let [from, to] = [&old_keys, &new_keys].map(|keys| keys.get(key).unwrap_or(&Value::Null));
        if from != to {
            let applied = take(key, new, &mut merged, by_link);
            changes.push(Change { key: key.clone(), from: from.to_string(), to: to.to_string(), applied });
        }
    }
    let config = Config::resolve(merged.clone(), machine)?;
    Ok((merged, config, changes))
}

/// Every key with what it comes to.
fn keys((config, given): (&Config, &ConfigFile)) -> Map<String, Value> {
    let value = serde_json::to_value(config.effective(given.clone())).unwrap_or_default();
    value.as_object().cloned().unwrap_or_default()
}

/// Takes the new value of a key over, if it can be in force without a new start.
fn take(key: &str, new: &ConfigFile, merged: &mut ConfigFile, by_link: bool) -> bool {
    match key {
        // At the start it is made sure that the API server lies in none of them.
        "serviceCIDRs" if from_files(merged) => merged.service_cidrs.clone_from(&new.service_cidrs),
        // Which links lead to pods is followed from the start on.
        "detectLocal" | "clusterCIDR" if !by_link => {
            merged.detect_local.clone_from(&new.detect_local);
            merged.cluster_cidr.clone_from(&new.cluster_cidr);
        }
        "nodePortAddresses" => merged.node_port_addresses.clone_from(&new.node_port_addresses),
        "externalIPs" => merged.external_ips.clone_from(&new.external_ips),
        "loadBalancing" => merged.load_balancing.clone_from(&new.load_balancing),
        "masqueradeAll" => merged.masquerade_all = new.masquerade_all,
        "drainSeconds" => merged.drain_seconds = new.drain_seconds,
        _ => return false,
    }
    true
}

fn from_files(file: &ConfigFile) -> bool {
    file.source.as_ref().is_some_and(|source| source.manifests.is_some())
}

impl Change {
    /// Into the log.
    pub fn log(&self) {
        let Self { key, from, to, applied } = self;
        if *applied {
            tracing::info!("{key}: {to} from now on, instead of {from}");
        } else {
            tracing::warn!(
                remedy = "restart when it suits",
                "{key}: {to} instead of {from} takes effect at the next start"
            );
        }
    }
}

#[cfg(test)]
mod tests {

    use nix::sys::signal::Signal::SIGHUP;
    use nix::sys::signal::raise;
    use tokio::time::timeout;

    use super::*;
    use crate::config::read::parse;

    fn machine() -> Machine {
        Machine { node_name: None, host_name: "n1".into(), cores: 2 }
    }

    fn file(lines: &str) -> ConfigFile {
        parse(&format!("apiVersion: tunway.dev/v1alpha1\nkind: Config\n{lines}")).unwrap()
    }

    fn changes(old: &str, new: &str) -> (Config, Vec<(String, bool)>) {
        let (merged, config, changes) = merge(&file(old), &file(new), &machine()).unwrap();
        assert_eq!(Config::resolve(merged, &machine()).unwrap(), config);
        (config, changes.into_iter().map(|change| (change.key, change.applied)).collect())
    }

    fn names(keys: &[(&str, bool)]) -> Vec<(String, bool)> {
        keys.iter().map(|(key, applied)| ((*key).to_owned(), *applied)).collect()
    }

    #[test]
    fn what_needs_no_new_start_is_taken_over_and_the_rest_stays_as_it_is() {
        let source = "source: {manifests: /etc/m}\nreturnPath: conntrack\n";
        let new = format!(
            "{source}serviceCIDRs: [10.200.0.0/16]\nmasqueradeAll: true\nexternalIPs: {{allow: [203.0.113.0/24]}}\n\
            clusterCIDR: 10.244.0.0/16\nnodePortAddresses: [10.0.0.0/8]\ndrainSeconds: 9\n\
            loadBalancing: {{algorithm: p2c}}\nworkers: 1\ntimeouts: {{udp: 7}}\n"
        );
        let (config, told) = changes(source, &new);
        let old = Config::resolve(file(source), &machine()).unwrap();
        let wanted = Config::resolve(file(&new), &machine()).unwrap();
        assert_eq!(config, Config { workers: old.workers, timeouts: old.timeouts.clone(), ..wanted });
        let keys = [
            ("clusterCIDR", true),
            ("detectLocal", true),
            ("drainSeconds", true),
            ("externalIPs", true),
            ("loadBalancing", true),
            ("masqueradeAll", true),
            ("nodePortAddresses", true),
            ("serviceCIDRs", true),
            ("timeouts", false),
            ("workers", false),
        ];
        assert_eq!(told, names(&keys));
        assert_eq!(changes(&new, &new).1, []);
        // Where an API server is asked, its address must not come to lie in one.
        assert_eq!(changes("", "serviceCIDRs: [10.200.0.0/16]\n").1, names(&[("serviceCIDRs", false)]));
    }

    #[test]
    fn links_of_pods_wait_for_the_next_start() {
        let bridge = "detectLocal: {mode: bridge, interface: cni0}\n";
        for (old, new) in
            [("", bridge), (bridge, ""), (bridge, "detectLocal: {mode: bridge, interface: br0}\n")]
        {
            let (config, told) = changes(old, new);
            assert_eq!(told, names(&[("detectLocal", false)]));
            assert_eq!(config, Config::resolve(file(old), &machine()).unwrap());
        }
    }

    #[test]
    fn the_file_is_read_when_it_has_changed_and_when_asked() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tunway.yaml");
            let write = |lines: &str| {
                std::fs::write(&path, format!("apiVersion: tunway.dev/v1alpha1\nkind: Config\n{lines}"))
                    .unwrap();
            };
            write("");
            let flags = ConfigFile { device: Some("t1".into()), ..ConfigFile::default() };
            let origin = Origin { path: Some(path.clone()), flags, machine: machine() };
            let (tell, mut told) = mpsc::channel(1);
            tokio::spawn(follow(origin, hangups().unwrap(), tell));
            let limit = Duration::from_secs(20);
            raise(SIGHUP).unwrap();
            let asked = timeout(limit, told.recv()).await.unwrap().unwrap();
            assert_eq!(
                (asked.asked, asked.outcome.unwrap().device.as_deref()),
                (true, Some("t1")),
                "flags stay"
            );
            write("device: t2\nmasqueradeAll: true\n");
            let start = tokio::time::Instant::now();
            let changed = timeout(limit, told.recv()).await.unwrap().unwrap().outcome.unwrap();
            assert!(start.elapsed() >= LOOK / 2, "a file is given time to be written");
            assert_eq!((changed.device.as_deref(), changed.masquerade_all), (Some("t1"), Some(true)));
            write("masqueradeEverything: true\n");
            let error = timeout(limit, told.recv()).await.unwrap().unwrap().outcome.unwrap_err();
            assert_eq!(error.field, "masqueradeEverything");
            std::fs::remove_file(&path).unwrap();
            let gone = timeout(limit, told.recv()).await.unwrap().unwrap().outcome.unwrap_err();
            assert!(gone.what.contains("tunway.yaml"), "{gone}");
        });
    }
}
