//! A test harness for tests that need root: one after another, each with a limit of time. Without root every test is
//! reported as ignored, or as failed with `TUNWAY_REQUIRE_ROOT=1`: the standard harness can do neither at run time.
//! What it prints is the standard harness's output.

use std::any::Any;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime};

/// A test: its name and what it does.
pub type Test = (&'static str, fn());

/// A test that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the tests the command line asks for: name filters, `--exact`, `--skip NAME`, `--list`.
#[must_use]
pub fn main(tests: &[Test]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let asked = Asked::parse(&words);
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| asked.wants(name)).collect();
    if asked.list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let root = nix::unistd::geteuid().is_root();
    let required = std::env::var("TUNWAY_REQUIRE_ROOT").is_ok_and(|value| value == "1");
    let begun = SystemTime::now();
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    println!("\nrunning {} tests", chosen.len());
    for (name, test) in &chosen {
        let begun = SystemTime::now();
        let outcome = match (root, required) {
            (true, _) => run(name, *test, LIMIT),
            (false, true) => {
                Err("needs root, and TUNWAY_REQUIRE_ROOT=1 does not let it be ignored".to_owned())
            }
            (false, false) => {
                ignored += 1;
                println!("test {name} ... ignored, needs root");
                continue;
            }
        };
        let seconds = begun.elapsed().unwrap_or_default().as_secs_f64();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
            }
            Err(why) => {
                failed += 1;
                println!("test {name} ... FAILED ({seconds:.1} s): {why}");
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let left_out = tests.len() - chosen.len();
    let seconds = begun.elapsed().unwrap_or_default().as_secs_f64();
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
         {left_out} filtered out; finished in {seconds:.2}s\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

#[derive(Default)]
struct Asked<'a> {
    names: Vec<&'a str>,
    skip: Vec<&'a str>,
    exact: bool,
    list: bool,
}

impl<'a> Asked<'a> {
    fn parse(words: &'a [String]) -> Self {
        let mut asked = Self::default();
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--exact" => asked.exact = true,
                "--list" => asked.list = true,
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
        (self.names.is_empty() || self.names.iter().any(fits)) && !self.skip.iter().any(fits)
    }
}

fn run(name: &str, test: fn(), limit: Duration) -> Result<(), String> {
    let (done, wait) = mpsc::channel::<()>();
    let worker = thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Dropped at the end, also by a panic.
        let _done = done;
        test();
    });
    let worker = worker.map_err(|error| error.to_string())?;
    match wait.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => Err(format!("still running after {limit:?}")),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => worker.join().map_err(|panic| text_of(&panic)),
    }
}

fn text_of(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(line: &str, name: &str) -> bool {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Asked::parse(&words).wants(name)
    }

    #[test]
    fn tests_are_chosen_as_by_the_standard_harness() {
        assert!(wants("", "any") && wants("--nocapture", "any") && wants("--test-threads 1", "any"));
        assert!(wants("an", "any") && !wants("an --exact", "any") && wants("any --exact", "any"));
        assert!(!wants("--skip an", "any") && wants("any --skip other", "any") && !wants("other", "any"));
    }

    #[test]
    fn a_panic_is_told_and_a_test_that_hangs_is_left() {
        let limit = Duration::from_secs(20);
        assert_eq!(run("good", || {}, limit), Ok(()));
        assert_eq!(run("bad", || panic!("told"), limit), Err("told".to_owned()));
        assert_eq!(run("bad", || panic!("told {}", 2), limit), Err("told 2".to_owned()));
        let hangs = run("hangs", || thread::sleep(Duration::from_secs(30)), Duration::from_millis(10));
        assert!(hangs.unwrap_err().contains("still running"));
    }
}
