//! Events, the streams that they belong to, and the numbers that order them.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use crate::runtime::trace_context::TraceContext;

/// The id of a stream, such as the events of one order or of its payment. It is the key of the stream's records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub Uuid);

/// The id of an event, unique among the events of all services. It is the header `ce_id`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub Uuid);

impl StreamId {
    /// Returns a new id. Later ids are larger, which keeps the store's index compact.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the 36-character form and no other, so that an id has one spelling everywhere.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hyphenated(text).map(Self)
    }
}

impl EventId {
    /// Returns a new id.
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

/// The number of an event in its stream: 1, 2, 3 … The version of a stream is that of its newest event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// The version of a stream that has no events.
    pub const NONE: Self = Self(0);

    /// Returns the version `count` events later.
    pub fn plus(self, count: usize) -> Self {
        Self(self.0 + count as u64)
    }
}

/// The version as messages carry it.
impl From<Version> for i64 {
    fn from(version: Version) -> Self {
        Self::try_from(version.0).unwrap_or(Self::MAX)
    }
}

/// The number of an event in its store: 1, 2, 3 … without gaps, in the order of commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position before the first event.
    pub const START: Self = Self(0);
}

/// A stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of the event in the store.
    pub position: Position,
    /// The stream that the event belongs to.
    pub stream: StreamId,
    /// The number of the event in the stream.
    pub version: Version,
    /// The id of the event.
    pub id: EventId,
    /// The full name of the event's message type, such as `orders.events.v1.OrderCreated`.
    pub event_type: String,
    /// The time at which it was decided, to the microsecond.
    pub time: SystemTime,
    /// The event of another service that caused it.
    pub causation: Option<EventId>,
    /// The W3C trace context of the call or record that caused it.
    pub trace: Option<TraceContext>,
    /// The encoded message, exactly as it is published.
    pub payload: Vec<u8>,
}

impl Event {
    /// Returns a new event with the numbers that the store assigns.
    pub fn stored(new: NewEvent, position: Position, stream: StreamId, version: Version) -> Self {
        let NewEvent { id, event_type, time, causation, trace, payload } = new;
        let event_type = event_type.to_owned();
        Self { position, stream, version, id, event_type, time, causation, trace, payload }
    }
}

/// An event that is not stored yet: [`Event`] without the numbers that the store assigns.
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

/// Returns the current time with the precision of the store, so that an event reads back unchanged.
pub fn now() -> SystemTime {
    from_micros(to_micros(SystemTime::now()))
}

/// Returns the microseconds since 1970, or 0 for an earlier time.
pub fn to_micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Returns the time that is `micros` microseconds after 1970.
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
