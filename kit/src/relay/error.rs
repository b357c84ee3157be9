//! Errors of the relay.
#![cfg_attr(
    feature = "verification",
    expect(missing_docs, reason = "the fields of errors are explained by their messages")
)]

use std::convert::Infallible;

use rdkafka::error::KafkaError;

use crate::{
    event::Position,
    kafka::topics::TopicError,
    store::{CommitError, ReadError, StoreId},
};

/// The relay refuses to publish, because it would lose or duplicate events. A person has to decide.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Another process publishes for the same store.
    #[error("another process has taken over the publishing of this store ({store}); it runs on a copy of the store")]
    TakenOver { store: StoreId },
    /// The store does not have the event that was published last.
    #[error(
        "the store, which ends at {head}, does not have the event that was published from it at {checkpoint}: \
         an older copy of it was restored; restore the newest copy, or run `{service} reconcile`"
    )]
    StoreBehind { head: Position, checkpoint: Position, service: &'static str },
    /// The store is new, and the topic has events of another store of the service.
    #[error(
        "the topic {topic} has events of another store, {other}, and this store is new: if the volume is not mounted, \
         mount it; if that store is lost, restore a backup or run `{service} reconcile --apply`; to begin another store \
         on purpose, give --new-store {other}"
    )]
    OtherStore { topic: String, other: StoreId, service: &'static str },
    /// The store was published before, but the cluster has no checkpoint of it.
    #[error(
        "the store was published to cluster {published_to} before, but cluster {cluster} has no checkpoint of it \
         in {topic}: it is another cluster, or it has lost the topic; run `{service} reconcile`"
    )]
    CheckpointMissing { published_to: String, cluster: String, topic: String, service: &'static str },
    /// The topic was deleted, together with the published events.
    #[error(
        "the topic {topic} is gone, though events were published to it on this cluster; it is not created again, \
         because these events would be missing from it"
    )]
    TopicLost { topic: String },
    /// Events that were published are not in the topic any more.
    #[error(
        "the topic {topic} has lost records at the end of partition {partition}: \
         the event at position {position} was published there and is gone; run `{service} reconcile`"
    )]
    TailLost { topic: String, partition: usize, position: Position, service: &'static str },
    /// The number of partitions was changed, which breaks the order of each stream's events.
    #[error(
        "the topic {topic} has {actual} partitions and had {expected}: the events of one stream would not stay in order"
    )]
    PartitionsChanged { topic: String, expected: String, actual: i32 },
    /// The flag for the embedded mock broker was given, but the cluster is another one.
    #[error("cluster {cluster} is not the embedded mock broker: leave out --kafka-embedded")]
    NotEmbedded { cluster: String },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl RelayError {
    /// Returns true if the refusal is about the store and the cluster, and not about this process. It is stored, and
    /// survives restarts.
    pub(super) fn is_about_the_store(&self) -> bool {
        match self {
            Self::StoreBehind { .. }
            | Self::OtherStore { .. }
            | Self::CheckpointMissing { .. }
            | Self::TopicLost { .. }
            | Self::TailLost { .. }
            | Self::PartitionsChanged { .. } => true,
            Self::TakenOver { .. } | Self::NotEmbedded { .. } | Self::Read(_) => false,
        }
    }
}

/// The end of a session with the cluster.
pub(super) enum SessionEnd {
    /// The relay must stop.
    Refused(RelayError),
    /// Kafka failed; a new session may succeed.
    Kafka(KafkaError),
    /// A topic cannot be used now; a new session may succeed.
    Topic(TopicError),
    /// The store cannot write now; a new session may succeed.
    Store(CommitError),
    /// The store cannot be read now; a new session may succeed.
    Read(ReadError),
    /// A record would have taken the offset of an earlier one. The transaction was aborted.
    OffsetReused(OffsetReused),
    /// The writer was retired after a successful transaction.
    WriterRetired,
    /// A shutdown was requested.
    Stop,
}

/// The result of a session, which ends only with an error.
pub(super) type Session = Result<Infallible, SessionEnd>;

impl From<KafkaError> for SessionEnd {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}

impl From<TopicError> for SessionEnd {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}

impl From<CommitError> for SessionEnd {
    fn from(error: CommitError) -> Self {
        Self::Store(error)
    }
}

impl From<RelayError> for SessionEnd {
    fn from(error: RelayError) -> Self {
        Self::Refused(error)
    }
}

impl From<ReadError> for SessionEnd {
    fn from(error: ReadError) -> Self {
        if error.is_transient() { Self::Read(error) } else { Self::Refused(error.into()) }
    }
}

/// A partition gave a new record the offset of one that was published before: it has lost its newest records.
#[derive(Debug, thiserror::Error)]
#[error("a partition of {topic} gave a new record an offset that is already used, so it has lost records")]
pub(super) struct OffsetReused {
    pub(super) topic: String,
}
