//! What the log is made of: events, the streams they belong to, and the numbers that order them.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use crate::runtime::trace_context::TraceContext;

/// Names one stream: the events of one order, say, or of its payment. Travels as the record key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub Uuid);

/// Names one event among all events of all services; the header `ce_id`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub Uuid);

impl StreamId {
    /// A new id. Ids made one after the other are in order, which keeps the store's index compact.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the 36-character form and no other, so that an id has one spelling everywhere.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hyphenated(text).map(Self)
    }
}

impl EventId {
    /// A new id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the 36-character form and no other.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hyphenated(text).map(Self)
    }
}

fn parse_hyphenated(text: &str) -> Option<Uuid> {
    if text.len() != 36 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    Uuid::try_parse(text).ok()
}

/// How many events a stream has: its newest event's version. The first event is version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// The version of a stream that has no events.
    pub const NONE: Self = Self(0);

    /// The version `count` events later.
    pub fn plus(self, count: usize) -> Self {
        Self(self.0 + count as u64)
    }
}

/// Where an event stands in its store: 1, 2, 3 … with no gap, in the order of commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);
}

/// An event as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the store.
    pub position: Position,
    /// Whom it happened to.
    pub stream: StreamId,
    /// Its place in the stream.
    pub version: Version,
    /// Its name among all events.
    pub id: EventId,
    /// The full name of the message it carries, such as `orders.events.v1.OrderCreated`.
    pub event_type: String,
    /// When it was decided, to the microsecond.
    pub time: SystemTime,
    /// The event of another service that led to it.
    pub causation: Option<EventId>,
    /// The W3C trace context of the call or record that led to it.
    pub trace: Option<TraceContext>,
    /// The encoded message, exactly as it goes to the topic.
    pub payload: Vec<u8>,
}

impl Event {
    /// Returns the event that a new one becomes once the store has given it its numbers.
    pub fn stored(new: NewEvent, position: Position, stream: StreamId, version: Version) -> Self {
        let NewEvent { id, event_type, time, causation, trace, payload } = new;
        let event_type = event_type.to_owned();
        Self { position, stream, version, id, event_type, time, causation, trace, payload }
    }
}

/// An event that is yet to be stored: [`Event`] without the numbers that the store gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// See [`Event::id`].
    pub id: EventId,
    /// See [`Event::event_type`].
    pub event_type: &'static str,
    /// See [`Event::time`].
    pub time: SystemTime,
    /// See [`Event::causation`].
    pub causation: Option<EventId>,
    /// See [`Event::trace`].
    pub trace: Option<TraceContext>,
    /// See [`Event::payload`].
    pub payload: Vec<u8>,
}

/// The current time in the precision that the store keeps, so that an event reads back as it was decided.
pub fn now() -> SystemTime {
    from_micros(to_micros(SystemTime::now()))
}

/// Microseconds since 1970; a time before that is 1970.
pub fn to_micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The time that many microseconds after 1970.
pub fn from_micros(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros.max(0).unsigned_abs())
}

macro_rules! shown_as_its_number_or_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
shown_as_its_number_or_text!(StreamId, EventId, Version, Position);

macro_rules! debugged_as_displayed {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debugged_as_displayed!(StreamId, EventId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = StreamId::generate();
        assert_eq!(StreamId::parse(&id.to_string()), Some(id));
        for other in [
            id.to_string().to_uppercase(),
            id.0.simple().to_string(),
            format!("{{{id}}}"),
            format!(" {id}"),
            String::new(),
        ] {
            assert_eq!(StreamId::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn time_survives_the_store() {
        let time = now();
        assert_eq!(from_micros(to_micros(time)), time);
    }
}
