//! How much is unread, as librdkafka tells it now and then.

use std::{sync::atomic::Ordering, time::SystemTime};

use rdkafka::{
    ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, ConsumerContext},
    error::KafkaError,
};

use crate::{kafka::client::Quiet, runtime::metrics::InboxMetrics};

/// Notes how much is unread, whenever librdkafka tells.
pub(super) struct Lag(pub(super) InboxMetrics);

impl ClientContext for Lag {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let is_up = |leader| statistics.brokers.values().any(|broker| broker.nodeid == leader && broker.state == "UP");
        let (mut unread, mut known) = (0, true);
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.iter());
        for (_, partition) in partitions.filter(|(number, _)| **number >= 0) {
            // Not `consumer_lag`: it counts the ends of transactions, which nobody reads.
            unread += (partition.ls_offset - partition.next_offset).max(0) + partition.fetchq_cnt;
            known &= is_up(partition.leader) && partition.ls_offset >= 0 && partition.fetch_state == "active";
        }
        self.0.unread.store(unread, Ordering::Relaxed);
        if known && unread == 0 {
            self.0.read_through(SystemTime::now());
        }
    }
}

impl ConsumerContext for Lag {}

/// A consumer that notes it.
pub(super) type Consumer = BaseConsumer<Lag>;
