//! A small harness for tests that need root: each runs in a network namespace of its own, on a thread that dies with
//! it; where that cannot be, a test is reported as ignored, or as failed if `TUNWAY_REQUIRE_ROOT=1`.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;

use dataplane::clock::Clock;
use nix::sched::{CloneFlags, unshare};

/// Name and body.
pub(crate) type Test = (&'static str, fn());

/// The tests of these names.
macro_rules! tests {
    ($($test:path),+ $(,)?) => { [$((stringify!($test), $test as fn())),+] };
}
pub(crate) use tests;

/// The part of the usual harness that a dynamic "ignored" needs: `[FILTER]... [--list] [--exact]`.
pub(crate) fn run(tests: &[Test]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let chosen: Vec<_> = tests.iter().filter(|(name, _)| wanted(name)).collect();
    if args.iter().any(|arg| arg == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let missing = missing();
    let required = std::env::var_os("TUNWAY_REQUIRE_ROOT").is_some_and(|value| value == "1");
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, test) in &chosen {
        let (counter, word) = match missing {
            Some(why) if required => (&mut failed, format!("FAILED, {why}")),
            Some(why) => (&mut ignored, format!("ignored, {why}")),
            None if in_own_namespace(name, *test) => (&mut passed, "ok".to_owned()),
            None => (&mut failed, "FAILED".to_owned()),
        };
        *counter += 1;
        println!("test {name} ... {word}");
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    let filtered = tests.len() - chosen.len();
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {filtered} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why the tests cannot run here.
fn missing() -> Option<&'static str> {
    if thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join().is_ok_and(|made| made.is_err()) {
        return Some("network namespaces need root");
    }
    (!Path::new("/dev/net/tun").exists()).then_some("there is no /dev/net/tun")
}

fn in_own_namespace(name: &str, test: fn()) -> bool {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    };
    thread::Builder::new().name(name.to_owned()).spawn(body).unwrap().join().is_ok()
}

pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Clock.now();
    while !done() {
        assert!(Clock.now().since(start) < 10_000_000_000, "waited 10 s for {what}");
    }
}

/// Runs `ip` in this thread's namespace.
pub(crate) fn ip(args: &[&str]) -> String {
    try_ip(args).unwrap_or_else(|error| panic!("ip {args:?}: {error}"))
}

/// As [`ip`]; what it said on failure comes back.
pub(crate) fn try_ip(args: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(args).output().map_err(|error| error.to_string())?;
    let said = if output.status.success() { Ok(output.stdout) } else { Err(output.stderr) };
    said.map(|text| String::from_utf8_lossy(&text).into_owned())
        .map_err(|text| String::from_utf8_lossy(&text).into_owned())
}
