//! Logs: to stderr, one line when something starts, stops, breaks or heals; what happens to each order is at debug.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Sends logs to stderr, at `level` and above unless `RUST_LOG` says otherwise.
pub fn init(level: LevelFilter) {
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(colours).with_env_filter(filter).init();
}
