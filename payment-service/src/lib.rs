//! payment-service: reads `order-events`, keeps one payment for each order, charges it through a gateway, and
//! publishes every event to `payment-events`.
//!
//! Start with [`payment`], the rules; then [`run`], which connects them to the world.

mod accounts;
mod api;
mod charging;
mod config;
pub mod due;
pub mod fault;
pub mod gateway;
pub mod order_events;
pub mod payment;
mod payment_event;
mod payments_table;

/// What the fuzz targets call.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// Reads a record as the inbox does.
    pub fn read(record: &oncelog::kafka::record::Incoming<'_>) {
        let _ = crate::order_events::read(record);
    }
}

use std::sync::Arc;

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

pub use crate::config::{Cli, Command, Config, GatewayLocation};
pub use crate::payments_table::unfinished;
use crate::{
    accounts::Accounts,
    charging::{Calls, Charging},
    gateway::simulated::Simulated,
    payment::Payment,
    payments_table::PaymentsTable,
};

/// The service's name: in logs, in `transactional.id`s, as the consumer group, before its topics' names.
pub const SERVICE: &str = "payment-service";

/// The topic that it publishes to.
pub const TOPIC: &str = "payment-events";

const OWNER: Owner = Owner { service: SERVICE, event_types: payment_event::EVENT_TYPES };

/// Shows the store's log, beside the running service.
pub fn show_log(store: &Location, args: &LogArgs) -> Result<(), Failure> {
    let log = Log::open(store, OWNER).map_err(Failure::configuration)?;
    log::show(&log, payment_event::MESSAGE, proto::payments::DESCRIPTORS, args)
}

/// Compares the store with what the cluster has of it, and settles what can be settled.
pub async fn reconcile(store: &Location, kafka: &KafkaArgs, args: ReconcileArgs) -> Result<(), Failure> {
    let store = Store::open(store, OWNER, PaymentsTable).map_err(Failure::configuration)?;
    reconcile::run(relay(&store, &kafka.client(SERVICE)?, kafka), OWNER.event_types, args).await
}

/// Compares the store with both topics and with the gateway's ledger, beside the running service.
pub async fn audit(
    store: &Location,
    gateway: &GatewayLocation,
    kafka: &KafkaArgs,
    args: AuditArgs,
) -> Result<(), Failure> {
    let audit = Audit::<Payment> {
        log: Log::open(store, OWNER).map_err(Failure::configuration)?,
        client: kafka.client(SERVICE)?,
        service: SERVICE,
        topic: TOPIC,
        message: payment_event::MESSAGE,
        followed: order_events::TOPIC,
        reader: order_events::read,
    };
    let GatewayLocation::Simulated(ledger) = gateway.clone();
    audit::run(audit, move |moment| Accounts::open(&ledger, moment), args).await
}

/// Makes the read tables anew from the log, while the service is stopped.
pub fn rebuild(store: &Location) -> Result<(), Failure> {
    Store::rebuild(store, OWNER, PaymentsTable).map_err(Failure::configuration)
}

/// The relay of a store, to a cluster that is there for good.
fn relay(store: &Store, client: &Client, kafka: &KafkaArgs) -> Relay {
    Relay {
        store: store.clone(),
        client: client.clone(),
        service: SERVICE,
        topic: kafka.events_topic(TOPIC),
        message: payment_event::MESSAGE,
        cluster: Cluster::Existing,
        agreed: watch::Sender::new(false),
        metrics: RelayMetrics::default(),
        spans: Spans::default(),
    }
}

/// Opens the store of payment-service.
pub fn open_store(config: &Config) -> Result<Store, Failure> {
    Store::open(&config.store, OWNER, PaymentsTable).map_err(Failure::configuration)
}

/// Runs the service until it is asked to stop. Neither Kafka nor the gateway need be there: they are waited for.
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
        gateway = ?config.gateway,
        kafka = config.kafka.kafka_brokers,
        "starting"
    );
    let GatewayLocation::Simulated(ledger) = &config.gateway;
    let gateway = Simulated::open(ledger, config.gateway_latency, config.gateway_key_memory)
        .map_err(|error| Failure::configuration(format!("cannot open the ledger {}: {error}", ledger.display())))?;
    let client = config.kafka.client(SERVICE)?;
    let spans = Spans::from_env(SERVICE)?;
    let calls = Calls::new();
    let silence = calls.silence.clone();
    let metrics = Metrics::new(&store, TOPIC, order_events::TOPIC, |registry| calls.register(registry));
    let (agreed, agreement) = watch::channel(false);
    let taking_calls = agreement.clone();
    let inbox = Inbox::<Payment> {
        store: store.clone(),
        client: client.clone(),
        service: SERVICE,
        topic: order_events::TOPIC.to_owned(),
        dead_letters: config.kafka.events_topic(&dead_letters::topic_of(SERVICE)),
        cluster: cluster.clone(),
        reader: order_events::read,
        metrics: metrics.inbox.clone(),
        spans: spans.clone(),
        agreed: agreement.clone(),
    };
    let charging =
        Charging { store: store.clone(), gateway: Arc::new(gateway), calls, spans: spans.clone(), agreed: agreement };
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
    let health = Health::new(&store, "payments.v1.PaymentService").and("gateway", silence);
    let routes = api::routes(store, &health, &metrics);

    let ops = listener::ops(&health, &metrics);

    // They stop in this order. What is not published by then is published after the next start.
    let mut service = Supervisor::new(shutdown);
    service.task("health", |stop| health.run(metrics, stop));
    service.task("listener", |stop| async move {
        listener::hold_back(taking_calls, &stop).await;
        listener::serve(listener, routes, tls, stop).await
    });
    if let Some(listener) = ops_listener {
        service.task("ops listener", |stop| listener::serve(listener, ops, None, stop));
    }
    service.thread("inbox", |stop| inbox.run(stop));
    service.task("charging", |stop| charging.run(stop));
    service.thread("relay", |stop| relay.run(stop));
    let result = service.run().await;
    spans.stop();
    tracing::info!(service = SERVICE, "stopped");
    result
}
