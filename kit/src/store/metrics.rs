//! Metrics of the store.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

pub(crate) use crate::runtime::metrics::Outcome;
use crate::runtime::metrics::{durations, outcomes};

/// The label of an event type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct EventType {
    pub(crate) event_type: String,
}

/// Metrics of the store.
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
