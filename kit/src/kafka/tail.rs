//! Reads topics from the beginning and follows them, to show them to people. It stores no offsets and has no effects.

use std::time::Duration;

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaError};

use crate::kafka::{
    client::{self, Client, Consumer},
    record::Received,
    topics,
};

/// Reads whole topics and follows them.
pub struct Tail(Consumer);

impl Tail {
    /// Starts at the beginning of each topic that exists.
    pub fn open(client: &Client, names: &[&str]) -> Result<Self, KafkaError> {
        let mut assignment = TopicPartitionList::new();
        for name in names {
            for partition in 0..topics::partitions(client, name)?.unwrap_or_default() {
                assignment.add_partition_offset(name, partition, Offset::Beginning)?;
            }
        }
        let mut config = client.consumer();
        config.set("auto.offset.reset", "earliest"); // skips records that were deleted before they were shown
        let consumer: Consumer = client::create(&config)?;
        consumer.assign(&assignment)?;
        Ok(Self(consumer))
    }

    /// Returns the next record, or `None` if none came in time. An error also gives `None`, and librdkafka retries.
    pub fn next(&self, patience: Duration) -> Option<Received> {
        self.0.poll(patience)?.ok().map(|message| Received::from_librdkafka(&message))
    }
}
