//! A cluster for each test, and what tests ask of pods.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::kubernetes::{Cluster, Options, Pod, PodNet, Proxy, Site};

/// What the controllers, the scheduler and an agent do takes this long at most, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
const ANSWER: Duration = Duration::from_secs(5);

/// A cluster with the real kube-proxy; a failing test prints the end of its logs.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    _folder: TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let folder = tests::kubernetes::folder().unwrap();
        let options = Options {
            proxy: Proxy::KubeProxy,
            nodes: vec![PodNet::Routed, PodNet::Bridged],
            folder: folder.path().to_owned(),
            agnhost: Path::new(env!("CARGO_BIN_EXE_agnhost")).to_owned(),
        };
        Self { cluster: Cluster::start(options).unwrap(), _folder: folder }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.cluster.logs(15));
        }
    }
}

/// A pod of the agnhost stand-in on a node.
pub(crate) fn pod(name: &str, node: usize) -> Pod {
    Pod { name: name.to_owned(), node: Some(node), ..Pod::default() }
}

/// The pod with more about its only container.
pub(crate) fn with(mut pod: Pod, container: Value) -> Pod {
    pod.extra = json!({"spec": {"containers": [container]}});
    pod
}

/// The body of an HTTP answer with code 200, asked for wherever this runs.
pub(crate) fn get(ip: IpAddr, port: u16, path: &str) -> Result<String, String> {
    let fetch = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = fetch().map_err(|error| format!("{ip}:{port}{path}: {error}"))?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(format!("{ip}:{port}{path}: {text}")),
    }
}

/// A condition of a pod: `True`, `False`, or nothing.
pub(crate) fn condition(site: &Site<'_>, pod: &str, kind: &str) -> String {
    let object = site.get("Pod", pod).unwrap().unwrap_or_default();
    let all = object["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

/// The status of a pod.
pub(crate) fn status(site: &Site<'_>, pod: &str) -> Value {
    site.get("Pod", pod).unwrap().unwrap_or_default()["status"].take()
}

/// What a command in a pod prints, without its last line end; it has to succeed.
pub(crate) fn run(site: &Site<'_>, pod: &str, words: &[&str]) -> String {
    let output = site.exec(pod, words, PATIENCE).unwrap();
    assert_eq!(output.code, 0, "{words:?}: {output:?}");
    output.stdout.trim_end().to_owned()
}

/// The processes in a network namespace.
pub(crate) fn processes(namespace: &str) -> Vec<String> {
    let said = std::process::Command::new("ip").args(["netns", "pids", namespace]).output().unwrap();
    String::from_utf8_lossy(&said.stdout).split_whitespace().map(str::to_owned).collect()
}
