//! Slowing down what would otherwise be done all the time.

use std::time::{Duration, Instant};

/// A rate that is kept on average: what is done now and then is never held up.
///
/// The virtual scheduling form of the leaky bucket (ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    /// How much of what was not done is made up for at most.
    slack: Duration,
    /// When the next one would come if all came evenly.
    due: Instant,
}

impl Pace {
    /// One per `interval`, and up to `burst` of them at once after a pause.
    pub(crate) fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, slack: interval * burst.saturating_sub(1), due: Instant::now() }
    }

    /// How long the next one is to wait. It is taken as done then.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        let wait = self.due.saturating_duration_since(now + self.slack);
        self.due = self.due.max(now) + self.interval;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_millis(10);

    #[test]
    fn what_is_done_now_and_then_does_not_wait() {
        let mut pace = Pace::new(TEN, 3);
        let began = Instant::now();
        for burst in 1..100 {
            let now = began + TEN * 3 * burst;
            assert_eq!([pace.next(now), pace.next(now), pace.next(now)], [Duration::ZERO; 3], "{burst}");
        }
    }

    #[test]
    fn what_is_done_all_the_time_keeps_to_the_rate() {
        let mut pace = Pace::new(TEN, 3);
        let began = Instant::now();
        let mut now = began;
        for _ in 0..100 {
            now += pace.next(now);
        }
        assert_eq!(now, began + TEN * 97, "three at once, and then one for each interval");
    }
}
