//! What the parts count and measure. Each keeps its own; [`service::metrics`](crate::edge::metrics) names and shows
//! all of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

use crate::event::{from_micros, to_micros};

/// From half a millisecond to sixteen seconds.
pub fn durations() -> Histogram {
    Histogram::new((0..16).map(|power| 0.0005 * f64::from(1_u32 << power)))
}

/// Of which type an event is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EventType {
    /// Its full name.
    pub event_type: String,
}

/// What became of something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// In one word.
    pub outcome: &'static str,
}

/// Counters that begin with zero: an alert needs that before the first one.
pub fn outcomes(names: &[&'static str]) -> Family<Outcome, Counter> {
    let counters = Family::<Outcome, Counter>::default();
    for outcome in names {
        drop(counters.get_or_create(&Outcome { outcome }));
    }
    counters
}

/// Kept by the store.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    pub(crate) events: Family<EventType, Counter>,
    pub(crate) append_duration: Histogram,
    pub(crate) refused: Family<Outcome, Counter>,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        let refused = outcomes(&["conflict", "offset_moved", "overloaded", "unavailable"]);
        Self { events: Family::default(), append_duration: durations(), refused }
    }
}

/// Kept by the relay.
#[derive(Clone, Debug)]
pub struct RelayMetrics {
    pub(crate) published: Arc<AtomicU64>,
    pub(crate) sent: Counter,
    pub(crate) publish_duration: Histogram,
    pub(crate) retired: Counter,
    pub(crate) failures: Counter,
}

impl Default for RelayMetrics {
    fn default() -> Self {
        Self {
            published: Arc::default(),
            sent: Counter::default(),
            publish_duration: durations(),
            retired: Counter::default(),
            failures: Counter::default(),
        }
    }
}

/// Kept by the inbox.
#[derive(Clone, Debug)]
pub struct InboxMetrics {
    pub(crate) records: Family<Outcome, Counter>,
    pub(crate) batch_duration: Histogram,
    pub(crate) failures: Counter,
    pub(crate) unread: Arc<AtomicI64>,
    /// Everything that was published until then is known to be read, in microseconds since 1970.
    read_through: Arc<AtomicI64>,
}

impl Default for InboxMetrics {
    fn default() -> Self {
        let records = outcomes(&["handled", "ignored", "newer", "dead_lettered"]);
        Self {
            records,
            batch_duration: durations(),
            failures: Counter::default(),
            unread: Arc::default(),
            read_through: Arc::new(AtomicI64::new(to_micros(SystemTime::now()))),
        }
    }
}

impl InboxMetrics {
    pub(crate) fn count(&self, outcome: &'static str, records: usize) {
        if records > 0 {
            self.records.get_or_create(&Outcome { outcome }).inc_by(records as u64);
        }
    }

    /// Until when everything that was published is known to be read.
    pub(crate) fn known_read(&self) -> SystemTime {
        from_micros(self.read_through.load(Ordering::Relaxed))
    }

    /// Notes that everything that was published until then is read.
    pub(crate) fn read_through(&self, time: SystemTime) {
        self.read_through.fetch_max(to_micros(time), Ordering::Relaxed);
    }
}

/// How long somebody has not answered. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Silence {
    /// In microseconds since 1970; 0: the newest call was answered.
    since: Arc<AtomicI64>,
}

impl Silence {
    /// Notes a call that was answered.
    pub fn answered(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Notes a call that was not.
    pub fn unanswered(&self) {
        let now = to_micros(SystemTime::now());
        let _ = self.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed); // it began earlier
    }

    /// How long no call was answered.
    pub fn lasts(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => from_micros(since).elapsed().unwrap_or_default(),
        }
    }
}
