//! The command-line flags of all-in-one. Each flag is an environment variable too.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Parser;
use oncelog::{
    app::{self, KafkaArgs, ListenArgs, NoArgs},
    store::Location,
};
use order_service::OrderService;
use payment_service::{GatewayLocation, PaymentService};

/// An embedded broker and both services in one process, to try them out.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Config {
    /// The address where order-service takes gRPC and HTTP calls
    #[arg(long, env, default_value = "127.0.0.1:3001", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,

    /// The address where payment-service takes calls
    #[arg(long, env, default_value = "127.0.0.1:3002", value_name = "ADDRESS:PORT")]
    pub(crate) payment_listen: SocketAddr,

    /// The address where the embedded Kafka broker listens
    #[arg(long, env, default_value = "127.0.0.1:9092", value_name = "ADDRESS:PORT")]
    pub(crate) kafka_listen: SocketAddr,

    /// The directory of the stores and the gateway's ledger; created if it does not exist
    #[arg(long, env, default_value = "./data", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,

    /// The time that the simulated gateway remembers an idempotency key, in seconds
    #[arg(long, env, default_value = "86400", value_name = "S", value_parser = seconds)]
    pub(crate) gateway_key_memory: Duration,

    /// Creates the topics of one more service on the embedded broker, so that it can run beside these two. Example:
    /// shipping-service=shipping-events
    #[arg(long, env, value_name = "SERVICE=TOPIC", value_delimiter = ',')]
    pub(crate) extra_service: Vec<ExtraService>,
}

/// A service that runs in a process of its own, on the embedded broker of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtraService {
    pub(crate) name: String,
    pub(crate) topic: String,
}

impl FromStr for ExtraService {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, topic)) if !name.is_empty() && !topic.is_empty() => {
                Ok(Self { name: name.to_owned(), topic: topic.to_owned() })
            }
            _ => Err("must be of the form SERVICE=TOPIC, such as shipping-service=shipping-events".to_owned()),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_error| "must be a whole number of seconds".to_owned())
}

impl Config {
    pub(crate) fn order_service(&self, kafka: SocketAddr) -> app::Config<OrderService> {
        app::Config {
            listen: self.listen,
            store: Location::sqlite(self.data_dir.join("orders.db")),
            service: NoArgs {},
            new_store: None,
            callers: ListenArgs::default(),
            kafka: KafkaArgs::of_embedded(kafka, crate::PARTITIONS),
        }
    }

    pub(crate) fn payment_service(&self, kafka: SocketAddr) -> app::Config<PaymentService> {
        app::Config {
            listen: self.payment_listen,
            store: Location::sqlite(self.data_dir.join("payments.db")),
            service: payment_service::Args {
                gateway: GatewayLocation::Simulated(self.data_dir.join("charges.db")),
                gateway_latency: Duration::ZERO,
                gateway_key_memory: self.gateway_key_memory,
            },
            new_store: None,
            callers: ListenArgs::default(),
            kafka: KafkaArgs::of_embedded(kafka, crate::PARTITIONS),
        }
    }
}
