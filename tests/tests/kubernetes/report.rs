//! What a person reads: the table, what is pending, and what a failed scenario left behind.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tests::kubernetes::Site;

use super::table::{Scenario, Verdicts};

/// The reason of a failure is cut at this length in the table; above it stands in full.
const REASON: usize = 160;

/// Prints the table. `tests/run` shows lines that begin with a bar.
pub(crate) fn table(scenarios: &[Scenario], columns: &[&str], verdicts: &Verdicts, pending: &[(&str, &str)]) {
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    let mut head = format!("| {:width$}", "scenario");
    for column in columns {
        let _ = write!(head, "  {column:>12}");
    }
    println!("\n{head}");
    let mut group = "";
    for scenario in scenarios {
        if scenario.group != group {
            group = scenario.group;
            println!("| {group}:");
        }
        let mut row = format!("| {:width$}", scenario.name);
        let mut reasons = String::new();
        for column in columns {
            let cell = match verdicts.get(&(scenario.name, *column)) {
                None => "-".to_owned(),
                Some(verdict) => match &verdict.failed {
                    None => format!("ok {:.1} s", verdict.took.as_secs_f64()),
                    Some(_) if scenario.beyond.is_some() && *column != "tunway" => {
                        let _ = write!(reasons, "\n|     {column}: {}", scenario.beyond.unwrap_or_default());
                        "fails, known".to_owned()
                    }
                    Some(why) => {
                        let short: String = why.chars().take(REASON).collect();
                        let _ = write!(reasons, "\n|     {column}: {}", short.replace('\n', " "));
                        "FAILED".to_owned()
                    }
                },
            };
            let _ = write!(row, "  {cell:>12}");
        }
        println!("{row}{reasons}");
    }
    if pending.is_empty() {
        return;
    }
    println!("| pending, or left out: {} of upstream's", pending.len());
    for (why, name) in pending {
        println!("|   {why:14} {name}");
    }
}

/// The last line, as the standard harness has it.
pub(crate) fn result(
    passed: usize,
    failed: usize,
    ignored: usize,
    left_out: usize,
    took: Duration,
) -> ExitCode {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let seconds = took.as_secs_f64();
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
         {left_out} filtered out; finished in {seconds:.2}s\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// The objects of a scenario, a line each, as the API server has them now.
pub(crate) fn objects(site: &Site<'_>) -> String {
    let mut text = String::new();
    for (kind, line) in [("Service", service as fn(&Value) -> String), ("EndpointSlice", slice), ("Pod", pod)]
    {
        match site.list(kind, "") {
            Ok(objects) => objects.iter().for_each(|object| {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let _ = writeln!(text, "    {kind} {name}: {}", line(object));
            }),
            Err(error) => {
                let _ = writeln!(text, "    {kind}s cannot be read: {error}");
            }
        }
    }
    text
}

fn service(object: &Value) -> String {
    let spec = &object["spec"];
    let ports = spec["ports"].as_array().into_iter().flatten();
    let ports: Vec<String> =
        ports.map(|port| format!("{}/{}->{}", port["port"], port["protocol"], port["targetPort"])).collect();
    format!("{} {} {}", spec["type"], spec["clusterIPs"], ports.join(" "))
}

fn slice(object: &Value) -> String {
    let endpoints = object["endpoints"].as_array().into_iter().flatten();
    let endpoints: Vec<String> = endpoints
        .map(|one| format!("{} {} {}", one["addresses"], one["nodeName"], one["conditions"]))
        .collect();
    let labels = &object["metadata"]["labels"];
    format!("{} {} {} {labels}", object["addressType"], endpoints.join(" "), object["ports"])
}

fn pod(object: &Value) -> String {
    let status = &object["status"];
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let ready =
        conditions.into_iter().find(|one| one["type"] == "Ready").map_or(&Value::Null, |one| &one["status"]);
    let ending = if object["metadata"]["deletionTimestamp"].is_null() { "" } else { " terminating" };
    format!("{} {} {} ready {ready}{ending}", object["spec"]["nodeName"], status["phase"], status["podIPs"])
}
