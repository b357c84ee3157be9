//! The application: [`App`] runs what a [`Service`] describes.
//!
//! A service describes only what is special about it. Flags, subcommands, start, shutdown order, TLS, health, metrics
//! and telemetry are the same for all services, and are implemented here.

pub mod cli;
mod refused;
mod serve;
mod service;

use std::{
    marker::PhantomData,
    process::ExitCode,
    time::{Duration, Instant},
};

use tracing::level_filters::LevelFilter;

use self::cli::{Cli, Command};
pub use self::{
    cli::Config,
    serve::{open_store, run},
    service::{Context, Info, Part, Parts, Service},
};
use crate::{
    aggregate::ReadTable as _,
    edge::{health, listener},
    operations::{
        audit::{self, Audit},
        dead_letters, log, reconcile,
    },
    runtime::{failure::Failure, stop, telemetry},
    store::{Log, Store},
};
pub use crate::{edge::ListenArgs, kafka::args::KafkaArgs, operations::audit::NoArgs};

/// The time that `reconcile` may take to close the store after it has lifted a refusal.
const CLOSING: Duration = Duration::from_secs(60);

/// The program of a service. Its whole `main` is `App::<OrderService>::main()`. The documentation of the
/// [crate](crate#a-first-service) has an example.
#[derive(Debug)]
pub struct App<S>(PhantomData<S>);

impl<S: Service> App<S> {
    /// Parses the flags of the process, runs the service or the subcommand, and returns the exit code.
    ///
    /// Exit codes: 0 for a clean stop, 1 for findings of `audit`, 64 for wrong usage, 69 for a subcommand that failed,
    /// 70 for a part of the service that failed, 78 for a flag or file that does not work.
    pub fn main() -> ExitCode {
        let cli: Cli<S> = match cli::parse() {
            Ok(cli) => cli,
            Err(exit) => return exit,
        };
        telemetry::init(LevelFilter::INFO);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let result = runtime.map_err(Failure::configuration).and_then(|runtime| match cli.command {
            None => runtime.block_on(Self::serve(cli.serve)),
            Some(command) => runtime.block_on(Self::command(command)),
        });
        cli::exit(result)
    }

    async fn serve(config: Config<S>) -> Result<(), Failure> {
        let shutdown = stop::on_signals().map_err(Failure::configuration)?;
        let cluster = serve::cluster(&config.kafka);
        refused::lift_if_new(&config)?;
        let mut patient_until = Instant::now();
        while !shutdown.is_cancelled() {
            let listener = listener::bind(config.listen, "--listen").await?;
            if let Some(reason) = refused::reason::<S>(&config.store) {
                refused::serve(&config, reason, listener, &shutdown).await?;
                patient_until = Instant::now() + CLOSING;
                continue;
            }
            let store = match open_store(&config) {
                Ok(store) if store.refusal_blocking().is_ok_and(|refusal| refusal.is_none()) => store,
                Err(failure) if Instant::now() > patient_until => return Err(failure),
                Ok(_) | Err(_) => {
                    refused::pause(&shutdown).await;
                    continue;
                }
            };
            match run(store, config.clone(), listener, cluster.clone(), shutdown.clone()).await {
                Err(failure) if refused::reason::<S>(&config.store).is_some() => tracing::debug!("{failure}"),
                result => return result,
            }
        }
        Ok(())
    }

    async fn command(command: Command<S>) -> Result<(), Failure> {
        let identity = serve::identity::<S>();
        let open_log = |store| Log::open(store, identity).map_err(Failure::configuration);
        match command {
            Command::Log { store, stream, log } => log::show(&open_log(&store.store)?, S::TOPIC, stream.stream, &log),
            Command::Reconcile { store, reconcile, kafka } => {
                let open = move || {
                    let opened = Store::open(&store.store, identity, S::Table::source());
                    serve::publication::<S>(&opened.map_err(Failure::configuration)?, &kafka)
                };
                reconcile::run::<S::Table>(open, reconcile).await
            }
            Command::Audit { store, extra, audit: args, kafka } => {
                let audit = Audit::<S::Domain> {
                    log: open_log(&store.store)?,
                    client: kafka.client(S::INFO.name)?,
                    service: S::INFO.name,
                    topic: S::TOPIC,
                    follows: S::follows(),
                    stream_word: S::INFO.stream,
                };
                audit::run::<S::Domain, S::Audit>(audit, extra, args).await
            }
            Command::Rebuild { store } => {
                Store::rebuild(&store.store, identity, S::Table::source()).map_err(Failure::configuration)
            }
            Command::DeadLetters { command } => {
                let shutdown = stop::on_signals().map_err(Failure::configuration)?;
                dead_letters::run(S::INFO.name, command, shutdown).await
            }
            Command::Health { listen, ops_listen } => health::check(ops_listen.unwrap_or(listen)),
        }
    }
}
