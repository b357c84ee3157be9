//! payment-service, the program: flags, logs, signals, exit code.

use std::process::ExitCode;

use event_sourcing::{
    relay::Cluster,
    service::{cli, failure::Failure, listener, stop, telemetry},
};
use payment_service::Config;
use tracing::level_filters::LevelFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = match cli::parse() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    telemetry::init(LevelFilter::INFO);
    cli::exit(serve(config).await)
}

async fn serve(config: Config) -> Result<(), Failure> {
    let shutdown = stop::on_signals().map_err(Failure::configuration)?;
    let listener = listener::bind(config.listen, "--listen").await?;
    let store = payment_service::open_store(&config)?;
    payment_service::run(store, config, listener, Cluster::Existing, shutdown).await
}
