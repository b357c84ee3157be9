//! Both programs on a real Kafka broker, under load and with faults, checked from outside.
//!
//! One command: `cargo run -p system-tests`. It needs Java 17 and Maven (for the broker's jars), and Python 3 with
//! venv (for the reader); where one is missing it says so and fails.

#![expect(clippy::print_stdout, reason = "it reports to a person")]

mod checks;
mod fencing;
mod kafka;
mod late_commit;
mod load;
mod proxy;
mod reader;
mod services;
mod tools;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;

use crate::{checks::Findings, kafka::Kafka, load::Load, reader::Reader, services::Services};

/// Orders under load on real Kafka, with each service stopped and killed, and the broker too.
#[derive(Parser)]
struct Args {
    /// How many orders are placed
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..))]
    orders: u64,
}

type Fault = fn(&mut World) -> anyhow::Result<()>;

/// What happens at which part of the load, in percent.
const FAULTS: [(u64, &str, Fault); 8] = [
    (10, "order-service stopped and started", |world| world.services.orders.restart()),
    (20, "payment-service stopped and started", |world| world.services.payments.restart()),
    (30, "order-service killed and started", |world| world.services.orders.kill_and_start()),
    (40, "payment-service killed and started", |world| world.services.payments.kill_and_start()),
    (50, "the broker stopped and started", |world| world.kafka.restart()),
    (65, "order-service killed and started", |world| world.services.orders.kill_and_start()),
    (75, "payment-service killed and started", |world| world.services.payments.kill_and_start()),
    (85, "the broker killed, and started when transactions had timed out", |world| world.kafka.kill_and_start(OUTAGE)),
];

/// Longer than a transaction may be open.
const OUTAGE: Duration = Duration::from_secs(12);

/// How long the system may take to go quiet after the last order.
const QUIET: Duration = Duration::from_secs(60);

struct World {
    kafka: Kafka,
    services: Services,
}

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
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/system-tests");
    tools::require()?;
    println!("preparing the broker, the reader and the programs…");
    let jars = kafka::jars(&kept)?;
    let reader = Reader::prepare(&kept)?;
    let programs = services::build()?;

    println!("a late commit, held back by a proxy:");
    let late_commit = (1, late_commit::run(&jars, &reader)?);

    println!("a second process:");
    let second_process = fencing::run(&jars, &programs, &reader)?;

    println!("load and faults:");
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let kafka = Kafka::start(&jars, directory.path())?;
    let services = Services::start(&programs, directory.path(), &kafka.address())?;
    let mut world = World { kafka, services };
    let load = load_and_faults(args, &reader, &mut world).with_context(|| {
        let World { services: Services { orders, payments }, .. } = &world;
        format!("order-service:\n{}\npayment-service:\n{}", orders.last_lines(), payments.last_lines())
    })?;

    let mut findings = vec![("late commit", late_commit), ("second process", second_process)];
    findings.extend(load);
    println!("\n{:<16} {:>9} {:>9}", "", "compared", "findings");
    for (what, (compared, found)) in &findings {
        println!("{what:<16} {compared:>9} {:>9}", found.len());
        for finding in found.iter().take(10) {
            println!("    {finding}");
        }
    }
    let sound = findings.iter().all(|(_, (_, found))| found.is_empty());
    println!("\n{}", if sound { "nothing lost, nothing twice, nothing out of order" } else { "FAILED" });
    Ok(sound)
}

/// Places the orders, does each fault, and checks what is there when all is quiet.
fn load_and_faults(args: &Args, reader: &Reader, world: &mut World) -> anyhow::Result<Vec<(&'static str, Findings)>> {
    let began = Instant::now();
    let load = Load::start(&world.services.orders.orders_url(), args.orders);
    for (percent, what, fault) in FAULTS {
        load.wait_for(args.orders * percent / 100)?;
        fault(world).with_context(|| format!("fault: {what}"))?;
        println!("{:>6.1} s  {:>6} orders  {what}", began.elapsed().as_secs_f64(), load.placed());
    }
    let books = load.finish()?;
    println!("{:>6.1} s  {:>6} orders  all placed", began.elapsed().as_secs_f64(), books.len());

    let asked = Instant::now();
    let (orders, payments) = loop {
        world.services.orders.check()?;
        world.services.payments.check()?;
        let orders = reader.read(&world.kafka.address(), "order-events")?;
        let payments = reader.read(&world.kafka.address(), "payment-events")?;
        if orders.len() >= 2 * books.len() || asked.elapsed() > QUIET {
            break (orders, payments);
        }
    };
    println!(
        "{:>6.1} s  quiet {:.1} s after the last order",
        began.elapsed().as_secs_f64(),
        asked.elapsed().as_secs_f64()
    );
    let again = load::repeat(&world.services.orders.orders_url(), &books, 200)?;
    world.services.stop()?;
    let charges = checks::charges(&world.services.payments.file("charges.db"))?;
    Ok(vec![
        ("order-events", checks::topic(&orders, &books, ["order_created", "order_paid"])),
        ("payment-events", checks::topic(&payments, &books, ["payment_requested", "payment_completed"])),
        ("ledger", checks::ledger(&charges, &books)),
        ("repeats", again),
    ])
}
