//! Logs to stderr. One line says when a part starts, stops, fails or recovers; the events of single orders are at level
//! debug.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Sends logs to stderr, at `level` and above unless `RUST_LOG` sets another filter.
pub fn init(level: LevelFilter) {
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(colours).with_env_filter(filter).init();
}
