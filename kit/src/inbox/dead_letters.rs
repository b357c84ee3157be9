//! Dead letters: the records that a service cannot read. Each is published to the service's own dead-letter topic with
//! its original value, key and headers. Additional headers give its origin and the reason.
//!
//! A record that is too large for that becomes a dead letter by reference: only the additional headers. Its value stays
//! in the topic that it came from, and a replay reads it from there.

use std::{fmt, str::FromStr, time::Duration};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::{
    kafka::{
        client::Client,
        producer::Producer,
        record::{Received, Record},
    },
    runtime::line_limit::LineLimit,
};

const ACKNOWLEDGED: Duration = Duration::from_secs(10);

const RETRIES: &str = ".retries";

/// The longest key and header that a dead letter by reference keeps, in bytes.
const LONGEST: usize = 4096;

/// Returns the name of a service's dead-letter topic.
pub fn topic_of(service: &str) -> String {
    format!("{service}.dead-letters")
}

/// Returns the name of a service's topic of replayed records. The service reads it besides the topics that it follows.
pub fn retries_of(service: &str) -> String {
    format!("{service}{RETRIES}")
}

/// Publishes to the dead-letter topic of one service.
pub struct DeadLetters {
    client: Client,
    topic: String,
    /// Opened with the first record, because most services never need it.
    producer: Option<Producer>,
    /// Anyone who writes to a followed topic can cause dead letters.
    pub(super) lines: LineLimit,
}

impl DeadLetters {
    /// Creates the publisher. It does not connect yet.
    pub fn new(client: Client, topic: String) -> Self {
        Self { client, topic, producer: None, lines: LineLimit::new() }
    }

    /// Dead-letters a record. When it returns `Ok`, the record is in the dead-letter topic; after an error it may be
    /// there. A record that is there twice is recognized by its origin.
    pub fn send(&mut self, record: &Received, reason: &str) -> Result<(), KafkaError> {
        let letter = letter(&self.topic, record, reason);
        match self.publish(&letter) {
            Err(error) if is_too_large(&error) => self.publish(&reference(letter)),
            result => result,
        }
    }

    /// Dead-letters a record that cannot be read, by reference.
    pub(crate) fn send_reference(&mut self, origin: &Origin, reason: &str) -> Result<(), KafkaError> {
        let headers = [ours(origin, 1), vec![(REASON.to_owned(), Some(reason.as_bytes().to_vec()))]].concat();
        let topic = self.topic.clone();
        self.publish(&reference(Record { topic, partition: None, key: None, value: None, headers }))
    }

    fn publish(&mut self, letter: &Record) -> Result<(), KafkaError> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => Producer::create(&self.client.producer())?,
        };
        producer.send(letter)?;
        producer.wait(ACKNOWLEDGED)?;
        self.producer = Some(producer); // a producer that failed is not used again
        Ok(())
    }
}

fn is_too_large(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidMessageSize, MessageBatchTooLarge, MessageSizeTooLarge};
    matches!(error.rdkafka_error_code(), Some(MessageSizeTooLarge | MessageBatchTooLarge | InvalidMessageSize))
}

/// The headers that are added to a dead letter and to its replay. None of them is part of the event.
const TOPIC: &str = "dead_letter_topic";
const PARTITION: &str = "dead_letter_partition";
const OFFSET: &str = "dead_letter_offset";
const FAILURES: &str = "dead_letter_failures";
const REASON: &str = "dead_letter_reason";
/// Header of a dead letter, or of its replay, without the value, key and headers of the record. They are in the topic
/// that it came from.
const REFERENCE: &str = "dead_letter_reference";
/// Header of an operator's decision in the topic of retries to skip the damaged batch at this origin.
const SKIP: &str = "dead_letter_skip";
/// Header of a replay marker, which says that the letter with the same origin and number of failures was replayed.
const PUT_BACK: &str = "dead_letter_put_back";

/// The place from which a failed record was consumed first: `topic/partition@offset`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}@{}", self.topic, self.partition, self.offset))
    }
}

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (rest, offset) = text.rsplit_once('@')?;
            let (topic, partition) = rest.rsplit_once('/')?;
            Some(Self { topic: topic.to_owned(), partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        };
        parse().ok_or("must be of the form topic/partition@offset, as `list` shows it")
    }
}

impl Origin {
    /// Returns the origin of a record. For a replay it is the place where the record was consumed first.
    pub(crate) fn of(record: &Received) -> Self {
        Self::told_by(record).unwrap_or_else(|| Self::place_of(record))
    }

    fn place_of(record: &Received) -> Self {
        Self { topic: record.topic.clone(), partition: record.partition, offset: record.offset }
    }

    fn told_by(record: &Received) -> Option<Self> {
        Some(Self {
            topic: record.header(TOPIC)?.to_owned(),
            partition: record.header(PARTITION)?.parse().ok()?,
            offset: record.header(OFFSET)?.parse().ok()?,
        })
    }
}

/// Returns true if a record is a replay of a dead letter.
pub(crate) fn is_retry(record: &Received) -> bool {
    record.topic.ends_with(RETRIES)
}

/// Returns the place of the record that a replay refers to, if it has only a reference.
pub(crate) fn referenced(record: &Received) -> Option<Origin> {
    if is_retry(record) && record.header(REFERENCE).is_some() { Origin::told_by(record) } else { None }
}

/// Returns the replay that a reference stands for: the referenced record, at the place of the replay.
pub(crate) fn dereferenced(replay: &Received, record: Received) -> Received {
    let added = |(name, _): &&(String, Option<Vec<u8>>)| name.starts_with("dead_letter_") && name != REFERENCE;
    let headers = [theirs(&record), replay.headers.iter().filter(added).cloned().collect()].concat();
    let Received { topic, partition, offset, time, .. } = replay.clone();
    Received { topic, partition, offset, time, headers, ..record }
}

/// Returns the decision to skip a damaged batch, for the topic of retries.
pub(crate) fn give_up(origin: &Origin, retries: &str, partition: i32) -> Record {
    let mut headers = ours(origin, 1);
    headers.push((SKIP.to_owned(), Some(b"true".to_vec())));
    Record { topic: retries.to_owned(), partition: Some(partition), key: None, value: None, headers }
}

/// Reads a decision to skip a damaged batch.
pub(crate) fn given_up(record: &Received) -> Option<Origin> {
    if is_retry(record) && record.header(SKIP).is_some() { Origin::told_by(record) } else { None }
}

/// Returns how often a record has failed before.
fn failures(record: &Received) -> u32 {
    record.header(FAILURES).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A record in a dead-letter topic.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) origin: Origin,
    /// The number of times that the record could not be read.
    pub(crate) failures: u32,
    /// The reason for the last failure.
    pub(crate) reason: String,
    pub(crate) record: Received,
}

impl Letter {
    /// Reads a dead letter. Returns `None` if the record is none.
    pub(crate) fn of(record: Received) -> Option<Self> {
        let origin = Origin::told_by(&record)?;
        let reason = record.header(REASON).unwrap_or_default().to_owned();
        Some(Self { origin, failures: failures(&record).max(1), reason, record })
    }

    /// Returns the replay of the record, for the topic of retries.
    pub(crate) fn retry(&self, topic: &str) -> Record {
        let mut headers = [theirs(&self.record), ours(&self.origin, self.failures)].concat();
        headers.extend(self.record.headers.iter().filter(|(name, _)| name == REFERENCE).cloned());
        let Received { key, value, .. } = self.record.clone();
        Record { topic: topic.to_owned(), partition: None, key, value, headers }
    }

    /// Returns the replay marker of this letter, for the dead-letter topic. If the replay fails again, that is another
    /// letter with a higher number of failures.
    pub(crate) fn mark(&self, topic: &str) -> Record {
        let mut headers = ours(&self.origin, self.failures);
        headers.push((PUT_BACK.to_owned(), Some(b"true".to_vec())));
        Record { topic: topic.to_owned(), partition: None, key: self.record.key.clone(), value: None, headers }
    }
}

/// Reads a replay marker: the origin and the number of failures of the letter that was replayed.
pub(crate) fn mark(record: &Received) -> Option<(Origin, u32)> {
    record.header(PUT_BACK)?;
    failed(record)
}

/// Reads the origin and the number of failures from a dead letter or a replay.
pub(crate) fn failed(record: &Received) -> Option<(Origin, u32)> {
    Some((Origin::told_by(record)?, failures(record)))
}

fn letter(topic: &str, record: &Received, reason: &str) -> Record {
    // Only a replay has an origin and a count. In a followed topic, others could have written these headers.
    let again = is_retry(record);
    let origin = if again { Origin::of(record) } else { Origin::place_of(record) };
    let failures = if again { failures(record).saturating_add(1) } else { 1 };
    let mut headers = [theirs(record), ours(&origin, failures)].concat();
    headers.push((REASON.to_owned(), Some(reason.as_bytes().to_vec())));
    Record { topic: topic.to_owned(), partition: None, key: record.key.clone(), value: record.value.clone(), headers }
}

/// Reduces a letter to what its listing and its replay need.
fn reference(letter: Record) -> Record {
    let is_needed = |name: &str| name.starts_with("dead_letter_") || name == "ce_type";
    let mut headers: Headers =
        letter.headers.into_iter().filter(|(name, value)| is_needed(name) && is_short(value.as_deref())).collect();
    headers.push((REFERENCE.to_owned(), Some(b"true".to_vec())));
    let key = letter.key.filter(|key| is_short(Some(key)));
    Record { value: None, key, headers, ..letter }
}

fn is_short(bytes: Option<&[u8]>) -> bool {
    bytes.is_none_or(|bytes| bytes.len() <= LONGEST)
}

type Headers = Vec<(String, Option<Vec<u8>>)>;

fn theirs(record: &Received) -> Headers {
    record.headers.iter().filter(|(name, _)| !name.starts_with("dead_letter_")).cloned().collect()
}

fn ours(origin: &Origin, failures: u32) -> Headers {
    [
        (TOPIC, origin.topic.clone()),
        (PARTITION, origin.partition.to_string()),
        (OFFSET, origin.offset.to_string()),
        (FAILURES, failures.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Some(value.into_bytes())))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(record: Record, offset: i64) -> Received {
        let Record { topic, key, value, headers, .. } = record;
        Received { topic, partition: 2, offset, key, value, headers, time: None }
    }

    fn unreadable() -> Received {
        Received {
            topic: "order-events".to_owned(),
            partition: 1,
            offset: 7,
            key: Some(b"k".to_vec()),
            value: None,
            // A writer of that topic can also set this header.
            headers: vec![("ce_id".to_owned(), None), (FAILURES.to_owned(), Some(b"99".to_vec()))],
            time: None,
        }
    }

    #[test]
    fn a_letter_goes_round_with_its_origin_and_a_count_and_as_it_was() {
        let first = Letter::of(received(letter("s.dead-letters", &unreadable(), "no value"), 0)).expect("a letter");
        assert_eq!((first.origin.to_string().as_str(), first.failures), ("order-events/1@7", 1));
        assert_eq!(first.reason, "no value");
        assert_eq!("order-events/1@7".parse(), Ok(first.origin.clone()));
        let retry = first.retry("s.retries");
        assert_eq!((retry.key.as_deref(), retry.value.as_deref()), (Some(&b"k"[..]), None));
        assert_eq!(retry.headers[0], ("ce_id".to_owned(), None));
        let again = Letter::of(received(letter("s.dead-letters", &received(retry, 3), "still none"), 1));
        let again = again.expect("a letter");
        assert_eq!((&again.origin, again.failures, again.reason.as_str()), (&first.origin, 2, "still none"));

        let done = received(first.mark("s.dead-letters"), 2);
        assert_eq!(mark(&done), Some((first.origin, 1)));
        assert_eq!(mark(&again.record), None);
    }

    #[test]
    fn a_letter_by_reference_is_small_and_its_replay_stands_for_the_record() {
        let large = Received {
            topic: "order-events".to_owned(),
            partition: 1,
            offset: 7,
            key: Some(vec![b'k'; LONGEST + 1]),
            value: Some(vec![0; 3_000_000]),
            headers: vec![
                ("ce_id".to_owned(), Some(vec![b'i'; 2_000_000])),
                ("ce_type".to_owned(), Some(b"t".to_vec())),
            ],
            time: None,
        };
        let letter = received(reference(letter("s.dead-letters", &large, "no")), 0);
        assert_eq!((&letter.key, &letter.value, letter.header("ce_type")), (&None, &None, Some("t")));
        let size: usize =
            letter.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len)).sum();
        assert!(size < 1000, "{size} bytes of headers");

        let letter = Letter::of(letter).expect("a letter");
        let replay = received(letter.retry("s.retries"), 3);
        let origin = referenced(&replay).expect("a reference");
        assert_eq!(origin.to_string(), "order-events/1@7");
        let whole = dereferenced(&replay, large.clone());
        assert_eq!((&whole.key, &whole.value, whole.offset), (&large.key, &large.value, 3));
        assert_eq!((whole.topic.as_str(), referenced(&whole)), ("s.retries", None));

        let again =
            Letter::of(received(reference(super::letter("s.dead-letters", &whole, "no")), 1)).expect("a letter");
        assert_eq!((again.origin, again.failures), (origin, 2));
    }

    #[test]
    fn a_replay_with_the_largest_count_keeps_it() {
        let mut replay = received(give_up(&"t/0@1".parse().expect("an id"), "s.retries", 0), 0);
        replay.headers = ours(&"t/0@1".parse().expect("an id"), u32::MAX);
        let again = Letter::of(received(letter("s.dead-letters", &replay, "no"), 1)).expect("a letter");
        assert_eq!(again.failures, u32::MAX);
    }

    #[test]
    fn an_id_has_its_form() {
        for text in ["", "order-events", "order-events/1", "order-events/x@7", "order-events/1@"] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
