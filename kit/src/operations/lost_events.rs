//! Events that were published and that the topic has lost, and their publication by `reconcile`.

use std::collections::BTreeSet;

use rdkafka::error::KafkaError;

use super::reconcile::ReconcileError;
use crate::{
    event::{Event, Position},
    kafka::{record::Received, topic_end::TopicEnds},
    relay::{
        Publication,
        checkpoint::{Checkpoint, Publisher},
        published::Published,
        transaction::Outcome,
        writer::{Finished, Writer},
    },
};

/// The number of events that are read or published at a time.
const BATCH: usize = 500;

/// The number of offsets that are filled beyond the estimated former end of a partition.
const MARGIN: i64 = 1000;

/// Events of the store that are not in the topic.
pub(super) struct LostEvents {
    /// The position and the partition of each, in the order of the store.
    pub(super) events: Vec<(Position, usize)>,
    /// The number of partitions of the topic.
    pub(super) partitions: i32,
    /// The position of the last record of each partition.
    last: Vec<Position>,
}

impl LostEvents {
    pub(super) fn new(partitions: i32) -> Self {
        let last = vec![Position::START; usize::try_from(partitions).unwrap_or_default()];
        Self { events: Vec::new(), partitions, last }
    }

    /// Notes events that the topic does not have.
    pub(super) fn note(&mut self, events: Vec<Event>) {
        self.events.extend(Publication::partitions_of(&events, self.partitions));
    }

    /// Notes a record of the topic.
    pub(super) fn found(&mut self, record: &Received, position: Position) {
        if let Some(last) = self.last.get_mut(record.partition as usize) {
            *last = position;
        }
    }

    /// Refuses to publish an event behind a later one of its partition.
    pub(super) fn refuse_holes(&self) -> Result<(), ReconcileError> {
        let is_hole = |(position, partition): &&(Position, usize)| self.last.get(*partition) > Some(position);
        let Some((position, partition)) = self.events.iter().find(is_hole) else { return Ok(()) };
        let holes = self.events.iter().filter(is_hole).count();
        Err(ReconcileError::Contradiction(format!(
            "the topic lacks {holes} events before later ones of the same partition, the first at position {position} \
             in partition {partition}: published now, they would be out of order"
        )))
    }

    /// Refuses to publish events again whose records may have been deleted on purpose: the partition has lost its beginning
    /// and has no record of the store.
    pub(super) fn refuse_deleted(&self, without_beginning: &[usize]) -> Result<(), ReconcileError> {
        let is_deleted = |(_, partition): &&(Position, usize)| {
            without_beginning.contains(partition) && self.last.get(*partition) == Some(&Position::START)
        };
        match self.events.iter().find(is_deleted) {
            Some((_, partition)) => Err(ReconcileError::Contradiction(format!(
                "records at the beginning of partition {partition} were deleted, and it has no event of the store"
            ))),
            None => Ok(()),
        }
    }

    /// Formats the partitions that have lost events.
    pub(super) fn place(&self) -> String {
        let partitions: BTreeSet<_> = self.events.iter().map(|(_, partition)| *partition).collect();
        let numbers: Vec<_> = partitions.iter().map(usize::to_string).collect();
        let noun = if partitions.len() == 1 { "partition" } else { "partitions" };
        format!("{noun} {}", numbers.join(", "))
    }

    /// Publishes the events again, each where it was, with the checkpoint after the last one.
    ///
    /// Consumers may have read the lost records, and skip records that take their offsets. So the partitions are first
    /// filled up to their former ends with records of aborted transactions, which no `read_committed` reader sees.
    pub(super) fn publish(
        &self,
        publication: &Publication,
        mut writer: Writer,
        checkpoint: Option<Checkpoint>,
        noted: &Published,
    ) -> Result<(), ReconcileError> {
        writer = self.fill(publication, writer, noted)?;
        let term = checkpoint.map_or(1, |checkpoint| checkpoint.term + 1);
        let through = self.events.last().map(|(position, _)| *position);
        let through = through.max(checkpoint.map(|checkpoint| checkpoint.position)).unwrap_or_default();
        let event = publication.event_at(through)?;
        let reached = Checkpoint { position: through, event, publisher: Publisher::generate(), term };
        let mut wanted: BTreeSet<_> = self.events.iter().map(|(position, _)| *position).collect();
        while let Some(first) = wanted.first().copied() {
            let mut events = publication.store.read_all_blocking(Position(first.0 - 1), BATCH)?;
            events.retain(|event| wanted.remove(&event.position));
            let mut records = publication.records(&events, self.partitions);
            records.push(publication.checkpoint_record(reached));
            writer = expect(publication, Outcome::Committed, writer.commit(&records))?;
        }
        Ok(())
    }

    fn fill(&self, publication: &Publication, mut writer: Writer, noted: &Published) -> Result<Writer, ReconcileError> {
        let topic = &publication.topic.name;
        let ends = TopicEnds::open(&publication.client)?.read(topic, &|_| true, &|_| None)?;
        for (partition, end) in ends.iter().enumerate() {
            let count = self.events.iter().filter(|(_, lost)| *lost == partition).count();
            if count == 0 {
                continue;
            }
            let noted = noted.partitions.get(partition).map_or(0, |last| last.offset);
            // Each event took an offset, and each transaction one more for its marker.
            let former_end = noted.max(end.end + 2 * i64::try_from(count).unwrap_or(i64::MAX / 4)) + MARGIN;
            let number = i32::try_from(partition).unwrap_or(i32::MAX);
            let records = vec![publication.placeholder(topic, number); BATCH];
            let mut reached = end.end;
            while reached < former_end {
                let finished = writer.abort(&records);
                reached = finished.acknowledged.iter().map(|sent| sent.last).fold(reached, i64::max);
                writer = expect(publication, Outcome::NotCommitted, finished)?;
            }
        }
        Ok(writer)
    }
}

/// Returns the writer for the next transaction. A slow broker costs a writer with each transaction.
fn expect(publication: &Publication, outcome: Outcome, finished: Finished) -> Result<Writer, KafkaError> {
    match finished {
        Finished { error: Some(error), .. } => Err(error),
        Finished { writer: Some(writer), .. } => Ok(writer),
        Finished { writer: None, outcome: actual, .. } if actual == outcome => {
            Writer::open(&publication.client, &publication.transactional_id())
        }
        Finished { .. } => Err(KafkaError::Canceled),
    }
}
