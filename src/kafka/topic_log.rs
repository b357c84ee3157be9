//! A topic read as one log: its partitions merged in the order of `ce_sequence`, up to where it ended when opened.
//!
//! Within a partition the records of one store are in order, so a merge needs one record of each partition at a time,
//! and its memory does not grow with the topic.

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaError};

use super::{
    client::{self, Client, Consumer},
    record::Received,
    topics,
};

/// The records of one store in one topic.
pub struct TopicLog {
    source: String,
    partitions: Vec<Partition>,
}

struct Partition {
    consumer: Consumer,
    /// The offset after the last record that is read.
    end: i64,
    next: Option<(u64, Received)>,
}

impl TopicLog {
    /// Opens a topic for the records whose `ce_source` is this one. A topic that is not there is empty.
    pub fn open(client: &Client, topic: &str, source: &str) -> Result<Self, KafkaError> {
        let mut log = Self { source: source.to_owned(), partitions: Vec::new() };
        for number in 0..topics::partitions(client, topic)?.unwrap_or_default() {
            let mut config = client.consumer();
            config.set("enable.partition.eof", "true");
            config.set("auto.offset.reset", "earliest"); // what is gone is found to be missing
            let consumer: Consumer = client::create(&config)?;
            let (low, end) = topics::wait_until_decided(client, &consumer, topic, number)?;
            let mut assignment = TopicPartitionList::new();
            assignment.add_partition_offset(topic, number, Offset::Beginning)?;
            consumer.assign(&assignment)?;
            let mut partition = Partition { consumer, end, next: None };
            if low < end {
                partition.advance(&log.source)?;
            }
            log.partitions.push(partition);
        }
        Ok(log)
    }

    /// The next record, with its position in the store that it came from.
    pub fn read(&mut self) -> Result<Option<(u64, Received)>, KafkaError> {
        let first = self.partitions.iter_mut().filter(|partition| partition.next.is_some());
        let Some(first) = first.min_by_key(|partition| partition.next.as_ref().map(|(position, _)| *position)) else {
            return Ok(None);
        };
        let next = first.next.take();
        first.advance(&self.source)?;
        Ok(next)
    }
}

impl Partition {
    /// Reads on to the next record of the source, if there is one.
    fn advance(&mut self, source: &str) -> Result<(), KafkaError> {
        while let Some(message) = client::next_before(&self.consumer, self.end)? {
            let record = Received::from_librdkafka(&message);
            let position = record.header("ce_sequence").and_then(|text| text.parse().ok());
            if let Some(position) = position
                && record.header("ce_source") == Some(source)
            {
                self.next = Some((position, record));
                break;
            }
        }
        Ok(())
    }
}
