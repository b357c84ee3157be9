//! The flags of payment-service. Each is an environment variable too.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand};
use oncelog::{
    edge::listener::ListenArgs,
    kafka::args::KafkaArgs,
    operations::{audit::AuditArgs, dead_letters::DeadLettersCommand, log::LogArgs, reconcile::ReconcileArgs},
    store::Location,
};

/// Pays orders: reads them from Kafka, charges through a gateway, and publishes what came of it.
///
/// Without a subcommand it serves, and waits for what is not there yet.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// How it serves.
    #[command(flatten)]
    pub serve: Config,

    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program can do besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows everything that happened, beside the running service
    Log {
        /// Where the payments are kept: sqlite:PATH
        #[arg(long, env, default_value = STORE, value_name = "URL")]
        store: Location,

        /// What is shown, and how
        #[command(flatten)]
        log: LogArgs,
    },
    /// Compares the store with what the cluster has of it, for when the service refuses to go on
    Reconcile {
        /// Where the payments are kept: sqlite:PATH
        #[arg(long, env, default_value = STORE, value_name = "URL")]
        store: Location,

        /// What may be done
        #[command(flatten)]
        reconcile: ReconcileArgs,

        /// Kafka
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Compares the store with the topics, record by record, beside the running service; exits with 1 if it finds anything
    Audit {
        /// Where the payments are kept: sqlite:PATH
        #[arg(long, env, default_value = STORE, value_name = "URL")]
        store: Location,

        /// The gateway whose ledger is compared
        #[arg(long, env, default_value = GATEWAY, value_name = "URL")]
        gateway: GatewayLocation,

        /// How it is done
        #[command(flatten)]
        audit: AuditArgs,

        /// Kafka
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Makes the tables for lists and lookups anew from the log; the service must be stopped
    Rebuild {
        /// Where the payments are kept: sqlite:PATH
        #[arg(long, env, default_value = STORE, value_name = "URL")]
        store: Location,
    },
    /// Shows what could not be read, and puts it back
    DeadLetters {
        /// What is to be done
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// Asks the running service whether it is ready; exits with 0 or 69
    Health {
        /// Where it takes calls
        #[arg(long, env, default_value = LISTEN, value_name = "ADDRESS:PORT")]
        listen: SocketAddr,

        /// Where it answers about health, if not there as well
        #[arg(long, env, value_name = "ADDRESS:PORT")]
        ops_listen: Option<SocketAddr>,
    },
}

const LISTEN: &str = "127.0.0.1:3002";
const STORE: &str = "sqlite:payments.db";
const GATEWAY: &str = "simulated:charges.db";

/// How the service runs.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where to take calls
    #[arg(long, env, default_value = LISTEN, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// Where the payments are kept: sqlite:PATH
    #[arg(long, env, default_value = STORE, value_name = "URL")]
    pub store: Location,

    /// Who moves the money: simulated:PATH, a simulated gateway with its ledger in a file
    #[arg(long, env, default_value = GATEWAY, value_name = "URL")]
    pub gateway: GatewayLocation,

    /// How long the simulated gateway takes for each answer, in milliseconds
    #[arg(long, env, default_value = "0", value_name = "MS", value_parser = millis)]
    pub gateway_latency: Duration,

    /// How long the simulated gateway remembers an idempotency key, in seconds
    #[arg(long, env, default_value = "86400", value_name = "S", value_parser = seconds)]
    pub gateway_key_memory: Duration,

    /// How callers reach it
    #[command(flatten)]
    pub callers: ListenArgs,

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
