//! How evenly each algorithm spreads flows over ten endpoints, with and without weights, and which share of the flows
//! goes elsewhere when one of the endpoints leaves. A tenth must: its own.

use std::collections::BTreeMap;
use std::io::{self, Write};

use bench::balance::{Worker, flow, service};
use clap::Parser;
use dataplane::ids::EndpointId;
use dataplane::service::{Selector, Service};

/// Counts what each load balancing algorithm does with many flows.
#[derive(Debug, Parser)]
struct Args {
    /// Flows, each of a client of its own, all of them staying
    #[arg(long, default_value_t = 100_000)]
    flows: u32,
    /// Endpoints
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1_000))]
    endpoints: u32,
    /// What draws begin with
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    let all: Vec<u32> = (0..args.endpoints).collect();
    let fair = f64::from(args.flows) / f64::from(args.endpoints);
    writeln!(
        out,
        "{} flows over {} endpoints, {fair:.0} each, seed {}",
        args.flows, args.endpoints, args.seed
    )?;
    writeln!(
        out,
        "{:<22} {:>8} {:>8} {:>8} {:>10} {:>11} {:>11} {:>12}",
        "ALGORITHM", "LEAST", "MOST", "DEV %", "CHI2/DF", "MOVED %", "OF OTHERS %", "WEIGHT ERR %"
    )?;
    for selector in Selector::ALL {
        let spread = spread(&args, &service(selector, &all, &[]));
        let shares: Vec<f64> = spread.values().map(|count| f64::from(*count)).collect();
        let squares: f64 = shares.iter().map(|share| (share - fair).powi(2)).sum();
        let deviation = (squares / f64::from(args.endpoints)).sqrt() / fair * 100.0;
        let chi = squares / fair / f64::from(args.endpoints - 1);
        let (moved, others) = moved(&args, selector, &all);
        writeln!(
            out,
            "{:<22} {:>8} {:>8} {deviation:>8.2} {chi:>10.2} {moved:>11.2} {others:>11.2} {:>12.2}",
            selector.to_string(),
            spread.values().min().copied().unwrap_or_default(),
            spread.values().max().copied().unwrap_or_default(),
            weighted(&args, selector, &all),
        )?;
    }
    writeln!(
        out,
        "MOVED: flows of the same tuples that get another endpoint without one of the {}; OF OTHERS: those of them whose",
        args.endpoints
    )?;
    writeln!(
        out,
        "endpoint was another. WEIGHT ERR: the worst deviation from the shares due by weights 1, 2, 3, …"
    )?;
    Ok(())
}

/// Flows by endpoint.
fn spread(args: &Args, service: &Service) -> BTreeMap<EndpointId, u32> {
    let mut worker = Worker::new(args.seed);
    let mut spread: BTreeMap<_, _> = service.backends.iter().map(|backend| (backend.id, 0)).collect();
    for n in 0..args.flows {
        let chosen = worker.choose(service, &flow(n)).id;
        worker.loads.add(chosen);
        *spread.entry(chosen).or_default() += 1;
    }
    spread
}

/// Percent of the flows that get another endpoint once the one in the middle has left: of all, and of all but its own.
fn moved(args: &Args, selector: Selector, all: &[u32]) -> (f64, f64) {
    let gone = args.endpoints / 2;
    let left: Vec<u32> = all.iter().copied().filter(|n| *n != gone).collect();
    let services = [service(selector, all, &[]), service(selector, &left, &[])];
    let mut workers = [0, 1].map(|n| Worker::new(args.seed + n));
    let (mut moved, mut others) = (0, 0);
    for n in 0..args.flows {
        let mut chosen = [EndpointId(0); 2];
        for (at, (service, worker)) in services.iter().zip(&mut workers).enumerate() {
            chosen[at] = worker.choose(service, &flow(n)).id;
            worker.loads.add(chosen[at]);
        }
        let differs = chosen[0] != chosen[1];
        moved += u32::from(differs);
        others += u32::from(differs && chosen[0] != EndpointId(gone + 1));
    }
    let percent = |count| f64::from(count) / f64::from(args.flows) * 100.0;
    (percent(moved), percent(others))
}

/// The worst deviation of an endpoint's share from what its weight is due, percent of that.
fn weighted(args: &Args, selector: Selector, all: &[u32]) -> f64 {
    let weights: Vec<u16> = (1..).take(all.len()).map(|n: u16| n.min(1_000)).collect();
    let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
    let spread = spread(args, &service(selector, all, &weights));
    let due = |weight: u16| f64::from(args.flows) * f64::from(weight) / f64::from(total);
    let errors =
        spread.values().zip(&weights).map(|(count, weight)| (f64::from(*count) / due(*weight) - 1.0).abs());
    errors.fold(0.0, f64::max) * 100.0
}
