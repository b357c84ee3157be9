//! Metrics of the inbox, for each followed topic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{
    event::{from_micros, to_micros},
    runtime::metrics::durations,
};

/// The labels of a topic, named as OpenTelemetry names them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TopicLabels {
    messaging_system: &'static str,
    messaging_destination_name: &'static str,
}

/// The labels of consumed records.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RecordLabels {
    messaging_system: &'static str,
    messaging_destination_name: &'static str,
    outcome: &'static str,
}

/// The outcome of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordOutcome {
    /// A command was executed.
    Handled,
    /// The record is of no interest to this service.
    Ignored,
    /// The record is of a type that this program does not know.
    Newer,
    /// The record was dead-lettered.
    DeadLettered,
}

impl RecordOutcome {
    const ALL: [Self; 4] = [Self::Handled, Self::Ignored, Self::Newer, Self::DeadLettered];

    fn name(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Ignored => "ignored",
            Self::Newer => "newer",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

/// Metrics of the inbox. Clones share them.
#[derive(Clone, Debug)]
pub struct InboxMetrics {
    topics: Arc<[TopicMetrics]>,
    pub(crate) records: Family<RecordLabels, Counter>,
    pub(crate) batch_duration: Family<TopicLabels, Histogram>,
    pub(crate) failures: Family<TopicLabels, Counter>,
    /// Updated when the metrics are read.
    pub(crate) unread: Family<TopicLabels, Gauge>,
    /// Updated when the metrics are read.
    pub(crate) oldest_unread: Family<TopicLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
}

#[derive(Debug)]
struct TopicMetrics {
    name: &'static str,
    unread: AtomicI64,
    /// All records published until this time are known to be consumed. In microseconds since 1970.
    read_through: AtomicI64,
}

impl InboxMetrics {
    /// Creates metrics for these topics. The counters start at zero, because an alert needs a value before the first
    /// event.
    pub fn new(topics: impl IntoIterator<Item = &'static str>) -> Self {
        let now = to_micros(SystemTime::now());
        let topic = |name| TopicMetrics { name, unread: AtomicI64::new(0), read_through: AtomicI64::new(now) };
        let metrics = Self {
            topics: topics.into_iter().map(topic).collect(),
            records: Family::default(),
            batch_duration: Family::new_with_constructor(durations),
            failures: Family::default(),
            unread: Family::default(),
            oldest_unread: Family::default(),
        };
        for topic in &*metrics.topics {
            for outcome in RecordOutcome::ALL {
                metrics.count(topic.name, outcome, 0);
            }
            drop(metrics.batch_duration.get_or_create(&labels(topic.name)));
            drop(metrics.failures.get_or_create(&labels(topic.name)));
        }
        metrics
    }

    /// Returns whether the service follows no topic.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub(crate) fn count(&self, topic: &'static str, outcome: RecordOutcome, records: u64) {
        let TopicLabels { messaging_system, messaging_destination_name } = labels(topic);
        let outcome = outcome.name();
        let labels = RecordLabels { messaging_system, messaging_destination_name, outcome };
        self.records.get_or_create(&labels).inc_by(records);
    }

    pub(crate) fn observe_batch(&self, topic: &'static str, duration: Duration) {
        self.batch_duration.get_or_create(&labels(topic)).observe(duration.as_secs_f64());
    }

    /// Returns the failure counter of each topic.
    pub(crate) fn failure_counters(&self) -> Vec<Counter> {
        self.topics.iter().map(|topic| self.failures.get_or_create(&labels(topic.name)).clone()).collect()
    }

    /// Notes the number of unread records of a topic.
    pub(crate) fn set_unread(&self, topic: &str, records: i64) {
        if let Some(topic) = self.topics.iter().find(|known| known.name == topic) {
            topic.unread.store(records, Ordering::Relaxed);
        }
    }

    /// Notes that everything published to a topic until a time is consumed.
    pub(crate) fn set_read_through(&self, topic: &str, time: SystemTime) {
        if let Some(topic) = self.topics.iter().find(|known| known.name == topic) {
            topic.read_through.fetch_max(to_micros(time), Ordering::Relaxed);
        }
    }

    /// Returns the time since all records of every topic were known to be consumed.
    pub(crate) fn oldest_unread(&self) -> Duration {
        self.topics.iter().map(TopicMetrics::age).max().unwrap_or_default()
    }

    /// Sets the gauges to their current values.
    pub(crate) fn update_gauges(&self) {
        for topic in &*self.topics {
            self.unread.get_or_create(&labels(topic.name)).set(topic.unread.load(Ordering::Relaxed));
            self.oldest_unread.get_or_create(&labels(topic.name)).set(topic.age().as_secs_f64());
        }
    }
}

impl TopicMetrics {
    fn age(&self) -> Duration {
        from_micros(self.read_through.load(Ordering::Relaxed)).elapsed().unwrap_or_default()
    }
}

fn labels(topic: &'static str) -> TopicLabels {
    TopicLabels { messaging_system: "kafka", messaging_destination_name: topic }
}
