//! Looks up single records of partitions, to verify that the log still has them.

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::kafka::{
    client::{self, Client, Consumer},
    record::Received,
    topics,
};

/// Returns whether an error says that a batch is not what its producer wrote.
pub(crate) fn is_damage(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{BadCompression, BadMessage, InvalidMessage};
    matches!(error, KafkaError::MessageConsumption(BadMessage | BadCompression | InvalidMessage))
}

fn is_unknown(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    matches!(error.rdkafka_error_code(), Some(UnknownPartition | UnknownTopic | UnknownTopicOrPartition))
}

/// Looks up records of any partition.
pub(crate) struct Probe(Consumer);

/// The result of a look-up at an offset: the first record at it or after it.
pub(crate) enum Found {
    /// A committed record.
    Record(Box<Received>),
    /// Bytes that are not what the producer wrote.
    Damaged,
    /// No further record.
    End,
}

impl Probe {
    pub(crate) fn open(client: &Client) -> Result<Self, KafkaError> {
        let mut config = client.consumer();
        config.set("enable.partition.eof", "true");
        // A request waits until the broker has answered the fetch before it, which has nothing to fetch.
        config.set("fetch.wait.max.ms", "5");
        client::create(&config).map(Self)
    }

    /// Returns the first offset of a partition, and the offset after its last decided record.
    pub(crate) fn range(&self, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
        topics::watermarks(&self.0, topic, partition)
    }

    /// Returns the record at an offset, if the partition has it.
    pub(crate) fn record_at(&self, topic: &str, partition: i32, offset: i64) -> Result<Option<Received>, KafkaError> {
        let (low, end) = match self.range(topic, partition) {
            Err(error) if is_unknown(&error) => return Ok(None),
            range => range?,
        };
        if !(low..end).contains(&offset) {
            return Ok(None);
        }
        Ok(match self.first_from(topic, partition, offset, end)? {
            Found::Record(record) if record.offset == offset => Some(*record),
            Found::Record(_) | Found::Damaged | Found::End => None,
        })
    }

    /// Returns the first record at or after an offset and before `end`.
    pub(crate) fn first_from(&self, topic: &str, partition: i32, offset: i64, end: i64) -> Result<Found, KafkaError> {
        if offset >= end {
            return Ok(Found::End);
        }
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        self.0.assign(&assignment)?;
        let next = client::next_before(&self.0, end);
        let next = next.map(|message| message.map(|message| Box::new(Received::from_librdkafka(&message))));
        self.0.unassign()?;
        match next {
            Ok(Some(record)) => Ok(Found::Record(record)),
            Ok(None) => Ok(Found::End),
            Err(error) if is_damage(&error) => Ok(Found::Damaged),
            Err(error) => Err(error),
        }
    }
}
