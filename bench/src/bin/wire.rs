//! `wire`: what a Service costs end to end. Client, gateway and server in namespaces of their own; plain routing,
//! nftables DNAT, a null forwarder and tunway measured in turn, round after round, in one run.

use std::path::PathBuf;
use std::process::ExitCode;

use bench::wire::load;
use bench::wire::run::{Plan, run};
use bench::wire::{gateway, pin, quiet};
use clap::{Parser, Subcommand};

/// Compares tunway with kernel routing, nftables DNAT and a null forwarder. Needs root, `ip` and `nft`.
#[derive(Debug, Parser)]
#[command(name = "wire")]
struct Args {
    /// Rounds: each measures every load through every path once.
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Milliseconds a sample takes.
    #[arg(long, default_value_t = 700)]
    millis: u64,
    /// Queues and workers of the null forwarder and of tunway.
    #[arg(long, default_value_t = 2)]
    queues: u8,
    /// MTU of the links.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// At least 15 rounds of 3 seconds a sample: about 17 minutes.
    #[arg(long, conflicts_with = "smoke")]
    full: bool,
    /// One short round: shows that it runs, measures nothing.
    #[arg(long)]
    smoke: bool,
    /// Writes the records as JSON to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program does for itself in a namespace.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Client {
        #[arg(long)]
        cpu: usize,
    },
    #[command(hide = true)]
    Server {
        #[arg(long)]
        cpu: usize,
    },
    #[command(hide = true)]
    Null {
        #[arg(long)]
        queues: u8,
        #[arg(long)]
        locks: PathBuf,
    },
    #[command(hide = true)]
    Tunway {
        #[arg(long)]
        queues: u8,
        #[arg(long)]
        locks: PathBuf,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.role {
        Some(Role::Client { cpu }) => pin::this_thread(cpu).and_then(|()| load::load()),
        Some(Role::Server { cpu }) => pin::this_thread(cpu).and_then(|()| load::serve()),
        Some(Role::Null { queues, locks }) => gateway::null(queues, &locks),
        Some(Role::Tunway { queues, locks }) => gateway::tunway(queues, &locks),
        None => {
            let (rounds, millis) = match (args.full, args.smoke) {
                (true, _) => (args.rounds.max(15), args.millis.max(3_000)),
                (_, true) => (1, 100),
                _ => (args.rounds, args.millis),
            };
            match quiet::again() {
                Ok(None) => {}
                Ok(Some(ended)) if ended.success() => return ExitCode::SUCCESS,
                Ok(Some(_)) => return ExitCode::FAILURE,
                Err(error) => {
                    eprintln!("wire: cannot start again in a session of its own: {error}");
                    return ExitCode::FAILURE;
                }
            }
            let plan = Plan { rounds, millis, queues: args.queues, mtu: args.mtu };
            run(&plan, args.json.as_deref())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wire: {error}");
            ExitCode::FAILURE
        }
    }
}
