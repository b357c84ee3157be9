//! The command line of a service, generated from its description. Each flag is an environment variable too.

use std::{marker::PhantomData, net::SocketAddr, process::ExitCode};

use clap::{Args, Parser, Subcommand, error::ErrorKind};

use super::Service;
use crate::{
    edge::listener::ListenArgs,
    event::StreamId,
    kafka::args::KafkaArgs,
    operations::{
        audit::{AuditArgs, ExtraChecks},
        dead_letters::DeadLettersCommand,
        log::{self, LogArgs},
        reconcile::ReconcileArgs,
    },
    runtime::failure::Failure,
    store::Location,
};

const AFTER_ABOUT: &str = "Without a subcommand it serves, and waits for what is not there yet.";

/// The flags and subcommands of a service.
#[derive(Parser)]
#[command(
    name = S::INFO.name,
    version = S::INFO.version,
    about = S::INFO.about,
    long_about = format!("{}\n\n{AFTER_ABOUT}", S::INFO.about),
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
pub(super) struct Cli<S: Service> {
    #[command(flatten)]
    pub(super) serve: Config<S>,

    #[command(subcommand)]
    pub(super) command: Option<Command<S>>,
}

/// How a service runs.
#[derive(Args)]
pub struct Config<S: Service> {
    /// Where to take calls, gRPC and HTTP alike
    #[arg(long, env, default_value = S::INFO.listen, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// Where the events are kept: sqlite:PATH
    #[arg(long, env, default_value = S::INFO.store, value_name = "URL")]
    pub store: Location,

    /// The flags of the service's own.
    #[command(flatten)]
    pub service: S::Args,

    /// The flags about callers.
    #[command(flatten)]
    pub callers: ListenArgs,

    /// The flags about Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
}

impl<S: Service> Clone for Config<S> {
    fn clone(&self) -> Self {
        let Self { listen, store, service, callers, kafka } = self;
        Self {
            listen: *listen,
            store: store.clone(),
            service: service.clone(),
            callers: callers.clone(),
            kafka: kafka.clone(),
        }
    }
}

#[derive(Subcommand)]
pub(super) enum Command<S: Service> {
    /// Show everything that happened, beside the running service
    Log {
        #[command(flatten)]
        store: StoreArgs<S>,

        #[command(flatten)]
        stream: StreamArgs<S>,

        #[command(flatten)]
        log: LogArgs,
    },
    /// Compare the store with what the cluster has of it, for when the service refuses to continue
    Reconcile {
        #[command(flatten)]
        store: StoreArgs<S>,

        #[command(flatten)]
        reconcile: ReconcileArgs,

        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Compare the store with the topics, record by record, beside the running service; exit with 1 on findings
    Audit {
        #[command(flatten)]
        store: StoreArgs<S>,

        #[command(flatten)]
        extra: <S::Audit as ExtraChecks<S::Domain>>::Args,

        #[command(flatten)]
        audit: AuditArgs,

        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Rebuild the table for lists and lookups from the log; the service must be stopped
    Rebuild {
        #[command(flatten)]
        store: StoreArgs<S>,
    },
    /// List records that could not be handled, and replay them
    DeadLetters {
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// Ask the running service whether it is ready; exit with 0 or 69
    Health {
        /// Where the service takes calls
        #[arg(long, env, default_value = S::INFO.listen, value_name = "ADDRESS:PORT")]
        listen: SocketAddr,

        /// Where the service answers about health, if not there as well
        #[arg(long, env, value_name = "ADDRESS:PORT")]
        ops_listen: Option<SocketAddr>,
    },
}

#[derive(Args)]
pub(super) struct StoreArgs<S: Service> {
    /// Where the events are kept: sqlite:PATH
    #[arg(long, env, default_value = S::INFO.store, value_name = "URL")]
    pub(super) store: Location,

    #[arg(skip)]
    service: PhantomData<fn() -> S>,
}

#[derive(Args)]
pub(super) struct StreamArgs<S: Service> {
    #[arg(
        long = S::INFO.stream,
        value_name = "ID",
        value_parser = log::stream,
        help = format!("Show only the events of this {}", S::INFO.stream)
    )]
    pub(super) stream: Option<StreamId>,

    #[arg(skip)]
    service: PhantomData<fn() -> S>,
}

/// Parses the flags and variables of the process, or returns the exit code: 64 for wrong usage, 0 where help or the
/// version was requested. Either was printed.
pub fn parse<C: Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|error| {
        let _ = error.print();
        let is_requested = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        if is_requested { ExitCode::SUCCESS } else { ExitCode::from(64) }
    })
}

/// Returns the exit code of a process, after one line about its failure.
pub fn exit(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            failure.exit_code()
        }
    }
}
