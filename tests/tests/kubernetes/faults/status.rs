//! What tunway says of itself: by its control socket, and in its log.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use tests::kubernetes::{Cluster, Proxy};

use crate::kit::{Outcome, ensure, eventually};

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

/// What each tunway has published so far: it grows with every change it serves. None of kube-proxy.
///
/// # Errors
/// One does not answer.
pub(crate) fn generations(cluster: &Cluster) -> Outcome<Vec<u64>> {
    if cluster.proxy() == Proxy::KubeProxy {
        return Ok(Vec::new());
    }
    let generation = |node| {
        let status = ask(cluster, node, "/v1/status")?;
        status["generation"].as_u64().ok_or_else(|| format!("no generation in {status}").into())
    };
    (0..cluster.nodes().len()).map(generation).collect()
}

/// What each tunway has counted under this name so far. None of kube-proxy.
///
/// # Errors
/// One does not answer, or has no such counter.
pub(crate) fn counted(cluster: &Cluster, name: &str) -> Outcome<Vec<u64>> {
    if cluster.proxy() == Proxy::KubeProxy {
        return Ok(Vec::new());
    }
    let of = |node| {
        let answer = ask(cluster, node, "/v1/counters")?;
        answer["counters"][name].as_u64().ok_or_else(|| format!("no {name} in {answer}").into())
    };
    (0..cluster.nodes().len()).map(of).collect()
}

/// How often each tunway got out of touch with the API server.
const LOSSES: &str = "source_lost";

/// The log of every tunway from some moment on: what it said in earlier stories is not this one's.
pub(crate) struct Logs<'a> {
    cluster: &'a Cluster,
    /// Lines of each node's log until then.
    before: Vec<usize>,
    /// What each had counted until then.
    lost: Vec<u64>,
}

impl<'a> Logs<'a> {
    /// From now on.
    ///
    /// # Errors
    /// A node has no proxy.
    pub(crate) fn from_now(cluster: &'a Cluster) -> Outcome<Self> {
        let lines = |node| Ok(whole_log(cluster, node)?.lines().count());
        let before = (0..cluster.nodes().len()).map(lines).collect::<Outcome<_>>()?;
        Ok(Self { cluster, before, lost: counted(cluster, LOSSES)? })
    }

    /// That each counts a loss, and ends with these, in this order, among other lines. kube-proxy has words of its own.
    ///
    /// # Errors
    /// One does not say it.
    pub(crate) fn tell_of_loss(&self, wanted: &[&str]) -> Outcome {
        let now = counted(self.cluster, LOSSES)?;
        ensure(now.iter().zip(&self.lost).all(|(now, before)| now > before), || {
            format!("{LOSSES}: {:?}, then {now:?}", self.lost)
        })?;
        self.each(|log| {
            let mut rest = log;
            for words in wanted {
                let at = rest.rfind(words).ok_or_else(|| format!("no {words:?}"))?;
                rest = &rest[at..];
            }
            Ok(())
        })
    }

    /// That none says this without saying that after it.
    ///
    /// # Errors
    /// One does.
    pub(crate) fn take_back(&self, this: &str, that: &str) -> Outcome {
        self.each(|log| match log.rfind(this).map(|at| &log[at..]) {
            Some(rest) if !rest.contains(that) => Err(format!("{this:?} and no {that:?} after it")),
            Some(_) | None => Ok(()),
        })
    }

    fn each(&self, check: impl Fn(&str) -> Result<(), String>) -> Outcome {
        if self.cluster.proxy() == Proxy::KubeProxy {
            return Ok(());
        }
        for (node, before) in self.before.iter().enumerate() {
            let log: Vec<String> =
                whole_log(self.cluster, node)?.lines().skip(*before).map(str::to_owned).collect();
            let log = log.join("\n");
            check(&log).map_err(|why| format!("node {}: {why} in its log:\n{log}", node + 1))?;
        }
        Ok(())
    }
}

fn whole_log(cluster: &Cluster, node: usize) -> Outcome<String> {
    Ok(cluster.node_proxy(node)?.daemon().tail(usize::MAX))
}
