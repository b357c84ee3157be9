//! A topic read as one log: its partitions merged in the order of `ce_sequence`, up to where it ended when opened.
//!
//! Within a partition the records of one store are in order, so a merge needs one record of each partition at a time,
//! and its memory does not grow with the topic.

use rdkafka::error::KafkaError;

use crate::kafka::{client::Client, partition_log::PartitionLog, record::Received, topics};

/// The records of one store in one topic.
pub struct TopicLog {
    source: String,
    partitions: Vec<Partition>,
    /// How many records of other sources were passed over.
    pub(crate) others: u64,
}

struct Partition {
    log: PartitionLog,
    next: Option<(u64, Received)>,
}

impl TopicLog {
    /// Opens a topic for the records whose `ce_source` is this one. A topic that is not there is empty.
    pub fn open(client: &Client, topic: &str, source: &str) -> Result<Self, KafkaError> {
        let mut log = Self { source: source.to_owned(), partitions: Vec::new(), others: 0 };
        for number in 0..topics::partitions(client, topic)?.unwrap_or_default() {
            log.partitions.push(Partition { log: PartitionLog::open(client, topic, number)?, next: None });
        }
        for index in 0..log.partitions.len() {
            log.advance(index)?;
        }
        Ok(log)
    }

    /// How many partitions the topic has.
    pub(crate) fn partitions(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// The next record, with its position in the store that it came from; 0 if it does not say which.
    pub fn read(&mut self) -> Result<Option<(u64, Received)>, KafkaError> {
        let waiting = self.partitions.iter().enumerate();
        let positions = waiting.filter_map(|(index, partition)| Some((partition.next.as_ref()?.0, index)));
        let Some((_, first)) = positions.min() else { return Ok(None) };
        let next = self.partitions[first].next.take();
        self.advance(first)?;
        Ok(next)
    }

    /// Reads on to the partition's next record of the source, if there is one.
    fn advance(&mut self, index: usize) -> Result<(), KafkaError> {
        let partition = &mut self.partitions[index];
        while let Some(record) = partition.log.read()? {
            if record.header("ce_source") == Some(&self.source) {
                let position = record.header("ce_sequence").and_then(|text| text.parse().ok()).unwrap_or(0);
                partition.next = Some((position, record));
                break;
            }
            self.others += 1;
        }
        Ok(())
    }
}
