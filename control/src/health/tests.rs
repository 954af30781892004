//! Listeners come and go with Services, and what they answer.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::fixtures::{ip, key};

const HERE: &str = "127.0.0.1";

/// A port nobody has just now.
fn free() -> u16 {
    TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port()
}

async fn get(port: u16) -> io::Result<String> {
    get_at(HERE, port).await
}

async fn get_at(addr: &str, port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect((addr, port)).await?;
    stream.write_all(b"GET /any/path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

fn health(port: u16, ready_v4: usize) -> Health {
    Health { port, ready_v4, ready_v6: 0, families: [true, false] }
}

fn run(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), story).await.unwrap() });
}

#[test]
fn it_answers_in_kube_proxys_words() {
    run(async {
        let (port, mut ports) = (free(), HealthPorts::default());
        let here = [ip(HERE)];
        ports.set(&[(key("web"), health(port, 2))].into(), &here, true);
        let said = get(port).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        for header in [
            "content-type: application/json\r\n",
            "x-content-type-options: nosniff\r\n",
            "x-load-balancing-endpoint-weight: 2\r\n",
        ] {
            assert!(said.contains(header), "{said}");
        }
        let body = "\r\n\r\n{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert!(said.ends_with(body), "{said}");
        ports.set(&[(key("web"), health(port, 0))].into(), &here, true);
        assert!(get(port).await.unwrap().starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        ports.set(&[(key("web"), health(port, 2))].into(), &here, false);
        let said = get(port).await.unwrap();
        assert!(
            said.starts_with("HTTP/1.1 503") && said.ends_with("\"serviceProxyHealthy\": false\n}"),
            "{said}"
        );
        let other = free();
        ports.set(&[(key("web"), health(other, 1))].into(), &here, true);
        assert!(get(port).await.is_err() && get(other).await.is_ok(), "another port");
        ports.set(&BTreeMap::new(), &here, true);
        assert!(get(other).await.is_err(), "nobody asks any more");
    });
}

#[test]
fn every_address_of_the_node_answers_for_the_families_a_service_has() {
    let of = |families| Health { port: 1, ready_v4: 4, ready_v6: 6, families };
    for (families, at_v4, at_v6) in [([true, false], 4, 4), ([false, true], 6, 6), ([true, true], 4, 6)] {
        let counts = [HERE, "::1"].map(|addr| ready(&of(families), ip(addr)));
        assert_eq!(counts, [at_v4, at_v6], "{families:?}");
    }
    run(async {
        let (port, mut ports) = (free(), HealthPorts::default());
        ports.set(&[(key("web"), health(port, 2))].into(), &[ip(HERE), ip("::1")], true);
        assert!(ports.problems().is_empty(), "{:?}", ports.problems());
        for addr in [HERE, "::1"] {
            let said = get_at(addr, port).await.unwrap();
            assert!(said.starts_with("HTTP/1.1 200") && said.contains("\"localEndpoints\": 2"), "{said}");
        }
    });
}

#[test]
fn a_port_goes_from_one_service_to_another_and_has_one_owner() {
    run(async {
        let (port, mut ports) = (free(), HealthPorts::default());
        let here = [ip(HERE)];
        ports.set(&[(key("old"), health(port, 1))].into(), &here, true);
        ports.set(&[(key("new"), health(port, 3))].into(), &here, true);
        let said = get(port).await.unwrap();
        assert!(said.contains("\"name\": \"new\"") && ports.problems().is_empty(), "{said}");
        ports.set(&[(key("a"), health(port, 1)), (key("b"), health(port, 1))].into(), &here, true);
        let told: Vec<_> = ports.problems().keys().cloned().collect();
        assert_eq!(told, ["Service default/b"]);
    });
}

#[test]
fn connections_end_with_their_listener_and_idle_ones_keep_nobody_out() {
    run(async {
        let (port, mut ports) = (free(), HealthPorts::default());
        let here = [ip(HERE)];
        ports.set(&[(key("web"), health(port, 1))].into(), &here, true);
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS + 1 {
            idle.push(TcpStream::connect((HERE, port)).await.unwrap());
        }
        assert!(get(port).await.unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(idle[0].read(&mut [0; 8]).await.unwrap_or(0), 0, "the oldest was hung up on");
        let mut kept = idle.pop().unwrap();
        kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut said = [0; 1024];
        assert!(kept.read(&mut said).await.unwrap() > 0);
        ports.set(&BTreeMap::new(), &here, true);
        // The rest of the answer, then the end.
        while kept.read(&mut said).await.unwrap_or(0) > 0 {}
    });
}

#[test]
fn all_listeners_share_one_bound_and_who_has_the_most_gives_way() {
    run(async {
        let (crowded, quiet) = (free(), free());
        let places = Arc::new(Places { most: 8, held: Mutex::default() });
        let mut ports = HealthPorts { places: Arc::clone(&places), ..HealthPorts::default() };
        let here = [ip(HERE)];
        let two = [(key("a"), health(crowded, 1)), (key("b"), health(quiet, 1))];
        ports.set(&two.into(), &here, true);
        let mut kept = TcpStream::connect((HERE, quiet)).await.unwrap();
        kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut said = [0; 1024];
        assert!(kept.read(&mut said).await.unwrap() > 0);
        let mut idle = Vec::new();
        for _ in 0..40 {
            idle.push(TcpStream::connect((HERE, crowded)).await.unwrap());
        }
        assert!(get(crowded).await.unwrap().starts_with("HTTP/1.1 200"));
        assert!(get(quiet).await.unwrap().starts_with("HTTP/1.1 200"));
        assert!(places.held.lock().unwrap().len() <= 8);
        assert_eq!(idle[0].read(&mut [0; 8]).await.unwrap_or(0), 0, "the oldest of the crowd was hung up on");
        kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(kept.read(&mut said).await.unwrap() > 0, "the quiet one's was not");
    });
}

#[test]
fn a_port_that_is_taken_is_told_and_had_when_it_is_free() {
    run(async {
        let taken = TcpListener::bind((HERE, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let (wanted, here) = ([(key("web"), health(port, 1))].into(), [ip(HERE), ip("::1")]);
        let mut ports = HealthPorts::default();
        ports.set(&wanted, &here, true);
        let told = &ports.problems()["Service default/web"];
        assert_eq!((told.len(), told[0].field.as_str()), (1, "spec.healthCheckNodePort"), "IPv6 has it free");
        drop(taken);
        ports.set(&wanted, &here, true);
        assert!(ports.problems().is_empty() && get(port).await.is_ok());
    });
}
