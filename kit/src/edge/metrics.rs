//! All metrics of a service, in the OpenMetrics text format at `/metrics`.
//!
//! Names follow the conventions of OpenMetrics (`_total`, base units), and those of OpenTelemetry where it defines a
//! metric (`messaging.*`). Each service has its own registry, so two services in one process do not share metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{Router, http::header, response::IntoResponse as _, routing::get};
use prometheus_client::{
    encoding::text::encode,
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};

use crate::{
    edge::call_error::CallError,
    event::Position,
    inbox::InboxMetrics,
    relay::RelayMetrics,
    store::{ReadError, Store},
};

/// The metrics of one service. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    store: Store,
    /// The metrics of the relay.
    pub relay: RelayMetrics,
    /// The metrics of the inbox.
    pub inbox: InboxMetrics,
    registry: Arc<Registry>,
    head: Gauge,
    backlog: Gauge,
    oldest_unpublished: Gauge<f64, AtomicU64>,
}

/// The backlogs of the relay and the inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The number of stored events that are not published.
    pub unpublished: u64,
    /// The age of the oldest of them.
    pub oldest_unpublished: Duration,
    /// The time since all records of the followed topics were known to be consumed.
    pub oldest_unread: Duration,
}

impl Metrics {
    /// Creates the metrics of a service with this store, its topic and its followed topics. `more` registers the
    /// service's own metrics.
    pub(crate) fn new(
        store: &Store,
        topic: &str,
        follows: impl IntoIterator<Item = &'static str>,
        more: impl FnOnce(&mut Registry),
    ) -> Self {
        let mut registry = Registry::default();
        register_refused(&mut registry, false);
        let mut metrics = Self {
            store: store.clone(),
            relay: RelayMetrics::default(),
            inbox: InboxMetrics::new(follows),
            registry: Arc::default(),
            head: Gauge::default(),
            backlog: Gauge::default(),
            oldest_unpublished: Gauge::default(),
        };
        // The events stored before this start count as published until the relay has read the checkpoint.
        metrics.relay.published.store(store.opened_at().0, Ordering::Relaxed);
        metrics.register_store(&mut registry);
        metrics.register_relay(&mut registry, topic);
        metrics.register_inbox(&mut registry);
        more(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }

    fn register_store(&self, registry: &mut Registry) {
        let kept = self.store.metrics();
        let store = registry.sub_registry_with_prefix("event_store");
        store.register("events", "Events that were appended, by type", kept.events.clone());
        store.register_with_unit(
            "append_duration",
            "Time from the request to append until the events are on disk",
            Unit::Seconds,
            kept.append_duration.clone(),
        );
        store.register(
            "refused_appends",
            "Appends that were refused or failed: conflict, offset_moved, overloaded, unavailable",
            kept.refused.clone(),
        );
        store.register("head_position", "Position of the newest event", self.head.clone());
    }

    fn register_relay(&self, registry: &mut Registry, topic: &str) {
        let system = ("messaging_system".into(), "kafka".into());
        let labels = [system, ("messaging_destination_name".into(), topic.to_owned().into())];
        let relay = registry.sub_registry_with_labels(labels.into_iter());
        relay.register("messaging_client_sent_messages", "Events that were published", self.relay.sent.clone());
        relay.register_with_unit(
            "messaging_client_operation_duration",
            "Duration of one transaction: begin, send, commit",
            Unit::Seconds,
            self.relay.publish_duration.clone(),
        );
        relay.register("relay_unpublished_events", "Events in the store that are not published", self.backlog.clone());
        relay.register_with_unit(
            "relay_oldest_unpublished_event_age",
            "Age of the oldest unpublished event; 0 if there is none",
            Unit::Seconds,
            self.oldest_unpublished.clone(),
        );
        let retired = "Producers that were replaced because a commit failed or was slow";
        relay.register("relay_retired_producers", retired, self.relay.retired.clone());
        relay.register(
            "relay_failures",
            "Attempts to publish that failed and were retried",
            self.relay.failures.clone(),
        );
    }

    fn register_inbox(&self, registry: &mut Registry) {
        if self.inbox.is_empty() {
            return;
        }
        let inbox = registry;
        inbox.register(
            "messaging_client_consumed_messages",
            "Records that were consumed: handled, ignored, newer than this program, dead_lettered",
            self.inbox.records.clone(),
        );
        inbox.register_with_unit(
            "messaging_process_duration",
            "Duration of one batch of records: decide, and append with the offsets",
            Unit::Seconds,
            self.inbox.batch_duration.clone(),
        );
        inbox.register(
            "inbox_unread_records",
            "Records in the topic that are not consumed yet, as of the last few seconds",
            self.inbox.unread.clone(),
        );
        inbox.register_with_unit(
            "inbox_oldest_unread_record_age",
            "Time since all published records were known to be consumed",
            Unit::Seconds,
            self.inbox.oldest_unread.clone(),
        );
        inbox.register(
            "inbox_failures",
            "Attempts to consume or to commit that failed and were retried",
            self.inbox.failures.clone(),
        );
    }

    /// Returns the route `GET /metrics`.
    pub(crate) fn http(&self) -> Router {
        let metrics = self.clone();
        Router::new().route(
            "/metrics",
            get(async move || match metrics.text().await {
                Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
                Err(error) => CallError::from(error).into_response(),
            }),
        )
    }

    /// Returns the backlogs of the relay and the inbox.
    pub(crate) async fn progress(&self) -> Result<Progress, ReadError> {
        let (head, published) = (*self.store.head().borrow(), self.relay.published.load(Ordering::Relaxed));
        let unpublished = head.0.saturating_sub(published);
        let waiting_since = match unpublished {
            0 => None,
            _ => self.store.time_of(Position(published + 1)).await?,
        };
        Ok(Progress {
            unpublished,
            oldest_unpublished: waiting_since.map_or(Duration::ZERO, age),
            oldest_unread: self.inbox.oldest_unread(),
        })
    }

    async fn text(&self) -> Result<String, ReadError> {
        let progress = self.progress().await?;
        self.head.set(as_gauge(self.store.head().borrow().0));
        self.backlog.set(as_gauge(progress.unpublished));
        self.oldest_unpublished.set(progress.oldest_unpublished.as_secs_f64());
        self.inbox.update_gauges();
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        Ok(text)
    }
}

fn as_gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn age(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or(Duration::ZERO)
}
/// The content type of `/metrics`.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Returns the metrics of a service whose store is refused, as text.
pub(super) fn of_a_refused_store() -> String {
    let mut registry = Registry::default();
    register_refused(&mut registry, true);
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes everything");
    text
}

fn register_refused(registry: &mut Registry, is_refused: bool) {
    let refused = Gauge::<i64>::default();
    refused.set(i64::from(is_refused));
    registry.register("event_store_refused", "1 if the store is refused until `reconcile` lifts the refusal", refused);
}
