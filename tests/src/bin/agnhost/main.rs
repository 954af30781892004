//! A stand-in for Kubernetes' test image agnhost, as far as our scenarios use it: `netexec`, a server that says who it
//! is and who asks.
//!
//! ```text
//! agnhost netexec [--http-port=8080[,81...]] [--udp-port=8081[,...]] [--delay-shutdown=SECONDS]
//! agnhost pause
//! HTTP  GET /hostname  /clientip  /echo?msg=TEXT  /healthz  /readyz  /bytes?n=COUNT  /exit?code=N
//!       POST /readyz/on  /readyz/off  /upload (answers how many bytes came, and their FNV-1a checksum)
//! UDP   hostname   clientip   echo TEXT
//! ```
//! Port 0 is none.
//!
//! `/hostName` is `/hostname`. After SIGTERM it goes on serving, open connections and new ones, for the delay, with
//! `/readyz` answering 503.
#![allow(clippy::print_stdout, reason = "its output is a pod's log")]

use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

mod http;
mod udp;

/// What all its servers share.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    ready: AtomicBool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    http: Vec<u16>,
    udp: Vec<u16>,
    delay: Duration,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match parse(&words).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("agnhost: {why}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<Options, String> {
    let Some((command, flags)) = words.split_first() else {
        return Err("netexec and pause are what it can do".to_owned());
    };
    let mut options = Options::default();
    match command.as_str() {
        "pause" => return Ok(options),
        "netexec" => {}
        _ => return Err(format!("{command}: netexec and pause are what it can do")),
    }
    for flag in flags {
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        let bad = |_| format!("{flag}: not a number");
        let ports =
            || value.split(',').map(|port| port.parse().map_err(bad)).collect::<Result<Vec<u16>, _>>();
        match name {
            "--http-port" => options.http = ports()?,
            "--udp-port" => options.udp = ports()?,
            "--delay-shutdown" => options.delay = Duration::from_secs(value.parse().map_err(bad)?),
            _ => return Err(format!("{flag}: no such flag")),
        }
    }
    if flags.iter().any(|flag| flag.contains("-port=")) {
        options.http.retain(|port| *port != 0);
        options.udp.retain(|port| *port != 0);
        return Ok(options);
    }
    Ok(Options { http: vec![8080], udp: vec![8081], ..options })
}

/// Serves until SIGTERM or SIGINT, and the delay after it.
fn serve(options: Options) -> Result<(), String> {
    // Blocked before there are threads, which inherit it: only the wait below takes them.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block().map_err(|error| error.to_string())?;
    let name = std::env::var("HOSTNAME").unwrap_or_else(|_| "agnhost".to_owned());
    let host = Arc::new(Host { name, ready: AtomicBool::new(true) });
    for port in options.http {
        // The unspecified IPv6 address takes IPv4 as well.
        let listener =
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(|e| format!("HTTP port {port}: {e}"))?;
        let host = Arc::clone(&host);
        thread::spawn(move || http::serve(&listener, &host));
    }
    for port in options.udp {
        let socket =
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(|e| format!("UDP port {port}: {e}"))?;
        let host = Arc::clone(&host);
        thread::spawn(move || {
            if let Err(error) = udp::serve(&socket, &host) {
                println!("agnhost: UDP port {port}: {error}");
            }
        });
    }
    let signal = ends.wait().map_err(|error| error.to_string())?;
    println!("{signal}: ends in {:?}", options.delay);
    host.ready.store(false, Ordering::Relaxed);
    thread::sleep(options.delay);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_netexecs() {
        let options = of("netexec --http-port=80,81 --udp-port=53 --delay-shutdown=7").unwrap();
        assert_eq!(options, Options { http: vec![80, 81], udp: vec![53], delay: Duration::from_secs(7) });
        assert_eq!(of("netexec").unwrap().http, [8080]);
        assert_eq!(of("pause").unwrap(), Options::default());
        let udp = of("netexec --http-port=0 --udp-port=0,53").unwrap();
        assert_eq!((udp.http, udp.udp), (vec![], vec![53]));
        for bad in ["", "porter", "netexec --http-port=x", "netexec --nosuch=1", "netexec --udp-port=70000"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
