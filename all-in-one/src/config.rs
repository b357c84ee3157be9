//! The flags of all-in-one. Each is an environment variable too.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use oncelog::{edge::listener::ListenArgs, kafka::args::KafkaArgs, store::Location};

/// An embedded broker and both services in one process, for a first look.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Config {
    /// Where order-service takes calls, gRPC and HTTP alike
    #[arg(long, env, default_value = "127.0.0.1:3001", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,

    /// Where payment-service takes calls
    #[arg(long, env, default_value = "127.0.0.1:3002", value_name = "ADDRESS:PORT")]
    pub(crate) payment_listen: SocketAddr,

    /// Where the embedded Kafka broker listens
    #[arg(long, env, default_value = "127.0.0.1:9092", value_name = "ADDRESS:PORT")]
    pub(crate) kafka_listen: SocketAddr,

    /// The directory of everything that is kept; made if it is not there
    #[arg(long, env, default_value = "./data", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

impl Config {
    pub(crate) fn order_service(&self, kafka: SocketAddr) -> order_service::Config {
        order_service::Config {
            listen: self.listen,
            store: Location::sqlite(self.data_dir.join("orders.db")),
            callers: ListenArgs::default(),
            kafka: KafkaArgs::of_embedded(kafka, crate::PARTITIONS),
        }
    }

    pub(crate) fn payment_service(&self, kafka: SocketAddr) -> payment_service::Config {
        payment_service::Config {
            listen: self.payment_listen,
            store: Location::sqlite(self.data_dir.join("payments.db")),
            gateway: payment_service::GatewayLocation::Simulated(self.data_dir.join("charges.db")),
            gateway_latency: Duration::ZERO,
            gateway_key_memory: Duration::from_secs(24 * 60 * 60),
            callers: ListenArgs::default(),
            kafka: KafkaArgs::of_embedded(kafka, crate::PARTITIONS),
        }
    }
}
