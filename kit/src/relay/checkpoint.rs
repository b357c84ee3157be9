//! The checkpoint: a record in a compacted topic that says how far a store is published. It is written in the
//! transaction that publishes the events.
//!
//! It is a record and not a group offset, because the offsets of an idle group expire after seven days.

use std::ops::Range;

use rdkafka::{Message as _, Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaError};
use uuid::Uuid;

use crate::kafka::{
    client::{self, Client, Consumer},
    record::Record,
    topics,
};
use crate::{
    event::{EventId, Position},
    store::StoreId,
};

/// The only partition of the topic: checkpoints are few and their order matters.
const PARTITION: i32 = 0;

/// Stands in place of the event's id when the store has no event yet.
const NO_EVENT: &str = "-";

/// The number of offsets at the end of the topic that are read first. Each published transaction takes two of them: a
/// record and a transaction marker.
const FIRST_LOOK: i64 = 200;

/// Returns the name of the topic of a service's checkpoints.
pub fn topic_of(service: &str) -> String {
    format!("{service}.checkpoints")
}

/// States that everything up to a position is published, and by which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The position of the last published event.
    pub position: Position,
    /// The event at that position. Another store, or an older copy that continued with other events, has another event
    /// there.
    pub event: Option<EventId>,
    /// The process that published last, or that claimed last to be the publisher.
    pub publisher: Publisher,
    /// The number of the publisher's term. Each publisher has a higher one than the publisher that it replaces.
    pub term: u64,
}

/// The id of a process that publishes a store. Each start of a process has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publisher(pub Uuid);

impl Publisher {
    /// Returns a new id, for this process.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

/// Returns the record of a checkpoint.
pub fn record(topic: &str, store: StoreId, checkpoint: Checkpoint) -> Record {
    let Checkpoint { position, event, publisher, term } = checkpoint;
    let event = event.map_or_else(|| NO_EVENT.to_owned(), |event| event.to_string());
    let value = format!("{position} {event} {} {term}", publisher.0);
    Record {
        topic: topic.to_owned(),
        partition: Some(PARTITION),
        key: Some(store.to_string().into_bytes()),
        value: Some(value.into_bytes()),
        headers: Vec::new(),
    }
}

/// Reads the checkpoints of one store.
pub struct Checkpoints<'a> {
    client: &'a Client,
    consumer: Consumer,
    topic: &'a str,
    store: StoreId,
}

impl<'a> Checkpoints<'a> {
    /// Creates a reader. It reads nothing yet.
    pub fn open(client: &'a Client, topic: &'a str, store: StoreId) -> Result<Self, KafkaError> {
        let mut config = client.consumer();
        config.set("enable.partition.eof", "true");
        config.set("fetch.wait.max.ms", "10"); // an empty fetch is how the end is found
        Ok(Self { client, consumer: client::create(&config)?, topic, store })
    }

    /// Returns the newest committed checkpoint, or `None` if there is none. A newer one may be in an open transaction.
    pub fn committed(&self) -> Result<Option<Checkpoint>, KafkaError> {
        let (low, high) = topics::watermarks(&self.consumer, self.topic, PARTITION)?;
        self.newest(low, high)
    }

    /// Waits until every transaction in the topic is committed or aborted, and returns the newest checkpoint, or `None`
    /// if there is none. The result is final if a writer of the store's `transactional.id` was opened before, because
    /// that fences all earlier writers.
    pub fn decided(&self) -> Result<Option<Checkpoint>, KafkaError> {
        // Other stores write here too. A newer checkpoint of this store may stand behind an open transaction of theirs.
        let (low, high) = topics::wait_until_decided(self.client, &self.consumer, self.topic, PARTITION)?;
        self.newest(low, high)
    }

    fn newest(&self, low: i64, high: i64) -> Result<Option<Checkpoint>, KafkaError> {
        let mut look = FIRST_LOOK;
        loop {
            let start = low.max(high - look);
            let found = newest_since(&self.consumer, self.topic, self.store, start..high)?;
            self.consumer.unassign()?;
            if found.is_some() || start == low {
                return Ok(found);
            }
            look *= 50;
        }
    }
}

fn newest_since(
    consumer: &Consumer,
    topic: &str,
    store: StoreId,
    offsets: Range<i64>,
) -> Result<Option<Checkpoint>, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, PARTITION, Offset::Offset(offsets.start))?;
    consumer.assign(&assignment)?;
    let key = store.to_string();
    let mut newest = None;
    while let Some(record) = client::next_before(consumer, offsets.end)? {
        if record.key() == Some(key.as_bytes()) {
            match parse(record.payload()) {
                Some(checkpoint) => newest = Some(checkpoint),
                None => tracing::warn!(topic, offset = record.offset(), "skipping a record that is not a checkpoint"),
            }
        }
    }
    Ok(newest)
}

fn parse(value: Option<&[u8]>) -> Option<Checkpoint> {
    let mut words = std::str::from_utf8(value?).ok()?.split(' ');
    let position = Position(words.next()?.parse().ok()?);
    let event = match words.next() {
        None | Some(NO_EVENT) => None,
        Some(id) => Some(EventId::parse(id)?),
    };
    // Checkpoints of the oldest versions name no publisher, and those of 0.1.0 have no term.
    let publisher = Publisher(words.next().map_or(Ok(Uuid::nil()), str::parse).ok()?);
    let term = words.next().map_or(Ok(0), str::parse).ok()?;
    Some(Checkpoint { position, event, publisher, term })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_of_all_versions_are_read() {
        let (event, publisher) = (EventId::generate(), Publisher::generate());
        let checkpoint = Checkpoint { position: Position(7), event: Some(event), publisher, term: 3 };
        let written = record("s.checkpoints", StoreId(Uuid::now_v7()), checkpoint);
        assert_eq!(parse(written.value.as_deref()), Some(checkpoint));
        let first = format!("7 {event} {}", publisher.0);
        assert_eq!(parse(Some(first.as_bytes())), Some(Checkpoint { term: 0, ..checkpoint }));
        let oldest = Checkpoint { position: Position(7), event: None, publisher: Publisher(Uuid::nil()), term: 0 };
        assert_eq!(parse(Some(b"7")), Some(oldest));
    }

    #[test]
    fn what_is_not_a_checkpoint_is_not_read() {
        for value in [None, Some(&b""[..]), Some(b"x"), Some(b"7 x"), Some(b"7 - x"), Some(&[0xff])] {
            assert_eq!(parse(value), None, "{value:?}");
        }
    }
}
