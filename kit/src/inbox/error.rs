//! Errors of the inbox.
#![cfg_attr(
    feature = "verification",
    expect(missing_docs, reason = "the fields of errors are explained by their messages")
)]

use std::convert::Infallible;

use rdkafka::error::KafkaError;

use crate::{
    aggregate::LoadError,
    kafka::topics::TopicError,
    store::{CommitError, ReadError},
};

/// The inbox refuses to consume, because it would lose or duplicate effects. A person has to decide.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// Records that were never consumed are gone.
    #[error(
        "{topic}/{partition} was read up to offset {offset:?}, and Kafka no longer has it: \
         records were deleted before they were read, or the topic was created again"
    )]
    OffsetLost {
        topic: String,
        /// The partition; -1 if it is not known.
        partition: i32,
        /// The offset of the next record to be consumed.
        offset: Option<i64>,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store holds an event that this program cannot read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Another process consumes for this store, or the store is closed.
    #[error(transparent)]
    Commit(CommitError),
}

/// The end of a session with the cluster.
pub(super) enum SessionEnd {
    /// The inbox must stop.
    Refused(InboxError),
    /// Kafka failed; a new session may succeed.
    Kafka(KafkaError),
    /// A partition has not the next offset; a new session verifies all partitions.
    Displaced,
    /// A batch is damaged, or is not any more; a new session consumes from the other partitions.
    Damaged,
    /// A topic cannot be used now; a new session may succeed.
    Topic(TopicError),
    /// The store cannot be read now; a new session may succeed.
    Read(ReadError),
    /// A shutdown was requested.
    Stop,
}

/// The result of a session, which ends only with an error.
pub(super) type Session = Result<Infallible, SessionEnd>;

impl<E: Into<InboxError>> From<E> for SessionEnd {
    fn from(error: E) -> Self {
        let error = error.into();
        match error {
            InboxError::Read(error) | InboxError::Load(LoadError::Read(error)) if error.is_transient() => {
                Self::Read(error)
            }
            InboxError::OffsetLost { .. } | InboxError::Read(_) | InboxError::Load(_) | InboxError::Commit(_) => {
                Self::Refused(error)
            }
        }
    }
}
