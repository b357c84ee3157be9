//! Damaged batches: bytes in Kafka's log that are not what the producer wrote, such as a flipped bit on a broker's disk.
//!
//! librdkafka reports a damaged batch without its place. It is found by reading each partition at its next offset. Its
//! partition is not consumed any more, and the others continue. An operator repairs the log, or skips the batch by a
//! decision that is published to the topic of retries.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use prost_types::Timestamp;
use rdkafka::error::KafkaError;

use super::{
    dead_letters::{DeadLetters, Origin},
    error::SessionEnd,
    progress::Progress,
};
use crate::{
    kafka::{
        client::Client,
        probe::{Found, Probe},
        record::Received,
    },
    store::{Commit, CommitError, Store},
};

/// The interval at which damaged partitions are read again. Their logs may have been repaired.
const LOOK: Duration = Duration::from_secs(30);

/// The partitions that wait at a damaged batch.
pub(super) struct Damage {
    partitions: BTreeSet<(String, i32)>,
    looked_at: Instant,
}

impl Damage {
    pub(super) fn none() -> Self {
        Self { partitions: BTreeSet::new(), looked_at: Instant::now() }
    }

    pub(super) fn contains(&self, place: &(String, i32)) -> bool {
        self.partitions.contains(place)
    }

    /// Finds the partitions whose next batch is damaged. Returns whether they are others than before.
    pub(super) fn find(&mut self, client: &Client, progress: &Progress) -> Result<bool, SessionEnd> {
        self.looked_at = Instant::now();
        let probe = Probe::open(client).map_err(SessionEnd::Kafka)?;
        let mut found = BTreeSet::new();
        for place in progress.partitions() {
            let next = progress.next_of(place);
            if !is_damaged(&probe, place, next).map_err(SessionEnd::Kafka)? {
                continue;
            }
            if !self.contains(place) {
                let batch = format!("{}/{}@{next}", place.0, place.1);
                tracing::error!(
                    batch,
                    "a batch in Kafka's log is damaged: its partition waits, the others continue; \
                     restore the log, or run `dead-letters skip {batch}`"
                );
            }
            found.insert(place.clone());
        }
        let is_changed = found != self.partitions;
        self.partitions = found;
        Ok(is_changed)
    }

    /// Looks again at the partitions that wait, if it is time. Returns whether any can be consumed again.
    pub(super) fn is_repaired(&mut self, client: &Client, progress: &Progress) -> Result<bool, SessionEnd> {
        if self.partitions.is_empty() || self.looked_at.elapsed() < LOOK {
            return Ok(false);
        }
        self.find(client, progress)
    }

    /// Skips the damaged batch that an operator gives up, and returns whether there is one. Each of its offsets becomes
    /// a dead letter by reference, so that it can be replayed if the log is repaired later.
    pub(super) fn skip(
        &mut self,
        given_up: &Origin,
        client: &Client,
        store: &Store,
        progress: &mut Progress,
        dead_letters: &mut DeadLetters,
    ) -> Result<bool, SessionEnd> {
        let place = (given_up.topic.clone(), given_up.partition);
        let first = progress.next_of(&place);
        let probe = Probe::open(client).map_err(SessionEnd::Kafka)?;
        if !progress.partitions().contains(&place)
            || first != given_up.offset
            || !is_damaged(&probe, &place, first).map_err(SessionEnd::Kafka)?
        {
            tracing::warn!(batch = %given_up, "there is no damaged batch to be skipped");
            return Ok(false);
        }
        let next = end_of(&probe, &place, first).map_err(SessionEnd::Kafka)?;
        for offset in first..next {
            let reason = format!("the batch of the offsets {first} to {} was damaged, and skipped", next - 1);
            dead_letters.send_reference(&Origin { offset, ..given_up.clone() }, &reason).map_err(SessionEnd::Kafka)?;
        }
        let committed = record(store, given_up, next).and_then(|()| {
            store.commit_blocking(Commit { offsets: vec![progress.skipping(&place, next)], ..Commit::default() })
        });
        match committed {
            Ok(_) => {}
            // The next session reads the offset from the store, and the decision again if it was not carried out.
            Err(CommitError::Unavailable(_) | CommitError::Overloaded) => return Err(SessionEnd::Displaced),
            Err(error) => return Err(SessionEnd::Refused(super::InboxError::Commit(error))),
        }
        self.partitions.remove(&place);
        tracing::warn!(batch = %given_up, next, "skipped a damaged batch: its offsets are dead letters");
        Ok(true)
    }
}

/// Records the decision in the store.
fn record(store: &Store, given_up: &Origin, next: i64) -> Result<(), CommitError> {
    let time = Timestamp::from(SystemTime::now());
    store.set_fact_blocking(&format!("skipped {given_up}"), &format!("to offset {next} at {time}"))
}

fn is_damaged(probe: &Probe, (topic, partition): &(String, i32), offset: i64) -> Result<bool, KafkaError> {
    let (low, end) = probe.range(topic, *partition)?;
    Ok(offset >= low && matches!(probe.first_from(topic, *partition, offset, end)?, Found::Damaged))
}

/// Returns the offset after a damaged batch. The broker returns the whole batch for each offset in it.
fn end_of(probe: &Probe, (topic, partition): &(String, i32), first: i64) -> Result<i64, KafkaError> {
    let (_, end) = probe.range(topic, *partition)?;
    let mut next = first + 1;
    while matches!(probe.first_from(topic, *partition, next, end)?, Found::Damaged) {
        next += 1;
    }
    Ok(next)
}

/// Takes the decisions of operators out of a batch.
pub(super) fn take_decisions(batch: &mut Vec<Received>) -> Vec<Origin> {
    let decisions = batch.iter().filter_map(super::dead_letters::given_up).collect();
    batch.retain(|record| super::dead_letters::given_up(record).is_none());
    decisions
}
