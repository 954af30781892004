//! The table: every scenario against tunway and against kube-proxy, eight at a time, since they wait more than they
//! compute. What it prints at the end is the standard harness's output.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use tests::kubernetes::{Cluster, Options, PodNet, Proxy, Site};

use super::arguments::Arguments;
use super::kit::{Outcome, limit_this_thread};
use super::report;

/// How many scenarios run at a time on one cluster.
const AT_A_TIME: usize = 8;
/// A scenario that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(120);
/// One that runs alone waits for controllers and proxies that have been without an API server.
const LIMIT_ALONE: Duration = Duration::from_secs(240);

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// Upstream's words, shortened.
    pub name: &'static str,
    /// Its part of the table.
    pub group: &'static str,
    /// Others would notice it.
    pub alone: bool,
    /// kube-proxy is known to fail it, and why: there it is shown and does not count.
    pub beyond: Option<&'static str>,
    run: fn(&Site<'_>) -> Outcome,
}

impl Scenario {
    /// A scenario for both proxies, beside others.
    pub(crate) fn new(name: &'static str, run: fn(&Site<'_>) -> Outcome) -> Self {
        Self { name, group: "", alone: false, beyond: None, run }
    }

    /// The same, after all others and by itself.
    pub(crate) fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// The same, with why kube-proxy fails it.
    pub(crate) fn beyond(self, why: &'static str) -> Self {
        Self { beyond: Some(why), ..self }
    }

    /// Whether it counts against this proxy.
    pub(crate) fn counts(&self, proxy: Proxy) -> bool {
        proxy == Proxy::Tunway || self.beyond.is_none()
    }

    /// The same, in a part of the table.
    pub(crate) fn group(self, group: &'static str) -> Self {
        Self { group, ..self }
    }
}

/// How a scenario ended on one proxy.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Why it failed.
    pub failed: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// What came of everything, by scenario and by column.
pub(crate) type Verdicts = BTreeMap<(&'static str, &'static str), Verdict>;

/// The name of a proxy's column.
pub(crate) fn column(proxy: Proxy) -> &'static str {
    match proxy {
        Proxy::Tunway => "tunway",
        Proxy::KubeProxy => "kube-proxy",
    }
}

/// Runs what the command line asks for.
pub(crate) fn main(scenarios: &[Scenario], pending: &[(&str, &str)]) -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(64);
        }
    };
    let chosen: Vec<Scenario> = scenarios.iter().copied().filter(|one| arguments.wants(one.name)).collect();
    if arguments.list {
        for (scenario, proxy) in pairs(&chosen, &arguments.proxies) {
            println!("{}: test", full(scenario.name, proxy));
        }
        return ExitCode::SUCCESS;
    }
    let all = pairs(scenarios, &[Proxy::Tunway, Proxy::KubeProxy]).count();
    let wanted = pairs(&chosen, &arguments.proxies).count();
    let begun = SystemTime::now();
    println!("\nrunning {wanted} tests");
    if !nix::unistd::geteuid().is_root() {
        return without_root(&chosen, &arguments.proxies, all - wanted);
    }
    let verdicts = Mutex::new(Verdicts::new());
    thread::scope(|scope| {
        for proxy in &arguments.proxies {
            let (verdicts, chosen) = (&verdicts, &chosen);
            scope.spawn(move || judge(*proxy, chosen, verdicts));
        }
    });
    let verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let columns: Vec<&str> = arguments.proxies.iter().copied().map(column).collect();
    // Of the whole suite, not of a part of it.
    let pending = if chosen.len() == scenarios.len() { pending } else { &[] };
    report::table(&chosen, &columns, &verdicts, pending);
    // Whoever was not judged has failed: nothing is passed over.
    let passed = pairs(&chosen, &arguments.proxies)
        .filter_map(|(scenario, proxy)| verdicts.get(&(scenario.name, column(proxy))))
        .filter(|verdict| verdict.failed.is_none())
        .count();
    report::result(passed, wanted - passed, 0, all - wanted, begun.elapsed().unwrap_or_default())
}

fn pairs(scenarios: &[Scenario], proxies: &[Proxy]) -> impl Iterator<Item = (Scenario, Proxy)> {
    let all = scenarios.iter().flat_map(|one| proxies.iter().map(|proxy| (*one, *proxy)));
    all.filter(|(one, proxy)| one.counts(*proxy))
}

fn full(name: &str, proxy: Proxy) -> String {
    format!("kubernetes::{name}::{}", column(proxy))
}

fn without_root(chosen: &[Scenario], proxies: &[Proxy], left_out: usize) -> ExitCode {
    let required = std::env::var("TUNWAY_REQUIRE_ROOT").is_ok_and(|value| value == "1");
    let word = if required {
        "FAILED: needs root, and TUNWAY_REQUIRE_ROOT=1 does not let it be ignored"
    } else {
        "ignored, needs root"
    };
    let mut count = 0;
    for (scenario, proxy) in pairs(chosen, proxies) {
        println!("test {} ... {word}", full(scenario.name, proxy));
        count += 1;
    }
    let (failed, ignored) = if required { (count, 0) } else { (0, count) };
    report::result(0, failed, ignored, left_out, Duration::ZERO)
}

/// Runs all scenarios against one proxy.
fn judge(proxy: Proxy, chosen: &[Scenario], verdicts: &Mutex<Verdicts>) {
    if chosen.is_empty() {
        return;
    }
    let started = tests::kubernetes::folder().and_then(|folder| Ok((start(proxy, folder.path())?, folder)));
    let (cluster, _folder) = match started {
        Ok(started) => started,
        Err(why) => {
            println!("the cluster with {} did not start: {why}", column(proxy));
            let failed = Some("the cluster did not start".to_owned());
            for scenario in chosen {
                tell(
                    proxy,
                    *scenario,
                    Verdict { failed: failed.clone(), took: Duration::ZERO },
                    "",
                    verdicts,
                );
            }
            return;
        }
    };
    let begun = SystemTime::now();
    let (alone, together): (Vec<_>, Vec<_>) = chosen.iter().copied().partition(|scenario| scenario.alone);
    let count = together.len();
    // Taken from the end.
    let queue = Mutex::new(together.into_iter().rev().collect::<Vec<_>>());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(scenario) = next() {
                    run(&cluster, scenario, verdicts);
                }
            });
        }
    });
    let seconds = begun.elapsed().unwrap_or_default().as_secs();
    println!("measured: {count} scenarios against {}, {AT_A_TIME} at a time: {seconds} s", column(proxy));
    for scenario in alone {
        run(&cluster, scenario, verdicts);
    }
}

fn start(proxy: Proxy, folder: &Path) -> std::io::Result<Cluster> {
    Cluster::start(Options {
        proxy,
        nodes: vec![PodNet::Routed, PodNet::Bridged],
        folder: folder.to_owned(),
        agnhost: env!("CARGO_BIN_EXE_agnhost").into(),
    })
}

/// Runs one scenario in a corner of its own.
fn run(cluster: &Cluster, scenario: Scenario, verdicts: &Mutex<Verdicts>) {
    let begun = SystemTime::now();
    let limit = if scenario.alone { LIMIT_ALONE } else { LIMIT };
    limit_this_thread(limit);
    let mut objects = String::new();
    let told =
        cluster.site(&scenario.name.replace('_', "-")).map_err(|error| error.to_string()).and_then(|site| {
            let told = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&site)));
            let told = told
                .map_err(|panic| text_of(panic.as_ref()))
                .and_then(|told| told.map_err(|why| why.to_string()));
            if told.is_err() {
                objects = report::objects(&site);
            }
            told
        });
    let took = begun.elapsed().unwrap_or_default();
    let failed = match told {
        Ok(()) if took > limit => Some(format!("took {} s", took.as_secs())),
        Ok(()) => None,
        Err(why) => Some(why),
    };
    let mut more = objects;
    if failed.is_some() {
        let _ = write!(more, "{}", cluster.logs(8));
    }
    tell(cluster.proxy(), scenario, Verdict { failed, took }, &more, verdicts);
}

fn tell(proxy: Proxy, scenario: Scenario, verdict: Verdict, more: &str, verdicts: &Mutex<Verdicts>) {
    let name = full(scenario.name, proxy);
    let seconds = verdict.took.as_secs_f64();
    match &verdict.failed {
        _ if !scenario.counts(proxy) => {}
        None => println!("test {name} ... ok ({seconds:.1} s)"),
        Some(why) => println!("test {name} ... FAILED ({seconds:.1} s): {why}\n{more}"),
    }
    let mut verdicts = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
    verdicts.insert((scenario.name, column(proxy)), verdict);
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panic".to_owned())
}
