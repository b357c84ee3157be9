//! The domain's side of the kit: the traits of a domain, and the only way to change its streams.
//!
//! A domain implements [`Aggregate`], its events implement [`Payload`]. [`Streams`] loads a stream, decides a command,
//! and appends the events.

mod loaded;
mod read_table;
mod streams;

use std::time::SystemTime;

use prost_types::Timestamp;

pub use self::{
    loaded::{Loaded, decide_once},
    read_table::{NoTable, ReadTable},
    streams::{Listing, Streams},
};
use crate::{
    event::{EventId, StreamId, Version},
    runtime::trace_context::TraceContext,
    store::{CommitError, ReadError},
};

/// A domain: pure rules over the events of one stream. No clock, no I/O, no async.
pub trait Aggregate: Default + Send + 'static {
    /// The events of the domain.
    type Event: Payload;
    /// The commands of the domain.
    type Command: Sync;
    /// The reasons to reject a command.
    type Rejection: std::fmt::Display;

    /// Decides which events a command results in, given the current state.
    ///
    /// No events means that there is nothing to do, usually because the command is a repeat.
    fn decide(&self, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// Applies one recorded event to the state. This cannot fail, because the event has already happened.
    fn apply(&mut self, event: &Self::Event);
}

/// Converts an event of a domain to the message that is stored and published, and back.
pub trait Payload: Sized + Send {
    /// Returns the full name of the message, such as `orders.events.v1.OrderCreated`.
    fn event_type(&self) -> &'static str;

    /// Encodes the message. The same event with the same envelope always results in the same bytes.
    fn encode(&self, envelope: &Envelope) -> Vec<u8>;

    /// Decodes a message.
    fn decode(payload: &[u8]) -> Result<Decoded<Self>, PayloadError>;
}

/// A decoded message: the event and its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<E> {
    /// The event.
    pub event: E,
    /// The envelope; `None` for messages without one.
    pub envelope: Option<DecodedEnvelope>,
}

/// The fields of a message besides the event itself, as received. Unlike those of [`Envelope`], they are not validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodedEnvelope {
    /// The id of the event.
    pub event_id: String,
    /// The id of the stream, such as the order's.
    pub stream: String,
    /// The time at which the event happened.
    pub time: Option<SystemTime>,
}

impl DecodedEnvelope {
    /// Creates the envelope from the fields of a message. A time that is out of range becomes `None`.
    pub fn new(event_id: String, stream: String, time: Option<Timestamp>) -> Self {
        Self { event_id, stream, time: time.and_then(|time| SystemTime::try_from(time).ok()) }
    }
}

impl<E> From<E> for Decoded<E> {
    /// Creates a decoded message without an envelope.
    fn from(event: E) -> Self {
        Self { event, envelope: None }
    }
}

/// The fields of every message besides the event itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The id of the event.
    pub id: EventId,
    /// The stream of the event.
    pub stream: StreamId,
    /// The version of the stream after the event.
    pub version: Version,
    /// The time at which the event was decided.
    pub time: SystemTime,
}

/// The reason why bytes cannot be decoded as an event.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The bytes are not an encoded message of the type.
    #[error("the value is not a valid message")]
    Malformed(#[from] prost::DecodeError),
    /// The event is of a type that a newer version of the program has added.
    #[error("the event is newer than this program")]
    Newer,
    /// A field has a value that the contract does not allow.
    #[error("field {field}: {problem}")]
    Field {
        /// The name of the field in the contract.
        field: &'static str,
        /// The problem, phrased to follow `field {field}: `.
        problem: String,
    },
}

impl PayloadError {
    /// Creates the error of a field that breaks the contract.
    pub fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }
}

/// The cause of a command. It is recorded with the resulting events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The event of another service; `None` for a command of a caller.
    pub event: Option<EventId>,
    /// The W3C trace context of the command.
    pub trace: Option<TraceContext>,
}

/// A stream could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A stored event cannot be decoded.
    #[error("cannot read the event at position {position}")]
    Payload {
        /// The position of the event.
        position: u64,
        /// The error of the decoding.
        source: PayloadError,
    },
}

/// A command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<R> {
    /// The domain rejected the command. Nothing was stored.
    #[error("the command was rejected")]
    Rejected(R),
    /// The stream could not be loaded. Nothing was stored.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The events were not stored, or may not have been. See [`CommitError`].
    #[error(transparent)]
    Commit(CommitError),
}
