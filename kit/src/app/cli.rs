//! The command line of a service, generated from its description. Each flag can also be set by an environment variable.

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
    store::{Location, StoreId},
};

const AFTER_ABOUT: &str = "Without a subcommand, the service runs. It waits for Kafka and for topics that are missing.";

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

/// The flags of a running service.
#[derive(Args)]
pub struct Config<S: Service> {
    /// The address to listen on, for both gRPC and HTTP
    #[arg(long, env, default_value = S::INFO.listen, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// The store of events: sqlite:PATH
    #[arg(long, env, default_value = S::INFO.store, value_name = "URL")]
    pub store: Location,

    /// Begin a new store although the topic has events of this other store
    #[arg(long, env, value_name = "ID")]
    pub new_store: Option<StoreId>,

    /// The service's own flags.
    #[command(flatten)]
    pub service: S::Args,

    /// The flags of the listener.
    #[command(flatten)]
    pub callers: ListenArgs,

    /// The flags of the Kafka clients.
    #[command(flatten)]
    pub kafka: KafkaArgs,
}

impl<S: Service> Clone for Config<S> {
    fn clone(&self) -> Self {
        let Self { listen, store, new_store, service, callers, kafka } = self;
        Self {
            listen: *listen,
            store: store.clone(),
            new_store: *new_store,
            service: service.clone(),
            callers: callers.clone(),
            kafka: kafka.clone(),
        }
    }
}

#[derive(Subcommand)]
pub(super) enum Command<S: Service> {
    /// Print the events of the store; the service may be running
    Log {
        #[command(flatten)]
        store: StoreArgs<S>,

        #[command(flatten)]
        stream: StreamArgs<S>,

        #[command(flatten)]
        log: LogArgs,
    },
    /// Compare the store with its topic, and settle why the service refuses to publish; the service must be stopped
    Reconcile {
        #[command(flatten)]
        store: StoreArgs<S>,

        #[command(flatten)]
        reconcile: ReconcileArgs,

        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Compare the store with the topics, record by record; the service may be running; exit with 1 on findings
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
    /// Check whether the running service is ready; exit with 0 or 69
    Health {
        /// The address that the service listens on
        #[arg(long, env, default_value = S::INFO.listen, value_name = "ADDRESS:PORT")]
        listen: SocketAddr,

        /// The second address of the service, if it has one; it is checked instead
        #[arg(long, env, value_name = "ADDRESS:PORT")]
        ops_listen: Option<SocketAddr>,
    },
}

#[derive(Args)]
pub(super) struct StoreArgs<S: Service> {
    /// The store of events: sqlite:PATH
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

/// Parses the flags and environment variables of the process. Otherwise prints the error, the help or the version, and
/// returns the exit code: 64 for wrong usage, 0 if help or the version was requested.
pub fn parse<C: Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|error| {
        let _ = error.print();
        let is_requested = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        if is_requested { ExitCode::SUCCESS } else { ExitCode::from(64) }
    })
}

/// Returns the exit code of a process, and logs its failure in one line.
pub fn exit(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            failure.exit_code()
        }
    }
}
