//! Reads one partition from its beginning, without storing offsets.

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaError};

use crate::kafka::{
    client::{self, Client, Consumer},
    record::Received,
    topics,
};

/// Reads the records of a partition up to an offset.
pub(crate) struct PartitionLog {
    consumer: Consumer,
    /// The offset of the first record that the partition still has.
    pub(crate) low: i64,
    /// The offset after the last record to read.
    pub(crate) end: i64,
}

impl PartitionLog {
    /// Opens a partition up to its current end, after waiting until every transaction before that end is committed or
    /// aborted.
    pub(crate) fn open(client: &Client, topic: &str, partition: i32) -> Result<Self, KafkaError> {
        let consumer = consumer(client)?;
        let (low, end) = topics::wait_until_decided(client, &consumer, topic, partition)?;
        Self { consumer, low, end }.begin(topic, partition)
    }

    /// Opens a partition up to an offset that was read before, below which no transaction is open any more. Reads less
    /// if the partition ends earlier.
    pub(crate) fn open_until(client: &Client, topic: &str, partition: i32, end: i64) -> Result<Self, KafkaError> {
        let consumer = consumer(client)?;
        let (low, high) = topics::watermarks(&consumer, topic, partition)?;
        Self { consumer, low, end: end.min(high) }.begin(topic, partition)
    }

    fn begin(self, topic: &str, partition: i32) -> Result<Self, KafkaError> {
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        self.consumer.assign(&assignment)?;
        Ok(self)
    }

    /// Returns the next record, or `None` at the end.
    pub(crate) fn read(&mut self) -> Result<Option<Received>, KafkaError> {
        if self.low >= self.end {
            return Ok(None);
        }
        let message = client::next_before(&self.consumer, self.end)?;
        Ok(message.map(|message| Received::from_librdkafka(&message)))
    }
}

fn consumer(client: &Client) -> Result<Consumer, KafkaError> {
    let mut config = client.consumer();
    config.set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "earliest"); // the caller detects records that the partition no longer has
    client::create(&config)
}
