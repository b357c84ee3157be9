//! How far a store has been published: a record in a compacted topic, written in the transaction that publishes.
//!
//! A record and not a group offset, because those of an idle group expire after seven days.

use std::time::{Duration, Instant};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    client::{self, ANSWER, Client, Consumer},
    record::Record,
};
use crate::{event::Position, store::StoreId};

/// The topic has one partition: checkpoints are few and their order matters.
const PARTITION: i32 = 0;

/// How many offsets at the topic's end are read first. Each publish leaves a record and a marker there.
const FIRST_LOOK: i64 = 200;

/// The topic of a service's checkpoints.
pub fn topic_of(service: &str) -> String {
    format!("{service}.checkpoints")
}

/// The record that says: everything up to `position` is published.
pub fn record(topic: &str, store: StoreId, position: Position) -> Record {
    Record {
        topic: topic.to_owned(),
        partition: Some(PARTITION),
        key: Some(store.to_string().into_bytes()),
        value: Some(position.to_string().into_bytes()),
        headers: Vec::new(),
    }
}

/// Reads the newest checkpoint of a store; `None` when there is none.
///
/// What it reads is final only after every writer of the store's `transactional.id` was opened anew.
pub fn read(client: &Client, topic: &str, store: StoreId) -> Result<Option<Position>, KafkaError> {
    let mut config = client.consumer("checkpoints"); // no offsets are ever committed under it
    config.set("enable.partition.eof", "true");
    config.set("fetch.wait.max.ms", "10"); // the end is told by an empty fetch
    let consumer: Consumer = client::create(&config)?;
    let (low, high) = consumer.fetch_watermarks(topic, PARTITION, ANSWER)?;
    let mut look = FIRST_LOOK;
    loop {
        let start = low.max(high - look);
        let found = newest_since(&consumer, topic, store, start)?;
        if found.is_some() || start == low {
            return Ok(found);
        }
        look *= 50;
    }
}

fn newest_since(consumer: &Consumer, topic: &str, store: StoreId, start: i64) -> Result<Option<Position>, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, PARTITION, Offset::Offset(start))?;
    consumer.assign(&assignment)?;
    let key = store.to_string();
    let mut newest = None;
    let mut deadline = Instant::now() + ANSWER;
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => {
                deadline = Instant::now() + ANSWER;
                if record.key() == Some(key.as_bytes()) {
                    newest = Some(position(record.payload())?);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(newest),
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
            )))
            | None
                if Instant::now() < deadline => {}
            Some(Err(error)) => return Err(error),
            None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
        }
    }
}

fn position(value: Option<&[u8]>) -> Result<Position, KafkaError> {
    value
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
        .map(Position)
        .ok_or(KafkaError::MessageConsumption(RDKafkaErrorCode::BadMessage))
}
