//! Both programs on a real Kafka broker, under load and with faults, checked from outside.
//!
//! One command: `cargo run -p system-tests`. It needs a JDK of 17 and Maven (for the broker's jars), Python 3 with venv
//! (for the reader), and Node.js and Go (for the readers under `consumers/`); where one is missing it says so and fails.

#![expect(clippy::print_stdout, reason = "it reports to a person")]

mod audit;
mod chaos;
mod checks;
mod consumers;
mod crash_points;
mod dead_letters;
mod faults;
mod figures;
mod kafka;
mod late_commit;
mod load;
mod mixed_load;
mod proxy;
mod reader;
mod refusals;
mod second_process;
mod security;
mod services;
mod times;
mod tools;
mod world;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;

use crate::{checks::Findings, reader::Reader};

/// Both programs on a real Kafka broker, with faults, checked by a foreign reader.
#[derive(Parser)]
struct Args {
    /// How many orders are placed
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..))]
    orders: u64,

    /// What the faults that come at random are made of; a run is repeated by its seed
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// How many runs `chaos` has; each has the next seed
    #[arg(long, default_value_t = 1)]
    runs: u64,

    /// Run just one scenario; `chaos` and `figures` run only so
    #[arg(long, value_name = "NAME", value_parser = SCENARIOS.map(|(name, ..)| name))]
    only: Option<String>,
}

/// These run only when asked for: one takes long, and one finds nothing, it measures.
const ASKED_FOR: [&str; 2] = ["chaos", "figures"];

/// What the scenarios run with.
struct Ground {
    jars: PathBuf,
    programs: PathBuf,
    /// The same with crash points.
    programs_with_faults: PathBuf,
    /// What is kept from one call to the next, and logs when something is found.
    kept: PathBuf,
    reader: Reader,
    orders: u64,
    seed: u64,
    runs: u64,
}

/// What was compared, and what was found.
type Table = Vec<(&'static str, Findings)>;

type Scenario = fn(&Ground) -> anyhow::Result<Table>;

const SCENARIOS: [(&str, &str, Scenario); 11] = [
    ("late-commit", "a late commit, held back by a proxy", late_commit::run),
    ("second-process", "a second process for the same store", second_process::run),
    ("refusals", "a service that refuses to go on, and what settles it", refusals::run),
    ("dead-letters", "what cannot be read, and is put back", dead_letters::run),
    ("audit", "audits, and what is planted for them to find", audit::run),
    ("consumers", "readers in other languages", consumers::run),
    ("security", "a broker with TLS, SCRAM and access control", security::run),
    ("faults", "load and faults", faults::run),
    ("crash-points", "each crash point of both services", crash_points::run),
    ("chaos", "faults at random on three brokers", chaos::run),
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
        programs: services::build()?, // after those with faults, which are built in the same place
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
