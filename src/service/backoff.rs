//! Waiting for what is broken: growing pauses, one line when it breaks and one when it heals.

use std::{error::Error, time::Duration};

use super::{failure::chain, stop::Stop};

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// The pauses between attempts at one thing, and whether its failure was said.
#[derive(Debug)]
pub struct Backoff {
    pause: Duration,
    said: bool,
    broken: String,
    healed: String,
}

impl Backoff {
    /// The words for the two lines.
    pub fn new(broken: String, healed: String) -> Self {
        Self { pause: SHORTEST, said: false, broken, healed }
    }

    /// Says what is wrong, unless it was said already.
    pub fn say(&mut self, error: &(dyn Error + 'static)) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(error = chain(error), "{}", self.broken);
        }
    }

    /// [`say`](Self::say), then pause, for longer each time.
    pub fn wait(&mut self, stop: &Stop, error: &(dyn Error + 'static)) {
        self.say(error);
        tracing::debug!(error = chain(error), pause = ?self.pause, "trying again");
        stop.sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST);
    }

    /// All is well.
    pub fn reset(&mut self) {
        self.pause = SHORTEST;
        if std::mem::take(&mut self.said) {
            tracing::info!("{}", self.healed);
        }
    }
}
