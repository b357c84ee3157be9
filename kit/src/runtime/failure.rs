//! How a service ends that could not go on: one line, and an exit code as sysexits has it.

use std::{error::Error, process::ExitCode};

type Source = Box<dyn Error + Send + Sync>;

/// Why a service ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something given to it does not work: a flag, a file, a port. Nothing was started.
    #[error("{0}")]
    Configuration(#[source] Source),
    /// A subcommand could not do what it was asked for.
    #[error("{name}: {}", chain(source.as_ref()))]
    Subcommand {
        /// Which one.
        name: &'static str,
        /// Why.
        source: Source,
    },
    /// An audit found that something is not as it must be; what, it has said.
    #[error("{0} findings: not everything is as it must be")]
    Findings(u64),
    /// A part of it ended.
    #[error("{part} ended: {}", chain(source.as_ref()))]
    Part {
        /// Which part.
        part: &'static str,
        /// Why.
        source: Source,
    },
}

impl Failure {
    /// Something given to the service does not work.
    pub fn configuration(source: impl Into<Source>) -> Self {
        Self::Configuration(source.into())
    }

    /// A subcommand could not do what it was asked for.
    pub fn subcommand(name: &'static str, source: impl Into<Source>) -> Self {
        Self::Subcommand { name, source: source.into() }
    }

    /// 1 for findings, 78 for a wrong configuration, 69 for what a subcommand needs and does not get, 70 for a part that ended.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Configuration(_) => ExitCode::from(78),
            Self::Findings(_) => ExitCode::from(1),
            Self::Subcommand { .. } => ExitCode::from(69),
            Self::Part { .. } => ExitCode::from(70),
        }
    }
}

/// An error and its causes in one line.
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
