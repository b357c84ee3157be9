//! Stops and kills each service and the broker under load. At the end every order must be there, and paid once.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::{
    Ground, Table, checks,
    kafka::Kafka,
    load::{self, Load},
    reader::Reader,
    services::Services,
};

type Fault = fn(&mut World) -> anyhow::Result<()>;

/// The faults, and the percentage of the load at which each happens.
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

/// Longer than the transaction timeout.
const OUTAGE: Duration = Duration::from_secs(12);

/// The system must become idle within this time after the last order.
const QUIET: Duration = Duration::from_secs(60);

struct World {
    kafka: Kafka,
    services: Services,
}

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let directory = tempfile::tempdir().context("cannot create a directory")?;
    let kafka = Kafka::start(&ground.jars, directory.path())?;
    let services = Services::start(&ground.programs, directory.path(), &kafka.address())?;
    let mut world = World { kafka, services };
    load_and_faults(ground.orders, &ground.reader, &mut world).with_context(|| {
        let World { services: Services { orders, payments }, .. } = &world;
        format!("order-service:\n{}\npayment-service:\n{}", orders.last_lines(), payments.last_lines())
    })
}

/// Places the orders, injects each fault, and checks both topics and the ledger when the system is idle.
fn load_and_faults(orders: u64, reader: &Reader, world: &mut World) -> anyhow::Result<Table> {
    let began = Instant::now();
    let load = Load::start(&world.services.orders.orders_url(), orders);
    for (percent, what, fault) in FAULTS {
        load.wait_for(orders * percent / 100)?;
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
        "{:>6.1} s  idle {:.1} s after the last order",
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
