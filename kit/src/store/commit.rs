//! A commit: everything that is stored in one step. It is stored whole or not at all.

use std::sync::Arc;

use rusqlite::Connection;

use crate::event::{NewEvent, StreamId, Version};
use crate::store::table::{Row, RowUpdate};

/// Everything that is stored in one step.
#[derive(Default)]
pub struct Commit {
    /// The events, with at most one entry for each stream.
    pub appends: Vec<Append>,
    /// The offsets up to which topics are consumed.
    pub offsets: Vec<OffsetMove>,
    /// The last consumed records of each partition.
    pub sources: Vec<(TopicPartition, SourceProgress)>,
    /// Changes of the read table that no event describes.
    pub updates: Vec<RowUpdate>,
    /// A statement of the store itself.
    pub(crate) write: Option<Write>,
}

/// A statement of the store itself, such as the change of a fact.
pub(crate) type Write = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

impl Commit {
    /// Creates a commit of these events alone.
    pub fn append(append: Append) -> Self {
        Self { appends: vec![append], ..Self::default() }
    }

    /// Creates a commit of this change of the read table alone.
    pub fn update(update: RowUpdate) -> Self {
        Self { updates: vec![update], ..Self::default() }
    }

    /// Creates a commit of a test's own statement, such as one that fills the disk.
    #[cfg(feature = "verification")]
    pub fn statement(write: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static) -> Self {
        Self::write(write)
    }

    pub(in crate::store) fn write(write: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static) -> Self {
        Self { write: Some(Box::new(write)), ..Self::default() }
    }
}

/// Events to append to one stream.
#[derive(Clone, Debug)]
pub struct Append {
    /// The stream.
    pub stream: StreamId,
    /// The version that the stream must have for the events to be appended.
    pub expected: Version,
    /// The events, in order.
    pub events: Vec<NewEvent>,
    /// The stream's row in the read table after these events; `None` for no row.
    pub row: Option<Row>,
}

/// A partition of a topic of a Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The id of the cluster. Another cluster is read from its beginning.
    pub cluster: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

/// Moves the offset up to which a partition is consumed.
#[derive(Clone, Debug)]
pub struct OffsetMove {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset that must be stored for the move to be made. `None` if no offset may be stored yet.
    pub from: Option<i64>,
    /// The offset of the next record to be consumed.
    pub to: i64,
}

/// A consumed record, by what recognizes it in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The store that published it, from `ce_source`. Empty if the record names none.
    pub source: String,
    /// The offset.
    pub offset: i64,
    /// The position in its source, from `ce_sequence`. At most `i64::MAX`.
    pub sequence: Option<u64>,
    /// The id of the event, from `ce_id`. Empty if the record names none.
    pub id: String,
}

/// How far the records of one source are consumed from a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceProgress {
    /// The last consumed record of the source.
    pub last: ConsumedRecord,
    /// Records of the source up to this `ce_sequence` were handled before the partition lost its tail. `None` after
    /// the first later record.
    pub pass_through: Option<u64>,
}

/// A commit that was not made, or may not have been.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The stream is not at the expected version. Nothing was stored.
    #[error("stream {stream} is at version {actual}, not {expected}")]
    Conflict {
        /// The stream.
        stream: StreamId,
        /// The version that was expected.
        expected: Version,
        /// The version that it has.
        actual: Version,
    },
    /// The partition was not consumed up to the expected offset. Nothing was stored.
    #[error("{topic}/{partition} was read to {actual:?}, not {expected:?}: does another process read for this store?")]
    OffsetMoved {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that was expected.
        expected: Option<i64>,
        /// The offset that is stored.
        actual: Option<i64>,
    },
    /// Too many commits wait for the disk. Nothing was stored.
    #[error("too many calls wait for the store")]
    Overloaded,
    /// The store cannot write. The commit may have been stored all the same. It may be repeated as it is.
    #[error("the store cannot write")]
    Unavailable(#[source] Arc<rusqlite::Error>),
    /// The store was closed, or its thread has died. The commit may or may not have been stored.
    #[error("the store is closed")]
    Closed,
}
