//! The `tunway` binary: reads the command line, does it, and turns what came of it into an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use control::cli::{Cli, Command, EX_USAGE, Failure, check, config, explain, flows, host, services};
use control::config::Machine;
use control::shown::{Fields, Plain, shown};
use control::{demo, run};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => {
            // Help and version are errors to clap, and go to standard output.
            let _ = said.print();
            let asked = matches!(said.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(EX_USAGE) };
        }
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "tunway: {}", shown(&failure.to_string()));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// No thread may have been started before the demo: it may have to enter a user namespace.
fn dispatch(command: Command) -> Result<(), Failure> {
    let out = &mut Plain(io::stdout());
    match command {
        Command::Run(args) => {
            log_to_stderr(args.log.as_deref().unwrap_or("info"))?;
            let origin = args.origin(Machine::here());
            run::run(origin.given()?, origin)
        }
        Command::Demo(args) => {
            log_to_stderr("warn")?;
            demo::run(&args, out)
        }
        Command::Check(args) => {
            log_to_stderr(args.run.log.as_deref().unwrap_or("warn"))?;
            check::run(args, &Machine::here(), out)
        }
        Command::Cleanup(args) => {
            log_to_stderr("warn")?;
            host::cleanup(&args.config(&Machine::here())?, out)
        }
        Command::Flows(args) => flows::run(&args, out),
        Command::Services(args) => services::run(&args, out),
        Command::Explain(args) => {
            log_to_stderr("warn")?;
            explain::run(&args, out)
        }
        Command::Config(command) => config::run(&command, &Machine::here(), out),
    }
}

/// `level` is a level for tunway's own words (others: warnings only), or a filter with targets.
fn log_to_stderr(level: &str) -> Result<(), Failure> {
    let own = !level.contains(['=', ',']);
    // The client library says every failed attempt; the source says it once, and when it is over.
    let filter = if own {
        format!("warn,kube_client=off,control={level},dataplane={level}")
    } else {
        level.to_owned()
    };
    let filter = tracing_subscriber::EnvFilter::try_new(&filter).map_err(|error| {
        control::config::ConfigError::new(
            "--log",
            format_args!("{level:?}: {error}"),
            "error, warn, info, debug, trace, or TARGET=LEVEL,…",
        )
    })?;
    // no-color.org: set and not empty means none.
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = io::IsTerminal::is_terminal(&io::stderr()) && !plain;
    tracing_subscriber::fmt()
        .fmt_fields(Fields)
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .init();
    Ok(())
}
