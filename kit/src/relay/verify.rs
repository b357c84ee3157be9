//! Verifies at the start of a session that the topic holds everything that was published.

use std::time::Duration;

use rdkafka::error::KafkaError;
use uuid::Uuid;

use super::{
    BATCH, Publication, RelayError,
    error::SessionEnd,
    published::{Found, LastRecord, Lost, Published},
    writer::{Finished, Writer},
};
use crate::{
    event::{EventId, Position},
    kafka::{
        probe,
        record::Record,
        topic_end::{PartitionEnd, TopicEnds},
        topics::{DECIDED, TopicError},
    },
    store::StoreId,
};

/// The time after which an open transaction in the topic counts as one that nothing ends. The transactions of other
/// stores take milliseconds.
const HANGING: Duration = Duration::from_secs(2);

impl Publication {
    /// Ends transactions of this store that lost their end: the log was cut between their records and the marker.
    /// Until then, no `read_committed` reader can read past them.
    ///
    /// A marker ends all records that its producer has left open in the partition. So each producer writes a record
    /// there, and aborts.
    pub(super) fn end_hanging_transactions(
        &self,
        ends: &TopicEnds<'_>,
        mut writer: Writer,
        partitions: i32,
    ) -> Result<Writer, SessionEnd> {
        let checkpoints = self.checkpoints().name;
        for (topic, partitions) in [(&self.topic.name, partitions), (&checkpoints, 1)] {
            let hanging = ends.undecided(topic, partitions, HANGING)?;
            if hanging.is_empty() {
                continue;
            }
            tracing::warn!(topic, partitions = ?hanging, "ending transactions that were left open");
            let records: Vec<_> = hanging.iter().map(|partition| self.placeholder(topic, *partition)).collect();
            for _ in Writer::TURNS {
                writer = self.expect_aborted(writer.abort(&records))?;
            }
            let hanging = ends.undecided(topic, partitions, DECIDED)?;
            if !hanging.is_empty() {
                return Err(SessionEnd::Topic(TopicError::OpenTransaction {
                    topic: topic.clone(),
                    partitions: hanging,
                }));
            }
        }
        Ok(writer)
    }

    /// Returns the writer for the next transaction, whose turn is that of the other producer. On a slow broker each
    /// transaction costs its writer.
    fn expect_aborted(&self, finished: Finished) -> Result<Writer, SessionEnd> {
        match finished {
            Finished { error: Some(error), .. } => Err(SessionEnd::Kafka(error)),
            Finished { writer: Some(writer), .. } => Ok(writer),
            Finished { writer: None, .. } => {
                Ok(Writer::open(&self.client, &self.transactional_id())?.with_the_other_turn_first())
            }
        }
    }

    /// Returns a record for a transaction that is aborted.
    pub(crate) fn placeholder(&self, topic: &str, partition: i32) -> Record {
        Record {
            topic: topic.to_owned(),
            partition: Some(partition),
            key: Some(self.store.id().to_string().into_bytes()), // a compacted topic takes only records with a key
            value: Some(Vec::new()),
            headers: Vec::new(),
        }
    }

    /// Compares the end of the topic with the store. Returns what the topic holds, or refuses if it has lost events
    /// that were published. All transactions of this store must have ended.
    pub(super) fn verify(
        &self,
        ends: &TopicEnds<'_>,
        checkpoint: Position,
        partitions: i32,
    ) -> Result<Published, SessionEnd> {
        let count = usize::try_from(partitions).unwrap_or_default();
        let stored = self.published()?.filter(|stored| stored.partitions.len() == count);
        let known = |partition: i32| Some(stored.as_ref()?.partitions[usize::try_from(partition).ok()?]);
        let since = |partition| known(partition).map(|last| last.offset.max(0));
        let own = self.source();
        let ends = ends.read(&self.topic.name, &|source| source == own, &since).map_err(|source| {
            if probe::is_damage(&source) {
                return SessionEnd::Topic(TopicError::Damaged { topic: self.topic.name.clone(), source });
            }
            SessionEnd::Kafka(source)
        })?;
        let found: Vec<_> = (0..).zip(&ends).map(|(partition, end)| found(end, known(partition))).collect();

        let mut published = stored.unwrap_or_else(|| Published::nothing(count));
        let through = published.known_through(checkpoint, &found);
        self.refuse_an_older_copy(through, &found)?;
        if published.through == Position::START {
            published.through = before_all(&found);
        }
        while published.through < through {
            let mut events = self.store.read_all_blocking(published.through, BATCH)?;
            events.retain(|event| event.position <= through);
            published.note_events(Self::partitions_of(&events, partitions));
        }
        let published = published.verify(&found).map_err(|Lost { partition, position }| {
            let topic = self.topic.name.clone();
            SessionEnd::Refused(RelayError::TailLost { topic, partition, position, service: self.service })
        })?;
        if checkpoint < through {
            let topic = &self.topic.name;
            tracing::warn!(
                topic,
                checkpoint = checkpoint.0,
                published = through.0,
                "the checkpoint is behind the topic"
            );
        }
        Ok(published)
    }

    /// Returns the store of this service, other than this one, that has published last.
    pub(crate) fn other_store(&self, ends: &TopicEnds<'_>) -> Result<Option<StoreId>, KafkaError> {
        let (prefix, own) = (format!("/{}/", self.service), self.source());
        let is_other = |source: &str| source.starts_with(&prefix) && source != own;
        let ends = ends.read(&self.topic.name, &is_other, &|_| None)?;
        let newest = ends.iter().filter_map(|end| end.newest.as_ref()).max_by_key(|record| record.time);
        Ok(newest.and_then(|record| record.header("ce_source")?.strip_prefix(&prefix)?.parse().ok()))
    }

    /// Returns true if the topic has a record of this store near the end of a partition.
    pub(crate) fn is_in_topic(&self, ends: &TopicEnds<'_>) -> Result<bool, KafkaError> {
        let own = self.source();
        let ends = ends.read(&self.topic.name, &|source| source == own, &|_| None)?;
        Ok(ends.iter().any(|end| end.newest.is_some()))
    }

    /// Refuses a store that does not have the newest events of the topic.
    fn refuse_an_older_copy(&self, through: Position, found: &[Found]) -> Result<(), SessionEnd> {
        let head = *self.store.head().borrow();
        let behind = |checkpoint| RelayError::StoreBehind { head, checkpoint, service: self.service };
        if through > head {
            return Err(behind(through).into());
        }
        for found in found {
            if let Found::Record { position, event, .. } = *found
                && self.event_at(position)? != Some(event)
            {
                return Err(behind(position).into());
            }
        }
        Ok(())
    }
}

/// Returns the position before the oldest of the newest records, if every partition has one. The events up to there do
/// not matter for the comparison.
fn before_all(found: &[Found]) -> Position {
    let positions = found.iter().map(|found| match found {
        Found::Record { position, .. } => position.0.saturating_sub(1),
        Found::Nothing { .. } | Found::Deleted { .. } => 0,
    });
    Position(positions.min().unwrap_or_default())
}

fn found(end: &PartitionEnd, known: Option<LastRecord>) -> Found {
    let &PartitionEnd { low, end, ref newest } = end;
    let Some(record) = newest else {
        let first = known.map_or(0, |last| last.offset + i64::from(last.position == Position::START));
        return if low > first { Found::Deleted { low } } else { Found::Nothing { end } };
    };
    let number = record.header("ce_sequence").and_then(|text| text.parse().ok());
    let event = record.header("ce_id").and_then(EventId::parse);
    Found::Record {
        position: Position(number.unwrap_or_default()),
        event: event.unwrap_or(EventId(Uuid::nil())), // in no store
        offset: record.offset,
    }
}
