//! The flags of payment-service. Each is an environment variable too.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Parser;
use event_sourcing::{kafka::args::KafkaArgs, store::Location};

/// Pays orders: reads them from Kafka, charges through a gateway, and publishes what came of it.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Config {
    /// Where to take calls
    #[arg(long, env, default_value = "127.0.0.1:3002", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// Where the payments are kept: sqlite:PATH
    #[arg(long, env, default_value = "sqlite:payments.db", value_name = "URL")]
    pub store: Location,

    /// Who moves the money: simulated:PATH, a simulated gateway with its ledger in a file
    #[arg(long, env, default_value = "simulated:charges.db", value_name = "URL")]
    pub gateway: GatewayLocation,

    /// How long the simulated gateway takes for each answer, in milliseconds
    #[arg(long, env, default_value = "0", value_name = "MS", value_parser = millis)]
    pub gateway_latency: Duration,

    /// How long the simulated gateway remembers an idempotency key, in seconds
    #[arg(long, env, default_value = "86400", value_name = "S", value_parser = seconds)]
    pub gateway_key_memory: Duration,

    /// Kafka
    #[command(flatten)]
    pub kafka: KafkaArgs,
}

/// Where the gateway is: `simulated:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayLocation {
    /// A simulated gateway, with its ledger in this file.
    Simulated(PathBuf),
}

impl FromStr for GatewayLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("simulated:") {
            Some(path) if !path.is_empty() => Ok(Self::Simulated(path.into())),
            _ => Err("a gateway is given as simulated:PATH".to_owned()),
        }
    }
}

fn millis(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_millis).map_err(|_error| "must be a whole number of milliseconds".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_error| "must be a whole number of seconds".to_owned())
}
