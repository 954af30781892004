//! What runs inside a pod: a small web server that says which pod it is.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The header that names the pod which answered.
pub const POD_HEADER: &str = "pod-name";

/// Listens on every port, tells `ready`, and serves until the process ends. Runs on a thread inside the pod's namespace.
pub fn serve(name: &str, addr: IpAddr, ports: &[u16], ready: &std::sync::mpsc::Sender<anyhow::Result<()>>) {
    let served = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime");
    let served = served.and_then(|runtime| {
        runtime.block_on(async {
            let mut listeners = Vec::new();
            for port in ports {
                let at = SocketAddr::new(addr, *port);
                let listener = TcpListener::bind(at).await;
                listeners.push(listener.with_context(|| format!("pod {name} cannot listen on {at}"))?);
            }
            // The demo may have given up by now; then nobody asks us anything.
            let _ = ready.send(Ok(()));
            let accepting = listeners.into_iter().map(|listener| accept(name, addr, listener));
            futures::future::join_all(accepting).await;
            Ok(())
        })
    });
    if let Err(error) = served {
        let _ = ready.send(Err(error));
    }
}

async fn accept(name: &str, addr: IpAddr, listener: TcpListener) {
    // An error here is the peer's (ECONNABORTED): the next connection may do better.
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let page = page(name, addr);
        let name = name.to_owned();
        let answer = move |_: Request<Incoming>| {
            let response = respond(&name, page.clone());
            async move { Ok::<_, Infallible>(response) }
        };
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

fn respond(name: &str, page: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(name) = HeaderValue::from_str(name) {
        headers.insert(POD_HEADER, name);
    }
    response
}

fn page(name: &str, addr: IpAddr) -> String {
    format!(
        "<!DOCTYPE html>
<html>
<head><title>{TITLE}</title></head>
<body>
<h1>{TITLE}</h1>
<p>You asked a Service address that no machine owns, and a pod answered.</p>
<p>This is pod <em>{name}</em> at {addr}.</p>
</body>
</html>
"
    )
}

/// The page's title.
const TITLE: &str = "Welcome to the pod behind the Service!";

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_pod_says_its_name_and_a_taken_port_is_told() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (ready, told) = mpsc::channel();
        let again = ready.clone();
        std::thread::spawn(move || serve("web-1", free.ip(), &[free.port()], &ready));
        told.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
        let mut stream = std::net::TcpStream::connect(free).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("pod-name: web-1\r\n"), "{answer}");
        assert!(answer.contains(&format!("<title>{TITLE}</title>")), "{answer}");
        std::thread::spawn(move || serve("web-2", free.ip(), &[free.port()], &again));
        let refused = told.recv_timeout(Duration::from_secs(10)).unwrap().unwrap_err();
        assert!(format!("{refused:#}").contains("pod web-2 cannot listen"), "{refused:#}");
    }
}
