//! Waiting for what is broken: growing pauses, one line when it breaks and one when it heals.

use std::{error::Error, time::Duration};

use prometheus_client::metrics::counter::Counter;

use crate::runtime::{failure::chain, stop::Stop};

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// The pauses between attempts at one thing, and whether its failure was said.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    said: bool,
    doing: String,
    failures: Vec<Counter>,
}

impl Backoff {
    /// What is being done, for the two lines: `publishing to order-events`; and what counts the failed attempts.
    pub(crate) fn new(doing: String, failures: Vec<Counter>) -> Self {
        Self { pause: SHORTEST, said: false, doing, failures }
    }

    /// Whether something is broken that was said to be.
    pub(crate) fn is_waiting(&self) -> bool {
        self.said
    }

    /// Says what is wrong, unless it was said already.
    pub(crate) fn say(&mut self, error: &(dyn Error + 'static)) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(error = chain(error), "{} waits", self.doing);
        }
    }

    /// [`say`](Self::say), then pause, for longer each time.
    pub(crate) fn wait(&mut self, stop: &Stop, error: &(dyn Error + 'static)) {
        for counter in &self.failures {
            counter.inc();
        }
        self.say(error);
        tracing::debug!(error = chain(error), pause = ?self.pause, "trying again");
        stop.sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST);
    }

    /// All is well.
    pub(crate) fn reset(&mut self) {
        self.pause = SHORTEST;
        if std::mem::take(&mut self.said) {
            tracing::info!("{} goes on", self.doing);
        }
    }
}
