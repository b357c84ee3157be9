//! Where a record goes that its reader cannot read: a topic of that reader's own, with the original bytes,
//! key and headers, and headers of ours that say where it came from and why.

use std::time::Duration;

use rdkafka::error::KafkaError;

use super::{
    client::Client,
    producer::Producer,
    record::{Received, Record},
};

const ACKNOWLEDGED: Duration = Duration::from_secs(10);

/// The dead-letter topic of a service.
pub fn topic_of(service: &str) -> String {
    format!("{service}.dead-letters")
}

/// The dead-letter topic of one reader.
pub struct DeadLetters {
    client: Client,
    topic: String,
    /// Opened with the first record: most readers never need it.
    producer: Option<Producer>,
}

impl DeadLetters {
    /// The topic, without doing anything yet.
    pub fn new(client: Client, topic: String) -> Self {
        Self { client, topic, producer: None }
    }

    /// Sets a record aside. Once it returns, the record is in the dead-letter topic; after a failure it may
    /// be. One that is set aside twice is recognized by its origin.
    pub fn set_aside(&mut self, record: &Received, reason: &str) -> Result<(), KafkaError> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => Producer::create(&self.client.producer())?,
        };
        producer.send(&letter(&self.topic, record, reason))?;
        producer.wait(ACKNOWLEDGED)?;
        self.producer = Some(producer); // one that failed is not used again
        Ok(())
    }
}

fn letter(topic: &str, record: &Received, reason: &str) -> Record {
    let mut headers = record.headers.clone();
    for (name, value) in [
        ("dead_letter_topic", record.topic.clone()),
        ("dead_letter_partition", record.partition.to_string()),
        ("dead_letter_offset", record.offset.to_string()),
        ("dead_letter_reason", reason.to_owned()),
    ] {
        headers.push((name.to_owned(), Some(value.into_bytes())));
    }
    Record { topic: topic.to_owned(), partition: None, key: record.key.clone(), value: record.value.clone(), headers }
}
