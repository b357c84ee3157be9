//! The flags of order-service. Each is an environment variable too.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};
use oncelog::{
    edge::listener::ListenArgs,
    kafka::args::KafkaArgs,
    operations::{audit::AuditArgs, dead_letters::DeadLettersCommand, log::LogArgs, reconcile::ReconcileArgs},
    store::Location,
};

/// Takes orders over gRPC and HTTP, keeps what happens to them, and publishes it to Kafka.
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
        /// Where the orders are kept: sqlite:PATH
        #[arg(long, env, default_value = STORE, value_name = "URL")]
        store: Location,

        /// What is shown, and how
        #[command(flatten)]
        log: LogArgs,
    },
    /// Compares the store with what the cluster has of it, for when the service refuses to go on
    Reconcile {
        /// Where the orders are kept: sqlite:PATH
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
        /// Where the orders are kept: sqlite:PATH
        #[arg(long, env, default_value = STORE, value_name = "URL")]
        store: Location,

        /// How it is done
        #[command(flatten)]
        audit: AuditArgs,

        /// Kafka
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Makes the tables for lists and lookups anew from the log; the service must be stopped
    Rebuild {
        /// Where the orders are kept: sqlite:PATH
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

const LISTEN: &str = "127.0.0.1:3001";
const STORE: &str = "sqlite:orders.db";

/// How the service runs.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where to take calls, gRPC and HTTP alike
    #[arg(long, env, default_value = LISTEN, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// Where the orders are kept: sqlite:PATH
    #[arg(long, env, default_value = STORE, value_name = "URL")]
    pub store: Location,

    /// How callers reach it
    #[command(flatten)]
    pub callers: ListenArgs,

    /// Kafka
    #[command(flatten)]
    pub kafka: KafkaArgs,
}
