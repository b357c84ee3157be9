//! Limits the log lines about events that others can cause as often as they like.

use std::time::{Duration, Instant};

/// The length of a window.
const WINDOW: Duration = Duration::from_secs(1);

/// The number of lines in a window.
const LINES: u32 = 10;

/// Admits ten lines a second, and counts the others.
#[derive(Debug)]
pub(crate) struct LineLimit {
    window: Instant,
    lines: u32,
    left_out: u64,
}

impl LineLimit {
    pub(crate) fn new() -> Self {
        Self { window: Instant::now(), lines: 0, left_out: 0 }
    }

    /// Returns the number of lines that were left out since the last one, or `None` if this one is left out too.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.window) >= WINDOW {
            (self.window, self.lines) = (now, 0);
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_ten_lines_a_second_and_a_count() {
        let mut limit = LineLimit::new();
        let began = Instant::now();
        let second = |number: u64| began + WINDOW * u32::try_from(number).expect("small");
        for number in 1..4 {
            let admitted: Vec<_> = (0..100).filter_map(|_| limit.admit(second(number))).collect();
            let left_out_before = if number == 1 { 0 } else { 90 };
            assert_eq!((admitted.len(), admitted[0], admitted[1]), (10, left_out_before, 0), "{number}");
        }
    }
}
