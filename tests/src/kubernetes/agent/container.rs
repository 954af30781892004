//! One container of a pod: its process, its restarts, its readiness, and what the pod's status says of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::image::{ImageError, Images};
use super::probe::{Prober, Target};
use super::status::stamp;

/// The pause before the first restart; it doubles with each.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_AT_MOST: Duration = Duration::from_secs(30);

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    spec: Value,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    state: State,
    prober: Option<Prober>,
    restarts: u32,
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

impl Container {
    /// One that does not run yet; its folder is its own.
    pub(super) fn new(spec: &Value, folder: PathBuf, environment: Vec<(String, String)>) -> Self {
        let state = State::Waiting { reason: "ContainerCreating", message: String::new(), until: None };
        Self { spec: spec.clone(), folder, environment, state, prober: None, restarts: 0 }
    }

    /// Starts it inside the pod's namespace.
    pub(super) fn start(&mut self, images: &Images, namespace: &str) {
        match self.spawn(images, namespace) {
            Ok(child) => {
                let since = SystemTime::now();
                self.prober = Prober::of(&self.spec, since);
                self.state = State::Running { child, since };
            }
            Err(ImageError::Unknown(message)) => {
                self.state = State::Waiting { reason: "ErrImagePull", message, until: None };
            }
            Err(ImageError::Files(error)) => {
                let until = Some(SystemTime::now() + BACKOFF);
                self.state =
                    State::Waiting { reason: "CreateContainerError", message: error.to_string(), until };
            }
        }
    }

    fn spawn(&self, images: &Images, namespace: &str) -> Result<Child, ImageError> {
        let words = images.command(&self.spec, &self.folder)?;
        let log = self.log().map_err(ImageError::Files)?;
        let copy = log.try_clone().map_err(ImageError::Files)?;
        let mut command = super::inside(namespace, &words);
        command.envs(self.environment.iter().cloned()).process_group(0);
        command.stdin(Stdio::null()).stdout(copy).stderr(log);
        command.spawn().map_err(ImageError::Files)
    }

    fn log(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        File::options().create(true).append(true).open(self.log_path())
    }

    /// What it prints.
    pub(super) fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Looks after it: its end, its restart, its probe. True when what the status says changed.
    pub(super) fn tick(
        &mut self,
        images: &Images,
        target: &Target<'_>,
        restart: Restart,
        now: SystemTime,
    ) -> bool {
        match &mut self.state {
            State::Waiting { until, .. } => {
                let due = until.is_some_and(|until| now >= until);
                if due {
                    self.start(images, target.pod);
                }
                due
            }
            State::Running { child, .. } => {
                if let Ok(Some(status)) = child.try_wait() {
                    self.ended(code(status), now, restart);
                    return true;
                }
                self.prober.as_mut().is_some_and(|prober| prober.tick(target, now))
            }
            State::Ended { .. } => false,
        }
    }

    fn ended(&mut self, code: i32, now: SystemTime, restart: Restart) {
        let again = restart == Restart::Always || (restart == Restart::OnFailure && code != 0);
        self.state = if again {
            let pause = BACKOFF.saturating_mul(1 << self.restarts.min(5)).min(BACKOFF_AT_MOST);
            self.restarts += 1;
            let message = format!("the last one exited with {code}");
            State::Waiting { reason: "CrashLoopBackOff", message, until: Some(now + pause) }
        } else {
            State::Ended { code, at: now }
        };
    }

    /// Sends the processes of the container a signal.
    pub(super) fn signal(&self, signal: Signal) {
        if let State::Running { child, .. } = &self.state
            && let Ok(id) = i32::try_from(child.id())
        {
            // Ended meanwhile: the next look finds out.
            let _ = killpg(Pid::from_raw(id), signal);
        }
    }

    /// Kills it and waits for its end.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if let State::Running { child, .. } = &mut self.state {
            let code = child.wait().map_or(137, code);
            self.state = State::Ended { code, at: SystemTime::now() };
        }
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

    /// Its own restart policy: an init container with `Always` is a sidecar.
    pub(super) fn is_sidecar(spec: &Value) -> bool {
        spec["restartPolicy"] == "Always"
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
            "containerID": format!("tunway://{pod}/{}/{}", self.spec["name"].as_str().unwrap_or_default(), self.restarts),
            "ready": self.is_ready(), "started": self.is_running(), "restartCount": self.restarts,
        })
    }

    /// What it is to do before it gets SIGTERM.
    pub(super) fn pre_stop(&self) -> &Value {
        &self.spec["lifecycle"]["preStop"]
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The environment of a container: the host name, the downward API's fields, plain values.
pub(super) fn environment(container: &Value, pod: &Value, addresses: &[String]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = vec![("HOSTNAME".to_owned(), text(&pod["metadata"]["name"]))];
    for variable in container["env"].as_array().into_iter().flatten() {
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let value = match field {
            None => text(&variable["value"]),
            Some("metadata.name") => text(&pod["metadata"]["name"]),
            Some("metadata.namespace") => text(&pod["metadata"]["namespace"]),
            Some("spec.nodeName") => text(&pod["spec"]["nodeName"]),
            Some("status.podIP") => addresses.first().cloned().unwrap_or_default(),
            Some(_) => String::new(),
        };
        all.push((text(&variable["name"]), value));
    }
    all
}

/// The folder of a container below its pod's.
pub(super) fn folder(pod: &Path, container: &Value) -> PathBuf {
    pod.join(container["name"].as_str().unwrap_or("container"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_the_host_name_and_the_fields_asked_for() {
        let pod = json!({"metadata": {"name": "web-1", "namespace": "shop"}, "spec": {"nodeName": "n1"}});
        let container = json!({"env": [
            {"name": "A", "value": "1"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ]});
        let found = environment(&container, &pod, &["10.244.0.3".to_owned()]);
        let wanted = [("HOSTNAME", "web-1"), ("A", "1"), ("IP", "10.244.0.3"), ("NODE", "n1")];
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
            let mut container = Container::new(&json!({"name": "c"}), "/nowhere".into(), vec![]);
            container.ended(code, now, restart);
            assert_eq!(container.exit_code().is_none(), again, "{restart:?} {code}");
            assert_eq!(container.status("p")["restartCount"], u32::from(again));
        }
    }
}
