//! Runs tests that need root, one after another, each on a thread of its own with a limit of time. Without root
//! every test is reported as ignored, or, with `TUNWAY_REQUIRE_ROOT=1`, as failed: the standard harness can do
//! neither at run time. The output is the standard harness's.

use std::any::Any;
use std::panic::resume_unwind;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime};

/// A test: its name and what it does.
pub(crate) type Test = (&'static str, fn());

/// Runs the tests the command line asks for (name filters, `--exact`, `--skip NAME`, `--list`).
pub(crate) fn main(tests: &[Test]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = Asked::parse(&arguments);
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| asked.wants(name)).collect();
    if asked.list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let root = nix::unistd::geteuid().is_root();
    let required = std::env::var("TUNWAY_REQUIRE_ROOT").is_ok_and(|value| value == "1");
    let started = SystemTime::now();
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    println!("\nrunning {} tests", chosen.len());
    for (name, test) in &chosen {
        let outcome = match (root, required) {
            (true, _) => run(name, *test),
            (false, true) => {
                Err("needs root, and TUNWAY_REQUIRE_ROOT=1 does not let it be ignored".to_owned())
            }
            (false, false) => {
                ignored += 1;
                println!("test {name} ... ignored, needs root");
                continue;
            }
        };
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Err(why) => {
                failed += 1;
                println!("test {name} ... FAILED: {why}");
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let left_out = tests.len() - chosen.len();
    let seconds = started.elapsed().unwrap_or_default().as_secs_f64();
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
         {left_out} filtered out; finished in {seconds:.2}s\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

struct Asked<'a> {
    names: Vec<&'a str>,
    skip: Vec<&'a str>,
    exact: bool,
    list: bool,
    ignored_only: bool,
}

impl<'a> Asked<'a> {
    fn parse(arguments: &'a [String]) -> Self {
        let mut asked =
            Self { names: Vec::new(), skip: Vec::new(), exact: false, list: false, ignored_only: false };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--exact" => asked.exact = true,
                "--list" => asked.list = true,
                "--ignored" => asked.ignored_only = true,
                "--skip" => asked.skip.extend(words.next()),
                "--test-threads" | "--format" | "--color" | "--logfile" => drop(words.next()),
                option if option.starts_with('-') => {}
                name => asked.names.push(name),
            }
        }
        asked
    }

    fn wants(&self, name: &str) -> bool {
        let fits = |word: &&str| if self.exact { name == *word } else { name.contains(word) };
        !self.ignored_only
            && (self.names.is_empty() || self.names.iter().any(fits))
            && !self.skip.iter().any(fits)
    }
}

fn run(name: &str, test: fn()) -> Result<(), String> {
    let (done, wait) = mpsc::channel::<()>();
    let worker = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _done = done; // dropped at the end, also by a panic
        test();
    });
    let worker = worker.map_err(|error| error.to_string())?;
    match wait.recv_timeout(LIMIT) {
        Err(RecvTimeoutError::Timeout) => Err(format!("still running after {LIMIT:?}")),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => worker.join().map_err(|panic| text_of(&panic)),
    }
}

fn text_of(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panic".to_owned())
}

/// Waits until `condition` holds, asking every few milliseconds; panics with `what` after `limit`.
pub(crate) fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let started = SystemTime::now();
    while !condition() {
        assert!(started.elapsed().unwrap_or_default() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Joins a thread and passes its panic on.
#[allow(dead_code, reason = "not every test binary starts threads")]
pub(crate) fn join<T>(worker: thread::JoinHandle<T>) -> T {
    worker.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// A test that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(60);
