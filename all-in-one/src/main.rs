//! Runs an embedded broker, both services and a feed of all events in one process, to try them out.

mod banner;
mod config;
mod feed;

use std::{
    collections::HashSet,
    convert::Infallible,
    fs,
    io::{self, Write as _},
    process::ExitCode,
    time::SystemTime,
};

use oncelog::{
    app::{self, Service as _, cli},
    edge::bind,
    embedded::{self, Cluster, EmbeddedBroker, Supervisor},
    event::StreamId,
    runtime::{Failure, Shutdown, init_logs, on_signals},
    store::Store,
};
use order_service::OrderService;
use payment_service::PaymentService;
use tracing::level_filters::LevelFilter;

use crate::config::{Config, ExtraService};

/// The number of partitions of each event topic.
const PARTITIONS: i32 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = match cli::parse() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    init_logs(LevelFilter::WARN);
    cli::exit(serve(config).await)
}

async fn serve(config: Config) -> Result<(), Failure> {
    let started = SystemTime::now();
    let shutdown = on_signals().map_err(Failure::configuration)?;
    fs::create_dir_all(&config.data_dir).map_err(|error| {
        Failure::configuration(format!("cannot use the directory {}: {error}", config.data_dir.display()))
    })?;
    let order_listener = bind(config.listen, "--listen").await?;
    let payment_listener = bind(config.payment_listen, "--payment-listen").await?;
    let kafka_listener = bind(config.kafka_listen, "--kafka-listen").await?;
    let kafka = kafka_listener.local_addr().map_err(Failure::configuration)?;
    let (order_config, payment_config) = (config.order_service(kafka), config.payment_service(kafka));
    let orders = app::open_store(&order_config)?;
    let payments = app::open_store(&payment_config)?;

    let mut services = vec![OrderService::INFO.name, PaymentService::INFO.name];
    let mut topics = vec![OrderService::TOPIC.name, PaymentService::TOPIC.name];
    for ExtraService { name, topic } in &config.extra_service {
        services.push(name);
        topics.push(topic);
    }
    let broker = EmbeddedBroker::start(&services, &topics, PARTITIONS).map_err(Failure::configuration)?;
    broker.advertise(kafka);
    let client = broker.client("feed");
    let cluster = Cluster::Ephemeral { unfinished: unfinished(&orders, &payments)? };
    let kept = orders.clone();
    banner::print(&config, order_count(&kept)?).map_err(Failure::configuration)?;

    // The parts stop in this order, so the broker runs until the services and the feed have stopped.
    let mut parts = Supervisor::new(shutdown.clone());
    let payment_cluster = cluster.clone();
    parts.task("order-service", |stop| app::run(orders, order_config, order_listener, cluster, stop.shutdown()));
    parts.task("payment-service", |stop| {
        app::run(payments, payment_config, payment_listener, payment_cluster, stop.shutdown())
    });
    parts.thread("feed", move |stop| feed::run(&client, started, stop));
    parts.task("broker", |stop| async move {
        tokio::select! {
            () = stop.requested() => Ok(()),
            ended = embedded::forward(kafka_listener, broker.address()) => ended,
        }
    });
    let result = tokio::select! {
        result = parts.run() => result,
        never = announce(&shutdown) => match never {},
    };
    let _ = writeln!(io::stdout(), "stopped; {} orders are kept in {}", order_count(&kept)?, config.data_dir.display());
    result
}

/// Prints a line once the program begins to stop. Never returns.
async fn announce(shutdown: &Shutdown) -> Infallible {
    shutdown.cancelled().await;
    let _ = writeln!(io::stdout(), "\nstopping…");
    std::future::pending().await
}

/// Returns the orders of which one service may not have consumed every event of the other. The broker of the last run
/// has lost these events.
fn unfinished(orders: &Store, payments: &Store) -> Result<HashSet<StreamId>, Failure> {
    let orders = order_service::unfinished(orders).map_err(Failure::configuration)?;
    let payments = payment_service::unfinished(payments).map_err(Failure::configuration)?;
    Ok(orders.into_iter().chain(payments).collect())
}

fn order_count(orders: &Store) -> Result<u64, Failure> {
    orders.count_rows_blocking().map_err(Failure::configuration)
}
