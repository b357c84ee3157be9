//! How far the topic was read: in memory, in the store, and as Kafka's lag tools know it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    kafka::record::Received,
    store::{OffsetMove, TopicPartition},
};

/// How long offsets that nothing depends on may wait for company: each commit is a sync to disk, or a request.
const PUT_OFF: Duration = Duration::from_secs(1);

/// The offset of the next record of each partition.
pub(super) type Offsets = HashMap<i32, i64>;

/// How far the topic was read.
pub(super) struct Progress {
    cluster: String,
    topic: String,
    /// What was handled, with or without an effect.
    pub(super) read: Offsets,
    /// What the store has. It is behind by records that led to nothing, which can as well be read again.
    stored: Offsets,
    stored_at: Instant,
    /// What Kafka was told.
    told: Offsets,
    told_at: Instant,
}

impl Progress {
    pub(super) fn new(cluster: String, topic: String, stored: Offsets) -> Self {
        let now = Instant::now();
        Self { cluster, topic, read: stored.clone(), told: stored.clone(), stored, stored_at: now, told_at: now }
    }

    pub(super) fn add(&mut self, batch: &[Received]) {
        self.read.extend(batch.iter().map(|record| (record.partition, record.offset + 1)));
    }

    pub(super) fn is_stored(&self) -> bool {
        self.read == self.stored
    }

    /// Whether the offsets alone need no commit yet.
    pub(super) fn may_wait(&self) -> bool {
        self.stored_at.elapsed() < PUT_OFF
    }

    /// What is to be committed.
    pub(super) fn moves(&self) -> Vec<OffsetMove> {
        moved(&self.stored, &self.read)
            .map(|(partition, from, to)| OffsetMove {
                partition: TopicPartition { cluster: self.cluster.clone(), topic: self.topic.clone(), partition },
                from,
                to,
            })
            .collect()
    }

    pub(super) fn committed(&mut self) {
        self.stored.clone_from(&self.read);
        self.stored_at = Instant::now();
    }

    /// What Kafka is to be told, now and then.
    pub(super) fn news(&mut self) -> Option<Vec<(i32, i64)>> {
        if self.told == self.stored || self.told_at.elapsed() < PUT_OFF {
            return None;
        }
        let news = moved(&self.told, &self.stored).map(|(partition, _, to)| (partition, to)).collect();
        self.told.clone_from(&self.stored);
        self.told_at = Instant::now();
        Some(news)
    }
}

fn moved(before: &Offsets, after: &Offsets) -> impl Iterator<Item = (i32, Option<i64>, i64)> {
    after
        .iter()
        .map(|(&partition, &to)| (partition, before.get(&partition).copied(), to))
        .filter(|(_, from, to)| *from != Some(*to))
}
