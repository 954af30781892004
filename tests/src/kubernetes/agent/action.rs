//! What probes and hooks do: ask over HTTP or TCP from the node, run a command in the container, or wait.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::sandbox::Shell;
use crate::kubernetes::process;
use crate::netns;

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Good: answered with 200 to 399.
    Http { port: u16, path: String },
    /// Good: connects.
    Tcp { port: u16 },
    /// Good: exits with 0, inside the pod.
    Exec(Vec<String>),
    /// Always good.
    Sleep(Duration),
    /// Never good: a kind that is not known here, or a port nobody has.
    Impossible,
}

/// The container it is done to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The node's namespace.
    pub(super) node: String,
    /// The container's.
    pub(super) shell: Shell,
    /// The pod's address.
    pub(super) address: IpAddr,
}

impl Action {
    /// The one a probe, or a hook, of a container names.
    pub(super) fn of(spec: &Value, container: &Value) -> Self {
        if let Some(words) = spec["exec"]["command"].as_array() {
            return Self::Exec(super::words(words));
        }
        if let Some(seconds) = spec["sleep"]["seconds"].as_u64() {
            return Self::Sleep(Duration::from_secs(seconds));
        }
        let port = |kind: &str| port(&spec[kind]["port"], container);
        match (port("httpGet"), port("tcpSocket")) {
            (Some(port), _) => {
                let path = spec["httpGet"]["path"].as_str().unwrap_or("/").to_owned();
                Self::Http { port, path }
            }
            (None, Some(port)) => Self::Tcp { port },
            (None, None) => Self::Impossible,
        }
    }

    /// Does it, within `limit`; whether it came out well.
    pub(super) fn perform(&self, target: &Target, limit: Duration) -> bool {
        match self {
            Self::Exec(words) => {
                process::run(&mut target.shell.command(words), "", limit).is_ok_and(|output| output.code == 0)
            }
            Self::Tcp { port } => {
                let at = SocketAddr::new(target.address, *port);
                netns::enter(&target.node, || TcpStream::connect_timeout(&at, limit).is_ok()).unwrap_or(false)
            }
            Self::Http { port, path } => {
                let at = SocketAddr::new(target.address, *port);
                netns::enter(&target.node, || status(at, path, limit))
                    .is_ok_and(|status| status.is_some_and(|status| (200..400).contains(&status)))
            }
            Self::Sleep(long) => {
                thread::sleep(limit.min(*long));
                true
            }
            Self::Impossible => false,
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
    fn actions_are_read_with_named_ports() {
        let container = json!({"ports": [{"name": "web", "containerPort": 8080}]});
        let of = |spec: Value| Action::of(&spec, &container);
        let http = |port, path: &str| Action::Http { port, path: path.to_owned() };
        assert_eq!(of(json!({"httpGet": {"port": "web", "path": "/ready"}})), http(8080, "/ready"));
        assert_eq!(of(json!({"httpGet": {"port": 81}})), http(81, "/"));
        assert_eq!(of(json!({"tcpSocket": {"port": "80"}})), Action::Tcp { port: 80 });
        assert_eq!(of(json!({"exec": {"command": ["true"]}})), Action::Exec(vec!["true".to_owned()]));
        assert_eq!(of(json!({"sleep": {"seconds": 2}})), Action::Sleep(Duration::from_secs(2)));
        assert_eq!(of(json!({"tcpSocket": {"port": "nosuch"}})), Action::Impossible);
        assert_eq!(of(json!({"grpc": {"port": 1}})), Action::Impossible);
    }

    #[test]
    fn a_status_is_read_from_a_real_answer() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let serving = thread::spawn(move || {
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
