//! The domain's side of the kit: what a domain is, and the one way in which it changes.
//!
//! A domain implements [`Aggregate`], its events implement [`Payload`]. [`Streams`] loads a stream, decides a command,
//! and appends the events.

mod loaded;
mod read_table;
mod streams;

use std::time::SystemTime;

pub use self::{
    loaded::{Loaded, decide_once},
    read_table::{NoTable, ReadTable},
    streams::Streams,
};
use crate::{
    event::{EventId, StreamId, Version},
    runtime::trace_context::TraceContext,
    store::{CommitError, ReadError},
};

/// A domain: pure rules over the events of one stream. No clock, no I/O, no async.
pub trait Aggregate: Default + Send + 'static {
    /// What can happen.
    type Event: Payload;
    /// What can be asked for.
    type Command: Sync;
    /// Why the answer may be no.
    type Rejection: std::fmt::Display;

    /// Decides what a command leads to, given all that has happened so far.
    ///
    /// No events means that there is nothing to do, most often because it was done before.
    fn decide(&self, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// Folds one recorded event into the state. It cannot fail: the event is history.
    fn apply(&mut self, event: &Self::Event);
}

/// How a domain's event becomes the message that is stored and published, and back.
pub trait Payload: Sized + Send {
    /// The full name of the message, such as `orders.events.v1.OrderCreated`.
    fn event_type(&self) -> &'static str;

    /// The encoded message. The same event under the same envelope gives the same bytes.
    fn encode(&self, envelope: &Envelope) -> Vec<u8>;

    /// Decodes a message.
    fn decode(payload: &[u8]) -> Result<Decoded<Self>, PayloadError>;
}

/// A decoded message: the event, and what the message says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<E> {
    /// The event.
    pub event: E,
    /// The fields that every message carries; `None` for messages without them.
    pub envelope: Option<DecodedEnvelope>,
}

/// The fields that a message carries besides the event itself, as they were sent: [`Envelope`] before any check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodedEnvelope {
    /// The id of the event.
    pub event_id: String,
    /// The id of the stream, such as the order's.
    pub stream: String,
    /// The time at which the event happened.
    pub time: Option<SystemTime>,
}

impl<E> From<E> for Decoded<E> {
    /// A message that carries nothing but the event.
    fn from(event: E) -> Self {
        Self { event, envelope: None }
    }
}

/// What every message carries besides the event itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The event's name.
    pub id: EventId,
    /// Whom it happened to.
    pub stream: StreamId,
    /// Its place in the stream.
    pub version: Version,
    /// When it was decided.
    pub time: SystemTime,
}

/// Why bytes are no event of this program.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Not an encoded message of that type at all.
    #[error("the value is not a valid message")]
    Malformed(#[from] prost::DecodeError),
    /// The message is of a kind that came after this program.
    #[error("the event is newer than this program")]
    Newer,
    /// A field holds what the contract excludes.
    #[error("field {field}: {problem}")]
    Field {
        /// The field, as the contract names it.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl PayloadError {
    /// A field of the message breaks the contract.
    pub fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }
}

/// What led to a command; recorded with the events it leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The event of another service, when it was one.
    pub event: Option<EventId>,
    /// The W3C trace context it came with.
    pub trace: Option<TraceContext>,
}

/// Why a stream could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An event in the store is not what the program expects there.
    #[error("cannot read the event at position {position}")]
    Payload {
        /// The position of the event.
        position: u64,
        /// What is wrong with it.
        source: PayloadError,
    },
}

/// Why a command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<R> {
    /// The domain said no. Nothing was stored.
    #[error("the command was rejected")]
    Rejected(R),
    /// The stream could not be loaded. Nothing was stored.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The events could not be stored; [`CommitError`] tells what is certain.
    #[error(transparent)]
    Commit(CommitError),
}
