//! The flags about Kafka, the same for every service.

use clap::Args;

use super::topics::Topic;

/// Where Kafka is, and how topics are made that are not there yet.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
    /// Where to find the cluster: host:port, several separated by commas
    #[arg(long, env, default_value = "localhost:9092", value_name = "HOST:PORT")]
    pub kafka_brokers: String,

    /// How many partitions a topic is made with; it can never be changed afterwards
    #[arg(long, env, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub topic_partitions: i32,

    /// In how many copies a topic is kept; -1 leaves it to the cluster
    #[arg(long, env, default_value_t = -1, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i16).range(-1..=100))]
    pub topic_replication: i16,

    /// More settings for librdkafka. Not a flag: whoever embeds a service may need them.
    #[arg(skip)]
    pub properties: Vec<(String, String)>,
}

impl KafkaArgs {
    /// A topic of events: of as many partitions and copies as the flags say.
    pub fn events_topic(&self, name: &str) -> Topic {
        Topic {
            name: name.to_owned(),
            partitions: self.topic_partitions,
            replication: self.topic_replication.into(),
            compacted: false,
        }
    }
}
