//! Readiness probes: what they ask, when, and what follows from the answers.
//! <https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/>

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::kubernetes::process;
use crate::netns;

/// A probe and what its answers say so far.
#[derive(Debug)]
pub(super) struct Prober {
    action: Action,
    period: Duration,
    timeout: Duration,
    after_failures: u64,
    after_successes: u64,
    due: SystemTime,
    /// Equal answers in a row, and which.
    row: (bool, u64),
    ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// Answered with 200 to 399.
    Http { port: u16, path: String },
    /// Connects.
    Tcp { port: u16 },
    /// Exits with 0, inside the pod.
    Exec(Vec<String>),
}

/// Where a pod is probed from and at.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// The node's namespace.
    pub(super) node: &'a str,
    /// The pod's namespace.
    pub(super) pod: &'a str,
    /// The pod's address.
    pub(super) address: IpAddr,
}

impl Prober {
    /// The readiness probe of a container that starts now; none: it is ready as soon as it runs.
    pub(super) fn of(container: &Value, now: SystemTime) -> Option<Self> {
        let probe = &container["readinessProbe"];
        let number = |field: &str, default: u64| probe[field].as_u64().unwrap_or(default);
        Some(Self {
            action: Action::of(probe, container)?,
            period: Duration::from_secs(number("periodSeconds", 10).max(1)),
            timeout: Duration::from_secs(number("timeoutSeconds", 1).max(1)),
            after_failures: number("failureThreshold", 3).max(1),
            after_successes: number("successThreshold", 1).max(1),
            due: now + Duration::from_secs(number("initialDelaySeconds", 0)),
            row: (false, 0),
            ready: false,
        })
    }

    /// Asks when it is due; true when readiness changed.
    pub(super) fn tick(&mut self, target: &Target<'_>, now: SystemTime) -> bool {
        if now < self.due {
            return false;
        }
        let good = self.action.ask(target, self.timeout);
        // One that has never been ready is asked more often: the kubelet does so on its first answer.
        let pause =
            if self.ready || good { self.period } else { self.period.min(Duration::from_millis(250)) };
        self.due = now + pause;
        self.judge(good)
    }

    pub(super) fn ready(&self) -> bool {
        self.ready
    }

    fn judge(&mut self, good: bool) -> bool {
        self.row = if self.row.0 == good { (good, self.row.1 + 1) } else { (good, 1) };
        let enough = if good { self.after_successes } else { self.after_failures };
        let changes = good != self.ready && self.row.1 >= enough;
        if changes {
            self.ready = good;
        }
        changes
    }
}

impl Action {
    fn of(probe: &Value, container: &Value) -> Option<Self> {
        if let Some(words) = probe["exec"]["command"].as_array() {
            return Some(Self::Exec(super::words(words)));
        }
        if !probe["httpGet"].is_null() {
            let path = probe["httpGet"]["path"].as_str().unwrap_or("/").to_owned();
            return Some(Self::Http { port: port(&probe["httpGet"]["port"], container)?, path });
        }
        Some(Self::Tcp { port: port(&probe["tcpSocket"]["port"], container)? })
    }

    fn ask(&self, target: &Target<'_>, timeout: Duration) -> bool {
        match self {
            Self::Exec(words) => {
                let mut command = super::inside(target.pod, words);
                process::run(&mut command, "", timeout).is_ok_and(|output| output.code == 0)
            }
            Self::Tcp { port } => {
                let at = SocketAddr::new(target.address, *port);
                netns::enter(target.node, || TcpStream::connect_timeout(&at, timeout).is_ok())
                    .unwrap_or(false)
            }
            Self::Http { port, path } => {
                let at = SocketAddr::new(target.address, *port);
                netns::enter(target.node, || status(at, path, timeout))
                    .is_ok_and(|status| status.is_some_and(|status| (200..400).contains(&status)))
            }
        }
    }
}

/// A number, or the name of one of the container's ports.
fn port(port: &Value, container: &Value) -> Option<u16> {
    let named = |name| {
        let ports = container["ports"].as_array()?;
        ports.iter().find(|port| port["name"].as_str() == Some(name))?["containerPort"].as_u64()
    };
    let number =
        port.as_u64().or_else(|| port.as_str().and_then(|text| text.parse().ok().or_else(|| named(text))));
    u16::try_from(number?).ok()
}

/// The status of `GET path`.
fn status(at: SocketAddr, path: &str, timeout: Duration) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&at, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes()).ok()?;
    let mut head = [0; 32];
    let mut length = 0;
    while length < 12 {
        match stream.read(head.get_mut(length..)?) {
            Ok(0) | Err(_) => return None,
            Ok(count) => length += count,
        }
    }
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn readiness_follows_answers_in_a_row() {
        let container = json!({"readinessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}});
        let mut prober = Prober::of(&container, SystemTime::now()).unwrap();
        let answers = [true, false, true, true, false, true, false, false, false];
        let changes: Vec<bool> = answers.into_iter().map(|good| prober.judge(good)).collect();
        assert_eq!(changes, [false, false, false, true, false, false, false, false, true]);
        assert!(!prober.ready());
    }

    #[test]
    fn probes_are_read_with_named_ports() {
        let ports = json!([{"name": "web", "containerPort": 8080}]);
        let of = |probe: Value| {
            Prober::of(&json!({"ports": ports, "readinessProbe": probe}), SystemTime::now()).map(|p| p.action)
        };
        let http = |port, path: &str| Some(Action::Http { port, path: path.to_owned() });
        assert_eq!(of(json!({"httpGet": {"port": "web", "path": "/ready"}})), http(8080, "/ready"));
        assert_eq!(of(json!({"httpGet": {"port": 81}})), http(81, "/"));
        assert_eq!(of(json!({"tcpSocket": {"port": "80"}})), Some(Action::Tcp { port: 80 }));
        assert_eq!(of(json!({"exec": {"command": ["true"]}})), Some(Action::Exec(vec!["true".to_owned()])));
        assert_eq!(of(json!({"tcpSocket": {"port": "nosuch"}})), None);
        assert_eq!(of(Value::Null), None);
    }

    #[test]
    fn a_status_is_read_from_a_real_answer() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 no\r\n\r\n", "x"] {
                let (mut stream, _) = server.accept().unwrap();
                let _ = stream.read(&mut [0; 512]);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let limit = Duration::from_secs(5);
        assert_eq!([204, 503].map(Some), [(); 2].map(|()| status(at, "/", limit)));
        assert_eq!(status(at, "/", limit), None);
        serving.join().unwrap();
    }
}
