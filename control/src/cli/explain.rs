//! `tunway explain`: what becomes of a packet and why, asked of a running tunway or of manifests.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use clap::Args;

use crate::cli::{AtArgs, Failure};
use crate::config::file::{ConfigFile, ReturnPathName};
use crate::config::{Config, ConfigError, Machine, read};
use crate::explain::question::BadQuestion;
use crate::explain::text::render;
use crate::explain::{Explanation, Offline, Question, Site};
use crate::run::fabric::Parts;
use crate::socket::client;
use crate::socket::wire::Query;

/// Flags of `explain`.
#[derive(Clone, Debug, Default, Args)]
pub struct ExplainArgs {
    /// Who sends the packet: ADDRESS or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", conflicts_with = "queries")]
    pub src: Option<String>,
    /// Where to: `ADDRESS:PORT`, `[ADDRESS]:PORT` for IPv6
    #[arg(long, value_name = "ADDRESS", conflicts_with = "queries")]
    pub dst: Option<String>,
    /// tcp, udp, sctp, or icmp
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    pub proto: String,
    /// The link the packet comes in by, where links tell local pods
    #[arg(long, value_name = "NAME")]
    pub in_interface: Option<String>,
    /// Answer each line of this file (- for standard input), a JSON object with src, dst, dport, proto and perhaps
    /// sport and inInterface, by a line of JSON
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub format: ExplainFormat,
    /// Ask these YAML or JSON manifests instead of a running tunway
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// The configuration to ask them with
    #[arg(long, value_name = "FILE", requires = "manifests")]
    pub config: Option<PathBuf>,
    /// Where to ask.
    #[command(flatten)]
    pub at: AtArgs,
}

/// How an explanation is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExplainFormat {
    /// For people
    #[default]
    Text,
    /// For programs: one line
    Json,
}

/// Asks and prints.
///
/// # Errors
/// The question cannot be understood, nobody answers it, or the output cannot be written.
pub fn run(args: &ExplainArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let oracle = Oracle::of(args)?;
    match &args.queries {
        Some(path) => answer_each(&oracle, path, out),
        None => {
            let question = asked(args)?;
            let explanation = oracle.explain(&question)?;
            match args.format {
                ExplainFormat::Text => super::print(out, render(&question, &explanation).as_bytes()),
                ExplainFormat::Json => super::print_json(out, json(&explanation)?),
            }
        }
    }
}

/// Who knows.
enum Oracle {
    Manifests(Box<Offline>),
    Running(PathBuf),
}

impl Oracle {
    fn of(args: &ExplainArgs) -> Result<Self, Failure> {
        let Some(directory) = &args.manifests else { return Ok(Self::Running(args.at.path())) };
        let site = site(args.config.as_deref(), &Machine::here())?;
        let offline = Offline::load(directory, site).map_err(anyhow::Error::from)?;
        for problem in offline.problems() {
            tracing::warn!(remedy = problem.remedy, "{}: {}", problem.place(), problem.what);
        }
        Ok(Self::Manifests(Box::new(offline)))
    }

    fn explain(&self, question: &Question) -> Result<Explanation, Failure> {
        let explanation = match self {
            Self::Manifests(offline) => offline.explain(question),
            Self::Running(socket) => {
                let answer = client::ask_blocking(socket, &Query::Explain(question.clone()));
                serde_json::from_slice(&answer.map_err(anyhow::Error::from)?)
                    .context("the running tunway gives another kind of answer")?
            }
        };
        Ok(explanation.context("nothing is served yet: it waits for the first full list")?)
    }
}

/// The node a configuration describes. With manifests sources are kept unless it says otherwise: what is asked for is
/// what a node of a cluster would do.
fn site(path: Option<&Path>, machine: &Machine) -> Result<Site, ConfigError> {
    let mut given = match path {
        Some(path) => read::read_for_explain(path)?,
        None => ConfigFile::default(),
    };
    if given.return_path.unwrap_or_default() == ReturnPathName::Auto {
        given.return_path = Some(ReturnPathName::Conntrack);
    }
    let config = Config::resolve(given, machine)?;
    let mut node = config.node.clone();
    node.name.clone_from(&config.node_name);
    let (rules, detect) = (config.rules.clone(), config.detect_local.clone());
    Ok(Site { node, parts: Parts::new(&config, Vec::new()), rules, detect })
}

fn asked(args: &ExplainArgs) -> Result<Question, ConfigError> {
    let missing = |flag: &str| ConfigError::new(flag, "missing", "give it, or questions with --queries");
    let src = args.src.as_deref().ok_or_else(|| missing("--src"))?;
    let dst = args.dst.as_deref().ok_or_else(|| missing("--dst"))?;
    let link = args.in_interface.as_deref();
    Question::of(src, dst, &args.proto, link).map_err(|BadQuestion { field, what }| {
        let flag = match field {
            "dport" => "--dst",
            "sport" => "--src",
            "inInterface" => "--in-interface",
            other => return ConfigError::new(format!("--{other}"), what, REMEDY),
        };
        ConfigError::new(flag, format_args!("{field} {what}"), REMEDY)
    })
}

const REMEDY: &str = "as --src 10.0.0.2 --dst 172.30.0.41:80 --proto tcp";

/// One line of JSON for each line of the file. A line that is no question gets an error for its answer, the others
/// theirs; in the end that is a failure.
fn answer_each(oracle: &Oracle, path: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let input: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let file = File::open(path).map_err(|error| {
            ConfigError::new(
                "--queries",
                format_args!("{}: {error}", path.display()),
                "name a file, or - for standard input",
            )
        })?;
        Box::new(BufReader::new(file))
    };
    let mut wrong = 0;
    for (number, line) in (1..).zip(input.lines()) {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = match Question::from_json(&line) {
            Ok(question) => json(&oracle.explain(&question)?)?,
            Err(error) => {
                wrong += 1;
                serde_json::to_vec(&serde_json::json!({"error": format!("line {number}: {error}")}))
                    .context("cannot write JSON")?
            }
        };
        super::print_json(out, answer)?;
    }
    match wrong {
        0 => Ok(()),
        1 => Err(anyhow::anyhow!("1 line is no question").into()),
        n => Err(anyhow::anyhow!("{n} lines are no questions").into()),
    }
}

fn json(explanation: &Explanation) -> Result<Vec<u8>, Failure> {
    Ok(serde_json::to_vec(explanation).context("cannot write JSON")?)
}
