//! Limits the average rate of an action.

use std::time::{Duration, Instant};

/// Limits an average rate. Actions that happen only now and then do not wait.
///
/// It is the virtual scheduling form of the leaky bucket (ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    /// The maximum time by which an action may be early. It allows the burst.
    slack: Duration,
    /// The time of the next action if all came at equal intervals.
    due: Instant,
}

impl Pace {
    /// Allows one action per `interval`, and up to `burst` actions at once after a pause.
    pub(crate) fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, slack: interval * burst.saturating_sub(1), due: Instant::now() }
    }

    /// Returns how long the next action must wait. It counts as done after that.
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
