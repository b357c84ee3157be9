//! Finds the newest record of a source in each partition of a topic, by reading near the ends of the partitions.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{Message as _, Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaError};

use crate::kafka::{
    client::{self, Client, Consumer, Next},
    record::Received,
    topics,
};

/// The number of offsets at the end of a partition that are read first. Each published transaction takes two of them or
/// more: its records and a transaction marker.
const FIRST_LOOK: i64 = 200;

/// The end of a partition.
#[derive(Debug)]
pub(crate) struct PartitionEnd {
    /// The offset of the oldest record that is left.
    pub(crate) low: i64,
    /// The offset up to which every transaction is committed or aborted.
    pub(crate) end: i64,
    /// The newest record of the source.
    pub(crate) newest: Option<Received>,
}

/// Reads the ends of topics.
pub(crate) struct TopicEnds<'a> {
    client: &'a Client,
    consumer: Consumer,
}

impl<'a> TopicEnds<'a> {
    /// Creates a reader. It reads nothing yet.
    pub(crate) fn open(client: &'a Client) -> Result<Self, KafkaError> {
        let mut config = client.consumer();
        config.set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "earliest"); // records may be deleted while they are read
        config.set("fetch.wait.max.ms", "10"); // an empty fetch is how the end is found
        Ok(Self { client, consumer: client::create(&config)? })
    }

    /// Returns the end of each partition, with the newest record whose `ce_source` is wanted. Where `since` has an
    /// offset, looks only at the records from there on.
    pub(crate) fn read(
        &self,
        topic: &str,
        is_wanted: &dyn Fn(&str) -> bool,
        since: &dyn Fn(i32) -> Option<i64>,
    ) -> Result<Vec<PartitionEnd>, KafkaError> {
        let Self { client, consumer } = self;
        let partitions = topics::partitions(client, topic)?.unwrap_or_default();
        let low = topics::offsets(consumer, topic, partitions, Offset::Beginning)?;
        let end = topics::offsets(consumer, topic, partitions, Offset::End)?;
        let mut ends: Vec<_> =
            low.into_iter().zip(end).map(|(low, end)| PartitionEnd { low, end, newest: None }).collect();
        // A partition that ends before the offset has lost its tail, or is another one. Then all of it may matter.
        let hint = |partition, end| since(partition).filter(|since| *since < end);
        let mut look = FIRST_LOOK;
        loop {
            let mut starts = BTreeMap::new();
            for (partition, found) in (0..).zip(&ends) {
                let start = hint(partition, found.end).unwrap_or(found.end - look).max(found.low);
                if found.newest.is_none() && start < found.end {
                    starts.insert(partition, start);
                }
            }
            read_from(consumer, topic, is_wanted, &starts, &mut ends)?;
            let is_at_the_beginning = |(partition, start): (&i32, &i64)| {
                let found = &ends[*partition as usize];
                hint(*partition, found.end).is_some() || *start <= found.low
            };
            if starts.iter().all(is_at_the_beginning) {
                return Ok(ends);
            }
            look *= 50;
        }
    }

    /// Waits until every transaction in the topic is committed or aborted, up to its end at the time of the call. Returns the
    /// partitions where one is still open after `limit`.
    pub(crate) fn undecided(&self, topic: &str, partitions: i32, limit: Duration) -> Result<Vec<i32>, KafkaError> {
        let ends = self.client.ask(|consumer| topics::offsets(consumer, topic, partitions, Offset::End))?;
        let deadline = Instant::now() + limit;
        loop {
            let decided = topics::offsets(&self.consumer, topic, partitions, Offset::End)?;
            let open = (0..).zip(ends.iter().zip(&decided)).filter(|(_, (end, decided))| decided < end);
            let open: Vec<_> = open.map(|(partition, _)| partition).collect();
            if open.is_empty() || Instant::now() > deadline {
                return Ok(open);
            }
            self.consumer.poll(Duration::from_millis(20)); // only waits
        }
    }
}

/// Reads partitions from offsets to their ends, and keeps the newest record of the source in each.
fn read_from(
    consumer: &Consumer,
    topic: &str,
    is_wanted: &dyn Fn(&str) -> bool,
    starts: &BTreeMap<i32, i64>,
    ends: &mut [PartitionEnd],
) -> Result<(), KafkaError> {
    let mut assignment = TopicPartitionList::new();
    for (partition, start) in starts {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*start))?;
    }
    consumer.assign(&assignment)?;
    let mut unread: Vec<i32> = starts.keys().copied().collect();
    while !unread.is_empty() {
        let done = match client::next(consumer)? {
            Next::Record(record) => {
                let Some(found) = ends.get_mut(record.partition() as usize) else { continue };
                if record.offset() < found.end {
                    let record = Received::from_librdkafka(&record);
                    if record.header("ce_source").is_some_and(is_wanted) {
                        found.newest = Some(record);
                    }
                    continue;
                }
                record.partition()
            }
            Next::End(partition) => partition,
        };
        unread.retain(|partition| *partition != done);
    }
    consumer.unassign()
}
