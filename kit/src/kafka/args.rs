//! The command-line flags about Kafka, which every service shares.

use std::{fs, net::SocketAddr, path::PathBuf};

use clap::Args;
use rdkafka::error::KafkaError;

use crate::{
    kafka::{
        client::{Client, RETRY_BACKOFF},
        producer::Producer,
        properties,
        topics::Topic,
    },
    runtime::failure::Failure,
};

/// The address of the cluster, how to connect to it, and how missing topics are created.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
    /// The Kafka brokers to connect to first: host:port, several separated by commas
    #[arg(long, env, default_value = "localhost:9092", value_name = "HOST:PORT")]
    pub kafka_brokers: String,

    /// The number of partitions of a topic that the service creates; it can never be changed afterwards
    #[arg(long, env, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub topic_partitions: i32,

    /// The replication factor of a topic that the service creates; -1 leaves it to the cluster
    #[arg(long, env, default_value_t = -1, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i16).range(-1..=100))]
    pub topic_replication: i16,

    /// A client.properties file with the connection settings (TLS, SASL), in the format of Kafka's own tools
    #[arg(long, env, value_name = "FILE")]
    pub kafka_config: Option<PathBuf>,

    /// The cluster is the embedded mock broker of another process, such as `cargo run`: it forgets everything
    #[arg(long, env)]
    pub kafka_embedded: bool,
}

impl KafkaArgs {
    /// Returns the arguments of a service that uses the embedded broker.
    pub fn of_embedded(address: SocketAddr, partitions: i32) -> Self {
        Self {
            kafka_brokers: address.to_string(),
            topic_partitions: partitions,
            topic_replication: 1,
            kafka_config: None,
            kafka_embedded: true,
        }
    }

    /// Creates the client that the flags describe. Fails if librdkafka refuses one of the settings.
    pub fn client(&self, name: &str) -> Result<Client, Failure> {
        if self.kafka_embedded {
            return Ok(Client::embedded(name, &self.kafka_brokers));
        }
        let properties = match &self.kafka_config {
            None => Vec::new(),
            Some(file) => {
                let wrong = |error: String| Failure::configuration(format!("{}: {error}", file.display()));
                let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
                properties::parse(&text).map_err(|error| wrong(error.to_string()))?
            }
        };
        let client = Client::new(name, &self.kafka_brokers, properties);
        let wrong = |error: KafkaError| {
            // The error's own text is not shown, because it repeats the value, which may be a secret.
            let text = if let KafkaError::ClientConfig(_, text, key, _) = &error {
                format!("{key}: {text}")
            } else {
                error.to_string()
            };
            Failure::configuration(format!("Kafka: {text}{}", hint(&text)))
        };
        client.questions().map_err(wrong)?;
        if self.kafka_config.is_some() {
            Producer::create(&client.transactional_producer("unused", RETRY_BACKOFF)).map_err(wrong)?;
        }
        Ok(client)
    }

    /// Describes a topic of events with the partitions and the replication factor that the flags give.
    pub fn events_topic(&self, name: &str) -> Topic {
        Topic {
            name: name.to_owned(),
            partitions: self.topic_partitions,
            replication: self.topic_replication.into(),
            compacted: false,
        }
    }
}

fn hint(text: &str) -> &'static str {
    if !cfg!(feature = "kafka-tls") && (text.contains("SSL") || text.contains("SASL") || text.contains("SCRAM")) {
        "; this program was built without TLS and SASL for Kafka: build it with --features kafka-tls"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(properties: &str) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("client.properties");
        fs::write(&file, properties).expect("writes");
        let args = KafkaArgs {
            kafka_brokers: "127.0.0.1:9".to_owned(),
            kafka_config: Some(file),
            ..KafkaArgs::of_embedded(([127, 0, 0, 1], 9).into(), 1)
        };
        let args = KafkaArgs { kafka_embedded: false, ..args };
        args.client("test").err().expect("refused").to_string()
    }

    #[test]
    fn what_librdkafka_refuses_is_named_without_the_secret() {
        let said = refusal("sasl.username=me\nsasl.nonsense=hunter2");
        assert!(said.contains("sasl.nonsense") && !said.contains("hunter2"), "{said}");
        let said = refusal("socket.keepalive.enable=hunter2");
        assert!(said.contains("socket.keepalive.enable") && !said.contains("hunter2"), "{said}");
    }
}
