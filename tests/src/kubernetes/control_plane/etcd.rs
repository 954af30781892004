//! etcd, asked over its JSON gateway: no client of its own is needed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

/// Where it listens, inside the hub.
pub(super) const URL: &str = "http://127.0.0.1:2379";
pub(super) const PORT: u16 = 2379;
const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT));
const LIMIT: Duration = Duration::from_secs(10);

/// Drops all history before now; the revision of now.
pub(super) fn compact(hub: &str) -> io::Result<u64> {
    let header = ask(hub, "/v3/kv/range", &json!({"key": "AA=="}))?;
    // 64-bit numbers are text in this JSON.
    let revision = header["header"]["revision"].as_str().and_then(|text| text.parse::<u64>().ok());
    let revision = revision.ok_or_else(|| io::Error::other(format!("etcd named no revision: {header}")))?;
    let request = json!({"revision": revision.to_string(), "physical": true});
    ask(hub, "/v3/kv/compaction", &request)?;
    Ok(revision)
}

fn ask(hub: &str, path: &str, body: &Value) -> io::Result<Value> {
    let inside = File::open(format!("/run/netns/{hub}"))?;
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let asking = thread::spawn(move || {
        setns(inside, CloneFlags::CLONE_NEWNET)?;
        let mut stream = TcpStream::connect_timeout(&ADDRESS, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, io::Error>(answer)
    });
    let answer = asking.join().map_err(|_| io::Error::other("asking etcd panicked"))??;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
    let fine = head.split(' ').nth(1) == Some("200");
    if !fine {
        return Err(io::Error::other(format!("etcd, {path}: {answer}")));
    }
    serde_json::from_str(body).map_err(io::Error::other)
}
