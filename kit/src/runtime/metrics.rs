//! Building blocks of metrics. Each part keeps its own metrics; [`edge::metrics`](crate::edge::metrics) names and
//! exposes them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

/// Returns a histogram of durations, with buckets from half a millisecond to sixteen seconds.
pub fn durations() -> Histogram {
    Histogram::new((0..16).map(|power| 0.0005 * f64::from(1_u32 << power)))
}

/// The label `outcome` of a counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The outcome in one word.
    pub outcome: &'static str,
}

/// Returns one counter for each outcome. All are exposed as zero from the start, because an alert needs a value before
/// the first increment.
pub fn outcomes(names: &[&'static str]) -> Family<Outcome, Counter> {
    let counters = Family::<Outcome, Counter>::default();
    for outcome in names {
        drop(counters.get_or_create(&Outcome { outcome }));
    }
    counters
}

/// Measures how long a peer has not answered. Clones share the measurement.
#[derive(Clone, Debug, Default)]
pub struct Silence {
    /// The time of the first unanswered call, in microseconds since 1970. 0 if the last call was answered.
    since: Arc<AtomicI64>,
}

impl Silence {
    /// Notes a call that was answered.
    pub fn answered(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Notes a call that was not answered.
    pub fn unanswered(&self) {
        let now = micros();
        let _ = self.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed); // keeps an earlier begin
    }

    /// Returns the time since the first unanswered call, or zero if the last call was answered.
    pub fn lasts(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros((micros() - since).max(0).unsigned_abs()),
        }
    }
}

fn micros() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
