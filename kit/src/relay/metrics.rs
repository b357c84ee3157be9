//! Metrics of the relay.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

use crate::runtime::metrics::durations;

/// Metrics of the relay. Clones share them.
#[derive(Clone, Debug)]
pub struct RelayMetrics {
    /// The position up to which events are published.
    pub(crate) published: Arc<AtomicU64>,
    pub(crate) sent: Counter,
    pub(crate) publish_duration: Histogram,
    /// The number of replaced producers.
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
