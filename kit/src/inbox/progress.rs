//! The offsets up to which the topics are consumed: in memory, in the store, and as reported to Kafka's lag tools.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{agreement, verification};
use crate::{
    kafka::record::Received,
    store::{ConsumedRecord, OffsetMove, ReadError, SourceProgress, Store, TopicPartition},
};

/// The longest time for which offsets without an effect are not committed. Each commit costs a sync or a request.
const PUT_OFF: Duration = Duration::from_secs(1);

/// The offset of the next record of each partition of each topic.
pub(super) type Offsets = HashMap<(String, i32), i64>;

/// The last consumed record of each source, for each partition of each topic.
pub(super) type Sources = HashMap<(String, i32), Vec<SourceProgress>>;

/// The offsets up to which the topics are consumed.
pub(super) struct Progress {
    cluster: String,
    /// All assigned partitions.
    partitions: Vec<(String, i32)>,
    /// The offsets after the records that were handled, with or without an effect.
    pub(super) read: Offsets,
    /// The offsets in the store. They may lag behind by records without an effect, which can be consumed again.
    stored: Offsets,
    stored_at: Instant,
    sources: Sources,
    /// The partitions whose sources have changed since they were stored.
    changed: HashSet<(String, i32)>,
    /// The offsets that were reported to Kafka.
    told: Offsets,
    told_at: Instant,
}

impl Progress {
    pub(super) fn new(cluster: String, partitions: Vec<(String, i32)>, stored: Offsets, sources: Sources) -> Self {
        let now = Instant::now();
        let (read, told, changed) = (stored.clone(), stored.clone(), HashSet::new());
        Self { cluster, partitions, read, stored, stored_at: now, sources, changed, told, told_at: now }
    }

    /// Adds consumed records, and returns those that were not handled before.
    pub(super) fn add(&mut self, batch: Vec<Received>) -> Vec<Received> {
        let mut note = |record: &Received| {
            let place = (record.topic.clone(), record.partition);
            self.read.insert(place.clone(), record.offset + 1);
            let sources = self.sources.entry(place.clone()).or_default();
            self.changed.insert(place);
            !agreement::note_consumed(sources, verification::mark(record))
        };
        batch.into_iter().filter(|record| note(record)).collect()
    }

    pub(super) fn partitions(&self) -> &[(String, i32)] {
        &self.partitions
    }

    /// Returns the offset of the next record of a partition.
    ///
    /// Without a stored offset it is 0, not that of the first record that is left. So a record that was deleted before
    /// it was consumed is an error.
    pub(super) fn next_of(&self, place: &(String, i32)) -> i64 {
        self.read.get(place).copied().unwrap_or(0)
    }

    pub(super) fn sources_of(&self, place: &(String, i32)) -> &[SourceProgress] {
        self.sources.get(place).map_or(&[], Vec::as_slice)
    }

    /// Goes back in a partition that has lost its tail.
    pub(super) fn go_back(&mut self, place: &(String, i32), from: i64, agreed: Option<&ConsumedRecord>) {
        self.read.insert(place.clone(), from);
        agreement::note_lost_tail(self.sources.entry(place.clone()).or_default(), from, agreed);
        self.changed.insert(place.clone());
    }

    /// Resumes at an offset, and returns the move from the stored one.
    pub(super) fn skipping(&mut self, place: &(String, i32), next: i64) -> OffsetMove {
        let from = self.stored.insert(place.clone(), next);
        self.read.insert(place.clone(), next);
        OffsetMove { partition: self.partition(place), from, to: next }
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
            .map(|(place, from, to)| OffsetMove { partition: self.partition(place), from, to })
            .collect()
    }

    /// Returns the sources to be stored together with the moves.
    pub(super) fn changed_sources(&self) -> Vec<(TopicPartition, SourceProgress)> {
        let of = |place| self.sources.get(place).into_iter().flatten().cloned();
        self.changed.iter().flat_map(|place| of(place).map(|source| (self.partition(place), source))).collect()
    }

    fn partition(&self, (topic, partition): &(String, i32)) -> TopicPartition {
        TopicPartition { cluster: self.cluster.clone(), topic: topic.clone(), partition: *partition }
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
        self.changed.clear();
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
