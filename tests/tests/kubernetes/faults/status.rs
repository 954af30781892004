//! What tunway says of itself: by its control socket, and in its log.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use tests::kubernetes::{Cluster, Proxy};

use crate::kit::{Outcome, eventually};

const LIMIT: Duration = Duration::from_secs(10);

/// Asks the tunway of a node: `/v1/status`, `/v1/services`, `/v1/counters`.
///
/// # Errors
/// It does not answer.
pub(crate) fn ask(cluster: &Cluster, node: usize, path: &str) -> Outcome<Value> {
    let file = cluster.options().folder.join(&cluster.nodes()[node].name).join("proxy.yaml");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let device = config["device"].as_str().ok_or("no device in its configuration")?;
    let mut stream = UnixStream::connect(format!("/run/tunway/{device}.sock"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: tunway\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    Ok(serde_json::from_str(body)?)
}

/// Waits until every tunway says whether it is in touch with the API server. kube-proxy says nothing of the kind.
///
/// # Errors
/// One says otherwise for all of `limit`.
pub(crate) fn in_touch(cluster: &Cluster, wanted: bool, limit: Duration) -> Outcome {
    if cluster.proxy() == Proxy::KubeProxy {
        return Ok(());
    }
    for node in 0..cluster.nodes().len() {
        let name = &cluster.nodes()[node].name;
        eventually(&format!("{name} says connected: {wanted}"), limit, || {
            let status = ask(cluster, node, "/v1/status").map_err(|why| why.to_string())?;
            if status["connected"] == wanted { Ok(()) } else { Err(status["source"].to_string()) }
        })?;
    }
    Ok(())
}

/// That the log of every tunway ends with these, in this order, among other lines.
///
/// # Errors
/// One does not say it.
pub(crate) fn logged(cluster: &Cluster, wanted: &[&str]) -> Outcome {
    if cluster.proxy() == Proxy::KubeProxy {
        return Ok(());
    }
    for node in 0..cluster.nodes().len() {
        let log = cluster.node_proxy(node)?.daemon().tail(400);
        let mut rest = log.as_str();
        for words in wanted {
            let at =
                rest.rfind(words).ok_or_else(|| format!("{}: no {words:?} in its log:\n{log}", node + 1))?;
            rest = &rest[at..];
        }
    }
    Ok(())
}
