//! How far a store has been published: a record in a compacted topic, written in the transaction that publishes.
//!
//! A record and not a group offset, because those of an idle group expire after seven days.

use std::ops::Range;

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
};
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

/// The topic has one partition: checkpoints are few and their order matters.
const PARTITION: i32 = 0;

/// Stands where the event would, before the first one.
const NO_EVENT: &str = "-";

/// How many offsets at the topic's end are read first. Each publish leaves a record and a marker there.
const FIRST_LOOK: i64 = 200;

/// The topic of a service's checkpoints.
pub fn topic_of(service: &str) -> String {
    format!("{service}.checkpoints")
}

/// A checkpoint: everything up to a position is published, which event that was, and who wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The position.
    pub position: Position,
    /// The event at that position: another store, or an older copy that went its own way, has another one there.
    pub event: Option<EventId>,
    /// The process that published last, or was the last to claim that it would.
    pub publisher: Publisher,
}

/// A process that publishes a store: a new one at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publisher(pub Uuid);

impl Publisher {
    /// This process, as of now.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

/// The record of a checkpoint.
pub fn record(topic: &str, store: StoreId, checkpoint: Checkpoint) -> Record {
    let Checkpoint { position, event, publisher } = checkpoint;
    let event = event.map_or_else(|| NO_EVENT.to_owned(), |event| event.to_string());
    let value = format!("{position} {event} {}", publisher.0);
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
    /// A reader, without reading yet.
    pub fn open(client: &'a Client, topic: &'a str, store: StoreId) -> Result<Self, KafkaError> {
        let mut config = client.consumer();
        config.set("enable.partition.eof", "true");
        config.set("fetch.wait.max.ms", "10"); // the end is told by an empty fetch
        Ok(Self { client, consumer: client::create(&config)?, topic, store })
    }

    /// The newest one that is committed; `None` when there is none. A newer one may be under way.
    pub fn committed(&self) -> Result<Option<Checkpoint>, KafkaError> {
        let (low, high) = topics::watermarks(&self.consumer, self.topic, PARTITION)?;
        self.newest(low, high)
    }

    /// The newest one, once everything in the topic is decided; `None` when there is none. It is final if every writer
    /// of the store's `transactional.id` was opened anew before.
    pub fn decided(&self) -> Result<Option<Checkpoint>, KafkaError> {
        // Other stores write here too: a newer checkpoint of this one may be behind an open transaction of theirs.
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
            newest = Some(parse(record.payload())?);
        }
    }
    Ok(newest)
}

fn parse(value: Option<&[u8]>) -> Result<Checkpoint, KafkaError> {
    let parsed = value.and_then(|value| {
        let mut words = std::str::from_utf8(value).ok()?.split(' ');
        let position = Position(words.next()?.parse().ok()?);
        let event = match words.next() {
            None | Some(NO_EVENT) => None,
            Some(id) => Some(EventId::parse(id)?),
        };
        // Before there were publishers, there was none to name.
        let publisher = Publisher(words.next().map_or(Ok(Uuid::nil()), str::parse).ok()?);
        Some(Checkpoint { position, event, publisher })
    });
    parsed.ok_or(KafkaError::MessageConsumption(RDKafkaErrorCode::BadMessage))
}
