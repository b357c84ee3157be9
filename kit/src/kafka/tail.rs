//! Reading topics for people: from the beginning, as it comes, with no effects and no offsets kept.

use std::time::Duration;

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaError};

use crate::kafka::{
    client::{self, Client, Consumer},
    record::Received,
    topics,
};

/// A reader of whole topics.
pub struct Tail(Consumer);

impl Tail {
    /// Starts at the beginning of each topic that is there.
    pub fn open(client: &Client, names: &[&str]) -> Result<Self, KafkaError> {
        let mut assignment = TopicPartitionList::new();
        for name in names {
            for partition in 0..topics::partitions(client, name)?.unwrap_or_default() {
                assignment.add_partition_offset(name, partition, Offset::Beginning)?;
            }
        }
        let mut config = client.consumer();
        config.set("auto.offset.reset", "earliest"); // what is gone before it was shown is not missed
        let consumer: Consumer = client::create(&config)?;
        consumer.assign(&assignment)?;
        Ok(Self(consumer))
    }

    /// The next record; `None` when none came in time. What is broken is waited for.
    pub fn next(&self, patience: Duration) -> Option<Received> {
        self.0.poll(patience)?.ok().map(|message| Received::from_librdkafka(&message))
    }
}
