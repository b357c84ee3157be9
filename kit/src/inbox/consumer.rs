//! The consumer of the followed topics: assignment, polling, and offsets for Kafka's lag tools.

use std::time::{Duration, SystemTime};

use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{InboxMetrics, error::SessionEnd, progress::Offsets};
use crate::{
    kafka::{
        client::{Client, LogToTracing},
        probe,
        record::Received,
    },
    runtime::backoff::Backoff,
};

/// The number of records that share one commit at most.
const BATCH: usize = 500;

/// The longest wait for a record, short enough to notice a shutdown.
const POLL: Duration = Duration::from_millis(100);

/// A consumer whose partitions are assigned by hand.
pub(super) struct Consumer {
    consumer: BaseConsumer<Lag>,
    /// True if a connection was lost since the last [`take_interruption`](Self::take_interruption).
    is_interrupted: bool,
    /// True if a batch was damaged. Nothing may be polled after it, because records would be missing.
    pub(super) is_damaged: bool,
}

impl Consumer {
    /// Opens a consumer of partitions, each from an offset.
    pub(super) fn open<'p>(
        client: &Client,
        partitions: impl IntoIterator<Item = (&'p (String, i32), i64)>,
        lag: Lag,
    ) -> Result<Self, KafkaError> {
        let mut assignment = TopicPartitionList::new();
        for ((topic, partition), offset) in partitions {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(offset))?;
        }
        let mut config = client.consumer();
        config.set("statistics.interval.ms", "2000"); // reports the lag
        let consumer: BaseConsumer<Lag> = config.create_with_context(lag)?;
        consumer.assign(&assignment)?;
        Ok(Self { consumer, is_interrupted: false, is_damaged: false })
    }

    /// Waits for a record, and takes the others that have arrived by then.
    pub(super) fn poll(&mut self, backoff: &mut Backoff) -> Result<Vec<Received>, SessionEnd> {
        let mut batch = Vec::new();
        let mut patience = POLL;
        while batch.len() < BATCH {
            match self.consumer.poll(patience) {
                Some(Ok(message)) => batch.push(Received::from_librdkafka(&message)),
                Some(Err(KafkaError::MessageConsumption(code))) if is_transient(code) => {
                    self.is_interrupted = true;
                    backoff.say(&KafkaError::MessageConsumption(code));
                }
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::AutoOffsetReset
                    | RDKafkaErrorCode::OffsetOutOfRange
                    | RDKafkaErrorCode::LogTruncation,
                ))) => return Err(SessionEnd::Displaced),
                Some(Err(error)) if probe::is_damage(&error) => {
                    self.is_damaged = true;
                    break;
                }
                Some(Err(error)) => return Err(SessionEnd::Kafka(error)),
                None => break,
            }
            patience = Duration::ZERO;
        }
        Ok(batch)
    }

    /// Returns whether a connection was lost since the last call. The log may have lost its tail meanwhile.
    pub(super) fn take_interruption(&mut self) -> bool {
        std::mem::take(&mut self.is_interrupted)
    }

    /// Commits offsets for Kafka's lag tools. A failure does no harm, because nothing here reads them.
    pub(super) fn report_offsets(&self, offsets: Option<Offsets>) {
        let Some(offsets) = offsets else { return };
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in offsets {
            let _ = list.add_partition_offset(&topic, partition, Offset::Offset(offset));
        }
        let _ = self.consumer.commit(&list, CommitMode::Async);
    }
}

/// Returns whether librdkafka recovers from an error without help.
fn is_transient(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NetworkException
    )
}

/// Updates the lag whenever librdkafka reports its statistics.
pub(super) struct Lag {
    pub(super) metrics: InboxMetrics,
    /// The followed topics, the first of which also counts the unread replays.
    pub(super) topics: Vec<&'static str>,
    /// The topic of replays.
    pub(super) retries: String,
}

/// The unread records of a topic.
#[derive(Clone, Copy)]
struct Unread {
    records: i64,
    /// True if every partition is being fetched, so that the number is up to date.
    is_current: bool,
}

fn unread(statistics: &Statistics, topic: &str) -> Unread {
    let is_up = |leader| statistics.brokers.values().any(|broker| broker.nodeid == leader && broker.state == "UP");
    let mut unread = Unread { records: 0, is_current: true };
    let partitions = statistics.topics.get(topic).into_iter().flat_map(|topic| &topic.partitions);
    for (_, partition) in partitions.filter(|(number, _)| **number >= 0) {
        // Not `consumer_lag`: it counts the markers of transactions, which are not records.
        unread.records += (partition.ls_offset - partition.next_offset).max(0) + partition.fetchq_cnt;
        unread.is_current &= is_up(partition.leader) && partition.ls_offset >= 0 && partition.fetch_state == "active";
    }
    unread
}

impl ClientContext for Lag {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        LogToTracing.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        LogToTracing.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let now = SystemTime::now();
        let mut retries = Some(unread(&statistics, &self.retries));
        for topic in &self.topics {
            let mut unread = unread(&statistics, topic);
            if let Some(retries) = retries.take() {
                unread.records += retries.records;
                unread.is_current &= retries.is_current;
            }
            self.metrics.set_unread(topic, unread.records);
            if unread.is_current && unread.records == 0 {
                self.metrics.set_read_through(topic, now);
            }
        }
    }
}

impl ConsumerContext for Lag {}
