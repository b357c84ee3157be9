//! Compares a topic with its store, event by event, and takes into the store what it lacks.

use std::{collections::HashMap, time::SystemTime};

use prost_types::Timestamp;

use super::{lost_events::LostEvents, reconcile::ReconcileError};
use crate::{
    aggregate::{Loaded, ReadTable, Streams},
    event::{Event, NewEvent, Position, StreamId, Version},
    kafka::{record::Received, topic_log::TopicLog},
    relay::Publication,
    store::{Append, Commit, ReadError},
};

/// The number of events that are read at a time, and of aggregates that are kept in memory.
const BATCH: usize = 1000;

/// Reads the topic from the first event of the store to the last, and compares each event with the store.
pub(super) struct Replay<'a, T: ReadTable> {
    publication: &'a Publication,
    head: Position,
    /// The streams to which events were appended.
    streams: HashMap<StreamId, Loaded<T::Domain>>,
}

impl<'a, T: ReadTable> Replay<'a, T> {
    pub(super) fn new(publication: &'a Publication, head: Position) -> Self {
        Self { publication, head, streams: HashMap::new() }
    }

    /// Compares without a change. Returns the last position in the topic, and the events up to `through` that it lacks.
    pub(super) fn compare(self, through: Position) -> Result<(Position, LostEvents), ReconcileError> {
        self.run(through, |_, _, _| Ok(()))
    }

    /// Appends the events that the store lacks.
    pub(super) fn apply(self) -> Result<(), ReconcileError> {
        self.run(Position::START, Self::take_in).map(drop)
    }

    fn run(
        mut self,
        through: Position,
        mut missing: impl FnMut(&mut Self, &Received, u64) -> Result<(), ReconcileError>,
    ) -> Result<(Position, LostEvents), ReconcileError> {
        let publication = self.publication;
        let mut log = TopicLog::open(&publication.client, &publication.topic.name, &publication.source())?;
        let mut stored = Stored::new(publication, self.head);
        let mut lost = LostEvents::new(log.partitions());
        let mut last = Position::START;
        while let Some((position, record)) = log.read()? {
            let contradiction =
                |what: String| Err(ReconcileError::Contradiction(format!("{}: {what}", record.place())));
            let position = Position(position);
            if position <= last {
                return contradiction(format!("position {position} comes after {last}"));
            }
            lost.note(stored.up_to(Position(position.0 - 1))?);
            if position.0 - 1 > self.head.0.max(last.0) {
                return contradiction(format!("position {position} comes after {last}, and the store has neither"));
            }
            last = position;
            lost.found(&record, position);
            if position > self.head {
                missing(&mut self, &record, position.0)?;
                continue;
            }
            let Some(event) = stored.next()? else {
                return contradiction("the store has no event there".to_owned());
            };
            if record.header("ce_id") != Some(event.id.to_string().as_str())
                || record.value.as_ref() != Some(&event.payload)
            {
                return contradiction(format!("the store has another event at position {position}, {}", event.id));
            }
        }
        if through > self.head.max(last) {
            let what = format!("the events up to {through} were published; the store ends at {}", self.head);
            return Err(ReconcileError::Contradiction(format!("{what}, and the topic at {last}")));
        }
        lost.note(stored.up_to(through)?);
        lost.refuse_holes()?;
        lost.refuse_deleted(&log.without_beginning())?;
        Ok((last, lost))
    }

    /// Appends one event to the store. Each event has its own commit, so that its position is verified before the next
    /// one, because a wrong position can never be corrected.
    fn take_in(&mut self, record: &Received, position: u64) -> Result<(), ReconcileError> {
        let (stream, new) = self.event(record, position)?;
        if self.streams.len() > BATCH {
            self.streams.clear(); // they are loaded again when they are needed
        }
        if !self.streams.contains_key(&stream) {
            let events = self.publication.store.read_stream_blocking(stream)?;
            self.streams.insert(stream, Loaded::fold(&events)?);
        }
        let loaded = self.streams.entry(stream).or_default();
        let expected: Version = loaded.version;
        loaded.apply(&Event::stored(new.clone(), Position(position), stream, expected.plus(1)))?;
        let append = Append { stream, expected, events: vec![new], row: Streams::<T>::row(loaded) };
        let taken = self.publication.store.commit_blocking(Commit::append(append))?;
        if taken.0 != position {
            return Err(ReconcileError::Contradiction(format!(
                "the event of position {position} was stored at {taken}"
            )));
        }
        Ok(())
    }

    fn event(&self, record: &Received, position: u64) -> Result<(StreamId, NewEvent), ReconcileError> {
        let unreadable = |what: &str| ReconcileError::Contradiction(format!("{}: {what}", record.place()));
        let incoming = record.open().map_err(|error| unreadable(&error.to_string()))?;
        let event_type = self.publication.spec.event_types.iter().find(|known| **known == incoming.event_type);
        let time: Option<Timestamp> = record.header("ce_time").and_then(|text| text.parse().ok());
        let time = time.and_then(|time| SystemTime::try_from(time).ok());
        let event = NewEvent {
            id: incoming.id,
            event_type: event_type.ok_or(ReconcileError::Newer(position))?,
            time: time.ok_or_else(|| unreadable("the header ce_time is not a valid time"))?,
            causation: incoming.causation,
            trace: incoming.trace(),
            payload: incoming.payload.to_vec(),
        };
        Ok((incoming.stream, event))
    }
}

/// Reads the store's events in order, up to an end.
struct Stored<'a> {
    publication: &'a Publication,
    head: Position,
    position: Position,
    batch: std::vec::IntoIter<Event>,
}

impl<'a> Stored<'a> {
    fn new(publication: &'a Publication, head: Position) -> Self {
        Self { publication, head, position: Position::START, batch: Vec::new().into_iter() }
    }

    fn next(&mut self) -> Result<Option<Event>, ReadError> {
        if self.position >= self.head {
            return Ok(None);
        }
        if self.batch.len() == 0 {
            self.batch = self.publication.store.read_all_blocking(self.position, BATCH)?.into_iter();
        }
        let event = self.batch.next();
        self.position = event.as_ref().map_or(self.head, |event| event.position);
        Ok(event)
    }

    /// Returns the events up to a position.
    fn up_to(&mut self, end: Position) -> Result<Vec<Event>, ReadError> {
        let mut events = Vec::new();
        while self.position < end.min(self.head) {
            events.extend(self.next()?);
        }
        Ok(events)
    }
}
