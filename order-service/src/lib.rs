//! order-service: takes orders, keeps what happens to each in its event store, publishes every event to
//! `order-events`, and reads `payment-events` to learn which orders are paid.
//!
//! Start with [`order`], the rules; then [`run`], which connects them to the world.

mod api;
mod config;
pub mod order;
mod order_event;
mod orders_table;
pub mod payment_outcomes;
mod watchers;

/// What the fuzz targets call.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use crate::api::fuzz_http_order as http_order;

    /// Reads a record as the inbox does.
    pub fn read(record: &oncelog::kafka::record::Incoming<'_>) {
        let _ = crate::payment_outcomes::read(record);
    }
}

use contracts::proto;
use oncelog::{
    edge::{health::Health, listener, metrics::Metrics, tls::Tls},
    inbox::{Inbox, dead_letters},
    kafka::{args::KafkaArgs, client::Client, cluster::Cluster},
    operations::{
        audit::{self, Audit, AuditArgs},
        log::{self, LogArgs},
        reconcile::{self, ReconcileArgs},
    },
    relay::Relay,
    runtime::{failure::Failure, metrics::RelayMetrics, spans::Spans, stop::Shutdown, supervisor::Supervisor},
    store::{Location, Log, Owner, Store},
};
use tokio::{net::TcpListener, sync::watch};

pub use crate::config::{Cli, Command, Config};
pub use crate::orders_table::{count, unfinished};
use crate::{order::Order, orders_table::OrdersTable, watchers::Watchers};

/// The service's name: in logs, in `transactional.id`s, as the consumer group, before its topics' names.
pub const SERVICE: &str = "order-service";

/// The topic that it publishes to.
pub const TOPIC: &str = "order-events";

const OWNER: Owner = Owner { service: SERVICE, event_types: order_event::EVENT_TYPES };

/// Shows the store's log, beside the running service.
pub fn show_log(store: &Location, args: &LogArgs) -> Result<(), Failure> {
    let log = Log::open(store, OWNER).map_err(Failure::configuration)?;
    log::show(&log, order_event::MESSAGE, proto::orders::DESCRIPTORS, args)
}

/// Compares the store with what the cluster has of it, and settles what can be settled.
pub async fn reconcile(store: &Location, kafka: &KafkaArgs, args: ReconcileArgs) -> Result<(), Failure> {
    let store = Store::open(store, OWNER, OrdersTable).map_err(Failure::configuration)?;
    reconcile::run(relay(&store, &kafka.client(SERVICE)?, kafka), OWNER.event_types, args).await
}

/// Compares the store with both topics, beside the running service.
pub async fn audit(store: &Location, kafka: &KafkaArgs, args: AuditArgs) -> Result<(), Failure> {
    let audit = Audit::<Order> {
        log: Log::open(store, OWNER).map_err(Failure::configuration)?,
        client: kafka.client(SERVICE)?,
        service: SERVICE,
        topic: TOPIC,
        message: order_event::MESSAGE,
        followed: payment_outcomes::TOPIC,
        reader: payment_outcomes::read,
    };
    audit::run(audit, |_| Ok(()), args).await
}

/// Makes the read tables anew from the log, while the service is stopped.
pub fn rebuild(store: &Location) -> Result<(), Failure> {
    Store::rebuild(store, OWNER, OrdersTable).map_err(Failure::configuration)
}

/// The relay of a store, to a cluster that is there for good.
fn relay(store: &Store, client: &Client, kafka: &KafkaArgs) -> Relay {
    Relay {
        store: store.clone(),
        client: client.clone(),
        service: SERVICE,
        topic: kafka.events_topic(TOPIC),
        message: order_event::MESSAGE,
        cluster: Cluster::Existing,
        agreed: watch::Sender::new(false),
        metrics: RelayMetrics::default(),
        spans: Spans::default(),
    }
}

/// Opens the store of order-service.
pub fn open_store(config: &Config) -> Result<Store, Failure> {
    Store::open(&config.store, OWNER, OrdersTable).map_err(Failure::configuration)
}

/// Runs the service until it is asked to stop. Kafka need not be there: orders are taken meanwhile.
pub async fn run(
    store: Store,
    config: Config,
    listener: TcpListener,
    cluster: Cluster,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    tracing::info!(
        service = SERVICE,
        listen = %config.listen,
        store = %config.store,
        store_id = %store.id(),
        kafka = config.kafka.kafka_brokers,
        "starting"
    );
    let client = config.kafka.client(SERVICE)?;
    let spans = Spans::from_env(SERVICE)?;
    let metrics = Metrics::new(&store, TOPIC, payment_outcomes::TOPIC, |_| {});
    let (agreed, agreement) = watch::channel(false);
    let taking_calls = agreement.clone();
    let inbox = Inbox::<Order> {
        store: store.clone(),
        client: client.clone(),
        service: SERVICE,
        topic: payment_outcomes::TOPIC.to_owned(),
        dead_letters: config.kafka.events_topic(&dead_letters::topic_of(SERVICE)),
        cluster: cluster.clone(),
        reader: payment_outcomes::read,
        metrics: metrics.inbox.clone(),
        spans: spans.clone(),
        agreed: agreement,
    };
    let relay = Relay {
        cluster,
        agreed,
        metrics: metrics.relay.clone(),
        spans: spans.clone(),
        ..relay(&store, &client, &config.kafka)
    };
    let tls = Tls::open(&config.callers.tls)?;
    let ops_listener = match config.callers.ops_listen {
        Some(address) => Some(listener::bind(address, "--ops-listen").await?),
        None => None,
    };
    let health = Health::new(&store, "orders.v1.OrderService");
    let watchers = Watchers::default();
    let routes = api::routes(store.clone(), watchers.clone(), spans.clone(), &health, &metrics);

    let ops = listener::ops(&health, &metrics);

    // They stop in this order. What is not published by then is published after the next start.
    let mut service = Supervisor::new(shutdown);
    service.task("health", |stop| health.run(metrics, stop));
    service.task("watchers", |stop| watchers.run(store, stop));
    service.task("listener", |stop| async move {
        listener::hold_back(taking_calls, &stop).await;
        listener::serve(listener, routes, tls, stop).await
    });
    if let Some(listener) = ops_listener {
        service.task("ops listener", |stop| listener::serve(listener, ops, None, stop));
    }
    service.thread("inbox", |stop| inbox.run(stop));
    service.thread("relay", |stop| relay.run(stop));
    let result = service.run().await;
    spans.stop();
    tracing::info!(service = SERVICE, "stopped");
    result
}
