//! Collects durations by name, and prints them as a table.

use std::{collections::BTreeMap, time::Duration};

#[derive(Default)]
pub(crate) struct Times(BTreeMap<String, Vec<Duration>>);

impl Times {
    pub(crate) fn add(&mut self, what: String, took: Duration) {
        self.0.entry(what).or_default().push(took);
    }

    /// Prints a line for each name: the count, the median and the maximum.
    pub(crate) fn print(&self, title: &str) {
        println!("    {title:<44} {:>6} {:>9} {:>9}", "times", "p50", "max");
        for (what, times) in &self.0 {
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let at = |index: usize| sorted[index].as_secs_f64() * 1000.0;
            let (middle, last) = (at((sorted.len() - 1) / 2), at(sorted.len() - 1));
            println!("    {what:<44} {:>6} {middle:>6.0} ms {last:>6.0} ms", sorted.len());
        }
    }
}
