//! The flags of order-service. Each is an environment variable too.

use std::net::SocketAddr;

use clap::Parser;
use event_sourcing::{kafka::args::KafkaArgs, store::Location};

/// Takes orders over gRPC and HTTP, keeps what happens to them, and publishes it to Kafka.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Config {
    /// Where to take calls, gRPC and HTTP alike
    #[arg(long, env, default_value = "127.0.0.1:3001", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// Where the orders are kept: sqlite:PATH
    #[arg(long, env, default_value = "sqlite:orders.db", value_name = "URL")]
    pub store: Location,

    /// Kafka
    #[command(flatten)]
    pub kafka: KafkaArgs,
}
