//! Reads a topic as one log: its partitions merged in the order of `ce_sequence`, up to the end at the time of opening.
//!
//! Within a partition the records of one store are in order. So the merge holds one record of each partition at a time,
//! and its memory does not grow with the topic.

use rdkafka::error::KafkaError;

use crate::kafka::{client::Client, partition_log::PartitionLog, record::Received, topics};

/// The records of one store in one topic.
pub struct TopicLog {
    source: String,
    partitions: Vec<Partition>,
    /// The number of skipped records, which other sources had published.
    pub(crate) others: u64,
}

struct Partition {
    log: PartitionLog,
    next: Option<(u64, Received)>,
}

impl TopicLog {
    /// Opens a topic for the records whose `ce_source` is `source`. A topic that does not exist counts as empty.
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

    /// The number of partitions of the topic.
    pub(crate) fn partitions(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// Returns the partitions whose oldest records were deleted.
    pub(crate) fn without_beginning(&self) -> Vec<usize> {
        let cut = self.partitions.iter().enumerate().filter(|(_, partition)| partition.log.low > 0);
        cut.map(|(number, _)| number).collect()
    }

    /// Returns the next record and its position in the store that published it. The position is 0 if `ce_sequence` is
    /// missing or is not a number.
    pub fn read(&mut self) -> Result<Option<(u64, Received)>, KafkaError> {
        let waiting = self.partitions.iter().enumerate();
        let positions = waiting.filter_map(|(index, partition)| Some((partition.next.as_ref()?.0, index)));
        let Some((_, first)) = positions.min() else { return Ok(None) };
        let next = self.partitions[first].next.take();
        self.advance(first)?;
        Ok(next)
    }

    /// Reads the partition up to its next record of the source, if there is one.
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
