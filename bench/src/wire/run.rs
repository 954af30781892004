//! One run: set up, rounds, report.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path as File;
use std::process::{ChildStdin, ChildStdout};

use serde::Serialize;
use tests::netns::Process;

use super::load::{Done, Load, Order};
use super::pin;
use super::quiet::{self, Used};
use super::report::{Metric, Path, Record, Samples};
use super::topology::{
    NULL_DEVICE, NULL_SNAT, NULL_VIP, TUNWAY_DEVICE, TUNWAY_SNAT, TUNWAY_VIP, Topology, address,
};

/// CPU of the client.
const CLIENT_CPU: usize = 0;
/// CPU of the server.
const SERVER_CPU: usize = 1;

/// How much to measure.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Rounds; in each, every load goes once through every path.
    pub rounds: u32,
    /// Milliseconds a sample takes.
    pub millis: u64,
    /// Queues of the null forwarder and of tunway.
    pub queues: u8,
    /// MTU of the links, bytes.
    pub mtu: u32,
}

#[derive(Serialize)]
struct Report {
    plan: Plan,
    cpus: usize,
    placement: [(&'static str, String); 3],
    /// Which session it ran in.
    session: &'static str,
    /// The share of the used CPU that was others', over all samples and in the worst one.
    foreign_cpu: Foreign,
    records: Vec<Record>,
}

/// The share of the machine's used CPU that others took, 0 to 1.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Foreign {
    median: f64,
    worst: f64,
}

impl Foreign {
    fn of(shares: &[f64]) -> Self {
        let median = super::sample::estimate(shares).map_or(0.0, |estimate| estimate.median);
        Self { median, worst: shares.iter().copied().fold(0.0, f64::max) }
    }

    fn text(self) -> String {
        let Self { median, worst } = self;
        format!(
            "foreign CPU during samples: median {:.1} %, worst {:.1} % of the CPU used",
            median * 100.0,
            worst * 100.0
        )
    }
}

/// Measures, prints the table, and writes the records to `json`.
///
/// # Errors
/// What is missing to measure: root, `ip`, `nft`, or a path that does not deliver.
#[allow(clippy::print_stdout, reason = "the table is the program's output")]
pub fn run(plan: &Plan, json: Option<&File>) -> io::Result<()> {
    let session = quiet::own_session();
    let topology = Topology::new(plan.mtu)?;
    let queues = plan.queues.to_string();
    let lock_dir = tempfile::tempdir()?;
    let locks = lock_dir.path().to_string_lossy();
    let gateway =
        |role| Line::new(topology.role(&topology.gateway, &[role, "--queues", &queues, "--locks", &locks])?);
    let mut server =
        Line::new(topology.role(&topology.server, &["server", "--cpu", &SERVER_CPU.to_string()])?)?;
    server.read()?;
    let mut client =
        Line::new(topology.role(&topology.client, &["client", "--cpu", &CLIENT_CPU.to_string()])?)?;
    let mut null = gateway("null")?;
    null.read()?;
    let mut tunway = gateway("tunway")?;
    tunway.read()?;
    topology.steer(NULL_DEVICE, 1_000, NULL_VIP, NULL_SNAT)?;
    topology.steer(TUNWAY_DEVICE, 1_001, TUNWAY_VIP, TUNWAY_SNAT)?;

    let mut samples = Samples::default();
    let mut foreign = Vec::new();
    // The first round warms caches, neighbours and routes, and shows that every path delivers; it is not counted.
    for round in 0..=plan.rounds {
        let millis = if round == 0 { 100 } else { plan.millis };
        for load in Load::ALL {
            for path in Path::ALL {
                let order = Order { load, to: address(path), millis };
                let sample = measure(&mut client, &mut server, order)
                    .map_err(|error| io::Error::other(format!("{load:?} by {path:?}: {error}")))?;
                if round > 0 {
                    sample.take_down(&mut samples, load, path);
                    foreign.push(sample.foreign);
                }
            }
        }
    }
    let foreign_cpu = Foreign::of(&foreign);
    print!("{}", samples.table());
    println!("ran in {session}; {}", foreign_cpu.text());
    if let Some(file) = json {
        let report = Report {
            plan: *plan,
            cpus: pin::cpus(),
            placement: [
                ("client", format!("CPU {CLIENT_CPU}")),
                ("server", format!("CPU {SERVER_CPU}")),
                ("null forwarder and tunway", "worker n on CPU n".to_owned()),
            ],
            session,
            foreign_cpu,
            records: samples.records(),
        };
        fs::write(file, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

struct Sample {
    done: Done,
    /// Datagrams the server got, per second.
    delivered: f64,
    /// CPU seconds per second.
    cpu: f64,
    /// The share of the CPU used that was others'.
    foreign: f64,
}

impl Sample {
    fn take_down(&self, samples: &mut Samples, load: Load, path: Path) {
        let per_second = self.done.per_second;
        match load {
            Load::Bulk1 => {
                samples.push(Metric::Bulk1, path, per_second * 8.0);
                samples.push(Metric::Bulk1Cpu, path, self.cpu);
            }
            Load::Bulk4 => samples.push(Metric::Bulk4, path, per_second * 8.0),
            Load::Crr => {
                samples.push(Metric::Crr, path, per_second);
                samples.push(Metric::CrrCpu, path, self.cpu);
                samples.push(Metric::CrrReset, path, self.done.reset_per_million);
            }
            Load::Rr => {
                samples.push(Metric::RrP50, path, self.done.p50);
                samples.push(Metric::RrP99, path, self.done.p99);
            }
            Load::Udp => samples.push(Metric::Udp, path, self.delivered),
        }
    }
}

fn measure(client: &mut Line, server: &mut Line, order: Order) -> io::Result<Sample> {
    let span = order.millis as f64 / 1e3;
    let (counted, used, interrupts) = (server.ask("count")?, Used::now()?, pin::interrupt_seconds()?);
    let answer: Result<Done, String> = serde_json::from_str(&client.ask(&serde_json::to_string(&order)?)?)?;
    let done = answer.map_err(io::Error::other)?;
    let (used_then, interrupts) = (Used::now()?, pin::interrupt_seconds()? - interrupts);
    let counted_then = server.ask("count")?;
    let number = |text: &str| text.parse::<f64>().map_err(io::Error::other);
    let delivered = (number(&counted_then)? - number(&counted)?) / span;
    if order.load == Load::Udp && delivered == 0.0 {
        return Err(io::Error::other("no datagram was delivered"));
    }
    let foreign = used_then.foreign_since(used, interrupts);
    Ok(Sample { done, delivered, cpu: (used_then.all - used.all) / span, foreign })
}

/// A process that answers a line with a line.
struct Line {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _process: Process,
}

impl Line {
    fn new(mut process: Process) -> io::Result<Self> {
        let missing = || io::Error::other("a role without its streams");
        let input = process.child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(process.child.stdout.take().ok_or_else(missing)?);
        Ok(Self { input, output, _process: process })
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        writeln!(self.input, "{line}")?;
        self.read()
    }

    fn read(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(io::Error::other("a role ended early; its own message says why"));
        }
        Ok(line.trim().to_owned())
    }
}
