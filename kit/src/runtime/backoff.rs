//! Retries with growing pauses, and logs one line when an activity begins to fail and one when it resumes.

use std::{error::Error, time::Duration};

use prometheus_client::metrics::counter::Counter;

use crate::runtime::{failure::chain, stop::Stop};

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// The state of one activity's retries: the next pause, and whether its failure was logged.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    said: bool,
    doing: String,
    failures: Vec<Counter>,
}

impl Backoff {
    /// Creates the backoff of an activity. `doing` names it in the log, such as `publishing to order-events`;
    /// `failures` count the failed attempts.
    pub(crate) fn new(doing: String, failures: Vec<Counter>) -> Self {
        Self { pause: SHORTEST, said: false, doing, failures }
    }

    /// Returns true from the first logged failure until the activity resumes.
    pub(crate) fn is_waiting(&self) -> bool {
        self.said
    }

    /// Logs a failure, unless one was logged since the activity worked last.
    pub(crate) fn say(&mut self, error: &(dyn Error + 'static)) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(error = chain(error), "{} waits", self.doing);
        }
    }

    /// Counts and logs a failed attempt, and pauses. Each pause is longer than the one before, up to a second. A
    /// shutdown ends the pause.
    pub(crate) fn wait(&mut self, stop: &Stop, error: &(dyn Error + 'static)) {
        for counter in &self.failures {
            counter.inc();
        }
        self.say(error);
        tracing::debug!(error = chain(error), pause = ?self.pause, "retrying after a pause");
        stop.sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST);
    }

    /// Notes that the activity works. The next pause is the shortest again.
    pub(crate) fn reset(&mut self) {
        self.pause = SHORTEST;
        if std::mem::take(&mut self.said) {
            tracing::info!("{} resumes", self.doing);
        }
    }
}
