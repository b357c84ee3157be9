//! The failure that ends a process: one line for the user, and an exit code from `sysexits.h`.

use std::{error::Error, process::ExitCode};

type Source = Box<dyn Error + Send + Sync>;

/// The reason for which a process ended without a request to stop.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A flag, a file or a port is wrong. Nothing was started.
    #[error("{0}")]
    Configuration(#[source] Source),
    /// A subcommand failed.
    #[error("{name}: {}", chain(source.as_ref()))]
    Subcommand {
        /// The name of the subcommand.
        name: &'static str,
        /// The cause.
        source: Source,
    },
    /// An audit has findings. It has printed each of them.
    #[error("{0} findings: not everything is as it must be")]
    Findings(u64),
    /// A part of the service ended.
    #[error("{part} ended: {}", chain(source.as_ref()))]
    Part {
        /// The name of the part.
        part: &'static str,
        /// The cause.
        source: Source,
    },
}

impl Failure {
    /// Returns the failure for a wrong flag, file or port.
    pub fn configuration(source: impl Into<Source>) -> Self {
        Self::Configuration(source.into())
    }

    /// Returns the failure of a subcommand.
    pub fn subcommand(name: &'static str, source: impl Into<Source>) -> Self {
        Self::Subcommand { name, source: source.into() }
    }

    /// Returns the exit code: 1 for findings, 69 for a subcommand that failed, 70 for a part that ended, 78 for a wrong
    /// configuration.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Configuration(_) => ExitCode::from(78),
            Self::Findings(_) => ExitCode::from(1),
            Self::Subcommand { .. } => ExitCode::from(69),
            Self::Part { .. } => ExitCode::from(70),
        }
    }
}

/// Formats an error and its causes in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
