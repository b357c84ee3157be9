//! Runs both programs on a real Kafka broker, under load and with faults, and checks them from outside.
//!
//! Start it with `cargo run -p system-tests`. It needs JDK 17 and Maven (for the broker's jars), Python 3 with venv
//! (for the reader), Node.js and Go (for the readers under `consumers/`), and Perl and CMake (for OpenSSL and
//! librdkafka). If one is missing, it names it and fails.

#![expect(clippy::print_stdout, reason = "the output is the report")]

mod audit;
mod bare_orders;
mod chaos;
mod checks;
mod consumers;
mod crash_points;
mod damaged;
mod dead_letters;
mod faults;
mod figures;
mod kafka;
mod late_commit;
mod load;
mod log_cutter;
mod lost_tail;
mod mixed_load;
mod proxy;
mod reader;
mod refusals;
mod second_process;
mod security;
mod services;
mod shipping;
mod slow_link;
mod times;
mod tools;
mod truncated;
mod world;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;

use crate::{checks::Findings, reader::Reader};

/// Runs both programs on a real Kafka broker, with faults, and checks the topics with an independent reader.
#[derive(Parser)]
struct Args {
    /// The number of orders that `faults` places
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..))]
    orders: u64,

    /// The seed of random faults. The same seed repeats a run
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// The number of runs of `chaos`. Each uses the next seed
    #[arg(long, default_value_t = 1)]
    runs: u64,

    /// Run one scenario only. `chaos` and `figures` run only with this flag
    #[arg(long, value_name = "NAME", value_parser = SCENARIOS.map(|(name, ..)| name))]
    only: Option<String>,
}

/// Scenarios that run only with `--only`: `chaos` takes long, and `figures` measures instead of testing.
const ASKED_FOR: [&str; 2] = ["chaos", "figures"];

/// The resources and settings of the scenarios.
struct Ground {
    jars: PathBuf,
    programs: PathBuf,
    /// The directory of the programs that are built with crash points.
    programs_with_faults: PathBuf,
    /// A directory that is kept between calls: downloads, builds, and the logs of a run with findings.
    kept: PathBuf,
    reader: Reader,
    orders: u64,
    seed: u64,
    runs: u64,
}

/// The rows of the report: the number of compared items, and the findings.
type Table = Vec<(&'static str, Findings)>;

type Scenario = fn(&Ground) -> anyhow::Result<Table>;

const SCENARIOS: [(&str, &str, Scenario); 16] = [
    ("late-commit", "a late commit, delayed by a proxy", late_commit::run),
    ("second-process", "a second process for the same store", second_process::run),
    ("refusals", "a service that refuses to continue, and the command that settles it", refusals::run),
    ("lost-tail", "logs that lose their newest records", lost_tail::run),
    ("slow-link", "a link with a long round trip", slow_link::run),
    ("dead-letters", "dead letters and their replay", dead_letters::run),
    ("truncated", "a followed topic that loses its tail", truncated::run),
    ("damaged", "a damaged batch in a followed topic", damaged::run),
    ("audit", "audits, and faults that are planted for them", audit::run),
    ("shipping", "the example service, which follows both topics", shipping::run),
    ("consumers", "readers in other languages", consumers::run),
    ("security", "a broker with TLS, SCRAM and access control", security::run),
    ("faults", "load and faults", faults::run),
    ("crash-points", "each crash point of both services", crash_points::run),
    ("chaos", "random faults on three brokers", chaos::run),
    ("figures", "figures", figures::run),
];

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAILED to run: {error:#}");
            ExitCode::from(69)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/system-tests");
    tools::require()?;
    println!("preparing the broker, the reader and the programs…");
    let ground = Ground {
        jars: kafka::jars(&kept)?,
        reader: Reader::prepare(&kept)?,
        programs_with_faults: services::build_with_faults(&kept)?,
        programs: services::build()?, // last, because both builds use the same directory
        kept,
        orders: args.orders,
        seed: args.seed,
        runs: args.runs,
    };
    let mut table = Table::new();
    for (name, what, scenario) in SCENARIOS {
        if args.only.as_deref().map_or(!ASKED_FOR.contains(&name), |only| only == name) {
            println!("{what}:");
            table.extend(scenario(&ground).with_context(|| format!("scenario {name}"))?);
        }
    }
    println!("\n{:<16} {:>9} {:>9}", "", "compared", "findings");
    for (what, (compared, found)) in &table {
        println!("{what:<16} {compared:>9} {:>9}", found.len());
        for finding in found.iter().take(10) {
            println!("    {finding}");
        }
    }
    let sound = table.iter().all(|(_, (_, found))| found.is_empty());
    println!("\n{}", if sound { "nothing lost, nothing twice, nothing out of order" } else { "FAILED" });
    Ok(sound)
}
