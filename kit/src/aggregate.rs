//! The domain's side of the kit: what a domain is, and the one door through which it changes.

use std::time::SystemTime;

use crate::{
    event::{self, Event, EventId, NewEvent, StreamId, Version},
    store::{Append, Commit, CommitError, ReadError, Store},
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

    /// The event in an encoded message.
    fn decode(payload: &[u8]) -> Result<Self, PayloadError>;
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
    #[error("the bytes are not the message they should be")]
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
        problem: &'static str,
    },
}

/// What led to a command; recorded with the events it leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The event of another service, when it was one.
    pub event: Option<EventId>,
    /// The W3C trace context it came with.
    pub traceparent: Option<String>,
}

/// An aggregate together with what its stream tells about it.
#[derive(Clone, Debug)]
pub struct Loaded<A> {
    /// The state, with every event applied.
    pub state: A,
    /// How many events that was.
    pub version: Version,
    /// When the first one happened.
    pub create_time: SystemTime,
    /// When the newest one happened.
    pub update_time: SystemTime,
    /// The causes recorded so far: an event that is among them has had its effect.
    causes: Vec<EventId>,
    /// The trace that the newest event belongs to.
    traceparent: Option<String>,
}

impl<A: Aggregate> Default for Loaded<A> {
    fn default() -> Self {
        Self {
            state: A::default(),
            version: Version::NONE,
            create_time: SystemTime::UNIX_EPOCH,
            update_time: SystemTime::UNIX_EPOCH,
            causes: Vec::new(),
            traceparent: None,
        }
    }
}

impl<A: Aggregate> Loaded<A> {
    /// Folds a stream as the store holds it.
    pub fn fold(events: &[Event]) -> Result<Self, LoadError> {
        let mut loaded = Self::default();
        events.iter().try_for_each(|event| loaded.apply(event))?;
        Ok(loaded)
    }

    /// Folds the stream's next event.
    pub fn apply(&mut self, event: &Event) -> Result<(), LoadError> {
        let payload = A::Event::decode(&event.payload)
            .map_err(|source| LoadError::Payload { position: event.position.0, source })?;
        self.record(&payload, event.time, event.causation);
        self.traceparent.clone_from(&event.traceparent);
        Ok(())
    }

    /// The trace context of the newest event.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// Whether the stream has any event.
    pub fn exists(&self) -> bool {
        self.version > Version::NONE
    }

    /// Decides a command, takes what it leads to as having happened, and returns it for the store.
    ///
    /// A cause that the stream has seen before leads to nothing. A command that comes with no trace of its
    /// own goes on with the stream's.
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
        if cause.traceparent.is_some() {
            self.traceparent.clone_from(&cause.traceparent);
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
                    traceparent: self.traceparent.clone(),
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

/// Decides what a command leads to: nothing, if its cause is among those that have had their effect.
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

/// Loads a stream's aggregate as of every commit answered so far.
pub async fn load<A: Aggregate>(store: &Store, stream: StreamId) -> Result<Loaded<A>, LoadError> {
    Loaded::fold(&store.read_stream(stream).await?)
}

/// Executes a command on a stream: load, decide, append, and again when another commit came in between.
///
/// Returns the aggregate as it is afterwards, with everything it rests on synced to disk.
///
/// # Cancellation
/// If the future is dropped, the events may or may not be stored, but never some of them.
pub async fn execute<A: Aggregate>(
    store: &Store,
    stream: StreamId,
    command: &A::Command,
    cause: &Cause,
) -> Result<Loaded<A>, ExecuteError<A::Rejection>> {
    attempt(store, stream, command, cause, load(store, stream).await?).await
}

/// [`execute`] for a stream that is most likely new: saves reading it first.
///
/// # Cancellation
/// As for [`execute`].
pub async fn execute_new<A: Aggregate>(
    store: &Store,
    stream: StreamId,
    command: &A::Command,
    cause: &Cause,
) -> Result<Loaded<A>, ExecuteError<A::Rejection>> {
    attempt(store, stream, command, cause, Loaded::default()).await
}

async fn attempt<A: Aggregate>(
    store: &Store,
    stream: StreamId,
    command: &A::Command,
    cause: &Cause,
    mut loaded: Loaded<A>,
) -> Result<Loaded<A>, ExecuteError<A::Rejection>> {
    loop {
        let expected = loaded.version;
        let events = loaded.execute(stream, command, cause).map_err(ExecuteError::Rejected)?;
        if events.is_empty() {
            return Ok(loaded);
        }
        match store.commit(Commit::append(Append { stream, expected, events })).await {
            Ok(_) => return Ok(loaded),
            Err(CommitError::Conflict { .. }) => loaded = load(store, stream).await?,
            Err(other) => return Err(ExecuteError::Commit(other)),
        }
    }
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
        /// Where it is.
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
