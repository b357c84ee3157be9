//! The form of an event on a topic: CloudEvents 1.0 in binary mode, with the event's position in `ce_sequence`.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::SystemTime,
};

use prost_types::Timestamp;
use rdkafka::{
    Message,
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
    producer::BaseRecord,
};

use crate::{
    aggregate::{Decoded, DecodedEnvelope, Payload, PayloadError},
    event::{Event, EventId, StreamId, from_micros},
    kafka::partition::partition_of,
    runtime::trace_context::TraceContext,
};

/// A record to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: String,
    /// The partition. With `None`, the producer chooses it by the key.
    pub partition: Option<i32>,
    /// The key, if any.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in order; a name may occur more than once.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// The store that publishes, and the topic that it publishes to.
#[derive(Clone, Debug)]
pub struct Source {
    /// The topic.
    pub topic: String,
    /// The name of the store in `ce_source`: `/order-service/<store id>`.
    pub uri: String,
    /// The one message type of the topic, such as `orders.events.v1.OrderEvent`.
    pub message: &'static str,
    /// The number of partitions of the topic, which must not change.
    pub partitions: i32,
}

const CONTENT_TYPE: &str = "application/protobuf";

impl Record {
    /// Returns the record of an event. Its value is the stored payload, unchanged.
    pub fn of(event: &Event, source: &Source) -> Self {
        let text = |name: &str, value: String| (name.to_owned(), Some(value.into_bytes()));
        let mut headers = vec![
            text("ce_specversion", "1.0".to_owned()),
            text("ce_id", event.id.to_string()),
            text("ce_type", event.event_type.clone()),
            text("ce_source", source.uri.clone()),
            text("ce_subject", event.stream.to_string()),
            text("ce_time", Timestamp::from(event.time).to_string()),
            text("ce_dataschema", format!("protobuf:{}", source.message)),
            // Twenty digits, because the CloudEvents extension compares sequences as text.
            text("ce_sequence", format!("{:020}", event.position.0)),
            text("content-type", CONTENT_TYPE.to_owned()),
        ];
        headers.extend(event.causation.map(|cause| text("ce_causationid", cause.to_string())));
        let trace = event.trace.iter().flat_map(TraceContext::headers);
        headers.extend(trace.map(|(name, value)| text(name, value.into_owned())));
        let key = event.stream.to_string().into_bytes();
        Self {
            topic: source.topic.clone(),
            partition: Some(partition_of(&key, source.partitions)),
            key: Some(key),
            value: Some(event.payload.clone()),
            headers,
        }
    }

    pub(crate) fn to_librdkafka(&self) -> BaseRecord<'_, [u8], [u8]> {
        let headers =
            self.headers.iter().fold(OwnedHeaders::new_with_capacity(self.headers.len()), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            });
        let mut record = BaseRecord::to(&self.topic).headers(headers);
        record.key = self.key.as_deref();
        record.payload = self.value.as_deref();
        record.partition = self.partition;
        record
    }
}

/// A record that was read from a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The key, if any.
    pub key: Option<Vec<u8>>,
    /// The value, if any.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The time at which it was published, if the record has one.
    pub time: Option<SystemTime>,
}

impl Received {
    pub(crate) fn from_librdkafka(message: &BorrowedMessage<'_>) -> Self {
        // rust-rdkafka panics at a header whose name is not UTF-8. Such a record is treated as one without headers.
        let headers = catch_unwind(AssertUnwindSafe(|| {
            message.headers().map_or_else(Vec::new, |headers| {
                headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
            })
        }))
        .unwrap_or_default();
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
            time: message.timestamp().to_millis().map(|millis| from_micros(millis.saturating_mul(1000))),
        }
    }

    /// Returns the text of a header, or of the last one if the name occurs more than once. Returns `None` if it is
    /// missing or is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rfind(|(key, _)| key == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    /// Reads the headers and the key that every event on every topic has. The payload stays encoded.
    pub fn open(&self) -> Result<Incoming<'_>, Unreadable> {
        let need = |name: &'static str| self.header(name).ok_or(Unreadable::Header { name, problem: "is missing" });
        let bad = |name: &'static str| Unreadable::Header { name, problem: "is not what it should be" };
        if need("ce_specversion")? != "1.0" {
            return Err(bad("ce_specversion"));
        }
        if need("content-type")? != CONTENT_TYPE {
            return Err(bad("content-type"));
        }
        let id = EventId::parse(need("ce_id")?).ok_or_else(|| bad("ce_id"))?;
        let stream = StreamId::parse(need("ce_subject")?).ok_or_else(|| bad("ce_subject"))?;
        if self.key.as_deref() != Some(need("ce_subject")?.as_bytes()) {
            return Err(Unreadable::Key);
        }
        let causation = self.header("ce_causationid").and_then(EventId::parse);
        Ok(Incoming {
            id,
            stream,
            event_type: need("ce_type")?,
            causation,
            traceparent: self.header("traceparent"),
            tracestate: self.header("tracestate"),
            payload: self.value.as_deref().ok_or(Unreadable::NoValue)?,
        })
    }

    /// Formats the place where the record was read: `topic/partition@offset`.
    pub fn place(&self) -> impl fmt::Display + '_ {
        format!("{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// An event that was read from a topic. Its payload is not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// The id of the event.
    pub id: EventId,
    /// The stream that the event belongs to.
    pub stream: StreamId,
    /// The full name of the event's message type.
    pub event_type: &'a str,
    /// The event that caused it.
    pub causation: Option<EventId>,
    /// The header `traceparent`, unchecked.
    pub traceparent: Option<&'a str>,
    /// The header `tracestate`, unchecked.
    pub tracestate: Option<&'a str>,
    /// The encoded message.
    pub payload: &'a [u8],
}

impl Incoming<'_> {
    /// Returns the trace context of the record, if it is valid.
    pub fn trace(&self) -> Option<TraceContext> {
        TraceContext::parse(self.traceparent?, self.tracestate)
    }

    /// Decodes the event, and checks that the message names the same event and stream as the record around it. `None`
    /// for an event of a type that this program does not know.
    pub fn event<E: Payload>(&self) -> Result<Option<Decoded<E>>, Unreadable> {
        let decoded = match E::decode(self.payload) {
            Ok(decoded) => decoded,
            Err(PayloadError::Newer) => return Ok(None),
            Err(error) => return Err(Unreadable::Payload(error)),
        };
        if let Some(DecodedEnvelope { event_id, stream, .. }) = &decoded.envelope {
            if StreamId::parse(stream) != Some(self.stream) {
                return Err(Unreadable::OtherStream(stream.clone()));
            }
            if EventId::parse(event_id) != Some(self.id) {
                return Err(Unreadable::OtherEvent(event_id.clone()));
            }
        }
        Ok(Some(decoded))
    }
}

/// Why a record cannot be read as an event.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A header is missing or wrong.
    #[error("the header {name} {problem}")]
    Header {
        /// The name of the header.
        name: &'static str,
        /// The problem, phrased to follow the name of the header.
        problem: &'static str,
    },
    /// The key is not the subject, so the order of the events of one stream would not hold.
    #[error("the key is not the ce_subject")]
    Key,
    /// The record is a tombstone.
    #[error("there is no value")]
    NoValue,
    /// The value cannot be decoded.
    #[error("{0}")]
    Payload(#[from] PayloadError),
    /// The message names another stream than the record.
    #[error("the event is of {0:?}, its key is another's")]
    OtherStream(String),
    /// The message names another event than the record.
    #[error("the event is {0:?}, its ce_id is another's")]
    OtherEvent(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Position, Version, now};

    fn event() -> Event {
        Event {
            position: Position(42),
            stream: StreamId::generate(),
            version: Version(3),
            id: EventId::generate(),
            event_type: "orders.events.v1.OrderCreated".to_owned(),
            time: now(),
            causation: Some(EventId::generate()),
            trace: TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some("congo=t61")),
            payload: vec![1, 2, 3],
        }
    }

    fn received(event: &Event) -> Received {
        let source = Source {
            topic: "order-events".to_owned(),
            uri: "/order-service/x".to_owned(),
            message: "orders.events.v1.OrderEvent",
            partitions: 6,
        };
        let Record { topic, key, value, headers, .. } = Record::of(event, &source);
        Received { topic, partition: 0, offset: 7, key, value, headers, time: None }
    }

    #[test]
    fn an_event_reads_back_as_it_was_published() {
        let event = event();
        let received = received(&event);
        let incoming = received.open().expect("readable");
        assert_eq!(incoming.id, event.id);
        assert_eq!(incoming.stream, event.stream);
        assert_eq!(incoming.event_type, event.event_type);
        assert_eq!(incoming.causation, event.causation);
        assert_eq!(incoming.trace(), event.trace);
        assert_eq!(incoming.payload, event.payload);
        assert_eq!(received.header("ce_sequence"), Some("00000000000000000042"));
    }

    #[test]
    fn a_record_without_a_required_header_is_unreadable_by_its_name() {
        for name in ["ce_specversion", "ce_id", "ce_type", "ce_subject", "content-type"] {
            let mut record = received(&event());
            record.headers.retain(|(key, _)| key != name);
            let said = record.open().expect_err("unreadable").to_string();
            assert_eq!(said, format!("the header {name} is missing"));
        }
    }

    #[test]
    fn a_record_under_another_key_is_unreadable() {
        let mut record = received(&event());
        record.key = Some(StreamId::generate().to_string().into_bytes());
        assert!(matches!(record.open(), Err(Unreadable::Key)));
        record.key = None;
        assert!(matches!(record.open(), Err(Unreadable::Key)));
    }

    #[test]
    fn a_record_that_is_no_text_or_has_no_value_is_unreadable() {
        let mut record = received(&event());
        record.value = None;
        assert!(matches!(record.open(), Err(Unreadable::NoValue)));
        let mut record = received(&event());
        for (_, value) in &mut record.headers {
            *value = Some(vec![0xff, 0xfe]);
        }
        assert!(record.open().is_err());
    }
}
