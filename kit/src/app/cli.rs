//! The command line: usage errors end with 64, everything else that cannot start with 78.

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};

use crate::runtime::failure::Failure;

/// Parses the flags and variables of the process, or says what the process is to exit with: 64 for wrong
/// usage, 0 where help or the version was asked for. Either was printed.
pub fn parse<C: Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|error| {
        let _ = error.print();
        let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        if asked_for { ExitCode::SUCCESS } else { ExitCode::from(64) }
    })
}

/// What the process exits with, after one line about a failure.
pub fn exit(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            failure.exit_code()
        }
    }
}
