//! The offsets up to which the topics are consumed: in memory, in the store, and as reported to Kafka's lag tools.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    kafka::record::Received,
    store::{OffsetMove, ReadError, Store, TopicPartition},
};

/// The longest time for which offsets without an effect are not committed. Each commit costs a sync or a request.
const PUT_OFF: Duration = Duration::from_secs(1);

/// The offset of the next record of each partition of each topic.
pub(super) type Offsets = HashMap<(String, i32), i64>;

/// The offsets up to which the topics are consumed.
pub(super) struct Progress {
    cluster: String,
    /// The offsets after the records that were handled, with or without an effect.
    pub(super) read: Offsets,
    /// The offsets in the store. They may lag behind by records without an effect, which can be consumed again.
    stored: Offsets,
    stored_at: Instant,
    /// The offsets that were reported to Kafka.
    told: Offsets,
    told_at: Instant,
}

impl Progress {
    pub(super) fn new(cluster: String, stored: Offsets) -> Self {
        let now = Instant::now();
        Self { cluster, read: stored.clone(), told: stored.clone(), stored, stored_at: now, told_at: now }
    }

    pub(super) fn add(&mut self, batch: &[Received]) {
        let next = |record: &Received| ((record.topic.clone(), record.partition), record.offset + 1);
        self.read.extend(batch.iter().map(next));
    }

    pub(super) fn is_stored(&self) -> bool {
        self.read == self.stored
    }

    /// Returns whether offsets without an effect can still wait to be committed.
    pub(super) fn may_wait(&self) -> bool {
        self.stored_at.elapsed() < PUT_OFF
    }

    /// Returns the moves from the stored offsets to the current ones.
    pub(super) fn moves(&self) -> Vec<OffsetMove> {
        moved(&self.stored, &self.read)
            .map(|((topic, partition), from, to)| OffsetMove {
                partition: TopicPartition {
                    cluster: self.cluster.clone(),
                    topic: topic.clone(),
                    partition: *partition,
                },
                from,
                to,
            })
            .collect()
    }

    /// Returns whether the store has the current offsets. It may have them although the commit failed.
    pub(super) fn is_in(&self, store: &Store) -> Result<bool, ReadError> {
        for OffsetMove { partition: at, to, .. } in self.moves() {
            if !store.offsets_blocking(&at.cluster, &at.topic)?.contains(&(at.partition, to)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn committed(&mut self) {
        self.stored.clone_from(&self.read);
        self.stored_at = Instant::now();
    }

    /// Returns the offsets to report to Kafka, if a report is due.
    pub(super) fn take_report(&mut self) -> Option<Offsets> {
        if self.told == self.stored || self.told_at.elapsed() < PUT_OFF {
            return None;
        }
        let news = moved(&self.told, &self.stored).map(|(place, _, to)| (place.clone(), to)).collect();
        self.told.clone_from(&self.stored);
        self.told_at = Instant::now();
        Some(news)
    }
}

fn moved<'a>(before: &'a Offsets, after: &'a Offsets) -> impl Iterator<Item = (&'a (String, i32), Option<i64>, i64)> {
    let moves = after.iter().map(|(place, &to)| (place, before.get(place).copied(), to));
    moves.filter(|(_, from, to)| *from != Some(*to))
}
