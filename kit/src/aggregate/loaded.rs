//! An aggregate folded from its stream.

use std::time::SystemTime;

use super::{Aggregate, Cause, Decoded, Envelope, LoadError, Payload as _};
use crate::{
    event::{self, Event, EventId, NewEvent, StreamId, Version},
    runtime::trace_context::TraceContext,
};

/// An aggregate, with the version, times and causes of its stream.
#[derive(Clone, Debug)]
pub struct Loaded<A> {
    /// The state, with every event applied.
    pub state: A,
    /// The number of applied events.
    pub version: Version,
    /// The time of the first event.
    pub create_time: SystemTime,
    /// The time of the newest event.
    pub update_time: SystemTime,
    /// The causes recorded so far. An event of another service that is among them already had its effect.
    causes: Vec<EventId>,
    /// The trace that the newest event belongs to.
    trace: Option<TraceContext>,
}

impl<A: Aggregate> Default for Loaded<A> {
    fn default() -> Self {
        Self {
            state: A::default(),
            version: Version::NONE,
            create_time: SystemTime::UNIX_EPOCH,
            update_time: SystemTime::UNIX_EPOCH,
            causes: Vec::new(),
            trace: None,
        }
    }
}

impl<A: Aggregate> Loaded<A> {
    /// Folds the stored events of a stream.
    pub fn fold(events: &[Event]) -> Result<Self, LoadError> {
        let mut loaded = Self::default();
        events.iter().try_for_each(|event| loaded.apply(event))?;
        Ok(loaded)
    }

    /// Applies the next event of the stream.
    pub fn apply(&mut self, event: &Event) -> Result<(), LoadError> {
        let Decoded { event: payload, .. } = A::Event::decode(&event.payload)
            .map_err(|source| LoadError::Payload { position: event.position.0, source })?;
        self.record(&payload, event.time, event.causation);
        self.trace.clone_from(&event.trace);
        Ok(())
    }

    /// Returns the trace context of the newest event.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// Returns whether the stream has any event.
    pub fn exists(&self) -> bool {
        self.version > Version::NONE
    }

    /// Decides a command, applies the resulting events, and returns them for the store.
    ///
    /// A cause that was recorded before results in no events. A command without a trace of its own continues the trace
    /// of the stream.
    pub fn execute(
        &mut self,
        stream: StreamId,
        command: &A::Command,
        cause: &Cause,
    ) -> Result<Vec<NewEvent>, A::Rejection> {
        let decided = decide_once(&self.state, &self.causes, command, cause.event)?;
        if decided.is_empty() {
            return Ok(Vec::new());
        }
        let time = event::now();
        if cause.trace.is_some() {
            self.trace.clone_from(&cause.trace);
        }
        Ok(decided
            .into_iter()
            .map(|payload| {
                self.record(&payload, time, cause.event);
                let envelope = Envelope { id: EventId::generate(), stream, version: self.version, time };
                NewEvent {
                    id: envelope.id,
                    event_type: payload.event_type(),
                    time,
                    causation: cause.event,
                    trace: self.trace.clone(),
                    payload: payload.encode(&envelope),
                }
            })
            .collect())
    }

    fn record(&mut self, payload: &A::Event, time: SystemTime, causation: Option<EventId>) {
        self.state.apply(payload);
        self.version = self.version.plus(1);
        if self.version == Version(1) {
            self.create_time = time;
        }
        self.update_time = time;
        self.causes.extend(causation);
    }
}

/// Decides a command. Returns no events if its cause is among the recorded causes, because it already had its effect.
pub fn decide_once<A: Aggregate>(
    state: &A,
    causes: &[EventId],
    command: &A::Command,
    cause: Option<EventId>,
) -> Result<Vec<A::Event>, A::Rejection> {
    if cause.is_some_and(|event| causes.contains(&event)) {
        return Ok(Vec::new());
    }
    state.decide(command)
}
