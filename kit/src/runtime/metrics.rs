//! Building blocks of metrics. Each part keeps its own; [`edge::metrics`](crate::edge::metrics) names and shows them.

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

/// From half a millisecond to sixteen seconds.
pub fn durations() -> Histogram {
    Histogram::new((0..16).map(|power| 0.0005 * f64::from(1_u32 << power)))
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
        let now = micros();
        let _ = self.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed); // it began earlier
    }

    /// How long no call was answered.
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
