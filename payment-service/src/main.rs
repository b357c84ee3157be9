//! payment-service, the program: flags, logs, signals, exit code.

use std::process::ExitCode;

use oncelog::{
    app::cli,
    edge::{health, listener},
    kafka::cluster::Cluster,
    operations::dead_letters::{self, DeadLettersCommand},
    runtime::{failure::Failure, stop, telemetry},
};
use payment_service::{Cli, Command, Config};
use tracing::level_filters::LevelFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let cli: Cli = match cli::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    telemetry::init(LevelFilter::INFO);
    cli::exit(match cli.command {
        None => serve(cli.serve).await,
        Some(Command::Log { store, log }) => payment_service::show_log(&store, &log),
        Some(Command::Reconcile { store, reconcile, kafka }) => {
            payment_service::reconcile(&store, &kafka, reconcile).await
        }
        Some(Command::Audit { store, gateway, audit, kafka }) => {
            payment_service::audit(&store, &gateway, &kafka, audit).await
        }
        Some(Command::Rebuild { store }) => payment_service::rebuild(&store),
        Some(Command::DeadLetters { command }) => put_back(command).await,
        Some(Command::Health { listen, ops_listen }) => health::ask(ops_listen.unwrap_or(listen)),
    })
}

async fn put_back(command: DeadLettersCommand) -> Result<(), Failure> {
    let shutdown = stop::on_signals().map_err(Failure::configuration)?;
    dead_letters::run(payment_service::SERVICE, command, shutdown).await
}

async fn serve(config: Config) -> Result<(), Failure> {
    let shutdown = stop::on_signals().map_err(Failure::configuration)?;
    let listener = listener::bind(config.listen, "--listen").await?;
    let store = payment_service::open_store(&config)?;
    payment_service::run(store, config, listener, Cluster::Existing, shutdown).await
}
