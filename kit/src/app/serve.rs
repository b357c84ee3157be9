//! Runs a service: connects its parts, starts them, and stops them in order.

use std::{collections::HashSet, sync::Arc};

use axum::Router;
use tokio::{net::TcpListener, sync::watch};

use super::{Config, Context, Part, Parts, Service};
use crate::{
    aggregate::{ReadTable as _, Streams},
    edge::{
        connections::{self, Audience, Settings},
        gate,
        guard::Guard,
        health::Health,
        listener,
        metrics::Metrics,
        tls::Tls,
    },
    inbox::{Inbox, dead_letters},
    kafka::{args::KafkaArgs, cluster::Cluster},
    relay::{Publication, Relay},
    runtime::{failure::Failure, spans::Spans, stop::Shutdown, supervisor::Supervisor},
    store::{Store, StoreIdentity},
};

pub(super) fn identity<S: Service>() -> StoreIdentity {
    StoreIdentity { service: S::INFO.name, event_types: S::TOPIC.event_types }
}

/// Opens the store of a service, or creates it if there is none.
///
/// # Errors
/// If the store is in use, belongs to another service, or was written by a newer version.
pub fn open_store<S: Service>(config: &Config<S>) -> Result<Store, Failure> {
    Store::open(&config.store, identity::<S>(), S::Table::source()).map_err(Failure::configuration)
}

/// Describes the topic to which the store of a service is published.
pub(super) fn publication<S: Service>(store: &Store, kafka: &KafkaArgs) -> Result<Publication, Failure> {
    Ok(Publication {
        store: store.clone(),
        client: kafka.client(S::INFO.name)?,
        service: S::INFO.name,
        spec: S::TOPIC,
        topic: kafka.events_topic(S::TOPIC.name),
    })
}

/// Returns the lifetime of the cluster that the flags describe.
pub(super) fn cluster(kafka: &KafkaArgs) -> Cluster {
    if kafka.kafka_embedded { Cluster::Ephemeral { unfinished: HashSet::new() } } else { Cluster::Durable }
}

/// Runs a service until a shutdown is requested. Calls are answered even while Kafka is not available.
///
/// # Errors
/// If a flag or file does not work, or if a part of the service fails.
pub async fn run<S: Service>(
    store: Store,
    config: Config<S>,
    listener: TcpListener,
    cluster: Cluster,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    tracing::info!(
        service = S::INFO.name,
        listen = %config.listen,
        store = %config.store,
        store_id = %store.id(),
        kafka = config.kafka.kafka_brokers,
        "starting"
    );
    connections::raise_descriptor_limit();
    let assembled = assemble::<S>(store, config, cluster).await?;
    let result = assembled.supervise(listener, shutdown).await;
    tracing::info!(service = S::INFO.name, "stopped");
    result
}

/// Returns the settings of the listener for callers.
pub(super) fn callers<S: Service>(config: &Config<S>) -> Settings {
    let guard = Guard { service: S::INFO.name, is_loopback: config.listen.ip().is_loopback() };
    Settings { audience: Audience::Callers(guard), idle_timeout: config.callers.idle_timeout }
}

/// All parts of a service, before they are started.
struct Assembled<S: Service> {
    health: Health,
    metrics: Metrics,
    routes: Router,
    tls: Option<Arc<Tls>>,
    ops: Option<(TcpListener, Router)>,
    inbox: Option<Inbox<S::Table>>,
    relay: Relay,
    calls_allowed: watch::Receiver<bool>,
    before_listener: Vec<Part>,
    after_inbox: Vec<Part>,
    spans: Spans,
    callers: Settings,
}

async fn assemble<S: Service>(store: Store, config: Config<S>, cluster: Cluster) -> Result<Assembled<S>, Failure> {
    let spans = Spans::from_env(S::INFO.name)?;
    let publication = publication::<S>(&store, &config.kafka)?;
    let callers = callers(&config);
    let (confirm, publisher_confirmed) = watch::channel(false);
    let (allow, calls_allowed) = watch::channel(false);
    let Parts { grpc, http, dependencies, metrics: own_metrics, before_listener, after_inbox } = S::start(Context {
        streams: Streams::new(store.clone()),
        args: config.service,
        spans: spans.clone(),
        publisher_confirmed: publisher_confirmed.clone(),
    })?;

    let follows = S::follows();
    let topics = follows.iter().map(|follow| follow.topic);
    let register = |registry: &mut _| own_metrics.into_iter().for_each(|register| register(registry));
    let metrics = Metrics::new(&store, S::TOPIC.name, topics, register);
    let health = Health::new(&store, S::INFO.grpc_service, !follows.is_empty()).with_dependencies(dependencies);
    let routes = listener::routes(grpc, S::TOPIC.descriptors, http, S::INFO.name, &health, &metrics);
    let routes = gate::hold(routes, calls_allowed.clone(), S::INFO.name);
    let tls = Tls::open(&config.callers.tls)?;
    let ops = match config.callers.ops_listen {
        Some(address) => Some((listener::bind(address, "--ops-listen").await?, listener::ops(&health, &metrics))),
        None => None,
    };

    let inbox = (!follows.is_empty()).then(|| Inbox {
        store,
        client: publication.client.clone(),
        service: S::INFO.name,
        follows,
        dead_letters: config.kafka.events_topic(&dead_letters::topic_of(S::INFO.name)),
        cluster: cluster.clone(),
        metrics: metrics.inbox.clone(),
        spans: spans.clone(),
        publisher_confirmed,
    });
    let relay = Relay {
        publication,
        cluster,
        publisher_confirmed: confirm,
        calls_allowed: allow,
        replaces: config.new_store,
        metrics: metrics.relay.clone(),
        spans: spans.clone(),
    };
    Ok(Assembled {
        health,
        metrics,
        routes,
        tls,
        ops,
        inbox,
        relay,
        calls_allowed,
        before_listener,
        after_inbox,
        spans,
        callers,
    })
}

impl<S: Service> Assembled<S> {
    /// Starts the parts, and stops them in the order in which they were started.
    ///
    /// Events that are not published when the service stops are published after the next start.
    async fn supervise(self, listener: TcpListener, shutdown: Shutdown) -> Result<(), Failure> {
        let Self { health, metrics, routes, tls, ops, inbox, relay, calls_allowed, spans, callers, .. } = self;
        let probes = Settings { audience: Audience::Probes, ..callers };
        let mut service = Supervisor::new(shutdown);
        service.task("health", |stop| health.run(metrics, calls_allowed, stop));
        for part in self.before_listener {
            service.task(part.name, part.run);
        }
        service.task("listener", |stop| connections::serve(listener, routes, tls, callers, stop));
        if let Some((listener, routes)) = ops {
            service.task("ops listener", |stop| connections::serve(listener, routes, None, probes, stop));
        }
        if let Some(inbox) = inbox {
            service.thread("inbox", |stop| inbox.run(stop));
        }
        for part in self.after_inbox {
            service.task(part.name, part.run);
        }
        service.thread("relay", |stop| relay.run(stop));
        let result = service.run().await;
        spans.stop();
        result
    }
}
