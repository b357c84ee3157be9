//! Waits for a state.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The timeout. A working program takes far less time.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until `reached` returns true, and calls it every few milliseconds.
///
/// # Panics
/// After 30 seconds.
#[expect(clippy::disallowed_methods, reason = "a short pause between two calls")]
pub fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !reached() {
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
