//! One container of a pod: its process, its restarts, its readiness, and what the pod's status says of it.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Shared;
use super::action::{Action, Target};
use super::image::{self, ImageError};
use super::pod::Told;
use super::probe::Prober;
use super::status::stamp;
use super::volumes::Mounts;

/// The pause before the second restart; it doubles with each. The first restart comes at once.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_AT_MOST: Duration = Duration::from_secs(30);

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    spec: Value,
    folder: PathBuf,
    target: Target,
    state: State,
    prober: Option<Prober>,
    restarts: u32,
    has_run: bool,
    /// As the status last said.
    was_ready: bool,
}

#[derive(Debug)]
enum State {
    Waiting { reason: &'static str, message: String, until: Option<SystemTime> },
    Running { child: Child, since: SystemTime },
    Ended { code: i32, at: SystemTime },
}

/// Whether a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// What starting a container takes.
#[derive(Debug)]
pub(super) struct Starting<'a> {
    pub(super) shared: &'a Shared,
    pub(super) pod: &'a Value,
    /// The pod's folder.
    pub(super) folder: &'a Path,
    /// Who wants to know of its readiness.
    pub(super) tell: &'a Sender<Told>,
}

impl Container {
    /// One that does not run yet; its folder is its own.
    pub(super) fn new(spec: &Value, folder: PathBuf, target: Target) -> Self {
        let state = State::Waiting { reason: "ContainerCreating", message: String::new(), until: None };
        Self {
            spec: spec.clone(),
            folder,
            target,
            state,
            prober: None,
            restarts: 0,
            has_run: false,
            was_ready: false,
        }
    }

    /// Starts it; what cannot be started is tried again later.
    pub(super) fn start(&mut self, how: &Starting<'_>) {
        let (reason, message) = match self.spawn(how) {
            Ok(()) => return,
            Err(ImageError::Unknown(message)) => ("ErrImagePull", message),
            Err(ImageError::Volume(message)) => ("CreateContainerConfigError", message),
            Err(ImageError::Files(error)) => ("CreateContainerError", error.to_string()),
        };
        self.state = State::Waiting { reason, message, until: Some(SystemTime::now() + BACKOFF) };
    }

    fn spawn(&mut self, how: &Starting<'_>) -> Result<(), ImageError> {
        let mounts =
            Mounts::make(&how.shared.api, how.pod, &self.spec, how.folder).map_err(ImageError::Volume)?;
        let images = &how.shared.images;
        let words = images.command(&self.spec, &self.folder, &mounts)?;
        let shell = &mut self.target.shell;
        shell.applets = images.applets(&self.spec);
        for (_, value) in &mut shell.environment {
            *value = mounts.relocate(value);
        }
        let mut command = self.target.shell.command(&words);
        let log = self.log().map_err(ImageError::Files)?;
        let copy = log.try_clone().map_err(ImageError::Files)?;
        command.process_group(0).stdin(Stdio::null()).stdout(copy).stderr(log);
        let child = command.spawn().map_err(ImageError::Files)?;
        self.state = State::Running { child, since: SystemTime::now() };
        self.has_run = true;
        self.prober = Prober::start(&self.spec, &self.target, how.tell).map_err(ImageError::Files)?;
        Ok(())
    }

    fn log(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        File::options().create(true).append(true).open(self.folder.join("log"))
    }

    /// Looks after it: its end, its restart, its probe. True when what the status says changed. Without `how` nothing
    /// is started any more.
    pub(super) fn tick(&mut self, how: Option<&Starting<'_>>, restart: Restart, now: SystemTime) -> bool {
        match &mut self.state {
            State::Waiting { until, .. } => {
                let due = until.is_some_and(|until| now >= until);
                how.filter(|_| due).map(|how| self.start(how)).is_some()
            }
            State::Running { child, .. } => {
                let (id, ended) = (child.id(), child.try_wait());
                if let Ok(Some(status)) = ended {
                    // The rest of a container ends with its first process.
                    signal_group(id, Signal::SIGKILL);
                    self.ended(code(status), now, restart);
                    return true;
                }
                let ready = self.is_ready();
                std::mem::replace(&mut self.was_ready, ready) != ready
            }
            State::Ended { .. } => false,
        }
    }

    fn ended(&mut self, code: i32, now: SystemTime, restart: Restart) {
        let again = restart == Restart::Always || (restart == Restart::OnFailure && code != 0);
        self.prober = None;
        self.was_ready = false;
        self.state = if again {
            let doubled =
                self.restarts.checked_sub(1).map(|doublings| BACKOFF.saturating_mul(1 << doublings.min(5)));
            let pause = doubled.unwrap_or_default().min(BACKOFF_AT_MOST);
            self.restarts += 1;
            let message = format!("the last one exited with {code}");
            State::Waiting { reason: "CrashLoopBackOff", message, until: Some(now + pause) }
        } else {
            State::Ended { code, at: now }
        };
    }

    /// Tells it to end, as its image wants to be told.
    pub(super) fn stop(&self) {
        if let State::Running { child, .. } = &self.state {
            signal_group(child.id(), image::stop_signal(&self.spec));
        }
    }

    /// Kills it and waits for its end.
    pub(super) fn kill(&mut self) {
        self.prober = None;
        if let State::Running { child, .. } = &mut self.state {
            signal_group(child.id(), Signal::SIGKILL);
            let code = child.wait().map_or(137, code);
            self.state = State::Ended { code, at: SystemTime::now() };
        }
    }

    /// Whether it ran once, however that ended.
    pub(super) fn has_run(&self) -> bool {
        self.has_run
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// How it exited, when it did and stays so.
    pub(super) fn exit_code(&self) -> Option<i32> {
        match self.state {
            State::Ended { code, .. } => Some(code),
            State::Waiting { .. } | State::Running { .. } => None,
        }
    }

    /// It runs, and its probe, if it has one, says so.
    pub(super) fn is_ready(&self) -> bool {
        self.is_running() && self.prober.as_ref().is_none_or(Prober::ready)
    }

    /// Its entry in `containerStatuses`.
    pub(super) fn status(&self, pod: &str) -> Value {
        let state = match &self.state {
            State::Waiting { reason, message, .. } => {
                json!({"waiting": {"reason": reason, "message": message}})
            }
            State::Running { since, .. } => json!({"running": {"startedAt": stamp(*since)}}),
            State::Ended { code, at } => {
                let reason = if *code == 0 { "Completed" } else { "Error" };
                json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": stamp(*at)}})
            }
        };
        json!({
            "name": self.spec["name"], "image": self.spec["image"], "imageID": "", "state": state,
            "containerID": format!("tunway://{pod}/{}/{}", self.name(), self.restarts),
            "ready": self.is_ready(), "started": self.is_running(), "restartCount": self.restarts,
        })
    }

    /// What is to be done before it is told to end, and to whom.
    pub(super) fn pre_stop(&self) -> Option<(Action, Target)> {
        let hook = &self.spec["lifecycle"]["preStop"];
        (!hook.is_null()).then(|| (Action::of(hook, &self.spec), self.target.clone()))
    }

    pub(super) fn name(&self) -> &str {
        self.spec["name"].as_str().unwrap_or_default()
    }

    /// Its own restart policy: an init container with `Always` is a sidecar.
    pub(super) fn is_sidecar(&self) -> bool {
        self.spec["restartPolicy"] == "Always"
    }

    /// Where it runs.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
    }
}

/// To everything a container started; what ended meanwhile is found out by the next look.
fn signal_group(leader: u32, signal: Signal) {
    if let Ok(id) = i32::try_from(leader) {
        let _ = killpg(Pid::from_raw(id), signal);
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The environment of a container: plain values, and the fields the downward API has.
pub(super) fn environment(
    container: &Value,
    pod: &Value,
    addresses: &[IpAddr],
    node: &[IpAddr],
) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let first = |all: &[IpAddr]| all.first().map(ToString::to_string).unwrap_or_default();
    let variables = container["env"].as_array().into_iter().flatten();
    let value = |variable: &Value| match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
        None => text(&variable["value"]),
        Some("metadata.name") => text(&pod["metadata"]["name"]),
        Some("metadata.namespace") => text(&pod["metadata"]["namespace"]),
        Some("metadata.uid") => text(&pod["metadata"]["uid"]),
        Some("spec.nodeName") => text(&pod["spec"]["nodeName"]),
        Some("status.podIP") => first(addresses),
        Some("status.podIPs") => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        Some("status.hostIP") => first(node),
        Some(_) => String::new(),
    };
    variables.map(|variable| (text(&variable["name"]), value(variable))).collect()
}

/// The folder of a container below its pod's.
pub(super) fn folder(pod: &Path, container: &Value) -> PathBuf {
    pod.join(container["name"].as_str().unwrap_or("container"))
}

#[cfg(test)]
mod tests {
    use super::super::sandbox::Shell;
    use super::*;

    fn container() -> Container {
        let shell =
            Shell { namespace: String::new(), hostname: "p".into(), environment: vec![], applets: None };
        let target = Target { node: String::new(), shell, address: [127, 0, 0, 1].into() };
        Container::new(&json!({"name": "c"}), "/nowhere".into(), target)
    }

    #[test]
    fn the_environment_has_the_values_and_the_fields_asked_for() {
        let pod = json!({"metadata": {"name": "web-1", "namespace": "shop"}, "spec": {"nodeName": "n1"}});
        let field =
            |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let container = json!({"env": [
            {"name": "A", "value": "1"}, field("IP", "status.podIP"), field("IPS", "status.podIPs"),
            field("NODE", "spec.nodeName"), field("HOST", "status.hostIP"), field("ME", "metadata.name"),
        ]});
        let ips: Vec<IpAddr> = ["10.244.0.3", "fd00::3"].map(|ip| ip.parse().unwrap()).to_vec();
        let found = environment(&container, &pod, &ips, &["192.168.77.2".parse().unwrap()]);
        let wanted = [
            ("A", "1"),
            ("IP", "10.244.0.3"),
            ("IPS", "10.244.0.3,fd00::3"),
            ("NODE", "n1"),
            ("HOST", "192.168.77.2"),
            ("ME", "web-1"),
        ];
        assert_eq!(found, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn who_is_started_again() {
        let now = SystemTime::now();
        for (restart, code, again) in [
            (Restart::Always, 0, true),
            (Restart::Always, 1, true),
            (Restart::OnFailure, 0, false),
            (Restart::OnFailure, 1, true),
            (Restart::Never, 1, false),
        ] {
            let mut container = container();
            container.ended(code, now, restart);
            assert_eq!(container.exit_code().is_none(), again, "{restart:?} {code}");
            assert_eq!(container.status("p")["restartCount"], u32::from(again));
        }
    }

    #[test]
    fn restarts_come_at_once_and_then_later_and_later() {
        let now = SystemTime::now();
        let mut container = container();
        let pauses = (0..9).map(|_| {
            container.ended(1, now, Restart::Always);
            let State::Waiting { until: Some(until), .. } = &container.state else { panic!("it is over") };
            until.duration_since(now).unwrap().as_secs()
        });
        assert_eq!(pauses.collect::<Vec<_>>(), [0, 1, 2, 4, 8, 16, 30, 30, 30]);
    }
}
